//! `skipstone train`: trains a model from a recipe and a data set.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use skipstone::engine::Ranks;
use skipstone::engine::ranks::agree;
use skipstone::io::checkpoint::LoadOptions;
use skipstone::io::data::{DataOptions, Dataset};
use skipstone::train::{Recipe, Run, Trainer};
use skipstone::unet::Parameters;

use crate::common::{CommonArguments, ForeignArguments, WeightsName, load_model, weights_choice};
use crate::dataset::{ArrayArguments, DATA};
use crate::failure::{Done, Usage, say};
use crate::ranks::RanksArguments;
use crate::training::{Output, Prepared, dry_run, on_ranks, read_recipe, train, training_data};

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
    on_ranks(&arguments.ranks, || prepare(arguments), |prepared, ranks| start(arguments, prepared, ranks))
}

fn prepare(arguments: &TrainArguments) -> anyhow::Result<Prepared<Option<(Parameters, String)>>> {
    let recipe = recipe(arguments)?;
    if let Some(step) = arguments.keep.iter().find(|&&step| step > recipe.total_steps()) {
        return Err(Usage(format!("--keep {step}: the training has {} steps", recipe.total_steps())).into());
    }
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
    Ok(Prepared { recipe, engine, data, from: init })
}

fn start(
    arguments: &TrainArguments,
    prepared: Prepared<Option<(Parameters, String)>>,
    ranks: Arc<dyn Ranks>,
) -> anyhow::Result<Done> {
    let Prepared { recipe, engine, data, from: init } = prepared;
    let output = Output { folder: &arguments.out, common: &arguments.common, doing: "training", done: "trained" };
    if arguments.common.dry_run {
        let (init, hash) = init.unzip();
        let free = match ranks.rank() {
            0 => Run::check(&arguments.out, &recipe, &data, hash.as_deref(), arguments.resume),
            _ => Ok(()),
        };
        agree(&*ranks, free)?;
        let trainer = agree(&*ranks, Trainer::on_ranks(recipe, data, init, engine, ranks.clone()))?;
        return dry_run(output, trainer, engine.threads);
    }
    let run = Run::open_on_ranks(&arguments.out, recipe, data, init, engine, arguments.resume, ranks)?;
    let past = run.trainer().step_count();
    for step in arguments.keep.iter().filter(|&&step| step <= past && !run.kept_model(step).exists()) {
        say(format_args!("warning: --keep {step}: the run is already at step {past}, so that model cannot be kept"));
    }
    train(output, run.keeping(arguments.keep.clone()))
}

fn recipe(arguments: &TrainArguments) -> anyhow::Result<Recipe> {
    let mut overrides = arguments.set.clone();
    overrides.extend(arguments.seed.map(|seed| format!("train.seed={seed}")));
    read_recipe(Some(&arguments.config), &overrides, Recipe::parse)
}

fn dataset(arguments: &TrainArguments, recipe: &Recipe) -> anyhow::Result<Dataset> {
    let options = arguments.arrays.on(DataOptions {
        size: Some(recipe.model.sample_size),
        channels: Some(recipe.model.channels),
        background: recipe.data.background,
        ..DataOptions::default()
    });
    training_data(&arguments.data, &options, recipe)
}
