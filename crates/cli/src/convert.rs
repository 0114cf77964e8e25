//! `skipstone convert`: writes any readable checkpoint as a diffusers folder or an ONNX file.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use skipstone::io::checkpoint::{
    AdmFlags, FloatType, LoadOptions, Model, ModelFiles, SchedulerConfig, Weights, WeightsChoice, claim, is_onnx,
    model_hash, save,
};
use skipstone::io::hub::locate;
use skipstone::math::schedule::BetaSchedule;
use skipstone::sampling::denoiser::Prediction;
use skipstone::{Error, Kind};

use crate::common::{ForeignArguments, WeightsName, load_model, size, weights_choice};
use crate::export;
use crate::failure::{Done, Usage, emit, say};
use crate::output::{apart, apart_from_model, is_folder, named};

/// Endings of files that are no folders of models.
const FILES: [&str; 10] = ["safetensors", "ckpt", "pth", "pt", "bin", "onnx", "json", "npy", "npz", "zip"];

/// Convert a checkpoint to a diffusers folder or an ONNX file
#[derive(Args, Debug)]
#[command(after_help = "\
The architecture of an original checkpoint (.ckpt, .pth) is inferred from its tensors. The image size and the noise \
schedule cannot be inferred: set them with flags, or keep the published defaults (linear, 1e-4 to 0.02, 1000 timesteps).

A checkpoint of guided-diffusion or improved-diffusion also needs the flags of its model, as the READMEs of those \
projects print them, or the name of a published file. Flags that only concern training or sampling are ignored.

Examples:
  The authors' CIFAR-10 model   skipstone convert --from model-790000.ckpt --to cifar10
  Another image size            skipstone convert --from model.pth --to bedroom --size 256
  A guided-diffusion model      skipstone convert --from ema_0.9999_250000.pt --to m --flags \"--image_size 64 ...\"
  A published one               skipstone convert --from lsun_cat.pt --to cat --flags lsun_cat
  A cosine schedule             skipstone convert --from m.pth --to m --schedule squaredcos_cap_v2
  Weights in 16 bits            skipstone convert --from cifar10 --to cifar10-half --half
  For other engines             skipstone convert --model runs/a/model --to net.onnx

An ONNX file (opset 17) takes any number of images: sample (float32 [n, c, h, w]), timestep (float32 [n]; int64 where the \
network has a table of times) and class_labels (int64 [n], if it has classes); it returns out_sample.")]
pub struct ConvertArguments {
    /// Checkpoint to read: a .ckpt, .pth, .pt or .safetensors file, a diffusers folder, or ORG/NAME[@REVISION] in the Hugging
    /// Face cache [default: the built-in model]
    #[arg(long, visible_alias = "model", value_name = "FILE|DIR")]
    from: Option<PathBuf>,
    /// Diffusers folder or ONNX file to write
    #[arg(long, value_name = "DIR|FILE.onnx")]
    to: PathBuf,
    /// Flags of a guided-diffusion or improved-diffusion model, or the name of a published one
    #[arg(long, value_name = "FLAGS|NAME", allow_hyphen_values = true, value_parser = flags)]
    flags: Option<AdmFlags>,
    /// Image size: one number, or height x width
    #[arg(long, value_name = "N|HxW", value_parser = size)]
    size: Option<[usize; 2]>,
    /// Which weights to keep [default: both if the checkpoint has both, with ema as the model's weights]
    #[arg(long, value_enum)]
    weights: Option<WeightsName>,
    /// Noise schedule: linear, scaled_linear, squaredcos_cap_v2, sigmoid, const or jsd
    #[arg(long, value_name = "NAME")]
    schedule: Option<BetaSchedule>,
    /// First beta of the schedule
    #[arg(long, value_name = "BETA")]
    beta_start: Option<f64>,
    /// Last beta of the schedule
    #[arg(long, value_name = "BETA")]
    beta_end: Option<f64>,
    /// T, the number of timesteps in training
    #[arg(long, value_name = "T")]
    timesteps: Option<usize>,
    /// Prediction type: epsilon, sample or v_prediction
    #[arg(long, value_name = "WHAT")]
    prediction: Option<Prediction>,
    /// Store weights in 16 bits instead of 32
    #[arg(long)]
    half: bool,
    /// Print the result as a JSON line
    #[arg(long)]
    json: bool,
    /// Read the checkpoint and report; write nothing
    #[arg(long)]
    dry_run: bool,
}

fn flags(text: &str) -> Result<AdmFlags, String> {
    text.parse().map_err(|error: Error| error.message().to_owned())
}

/// Runs the command.
pub fn run(arguments: &ConvertArguments) -> anyhow::Result<Done> {
    check_target(arguments)?;
    let load = |weights| {
        let options =
            LoadOptions { weights, size: arguments.size, flags: arguments.flags.clone(), ..LoadOptions::default() };
        load_model(arguments.from.as_deref(), &options, &ForeignArguments::default())
    };
    let mut model = load(weights_choice(arguments.weights))?;
    override_schedule(&mut model.scheduler, arguments)?;
    if is_onnx(&arguments.to) {
        if arguments.half {
            return Err(
                Usage("--half: the weights of an ONNX file are written in 32 bits; leave --half out".into()).into()
            );
        }
        return export::run(&model, &arguments.to, arguments.dry_run, arguments.json);
    }
    if let Some(source) = &model.source {
        let what = format!("{} is no U-Net of diffusers, and cannot become a folder of one", source.kind());
        return Err(Error::unsupported(what).in_file(&model.file).into());
    }
    let raw = match (arguments.weights, model.weights) {
        (None, Weights::Ema) => optional(load(WeightsChoice::Raw))?,
        _ => None,
    };
    let files = ModelFiles {
        config: &model.config,
        weights: &model.parameters,
        kind: model.weights,
        raw: raw.as_ref().map(|raw| &raw.parameters),
        scheduler: &model.scheduler,
        null_class: model.null_class,
        provenance: &model.provenance,
        float_type: if arguments.half { FloatType::F16 } else { FloatType::F32 },
    };
    let _lock = claim(&arguments.to, &files)?;
    if !arguments.dry_run {
        save(&arguments.to, &files)?;
    }
    let taken = match (model.weights, &raw) {
        (weights, None) => weights.to_string(),
        (weights, Some(_)) => format!("{weights}, and raw"),
    };
    notes(arguments, &model);
    let parameters = model.parameters.data().len();
    // Rounding to 16 bits changes the weights, and so the hash.
    let hash = if arguments.half && !arguments.dry_run {
        load_model(Some(&arguments.to), &LoadOptions::default(), &ForeignArguments::default())?.hash
    } else {
        model_hash(&model.config, &model.parameters)
    };
    if arguments.json {
        emit(json!({
            "output": arguments.to.display().to_string(), "weights": taken, "parameters": parameters,
            "from": model.file.display().to_string(), "hash": hash,
        }))?;
        return Ok(Done::Finished);
    }
    say(format_args!("read     {}", model.file.display()));
    say(format_args!("weights  {taken}: {parameters} parameters, hash {}", &hash[..16]));
    let [height, width] = model.config.sample_size;
    say(format_args!("images   {} × {height} × {width}", model.config.in_channels));
    if arguments.dry_run {
        say("dry run: nothing was written");
    } else {
        emit(arguments.to.display())?;
    }
    Ok(Done::Finished)
}

/// Checks that `--to` is a folder or an ONNX file, and not the model that is read.
fn check_target(arguments: &ConvertArguments) -> Result<(), Usage> {
    let to = arguments.to.as_path();
    named(to, "--to")?;
    let ending = to.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    let is_file = !is_folder(to) && ending.is_some_and(|ending| FILES.contains(&ending.as_str()));
    if is_file && !is_onnx(to) {
        let to = to.display();
        return Err(Usage(format!("--to {to}: expected a folder, or NAME.onnx; convert writes no other file")));
    }
    // The built-in model has no path, and a missing one is reported where it is loaded.
    match arguments.from.as_deref().and_then(|from| locate(from).ok()) {
        Some(from) if is_onnx(to) => apart([to], [from.as_path()]),
        Some(from) => apart_from_model(to, &from),
        None => Ok(()),
    }
}

/// Says which flags were ignored and what diffusers computes differently, if anything.
fn notes(arguments: &ConvertArguments, model: &Model) {
    let Some(flags) = &arguments.flags else { return };
    if !flags.ignored.is_empty() {
        say(format_args!("ignored  flags that do not change the model: {}", flags.ignored.join(", ")));
    }
    if let Some(heads) = model.config.num_attention_heads {
        say(format_args!(
            "note     diffusers' UNet2DModel cannot express {heads} heads on levels of different widths: it refuses this folder"
        ));
    }
    if model.config.time_scale != 1.0 {
        say(format_args!(
            "note     diffusers does not know rescaled times: it must call this network at {} times the timestep",
            model.config.time_scale
        ));
    }
    if model.config.learns_variance() {
        say(
            "note     the network learns its variance (--sigma learned); in diffusers, DDPMScheduler takes its output and \
             DDIMScheduler does not",
        );
    }
}

/// `None` if the file does not have these weights.
fn optional(loaded: anyhow::Result<Model>) -> anyhow::Result<Option<Model>> {
    match loaded {
        Ok(model) => Ok(Some(model)),
        Err(e) if e.downcast_ref::<Error>().is_some_and(|e| e.kind() == Kind::NotFound) => Ok(None),
        Err(e) => Err(e),
    }
}

fn override_schedule(scheduler: &mut SchedulerConfig, arguments: &ConvertArguments) -> anyhow::Result<()> {
    let s = scheduler;
    let named = arguments.schedule.is_some() || arguments.beta_start.is_some() || arguments.beta_end.is_some();
    if named || arguments.timesteps.is_some() {
        // A list of betas would override these flags.
        s.trained_betas = None;
    }
    if let Some(schedule) = &arguments.schedule {
        s.beta_schedule = schedule.clone();
    }
    s.beta_start = arguments.beta_start.unwrap_or(s.beta_start);
    s.beta_end = arguments.beta_end.unwrap_or(s.beta_end);
    s.num_train_timesteps = arguments.timesteps.unwrap_or(s.num_train_timesteps);
    s.prediction_type = arguments.prediction.unwrap_or(s.prediction_type);
    s.schedule()?.check_prediction(s.prediction_type)?;
    // Fails here if the written config could not be read back.
    *s = SchedulerConfig::from_json(&s.to_json())?;
    s.schedule()?;
    Ok(())
}
