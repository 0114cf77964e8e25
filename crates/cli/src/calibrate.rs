//! `skipstone calibrate`: measures a model on data once and stores the result next to it.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use skipstone::io::checkpoint::process_hash;
use skipstone::io::hub::locate;
use skipstone::objective::calibration::{Calibration, MOST_LATENTS, Origin, path_work};
use skipstone::objective::likelihood::conditions_of;

use crate::common::{CommonArguments, ModelArguments, Work};
use crate::dataset::{ArrayArguments, DATA, SplitName, load_for};
use crate::failure::{Done, Usage, emit, say};
use crate::interrupt;
use crate::output::{apart, data_path, named, writable};

/// Measure a model on data once, for `--sigma analytic`, `--spacing optimal` and `--spacing fitted`
#[derive(Args, Debug)]
#[command(after_help = "\
The network is called on n images at each of its T timesteps: T x n calls, needed once per model. The result is one \
small file next to the model (MODEL/calibration.json). It gives the variances and timesteps for every number of steps. \
The built-in model comes with its calibration.

--fitted N also measures single steps of the deterministic process against a fine run of it, on N latents: about 400 x N \
calls. --spacing fitted then chooses the timesteps (at most about 80) whose images are closest to those of many steps.

Examples:
  What it would cost
    skipstone calibrate --model runs/a/model --data fashion-mnist --dry-run
  Calibrate
    skipstone calibrate --model runs/a/model --data fashion-mnist
  Fit timesteps to the deterministic path as well
    skipstone calibrate --model runs/a/model --data fashion-mnist --fitted 32
  Use the calibration
    skipstone sample --model runs/a/model --steps 20 --sigma analytic --spacing optimal
    skipstone sample --model runs/a/model --steps 6 --spacing fitted")]
pub struct CalibrateArguments {
    #[command(flatten)]
    model: ModelArguments,
    #[arg(long, value_name = "DATASET|DIR", help = DATA)]
    data: String,
    #[command(flatten)]
    arrays: ArrayArguments,
    /// Part of the data set
    #[arg(long, value_enum, default_value_t = SplitName::Train)]
    split: SplitName,
    /// Number of images, from the start of the data
    #[arg(short, allow_negative_numbers = true, value_name = "N", default_value_t = 64)]
    n: usize,
    /// Also measure the steps of the deterministic process on this many latents, for --spacing fitted [default: do not]
    #[arg(long, value_name = "LATENTS", value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_LATENTS)))]
    fitted: Option<u16>,
    /// Seed of the noise and the latents
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// File to write [default: next to the model, where other commands look for it]
    #[arg(short, long, value_name = "FILE.json")]
    output: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArguments,
}

/// Runs the command.
pub fn run(arguments: &CalibrateArguments) -> anyhow::Result<Done> {
    let output = match (&arguments.output, &arguments.model.model) {
        (Some(output), _) => {
            named(output, "-o")?;
            output.clone()
        }
        (None, Some(model)) => Calibration::path_of(&locate(model)?),
        (None, None) => {
            let message = "the built-in model already has a calibration; choose a model with --model or a file with -o";
            return Err(Usage(message.into()).into());
        }
    };
    let inputs = [data_path(&arguments.data), arguments.model.model.clone()];
    apart([output.as_path()], inputs.iter().flatten().map(PathBuf::as_path))?;
    let engine = arguments.common.start()?;
    let mut model = arguments.model.load()?;
    let data = load_for(&model, &arguments.data, arguments.split, arguments.n, &arguments.arrays)?;
    writable(&output)?;
    let schedule = model.scheduler.schedule()?;
    let n = data.len();
    let conditions = conditions_of(&model, &data, 0..n)?;
    let times = schedule.train_steps();
    let name = format!("{} ({}, first {n})", data.name(), arguments.split);
    let origin = Origin {
        model: model.hash.clone(),
        process: process_hash(model.scheduler.prediction_type, &schedule),
        data: name.clone(),
        seed: arguments.seed,
    };
    let network = model.open(&engine)?;
    let latents = arguments.fitted.map_or(0, usize::from);
    let path_calls = if latents > 0 { path_work(times)?.calls } else { 0 };
    let calls = f64::from(times) * n as f64 + (path_calls * latents) as f64;
    let work = Work::of(network.cost().flops as f64 * calls);
    if arguments.common.dry_run {
        let output = output.display().to_string();
        let mut line = json!({"n": n, "calls": times, "gflop": work.json(), "output": output});
        let mut path = String::new();
        if latents > 0 {
            (line["latents"], line["path_calls"]) = (latents.into(), path_calls.into());
            path = format!(" and {path_calls} with {latents} latent(s) each");
        }
        return arguments.common.finish_dry_run(
            &line,
            &[
                format!("data        {name}"),
                format!("work        {times} network calls with {n} image(s) each{path}, {work}"),
                format!("would write {output}"),
            ],
        );
    }

    let bar = crate::bars::bar("calibrating", 0, times.into());
    let mut calibration = origin.calibrate(&network, &schedule, &data.batch(0..n)?, &conditions, &mut |_| {
        bar.inc(1);
        interrupt::flow()
    })?;
    bar.finish_and_clear();
    // Before the second measurement, which may be interrupted.
    calibration.write(&output)?;
    if latents > 0 {
        let bar = crate::bars::bar("fitting", 0, 0);
        let see = &mut |done: usize, of: usize| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
            interrupt::flow()
        };
        let errors = origin.fit(&network, &schedule, latents, &conditions, see);
        bar.finish_and_clear();
        if errors.as_ref().is_err_and(skipstone::Error::is_stopped) {
            say(format_args!("interrupted; {} is complete but for what --fitted adds", output.display()));
            return Ok(Done::Interrupted);
        }
        calibration.local_errors = Some(errors?);
        calibration.write(&output)?;
    }
    if arguments.common.json {
        emit(json!({
            "output": output.display().to_string(), "n": n, "calls": times, "hash": calibration.hash(),
        }))?;
    } else {
        say(format_args!("calibrated on {name}"));
        emit(output.display())?;
    }
    Ok(Done::Finished)
}
