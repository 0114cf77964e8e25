//! `skipstone distill`: teaches a student to sample in few steps.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use skipstone::engine::Ranks;
use skipstone::engine::ranks::agree;
use skipstone::io::checkpoint::{LoadOptions, Model};
use skipstone::train::{Recipe, Run, Trainer};

use crate::common::{CommonArguments, ForeignArguments, WeightsName, load_model, weights_choice};
use crate::dataset::{ArrayArguments, DATA};
use crate::failure::Done;
use crate::ranks::RanksArguments;
use crate::training::{Output, Prepared, dry_run, on_ranks, read_recipe, train, training_data};

/// Distil a model: train a student that samples in few steps
#[derive(Args, Debug)]
#[command(after_help = "\
Progressive distillation: in every round, the student learns to land in one step of DDIM (eta 0) where its teacher lands in \
two, and becomes the teacher of the next round. The student is an ordinary model, which samples in its own number of steps \
unless told otherwise. diffusers takes the same steps if their number divides the model's T, as that of the last student does.

RUN/model is the student so far, RUN/students/steps-S that of every earlier round, and RUN/state holds what --resume needs. \
The same recipe, data, teacher and seed give the same bytes, regardless of threads, ranks and interruptions.

Examples:
  The built-in model in 4 steps (add --dry-run to see what it would cost)
    skipstone distill --steps 4 --data fashion-mnist --out runs/four
  Resume after Ctrl-C
    skipstone distill --steps 4 --data fashion-mnist --out runs/four --resume
  Your own model, from 64 steps to 1, with more optimiser steps in each round
    skipstone distill --teacher my/model --from 64 --steps 1 --data my/photos --out runs/one --set train.steps=20000
  A student of a guided teacher
    skipstone distill --teacher my/classes --guidance 2 --data my/photos --out runs/guided
  Sample from the student
    skipstone sample --model runs/four/model -o samples.png")]
pub struct DistillArguments {
    /// Model to learn from [default: the built-in model]
    #[arg(long, visible_alias = "model", value_name = "MODEL")]
    teacher: Option<PathBuf>,
    /// Which of its weights to use [default: ema if it has both]
    #[arg(long, value_enum)]
    weights: Option<WeightsName>,
    #[command(flatten)]
    foreign: ForeignArguments,
    /// Steps of the last student; they divide the teacher's T [default: the recipe's, else 4]
    #[arg(long, value_name = "S")]
    steps: Option<usize>,
    /// Steps of the first teacher: S doubled at least once [default: the recipe's, else what the teacher was distilled for, else
    /// S doubled until it is 32 or more, or 8 with heun]
    #[arg(long, value_name = "S")]
    from: Option<usize>,
    /// Solver of the first teacher: ddim, or heun, which needs a quarter of the steps [default: the recipe's, else ddim]
    #[arg(long, value_name = "ddim|heun")]
    solver: Option<String>,
    /// Weight of the classifier-free guidance that the student learns [default: the recipe's, else none]
    #[arg(long, value_name = "W")]
    guidance: Option<f64>,
    #[arg(long, value_name = "DATASET|DIR", help = DATA)]
    data: String,
    #[command(flatten)]
    arrays: ArrayArguments,
    /// Recipe: a TOML file with the sections distill, data, train, optimizer and ema [default: built-in settings]
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Folder of the run
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// Resume the run in RUN; start it if there is none
    #[arg(long)]
    resume: bool,
    /// Override a value of the recipe, for example train.steps=1000, the optimiser steps of a round; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Seed of data order and noise; same as --set train.seed=N
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    ranks: RanksArguments,
    #[command(flatten)]
    common: CommonArguments,
}

/// Runs the command.
pub fn run(arguments: &DistillArguments) -> anyhow::Result<Done> {
    on_ranks(&arguments.ranks, || prepare(arguments), |prepared, ranks| start(arguments, prepared, ranks))
}

fn prepare(arguments: &DistillArguments) -> anyhow::Result<Prepared<Model>> {
    let mut overrides = arguments.set.clone();
    overrides.extend(arguments.steps.map(|steps| format!("distill.steps={steps}")));
    overrides.extend(arguments.from.map(|from| format!("distill.from={from}")));
    overrides.extend(arguments.solver.as_ref().map(|solver| format!("distill.solver={solver}")));
    overrides.extend(arguments.guidance.map(|guidance| format!("distill.guidance={guidance:?}")));
    overrides.extend(arguments.seed.map(|seed| format!("train.seed={seed}")));
    let recipe = read_recipe(arguments.config.as_deref(), &overrides, Recipe::parse_distillation)?;
    let engine = arguments.common.start()?;
    let options = LoadOptions { weights: weights_choice(arguments.weights), ..LoadOptions::default() };
    let teacher = load_model(arguments.teacher.as_deref(), &options, &arguments.foreign)?;
    let mut options = arguments.arrays.options(&teacher)?;
    options.background = recipe.data.background;
    let data = training_data(&arguments.data, &options, &recipe)?;
    Ok(Prepared { recipe, engine, data, from: teacher })
}

fn start(arguments: &DistillArguments, prepared: Prepared<Model>, ranks: Arc<dyn Ranks>) -> anyhow::Result<Done> {
    let Prepared { recipe, engine, data, from: teacher } = prepared;
    let output =
        Output { folder: &arguments.out, common: &arguments.common, doing: "distillation", done: "distilled in" };
    if arguments.common.dry_run {
        let free = match ranks.rank() {
            0 => Run::check_distillation(&arguments.out, &recipe, &data, &teacher, arguments.resume),
            _ => Ok(()),
        };
        agree(&*ranks, free)?;
        let trainer = agree(&*ranks, Trainer::distill_on_ranks(recipe, data, teacher, engine, ranks.clone()))?;
        return dry_run(output, trainer, engine.threads);
    }
    train(output, Run::distill_on_ranks(&arguments.out, recipe, data, teacher, engine, arguments.resume, ranks)?)
}
