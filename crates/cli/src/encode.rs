//! `skipstone encode`: images to latents.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use ndarray::{Array4, Axis, concatenate};
use serde_json::json;
use skipstone::io::image::npy;
use skipstone::math::noise::{Purpose, Seeded};
use skipstone::sampling::generate::{Generator, Inputs, Settings, batches};
use skipstone::sampling::inversion::{Draw, Latents, Method, encode_noise};
use skipstone::sampling::options::{DECODE, Request, SAMPLE, SEED, Set};

use crate::batch::BatchArguments;
use crate::common::{CommonArguments, ModelArguments, Work, duration, generator, say_note};
use crate::dataset::ArrayArguments;
use crate::failure::{Done, Usage, emit, say};
use crate::images;
use crate::interrupt::quoted;
use crate::invert::{MethodArguments, Report, evaluations, rows, watch};
use crate::options::Flags;
use crate::output::{Target, apart, data_path, writable};

/// The options of the command.
const ENCODE: Set = DECODE | SEED;
/// Largest noise: it is held in memory until it is written.
const MOST_NOISE_BYTES: usize = 8 << 30;

/// Encode images to latents
#[derive(Args, Debug)]
#[command(after_help = "\
Latents belong to the options they were encoded with. Decode them with the same --steps, --spacing and --method; encode \
prints the command. ddim and fixed-point write [n, channels, height, width], which `sample --latents` also takes. bdia \
and edict write pairs, [2, n, channels, height, width], which only `decode` takes. With --eta above 0, encode also \
recovers the noise of every step and writes it to --noise-out. The predicted image is not clipped unless --clip is given.

Examples:
  Images in a folder
    skipstone encode --images photos/ --steps 100 -o x_T.npy
  The first 8 test images
    skipstone encode --images fashion-mnist -n 8 --steps 50 -o x_T.npy
  Exact inversion in 20 steps
    skipstone encode --images photos/ --steps 20 --method bdia -o pairs.npy
  With the noise of a stochastic sampler
    skipstone encode --images a.png --steps 50 --eta 1 --noise-out z.npy -o x_T.npy")]
pub struct EncodeArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Images: a folder, an image file, a .npy file of raw network values, or a data set (its test part)
    #[arg(long, value_name = "DIR|FILE|DATASET")]
    images: String,
    #[command(flatten)]
    arrays: ArrayArguments,
    /// Number of images, from the first [default: all]
    #[arg(short, allow_negative_numbers = true, value_name = "N")]
    n: Option<usize>,
    #[command(flatten)]
    method: MethodArguments,
    #[command(flatten)]
    run: Flags<ENCODE>,
    /// Output: the noise of the steps; required with --eta above 0
    #[arg(long, value_name = "Z.npy")]
    noise_out: Option<PathBuf>,
    /// How to draw the noisy states with --eta above 0
    #[arg(long, value_enum, default_value = "chain")]
    draw: DrawName,
    #[command(flatten)]
    batch: BatchArguments,
    /// Output: the latents
    #[arg(short, long, value_name = "X_T.npy")]
    output: PathBuf,
    #[command(flatten)]
    common: CommonArguments,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DrawName {
    /// Each state from the one above, by the process itself: the noise resembles the sampler's own
    Chain,
    /// Each state independently from the image: the noise contains more of the image
    Independent,
}

/// Runs the command.
pub fn run(arguments: &EncodeArguments) -> anyhow::Result<Done> {
    tensor(&arguments.output)?;
    let method = arguments.method.method()?;
    let engine = arguments.common.start()?;
    let mut request = arguments.run.request()?.unclipped();
    let model = arguments.model.load_for(&request)?;
    let stochastic = request.is_stochastic();
    check_stochastic(arguments, stochastic, &method)?;
    let outputs = [Some(arguments.output.as_path()), arguments.noise_out.as_deref()];
    let data = data_path(&arguments.images);
    let inputs = [data.as_deref(), arguments.run.file()];
    apart(outputs.into_iter().flatten(), inputs.into_iter().flatten())?;
    if stochastic && request.final_sigma.is_none() {
        request.final_sigma = Some(Settings::resolve(&model, &request)?.1.usual_final_sigma());
    }
    let x0 = images::read(&arguments.images, &model, arguments.n, &arguments.arrays)?;
    let n = x0.dim().0;
    let generator = generator(model, &engine, &request, Inputs::default(), 0, n)?;
    say_note(generator.note());
    let batch = arguments.batch.of(&generator, n, engine.threads);
    if !stochastic {
        method.check(generator.plan())?;
    }
    let steps = generator.plan().steps().len();
    if arguments.common.dry_run {
        let most = if stochastic { steps } else { evaluations(&method, steps).0 };
        let work = Work::of(generator.flops_per_call() as f64 * (most * n) as f64);
        let most = most * generator.calls_per_step();
        let output = arguments.output.display().to_string();
        return arguments.common.finish_dry_run(
            &json!({"n": n, "steps": steps, "evaluations": most * n, "gflop": work.json(), "output": output}),
            &[
                format!("images      {n} in batches of {batch}"),
                format!("steps       {steps}, at most {most} network calls per image"),
                format!("work        at most {work}"),
                format!("would write {output}"),
            ],
        );
    }
    if stochastic {
        check_noise_size(&generator, n)?;
        return with_noise(arguments, &generator, &request, &x0, batch);
    }

    let bar = crate::bars::bar("encoding", 0, (n.div_ceil(batch) * steps) as u64);
    let begun = Instant::now();
    let (mut parts, mut report, mut asked) = (Vec::new(), Report::default(), 0);
    for (i, range) in batches(0..n as u64, batch).enumerate() {
        let mut observer = watch(&bar, (i * steps) as u64);
        let encoded = generator.encode(&rows(&x0, &range), range, &method, &mut observer)?;
        report.add(&encoded.convergence);
        asked += encoded.evaluations;
        parts.push(encoded.latents);
    }
    bar.finish_and_clear();
    npy::write(&arguments.output, Latents::joined(&parts)?.view())?;
    report.warn(n);
    let seconds = begun.elapsed().as_secs_f64();
    let output = arguments.output.display();
    if arguments.common.json {
        emit(json!({
            "output": output.to_string(), "n": n, "method": method.name(), "steps": steps, "evaluations": asked,
            "seconds": seconds, "unconverged": report.unconverged(), "convergence": report.to_json(),
        }))?;
        return Ok(Done::Finished);
    }
    say(format_args!(
        "{n} image(s) encoded by {method} in {steps} steps, {asked} network calls, {}",
        duration(seconds)
    ));
    say(format_args!(
        "decode with: skipstone decode{} --latents {}{}{}",
        arguments.model.to_flags(),
        quoted(&output.to_string()),
        generator.settings().request().to_flags(DECODE),
        arguments.method.to_flags()?
    ));
    emit(output)?;
    Ok(Done::Finished)
}

/// Checks that the path ends in .npy and can be written.
fn tensor(path: &Path) -> anyhow::Result<()> {
    match Target::of(path) {
        Ok(Target::Tensor(path)) => writable(&path),
        _ => Err(Usage(format!("{}: expected a name that ends in .npy", path.display())).into()),
    }
}

fn check_stochastic(arguments: &EncodeArguments, stochastic: bool, method: &Method) -> anyhow::Result<()> {
    match &arguments.noise_out {
        None if stochastic => Err(Usage(
            "--eta above 0 needs --noise-out Z.npy: decoding needs the noise as well as the latent".to_owned(),
        )
        .into()),
        Some(_) if !stochastic => Err(Usage(
            "--noise-out: there is no noise without --eta above 0; set --eta or leave --noise-out out".to_owned(),
        )
        .into()),
        Some(path) => {
            if *method != Method::Ddim {
                return Err(Usage(
                    "--method: cannot be used with --eta above 0, which has a method of its own; leave it out"
                        .to_owned(),
                )
                .into());
            }
            tensor(path)
        }
        None => Ok(()),
    }
}

/// Checks that the noise fits into memory.
fn check_noise_size(generator: &Generator, n: usize) -> anyhow::Result<()> {
    let image: usize = generator.shape().iter().product();
    let bytes = generator.plan().steps().len().saturating_mul(n).saturating_mul(4 * image);
    if bytes > MOST_NOISE_BYTES {
        return Err(Usage(format!(
            "-n: the noise of {n} images would take {} bytes; encode fewer images at a time",
            bytes
        ))
        .into());
    }
    Ok(())
}

/// The latents and the noise of a stochastic sampler.
fn with_noise(
    arguments: &EncodeArguments,
    generator: &Generator,
    request: &Request,
    x0: &Array4<f32>,
    batch: usize,
) -> anyhow::Result<Done> {
    let (n, steps, plan) = (x0.dim().0, generator.plan().steps().len(), generator.plan());
    let draw = match arguments.draw {
        DrawName::Chain => Draw::Chain,
        DrawName::Independent => Draw::Independent,
    };
    let bar = crate::bars::bar("encoding", 0, (n.div_ceil(batch) * steps) as u64);
    let begun = Instant::now();
    let (mut latents, mut noise, mut square) = (Vec::new(), Vec::new(), 0.0);
    for (i, range) in batches(0..n as u64, batch).enumerate() {
        let conditions = generator.conditions(range.clone());
        let mut source = Seeded { purpose: Purpose::Encode, ..Seeded::new(request.seed, range.start) };
        let mut observer = watch(&bar, (i * steps) as u64);
        let x0 = rows(x0, &range);
        let found = encode_noise(generator.network(), plan, &x0, draw, &mut source, &conditions, &mut observer)?;
        square += found.residual.powi(2) * x0.dim().0 as f64;
        latents.push(Latents::One(found.x_t));
        noise.push(found.noise);
    }
    bar.finish_and_clear();
    let residual = (square / n as f64).sqrt();
    let noise = concatenate(Axis(1), &noise.iter().map(|z| z.view()).collect::<Vec<_>>())?;
    let noise_path = arguments.noise_out.as_deref().unwrap_or(Path::new("noise.npy"));
    npy::write(noise_path, noise.view())?;
    npy::write(&arguments.output, Latents::joined(&latents)?.view())?;
    let (seconds, output) = (begun.elapsed().as_secs_f64(), arguments.output.display().to_string());
    let sigma = request.final_sigma.unwrap_or(0.0);
    let asked: usize = plan.steps().iter().map(|step| generator.network().evaluations(step.t)).sum();
    if arguments.common.json {
        emit(json!({
            "output": output, "noise": noise_path.display().to_string(), "n": n, "steps": steps,
            "evaluations": n * asked, "final_sigma": sigma, "residual": residual,
            "seconds": seconds,
        }))?;
        return Ok(Done::Finished);
    }
    say(format_args!("{n} image(s) encoded with their noise in {steps} steps, {}", duration(seconds)));
    say(format_args!("decoding will differ from the images by {residual:.1e} (root mean square, network values)"));
    say(format_args!(
        "decode with: skipstone sample{} --latents {} --noise {}{}",
        arguments.model.to_flags(),
        quoted(&output),
        quoted(&noise_path.display().to_string()),
        generator.settings().request().to_flags(SAMPLE & !SEED)
    ));
    emit(noise_path.display())?;
    emit(output)?;
    Ok(Done::Finished)
}
