//! `skipstone train`: trains a model from a recipe and a data set.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use skipstone::engine::ranks::agree;
use skipstone::engine::{EngineOptions, Ranks};
use skipstone::io::checkpoint::LoadOptions;
use skipstone::io::data::{DataOptions, DataSpec, Dataset, Split};
use skipstone::io::image::{is_picture, shown_channels};
use skipstone::train::{Event, RankReport, Recipe, Run, Trainer};
use skipstone::unet::{self, Parameters};

use crate::common::{CommonArguments, ForeignArguments, WeightsName, bytes, duration, load_model, weights_choice};
use crate::dataset::{ArrayArguments, DATA, say_notes};
use crate::failure::{Done, Stdout, emit, say};
use crate::interrupt;
use crate::ranks::{RanksArguments, shared};

/// Train a model, or resume a training run
#[derive(Args, Debug)]
#[command(after_help = "\
RUN/model is a complete model (diffusers layout) at all times; RUN/state holds what --resume needs. RUN/log.jsonl, \
RUN/events (TensorBoard), RUN/previews and RUN/loss.png show the progress. The same recipe, data and seed give the same \
bytes, regardless of threads, ranks and interruptions.

Under mpirun or srun the processes train together: each computes a part of every batch and keeps a part of the \
optimiser's state. Only rank 0 needs RUN; every rank needs the data. docs/scale.md has the details.

Examples:
  Train (add --dry-run to see what it would cost)
    skipstone train --data fashion-mnist --config configs/fashion-mnist.toml --out runs/a
  Resume after Ctrl-C
    skipstone train --data fashion-mnist --config configs/fashion-mnist.toml --out runs/a --resume
  Your own photos
    skipstone train --data my/photos --config my.toml --out runs/b --set train.batch=16
  A NumPy array, which may be larger than memory
    skipstone train --data images.npy --config my.toml --out runs/c --range -3,3
  Two machines
    mpirun -n 2 --host a,b skipstone train --data photos --config my.toml --out runs/d
  Keep an early model, to guide the final one
    skipstone train --data fashion-mnist --config configs/fashion-mnist.toml --out runs/a --keep 1000
    skipstone sample --model runs/a/model --guide runs/a/kept/step-0001000 --guidance 2
  Sample from the trained model
    skipstone sample --model runs/a/model -o samples.png")]
pub struct TrainArguments {
    #[arg(long, value_name = "DATASET|DIR", help = DATA)]
    data: String,
    #[command(flatten)]
    arrays: ArrayArguments,
    /// Recipe: a TOML file with the model, the data options and the training settings
    #[arg(long, value_name = "FILE.toml")]
    config: PathBuf,
    /// Folder of the training run
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// Resume the training run in RUN; start it if there is none
    #[arg(long)]
    resume: bool,
    /// Start from the weights of this model
    #[arg(long, value_name = "MODEL")]
    init: Option<PathBuf>,
    /// Which weights of --init to use [default: ema if it has both]
    #[arg(long, value_enum, requires = "init")]
    weights: Option<WeightsName>,
    /// Override a value of the recipe, for example train.steps=1000; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Seed of initial weights, data order and noise; same as --set train.seed=N
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Also keep the model as it is after these steps, as RUN/kept/step-…: an early one can guide the final one (sample --guide)
    #[arg(long, value_name = "STEP,…", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..))]
    keep: Vec<u64>,
    #[command(flatten)]
    ranks: RanksArguments,
    #[command(flatten)]
    common: CommonArguments,
}

/// Runs the command.
pub fn run(arguments: &TrainArguments) -> anyhow::Result<Done> {
    let world = arguments.ranks.join()?;
    let ranks = world.ranks();
    // A rank that cannot start tells the others.
    let begun = prepare(arguments).map_err(shared);
    let ended = match agree(&*ranks, begun) {
        Ok(prepared) => world.announce(prepared.engine.threads).and_then(|()| start(arguments, prepared, ranks)),
        Err(error) => Err(error.into()),
    };
    world.end(ended)
}

/// What a training needs.
struct Prepared {
    recipe: Recipe,
    engine: EngineOptions,
    data: Dataset,
    init: Option<(Parameters, String)>,
}

fn prepare(arguments: &TrainArguments) -> anyhow::Result<Prepared> {
    let recipe = recipe(arguments)?;
    let engine = arguments.common.start()?;
    let data = dataset(arguments, &recipe)?;
    let init = match &arguments.init {
        Some(path) => {
            let options = LoadOptions { weights: weights_choice(arguments.weights), ..LoadOptions::default() };
            let model = load_model(Some(path), &options, &ForeignArguments::default())?;
            model.check_gradient()?;
            Some((model.parameters, model.hash))
        }
        None => None,
    };
    Ok(Prepared { recipe, engine, data, init })
}

fn start(arguments: &TrainArguments, prepared: Prepared, ranks: Arc<dyn Ranks>) -> anyhow::Result<Done> {
    if arguments.common.dry_run {
        return dry_run(arguments, prepared, ranks);
    }
    let Prepared { recipe, engine, data, init } = prepared;
    let run = Run::open_on_ranks(&arguments.out, recipe, data, init, engine, arguments.resume, ranks)?;
    train(arguments, run.keeping(arguments.keep.clone()))
}

fn recipe(arguments: &TrainArguments) -> anyhow::Result<Recipe> {
    let path = &arguments.config;
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut overrides = arguments.set.clone();
    overrides.extend(arguments.seed.map(|seed| format!("train.seed={seed}")));
    Ok(Recipe::parse(&text, &overrides).map_err(|error| {
        // Name the file only if the recipe is wrong without the overrides too.
        match Recipe::parse(&text, &[]) {
            Ok(_) => error,
            Err(_) => error.in_file(path),
        }
    })?)
}

fn dataset(arguments: &TrainArguments, recipe: &Recipe) -> anyhow::Result<Dataset> {
    let options = arguments.arrays.on(DataOptions {
        size: Some(recipe.model.sample_size),
        channels: Some(recipe.model.channels),
        background: recipe.data.background,
        ..DataOptions::default()
    });
    let data = arguments.data.parse::<DataSpec>()?.load(Split::Train, &options)?;
    say_notes(&data);
    let (channels, shown) = (recipe.model.channels, shown_channels(recipe.model.channels));
    if recipe.train.preview_every > 0 && shown < channels {
        say(format_args!("previews show the first {shown} of {channels} channels"));
    }
    Ok(data)
}

fn dry_run(arguments: &TrainArguments, prepared: Prepared, ranks: Arc<dyn Ranks>) -> anyhow::Result<Done> {
    let Prepared { recipe, engine, data, init } = prepared;
    let images = data.len();
    let data_bytes = data.bytes();
    let name = data.name().to_owned();
    let init = init.map(|(parameters, _)| parameters);
    let mut trainer = agree(&*ranks, Trainer::on_ranks(recipe, data, init, engine, ranks.clone()))?;
    let t = trainer.recipe().train.clone();
    let parameters = trainer.weights()?.data().len();
    let threads = engine.threads;
    // A backward pass costs twice a forward pass.
    let gflop = 3.0 * unet::flops(trainer.config())? as f64 * (t.batch * t.accumulate) as f64 / 1e9;
    let memory = trainer.bytes() + data_bytes;
    let per_step = trainer.measure()?.as_secs_f64();
    let total = per_step * t.steps as f64;
    let epochs = t.steps as f64 * (t.batch * t.accumulate) as f64 / images as f64;
    arguments.common.finish_dry_run(
        &json!({
            "parameters": parameters, "images": images, "steps": t.steps, "batch": t.batch * t.accumulate,
            "gflop_per_step": gflop, "memory_bytes": memory, "seconds_per_step": per_step, "seconds": total,
            "threads": threads, "ranks": ranks.size(), "out": arguments.out.display().to_string(),
        }),
        &[
            format!("data        {name}, {images} images of {:?}", trainer.data().shape()),
            format!("network     {parameters} parameters"),
            format!("length      {} steps of {} images, {epochs:.1} epochs", t.steps, t.batch * t.accumulate),
            format!("work        {gflop:.2} GFLOP per step"),
            match ranks.size() {
                1 => format!("memory      about {}", bytes(memory)),
                size => format!("memory      about {} on each of {size} ranks", bytes(memory)),
            },
            format!(
                "time        {} per step (measured with {threads} thread(s)), {} in total",
                duration(per_step),
                duration(total)
            ),
            format!("would write {}", arguments.out.display()),
        ],
    )
}

fn train(arguments: &TrainArguments, mut run: Run) -> anyhow::Result<Done> {
    let (model, channels) = (run.model(), run.trainer().recipe().model.channels);
    let (first, steps) = (run.trainer().step_count(), run.trainer().recipe().train.steps);
    if run.trainer().is_finished() {
        run.train(&mut |_| ControlFlow::Continue(()))?;
        say(format_args!("training is already finished: {first} of {steps} steps"));
        conclude(arguments, &model, channels)?;
        return Ok(Done::Finished);
    }
    if first > 0 {
        say(format_args!("resuming after step {first} of {steps}"));
    }
    let bar = crate::bars::bar("training", first, steps);
    let mut progress = Progress { json: arguments.common.json, smooth: None, stdout: None, bar };
    let ended = run.train(&mut |event| progress.show(event));
    progress.bar.finish_and_clear();
    match ended {
        Err(error) if error.is_stopped() => {
            let (step, again) = (run.trainer().step_count(), interrupt::command_line(Some("--resume")));
            say(format_args!("saved at step {step}; continue with: {again}"));
            match progress.stdout {
                Some(stdout) => Err(stdout.into()),
                None => Ok(Done::Interrupted),
            }
        }
        ended => {
            ended?;
            say(format_args!("trained {steps} steps"));
            conclude(arguments, &model, channels)?;
            Ok(Done::Finished)
        }
    }
}

/// Prints where the results are and what to run next.
fn conclude(arguments: &TrainArguments, model: &Path, channels: usize) -> anyhow::Result<()> {
    let out = &arguments.out;
    for (what, path) in
        [("model", model.to_path_buf()), ("loss curve", out.join("loss.png")), ("previews", out.join("previews"))]
    {
        if path.exists() {
            say(format_args!("{what:<11}{}", path.display()));
        }
    }
    let quoted = interrupt::quoted(&model.display().to_string());
    let tensor = if is_picture(channels) { "" } else { " -o samples.npy" };
    say(format_args!("{:<11}skipstone sample --model {quoted}{tensor}", "next"));
    if !arguments.common.json {
        emit(model.display())?;
    }
    Ok(())
}

/// What a rank did, for a log line.
fn described((rank, report): (usize, &RankReport)) -> String {
    let RankReport { images_per_s, waiting } = report;
    format!("  [{rank}] {images_per_s:.1} img/s, {:.0} % waiting", 100.0 * waiting)
}

/// Shows the progress of the training.
struct Progress {
    json: bool,
    /// Loss as an exponential average over some tens of steps: single steps are noisy.
    smooth: Option<f64>,
    /// The error of writing to stdout, which stops the training.
    stdout: Option<Stdout>,
    bar: ProgressBar,
}

impl Progress {
    fn show(&mut self, event: Event<'_>) -> ControlFlow<()> {
        match event {
            Event::Step { report, images_per_s } => {
                let smooth = self.smooth.map_or(report.loss, |loss| 0.97 * loss + 0.03 * report.loss);
                self.smooth = Some(smooth);
                self.bar.set_position(report.step);
                self.bar.set_message(format!(" loss {smooth:.4}  {images_per_s:.0} img/s"));
            }
            Event::Logged { step, loss, images_per_s, ranks } if self.json => {
                let mut line = json!({"step": step, "loss": loss, "images_per_s": images_per_s});
                if !ranks.is_empty() {
                    let one = |rank: &RankReport| json!({"images_per_s": rank.images_per_s, "waiting": rank.waiting});
                    line["ranks"] = ranks.iter().map(one).collect();
                }
                self.stdout = emit(line).err();
            }
            Event::Logged { step, loss, images_per_s, ranks } => {
                if self.bar.is_hidden() {
                    let ranks: String = ranks.iter().enumerate().map(described).collect();
                    say(format_args!("step {step}  loss {loss:.4}  {images_per_s:.0} img/s{ranks}"));
                }
            }
            Event::Preview { path, .. } => tracing::info!(path = %path.display(), "preview"),
            Event::Checkpoint { step } => tracing::info!(step, "checkpoint"),
        }
        if interrupt::asked() || self.stdout.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
