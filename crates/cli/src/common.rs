//! Arguments shared by several commands: model, device, threads, output format.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::Value;
use skipstone::engine::cpu::Isa;
use skipstone::engine::{self, Device, EngineOptions, Precision};
use skipstone::io::checkpoint::{
    Guide, LoadOptions, Model, SchedulerConfig, WeightsChoice, is_onnx, load, load_embedded,
};
use skipstone::io::image::parse_size;
use skipstone::sampling::generate::{Generator, Inputs};
use skipstone::sampling::options::Request;
use skipstone::unet::{Config, flops};
use skipstone::{Error, Kind};
use skipstone_serve::core::CARRIED;

use crate::failure::{Done, Usage, emit, say};
use crate::interrupt::quoted;

/// Which of a model's two sets of weights to load.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum WeightsName {
    /// Moving average (EMA), which gives the best samples.
    Ema,
    /// Latest weights of the optimiser, not averaged.
    Raw,
}

/// The library's name for this choice. Without the flag: the moving average (EMA) if the model has one.
pub fn weights_choice(name: Option<WeightsName>) -> WeightsChoice {
    match name {
        None => WeightsChoice::Auto,
        Some(WeightsName::Ema) => WeightsChoice::Ema,
        Some(WeightsName::Raw) => WeightsChoice::Raw,
    }
}

/// The device of this name. A variable of the environment that is empty counts as unset.
fn device(name: &str) -> skipstone::Result<Device> {
    if name.is_empty() { Ok(Device::default()) } else { name.parse() }
}

/// Device and threads.
#[derive(Args, Debug)]
pub struct EngineArguments {
    /// Device to compute on: cpu, gpu, vulkan, metal, dx12, or auto (a graphics processor, else the CPU); :N counts the
    /// devices of an API from 0, as `skipstone devices` lists them
    #[arg(long, value_name = "DEVICE", default_value_t, env = "SKIPSTONE_DEVICE",
          value_parser = |name: &str| device(name))]
    device: Device,
    /// Number of threads; results do not depend on it [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl EngineArguments {
    /// Starts a thread pool of this size, for noise and scores, and returns the engine's options.
    pub fn start(&self) -> anyhow::Result<EngineOptions> {
        Isa::asked().map_err(anyhow::Error::msg)?;
        let default = EngineOptions::default();
        let threads = self.threads.map_or(default.threads, usize::from);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build_global().context("cannot start the threads")?;
        Ok(EngineOptions { device: self.device, threads, ..default })
    }
}

/// The precision in which networks compute with these options. A note says where it is not the one that was asked for.
pub fn precision(engine: &EngineOptions) -> anyhow::Result<Precision> {
    let precision = engine::precision(engine)?;
    if precision != engine.precision {
        say(format_args!(
            "note: this processor is not faster in {}, so the network computes in {precision}",
            engine.precision
        ));
    }
    Ok(precision)
}

/// Says what a person should know about a run before it begins.
pub fn say_note(note: Option<&str>) {
    if let Some(note) = note {
        say(format_args!("note: {note}"));
    }
}

/// The generator of a command. A note says where its network does not compute in the precision that was asked for.
pub fn generator(
    model: Model,
    engine: &EngineOptions,
    request: &Request,
    inputs: Inputs,
    first: u64,
    n: usize,
) -> anyhow::Result<Generator> {
    precision(&EngineOptions { precision: request.precision, ..*engine })?;
    Ok(Generator::new(model, engine, request, inputs, first, n)?)
}

/// Arguments of every command that computes.
#[derive(Args, Debug)]
pub struct CommonArguments {
    /// Print results as JSON lines
    #[arg(long)]
    pub json: bool,
    /// Report what would be done and what it would cost; write nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    engine: EngineArguments,
}

impl CommonArguments {
    /// Starts the engine; see [`EngineArguments::start`].
    pub fn start(&self) -> anyhow::Result<EngineOptions> {
        self.engine.start()
    }

    /// Ends a dry run by printing its JSON line or, without `--json`, these lines.
    pub fn finish_dry_run(&self, json: &Value, lines: &[String]) -> anyhow::Result<Done> {
        if self.json {
            emit(json)?;
        } else {
            lines.iter().try_for_each(emit)?;
        }
        Ok(Done::Finished)
    }
}

/// What a model's files do not say.
#[derive(Args, Clone, Debug, Default)]
pub struct ForeignArguments {
    /// Prediction type and noise schedule, as a diffusers scheduler_config.json [default: the model's]
    #[arg(long, value_name = "FILE.json")]
    scheduler: Option<PathBuf>,
    /// Inputs and output of an ONNX network, where type and shape do not tell: sample=NAME, timestep=NAME, class=NAME,
    /// output=NAME; also classes=K, null=CLASS, channels=C and size=HxW for what the graph leaves open
    #[arg(long, value_name = "KEY=VALUE,…")]
    onnx: Option<String>,
}

impl ForeignArguments {
    /// Whether no flag is set.
    pub fn is_empty(&self) -> bool {
        self.scheduler.is_none() && self.onnx.is_none()
    }

    /// These flags for a command to be printed; empty, or starts with a space.
    fn to_flags(&self) -> String {
        let scheduler = self.scheduler.as_deref().map(|path| path.to_string_lossy());
        let flags = [("scheduler", scheduler), ("onnx", self.onnx.as_deref().map(Into::into))];
        flags.into_iter().filter_map(|(name, value)| Some(format!(" --{name} {}", quoted(&value?)))).collect()
    }
}

/// The model in `path`, or the built-in model.
pub fn load_model(path: Option<&Path>, options: &LoadOptions, foreign: &ForeignArguments) -> anyhow::Result<Model> {
    let scheduler = match &foreign.scheduler {
        Some(path) => Some(SchedulerConfig::read(path)?),
        None => options.scheduler.clone(),
    };
    let options = &LoadOptions { scheduler, ..options.clone() };
    match (path, &foreign.onnx) {
        (Some(path), _) if is_onnx(path) => return load_onnx(path, options, foreign.onnx.as_deref()),
        (_, Some(_)) => return Err(Usage("--onnx: the model is not an ONNX file; leave --onnx out".into()).into()),
        _ => {}
    }
    match path {
        Some(path) => load(path, options).map_err(named_by_flag),
        None => load_built_in(options),
    }
}

fn load_built_in(options: &LoadOptions) -> anyhow::Result<Model> {
    if skipstone_model::FILES.is_empty() {
        return Err(Usage("this build has no built-in model; choose one with --model DIR".into()).into());
    }
    if options.flags.is_some() {
        return Err(Usage(
            "--flags: the built-in model takes none; leave them out, or name a checkpoint with --from".into(),
        )
        .into());
    }
    load_embedded(skipstone_model::FILES, options).map_err(|error| match (options.weights, error.kind()) {
        (WeightsChoice::Raw, Kind::NotFound) => {
            // The library's error stays inside: some commands ask for raw weights only in case there are some.
            let what = "the built-in model has its moving average only; leave --weights out";
            anyhow::Error::new(Error::new(Kind::NotFound, what)).context(Usage("--weights raw".into()))
        }
        (_, Kind::InvalidArgument) => named_by_flag(error),
        _ => anyhow::Error::new(error).context("built-in model"),
    })
}

/// The library's error, in terms of the flag if it is about the size that the flag sets.
fn named_by_flag(error: Error) -> anyhow::Error {
    match error.message().strip_prefix("size: ") {
        Some(what) if error.kind() == Kind::InvalidArgument => Usage(format!("--size: {what}")).into(),
        _ => error.into(),
    }
}

#[cfg(feature = "onnx")]
fn load_onnx(path: &Path, options: &LoadOptions, names: Option<&str>) -> anyhow::Result<Model> {
    if options.weights != WeightsChoice::Auto {
        return Err(Usage("--weights: an ONNX file has one set of weights; leave --weights out".into()).into());
    }
    let mut names: skipstone_onnx::Names = names.map(str::parse).transpose()?.unwrap_or_default();
    names.size = names.size.or(options.size);
    Ok(skipstone_onnx::load(path, &skipstone_onnx::Options { names, scheduler: options.scheduler.clone() })?)
}

/// Without ONNX, the library says what is missing.
#[cfg(not(feature = "onnx"))]
fn load_onnx(path: &Path, options: &LoadOptions, _: Option<&str>) -> anyhow::Result<Model> {
    Ok(load(path, options)?)
}

/// As [`load_model`], with these weights, for images of this size. Reports what another size than the learnt one costs.
pub fn load_sized(
    path: Option<&Path>,
    weights: Option<WeightsName>,
    size: Option<[usize; 2]>,
    foreign: &ForeignArguments,
) -> anyhow::Result<Model> {
    let options = LoadOptions { weights: weights_choice(weights), size, ..LoadOptions::default() };
    let model = load_model(path, &options, foreign)?;
    if let Some(learned) = model.learned_size.filter(|_| model.source.is_none()) {
        let config = Config { sample_size: learned, ..model.config.clone() };
        let (now, then) = (flops(&model.config)? as f64, flops(&config)? as f64);
        let ([height, width], [learned_height, learned_width]) = (model.config.sample_size, learned);
        say(format_args!(
            "images of {height}×{width}, but the network has learnt {learned_height}×{learned_width}: a network call takes \
             {:.3} GFLOP per image, {:.2} times as many",
            now / 1e9,
            now / then
        ));
    }
    Ok(model)
}

/// Reads a size of images: one number, or height x width.
pub fn size(text: &str) -> Result<[usize; 2], String> {
    parse_size(text).ok_or("expected a number, or height x width as in 32x48".to_owned())
}

/// Which model to use.
#[derive(Args, Debug)]
pub struct ModelArguments {
    /// Model: a diffusers folder, a .safetensors, .ckpt, .pth, .pt or .onnx file, or ORG/NAME[@REVISION] in the Hugging Face
    /// cache [default: the built-in model]
    #[arg(long, value_name = "DIR|FILE|NAME")]
    pub model: Option<PathBuf>,
    /// Which weights to use [default: ema if the model has both]
    #[arg(long, value_enum)]
    pub weights: Option<WeightsName>,
    /// Size of the images, one number or height x width [default: the size that the network has learnt]
    #[arg(long, value_name = "N|HxW", value_parser = size)]
    pub size: Option<[usize; 2]>,
    #[command(flatten)]
    foreign: ForeignArguments,
}

impl ModelArguments {
    /// Loads the model.
    pub fn load(&self) -> anyhow::Result<Model> {
        load_sized(self.model.as_deref(), self.weights, self.size, &self.foreign)
    }

    /// Loads the model with the guide of a request, if it has one. The guide comes from a folder, a file or the Hugging Face
    /// cache, as the model does, with its own scheduler; `carried` is the built-in model.
    pub fn load_for(&self, request: &Request) -> anyhow::Result<Model> {
        let model = self.load()?;
        let Some(name) = &request.guide else { return Ok(model) };
        let path = Path::new(name);
        let path = (name != CARRIED || path.exists()).then_some(path);
        let options = LoadOptions { size: self.size, ..LoadOptions::default() };
        let guide =
            load_model(path, &options, &ForeignArguments::default()).with_context(|| format!("--guide {name}"))?;
        Ok(model.guided_by(Guide::new(guide))?)
    }

    /// Whether this is the built-in model.
    pub fn is_built_in(&self) -> bool {
        self.model.is_none()
    }

    /// These flags for a command to be printed; empty, or starts with a space.
    pub fn to_flags(&self) -> String {
        let model = self.model.as_deref().map(|path| format!(" --model {}", quoted(&path.to_string_lossy())));
        let weights = self.weights.and_then(|weights| weights.to_possible_value());
        let weights = weights.map(|value| format!(" --weights {}", value.get_name()));
        let size = self.size.map(|[height, width]| format!(" --size {height}x{width}"));
        let flags: String = [model, weights, size].into_iter().flatten().collect();
        flags + &self.foreign.to_flags()
    }
}

/// Billions of floating-point operations, as text and as JSON; unknown if nobody has counted them, as for ONNX networks.
#[derive(Clone, Copy, Debug)]
pub struct Work(Option<f64>);

impl Work {
    /// This many operations; 0 stands for an unknown number.
    pub fn of(flops: f64) -> Self {
        Self((flops > 0.0).then_some(flops / 1e9))
    }

    /// As JSON: a number or null.
    pub fn json(self) -> Value {
        self.0.into()
    }
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(gflop) => write!(f, "{gflop:.1} GFLOP"),
            None => f.write_str("an unknown number of operations"),
        }
    }
}

/// Seconds as readable text.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.2} s"),
        10..120 => format!("{seconds:.0} s"),
        120..7200 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

/// Bytes as readable text.
pub fn bytes(bytes: usize) -> String {
    match bytes as f64 {
        b if b < 1e6 => format!("{:.0} kB", (b / 1e3).max(1.0)),
        b if b < 1e9 => format!("{:.0} MB", b / 1e6),
        b => format!("{:.1} GB", b / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_well() {
        assert_eq!(
            [0.034, 9.4, 61.7, 125.0, 7384.0].map(duration),
            ["0.03 s", "9.40 s", "62 s", "2 min 5 s", "2 h 3 min"]
        );
        assert_eq!([10, 2_500_000, 3_000_000_000].map(bytes), ["1 kB", "2 MB", "3.0 GB"]);
    }
}
