//! `skipstone sample`: generates images from noise.

use std::cell::Cell;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::ProgressBar;
use ndarray::{Array4, Array5};
use serde_json::json;
use skipstone::sampling::generate::{Generator, Inputs, Shard, batches};
use skipstone::sampling::options::{NOISE, SAMPLE, SOLVER, SPACING, STEPS, TIMES};
use skipstone::sampling::sampler::Progress;
use skipstone::sampling::solver::Solver;
use skipstone_eval::{FeatureNetwork, FeatureSpec};

use crate::batch::BatchArguments;
use crate::common::{CommonArguments, ModelArguments, Work, bytes, duration, generator, say_note};
use crate::consistency;
use crate::failure::{Done, Usage, emit, is_stopped, say};
use crate::fill::FillArguments;
use crate::images;
use crate::interrupt;
use crate::options::Flags;
use crate::output::{STRIP, Sink, Strip, Target, apart, check, check_set, stopped};
use crate::shard::shard;

/// Generate images
#[derive(Args, Debug)]
#[command(mut_arg("steps", |steps| steps.help("Number of steps S, or a list to compare [default: the number that the model was distilled for, else 50, or its T if that is less]")))]
#[command(after_help = "\
Image i depends only on the model, the options, the seed and i, not on -n, --batch, --threads or interruptions. \
`--first 8 -n 8` makes images 8 to 15 of `-n 16`. For an existing folder (`-o DIR/`), .npz or .tar, the same command keeps \
the images in it and makes the missing ones.

A list of --steps samples the same latents with each S, one row each (8 images unless -n is given), and prints the \
distance of each row to the longest run.

Examples:
  64 images in one grid      skipstone sample
  10 steps instead of 50     skipstone sample --steps 10 -o ten.png
  DDPM with every step       skipstone sample --steps 1000 --eta 1 -o ddpm.png
  A higher-order solver      skipstone sample --steps 10 --solver ab3
  Noise fitted to the model  skipstone sample --steps 20 --sigma analytic
  One file per image         skipstone sample -n 10000 -o images/
  Film strip of a run        skipstone sample -n 4 --trajectory strip.png
  Compare numbers of steps   skipstone sample --steps 10,20,50,100,1000 -o rows.png
  Inpainting                 skipstone sample -n 8 --eta 1 --inpaint shirt.png --mask mask.png
  Your own latents           skipstone sample --latents x_T.npy -o x_0.npy
  Two machines               skipstone sample -n 50000 -o set.npz --shard 1/2    (and 2/2)
  What a run would cost      skipstone sample -n 10000 --steps 100 --dry-run")]
pub struct SampleArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Number of images [default: 64; 8 with a list of --steps; the number of rows with --latents]
    #[arg(short, allow_negative_numbers = true, value_name = "N")]
    n: Option<usize>,
    #[command(flatten)]
    run: Flags<SAMPLE>,
    /// Index of the first image
    #[arg(long, value_name = "I", default_value_t = 0)]
    first: u64,
    #[command(flatten)]
    batch: BatchArguments,
    /// Start from the latents x_T in this file, float32 [n, channels, height, width]
    #[arg(long, value_name = "X_T.npy")]
    latents: Option<PathBuf>,
    /// Take the noise of the steps from this file, float32 [steps, n, channels, height, width]
    #[arg(long, value_name = "Z.npy")]
    noise: Option<PathBuf>,
    #[command(flatten)]
    fill: FillArguments,
    /// With a list of --steps, also measure distances in the features of this network [default for the built-in model:
    /// fashion-cnn, the built-in classifier]
    #[arg(long, value_name = "fashion-cnn|FILE.onnx:OUTPUT")]
    features: Option<FeatureSpec>,
    /// Write a film strip: the predicted images at up to 12 evenly spaced steps, one row per image for up to 8 images
    #[arg(long, value_name = "PATH.png")]
    trajectory: Option<PathBuf>,
    /// Make only the K-th of N parts of the images, with an output of its own; auto takes K and N from a Slurm array, a
    /// Kubernetes indexed job (with SKIPSTONE_SHARDS), srun or mpirun
    #[arg(long, value_name = "K/N|auto", value_parser = shard)]
    shard: Option<Shard>,
    /// Output: NAME.png is one grid, NAME.npy the raw tensor, NAME/ a folder with one PNG per image, NAME.npz an array of
    /// bytes (arr_0), NAME.tar or NAME-%05d.tar a webdataset archive, - the same to stdout
    #[arg(short, long, value_name = "PATH", default_value = "samples.png")]
    output: PathBuf,
    #[command(flatten)]
    common: CommonArguments,
}

impl SampleArguments {
    /// Checks that no output file is also an input.
    fn keep_inputs(&self, target: &Target) -> Result<(), Usage> {
        let [image, mask] = self.fill.paths();
        let inputs = [self.latents.as_deref(), self.noise.as_deref(), self.run.file(), image, mask];
        let outputs = [Some(target.path()), self.trajectory.as_deref()];
        apart(outputs.into_iter().flatten(), inputs.into_iter().flatten())
    }

    /// The feature network for comparing runs with different numbers of steps.
    fn feature_network(&self) -> anyhow::Result<Option<Box<dyn FeatureNetwork>>> {
        let carried = self.model.is_built_in().then_some(FeatureSpec::FashionCnn);
        let chosen = self.features.clone().or(carried);
        Ok(chosen.map(|features| features.open(skipstone_model::FASHION_CNN)).transpose()?)
    }
}

/// Runs the command.
pub fn run(arguments: &SampleArguments) -> anyhow::Result<Done> {
    let target = Target::of_samples(&arguments.output, arguments.shard)?;
    if target == Target::Stream && arguments.common.json {
        return Err(Usage("--json: stdout holds the images with -o -; choose a file".to_owned()).into());
    }
    let engine = arguments.common.start()?;
    let requests = arguments.run.requests(&[])?;
    let model = arguments.model.load_for(&requests[0])?;
    let rows = if requests.len() > 1 {
        Some(consistency::Rows::resolve(&model, &requests, &target, arguments.feature_network()?)?)
    } else if let Some(features) = &arguments.features {
        return Err(Usage(format!("--features {features}: needs a list of steps, such as --steps 10,20,50")).into());
    } else {
        None
    };
    if rows.is_some() && (arguments.trajectory.is_some() || arguments.noise.is_some()) {
        return Err(Usage("--steps: a list of steps cannot be used with --trajectory or --noise".to_owned()).into());
    }

    arguments.keep_inputs(&target)?;
    let read = |path| images::tensor(path, "latents [n, channels, height, width]", &model.config);
    let latents: Option<Array4<f32>> = arguments.latents.as_deref().map(read).transpose()?;
    let read = |path| images::tensor(path, "noise [steps, n, channels, height, width]", &model.config);
    let noise: Option<Array5<f32>> = arguments.noise.as_deref().map(read).transpose()?;
    let region = arguments.fill.read(&model.config)?;
    let inputs = Inputs { latents, noise, region };
    let n = match (&inputs.latents, arguments.n) {
        (Some(latents), Some(n)) if latents.dim().0 != n => {
            return Err(
                Usage(format!("-n {n}: --latents has {} rows, one per image; leave -n out", latents.dim().0)).into()
            );
        }
        (Some(latents), _) => latents.dim().0,
        (None, n) => n.unwrap_or(if rows.is_some() { 8 } else { 64 }),
    };
    let part = part(arguments, &target, n, rows.is_some())?;
    let generator = generator(model, &engine, &requests[0], inputs, arguments.first, n)?;
    if let Some(preset) = requests[0].preset {
        let means = generator.settings().request().to_flags(STEPS | SPACING | TIMES | NOISE | SOLVER);
        say(format_args!("preset {preset}:{means}, {} network calls", generator.plan().calls()));
    }
    if arguments.noise.is_some() && generator.plan().is_deterministic() {
        say(format_args!("note: --noise is not used: no step of this run injects noise; set --eta"));
    }
    // A list of runs has said its own.
    if rows.is_none() {
        say_note(generator.note());
    }
    let n = (part.end - part.start) as usize;
    let batch = arguments.batch.of(&generator, n, engine.threads);
    if let Some(rows) = rows {
        check(&target, n.saturating_mul(rows.len()), generator.shape())?;
        return rows.run(generator, n, batch, &arguments.common);
    }
    check(&target, n, generator.shape())?;
    let steps = generator.moves();
    let strip = match &arguments.trajectory {
        Some(path) => Some(Strip::new(path, n, steps, generator.shape())?),
        None => None,
    };
    if arguments.common.dry_run {
        return dry_run(arguments, &generator, n, batch, engine.threads);
    }
    sample(arguments, &target, &generator, strip, part, batch)
}

/// The images of this run, of `n` in all.
fn part(arguments: &SampleArguments, target: &Target, n: usize, is_list: bool) -> Result<Range<u64>, Usage> {
    let all = arguments.first..arguments.first.saturating_add(n as u64);
    let Some(shard) = arguments.shard else { return Ok(all) };
    if is_list || arguments.trajectory.is_some() {
        return Err(Usage(format!("--shard {shard}: cannot be used with a list of --steps or with --trajectory")));
    }
    let part = shard.range(all);
    if part.is_empty() {
        return Err(Usage(format!("--shard {shard}: {n} images are too few for {} shards", shard.count())));
    }
    check_set(&arguments.output, target, shard)?;
    Ok(part)
}

/// "20 steps", with the number of network calls if it differs.
fn steps_and_calls(generator: &Generator) -> String {
    let plan = generator.plan();
    let made = plan.steps().len();
    let steps = match generator.settings().steps {
        Some(steps) if steps != made => format!("{made} steps ({steps} requested)"),
        _ => format!("{made} steps"),
    };
    let evaluations = generator.evaluations();
    let by = if plan.solver() == Solver::DDIM { String::new() } else { format!(" of {}", plan.solver()) };
    let with = match (generator.moves() > made, generator.calls_per_step() > 1) {
        (false, false) => "",
        (false, true) => " with guidance",
        (true, false) => " with resampling",
        (true, true) => " with resampling and guidance",
    };
    if evaluations == made { format!("{steps}{by}") } else { format!("{steps}{by}, {evaluations} network calls{with}") }
}

fn dry_run(
    arguments: &SampleArguments,
    generator: &Generator,
    n: usize,
    batch: usize,
    threads: usize,
) -> anyhow::Result<Done> {
    let calls = generator.evaluations();
    let work = Work::of(generator.flops_per_image() as f64 * n as f64);
    let memory = generator.bytes(batch);
    let per_call = time_of_call(generator, arguments.first, batch)?.as_secs_f64();
    let seconds = per_call * (calls * n) as f64 / batch as f64;
    arguments.common.finish_dry_run(
        &json!({
            "n": n, "steps": generator.plan().steps().len(), "calls": calls, "batch": batch, "gflop": work.json(),
            "memory_bytes": memory, "seconds_per_call": per_call, "seconds": seconds, "threads": threads,
            "output": arguments.output.display().to_string(),
        }),
        &[
            format!("images      {n} in batches of {batch}"),
            format!("steps       {}", steps_and_calls(generator)),
            format!("work        {work}"),
            format!("memory      about {}", bytes(memory)),
            format!(
                "time        about {}: a network call with {batch} image(s) took {} on {threads} thread(s)",
                duration(seconds),
                duration(per_call)
            ),
            format!("would write {}", arguments.output.display()),
        ],
    )
}

/// The time of one network call, of which a guided step makes two: the faster one in the first two steps, because the first one
/// also allocates memory.
pub fn time_of_call(generator: &Generator, first: u64, batch: usize) -> anyhow::Result<Duration> {
    let (mut last, mut times) = (Instant::now(), Vec::new());
    let images = first..first + batch as u64;
    let ended = generator.generate(images, &mut |progress| {
        let calls = generator.evaluations_after(progress.step) - generator.evaluations_after(progress.step - 1);
        times.push(last.elapsed() / calls.max(1) as u32);
        last = Instant::now();
        if times.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    ended.map(drop).or_else(|error| if error.is_stopped() { Ok(()) } else { Err(error) })?;
    Ok(times.into_iter().min().unwrap_or_default())
}

fn sample(
    arguments: &SampleArguments,
    target: &Target,
    generator: &Generator,
    mut strip: Option<Strip>,
    part: Range<u64>,
    batch: usize,
) -> anyhow::Result<Done> {
    let (first, n) = (part.start, (part.end - part.start) as usize);
    let (settings, shape) = (generator.settings(), generator.shape());
    let mut sink = Sink::open_shard(target, settings, shape, part, arguments.shard)?;
    let rows = strip.as_ref().map_or(0, Strip::rows) as u64;
    // Images of the strip are sampled even if their files exist, because the frames are not kept.
    let missing = sink.missing(first + rows..first + n as u64);
    let wanted = || (first..first + rows).chain(missing.iter().cloned().flatten());
    let calls = generator.calls();
    let bar = crate::bars::bar("sampling", 0, (batches(wanted(), batch).count() * calls) as u64);
    let begun = Instant::now();
    let made = Cell::new(0);
    let mut see = |images: &Range<u64>, progress: &Progress<'_>| {
        if let Some(strip) = strip.as_mut().filter(|_| images.start < first + rows) {
            strip.see(progress.step, progress.x0);
        }
        let done = generator.calls_after(progress.step);
        bar.inc((done - generator.calls_after(progress.step - 1)) as u64);
        let share = done as f64 / calls as f64;
        show(&bar, made.get() as f64 + share * (images.end - images.start) as f64, begun);
        interrupt::flow()
    };
    let ended = generator.generate_all(wanted(), batch, &mut see, |images, x0| {
        made.set(made.get() + x0.dim().0);
        sink.take(images, x0)
    });
    bar.finish_and_clear();
    let made = made.get();
    match (ended, target) {
        (Err(error), target) if target.keeps() && is_stopped(&error) => {
            let there = n - (wanted().count() - made);
            say(format_args!(
                "interrupted; {there} of {n} images {}; continue with: {}",
                target.kept(),
                interrupt::command_line(None)
            ));
            return Ok(Done::Interrupted);
        }
        (Err(error), _) => return stopped(error, target),
        (Ok(()), _) => {}
    }
    let seconds = begun.elapsed().as_secs_f64();

    let texts = generator.settings().to_texts_of(first, n);
    sink.finish(&texts)?;
    let strip_path = arguments.trajectory.as_deref();
    if let Some(strip) = strip {
        say(format_args!("film strip: {} (at most {} images, {} steps)", strip.describe(), STRIP.0, STRIP.1));
        strip.finish(&texts)?;
    }
    conclude(arguments, target.path(), strip_path, generator, (n, made), seconds)?;
    Ok(Done::Finished)
}

fn show(bar: &ProgressBar, images: f64, begun: Instant) {
    bar.set_message(format!(" {:.1} img/s", images / begun.elapsed().as_secs_f64().max(1e-9)));
}

fn conclude(
    arguments: &SampleArguments,
    path: &Path,
    strip: Option<&Path>,
    generator: &Generator,
    (n, made): (usize, usize),
    seconds: f64,
) -> anyhow::Result<()> {
    let rate = made as f64 / seconds.max(1e-9);
    if arguments.common.json {
        let calls = generator.evaluations();
        emit(json!({
            "output": path.display().to_string(), "trajectory": strip.map(|path| path.display().to_string()),
            "n": n, "made": made, "steps": generator.plan().steps().len(), "calls": calls,
            "seconds": seconds, "images_per_s": rate,
        }))?;
        return Ok(());
    }
    let there = if made < n { format!(" ({} already existed)", n - made) } else { String::new() };
    say(format_args!(
        "{made} image(s) made{there}: {}, seed {}",
        steps_and_calls(generator),
        generator.settings().seed
    ));
    if made > 0 {
        say(format_args!("{}, {rate:.1} images/s", duration(seconds)));
    }
    if let Some(strip) = strip {
        emit(strip.display())?;
    }
    if path != Path::new("-") {
        emit(path.display())?;
    }
    Ok(())
}
