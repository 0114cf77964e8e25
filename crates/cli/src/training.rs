//! What the commands that train have in common: recipes, data, progress and the end.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use indicatif::ProgressBar;
use serde_json::json;
use skipstone::engine::ranks::agree;
use skipstone::engine::{EngineOptions, Ranks};
use skipstone::io::data::{DataOptions, DataSpec, Dataset, Split};
use skipstone::io::image::{is_picture, shown_channels};
use skipstone::train::{Event, RankReport, Recipe, Round, Run, Trainer};
use skipstone::unet;

use crate::common::{CommonArguments, bytes, duration};
use crate::dataset::say_notes;
use crate::failure::{Done, Stdout, emit, say};
use crate::interrupt;
use crate::ranks::{RanksArguments, shared};

/// Where a run goes and how it is called.
#[derive(Clone, Copy)]
pub struct Output<'a> {
    /// Folder of the run.
    pub folder: &'a Path,
    /// Output format.
    pub common: &'a CommonArguments,
    /// What the command does, as a noun.
    pub doing: &'static str,
    /// What it has done at the end.
    pub done: &'static str,
}

/// What a run starts with.
pub struct Prepared<T> {
    /// Its recipe.
    pub recipe: Recipe,
    /// What computes.
    pub engine: EngineOptions,
    /// The training images.
    pub data: Dataset,
    /// The model that it starts from.
    pub from: T,
}

/// Prepares and starts a run on every rank. A rank that cannot start tells the others.
pub fn on_ranks<T>(
    arguments: &RanksArguments,
    prepare: impl FnOnce() -> anyhow::Result<Prepared<T>>,
    start: impl FnOnce(Prepared<T>, Arc<dyn Ranks>) -> anyhow::Result<Done>,
) -> anyhow::Result<Done> {
    let world = arguments.join()?;
    let ranks = world.ranks();
    let begun = prepare().map_err(shared);
    let ended = match agree(&*ranks, begun) {
        Ok(prepared) => world.announce(prepared.engine.threads).and_then(|()| start(prepared, ranks)),
        Err(error) => Err(error.into()),
    };
    world.end(ended)
}

/// The recipe in a file, or the default one, with overrides.
pub fn read_recipe(
    path: Option<&Path>,
    overrides: &[String],
    parse: fn(&str, &[String]) -> skipstone::Result<Recipe>,
) -> anyhow::Result<Recipe> {
    let text = match path {
        Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
        None => String::new(),
    };
    Ok(parse(&text, overrides).map_err(|error| match (path, parse(&text, &[])) {
        // Name the file only if the recipe is wrong without the overrides too.
        (Some(path), Err(_)) => error.in_file(path),
        _ => error,
    })?)
}

/// The training images.
pub fn training_data(spec: &str, options: &DataOptions, recipe: &Recipe) -> anyhow::Result<Dataset> {
    let data = spec.parse::<DataSpec>()?.load(Split::Train, options)?;
    say_notes(&data);
    let [channels, ..] = data.shape();
    let shown = shown_channels(channels);
    if recipe.train.preview_every > 0 && shown < channels {
        say(format_args!("previews show the first {shown} of {channels} channels"));
    }
    Ok(data)
}

/// Measures a step and reports what the whole would cost.
pub fn dry_run(output: Output<'_>, mut trainer: Trainer, threads: usize) -> anyhow::Result<Done> {
    let (images, name) = (trainer.data().len(), trainer.data().name().to_owned());
    let (t, steps) = (trainer.recipe().train.clone(), trainer.recipe().total_steps());
    let (parameters, ranks) = (trainer.weights()?.data().len(), trainer.ranks().size());
    // Of a step, in each round: a backward pass costs twice a forward pass.
    let passes: Vec<f64> = trainer.teacher_calls().into_iter().map(|calls| 3.0 + calls as f64).collect();
    let (first, passes) = (passes[0], passes.iter().sum::<f64>() / passes.len() as f64);
    let gflop = passes * unet::flops(trainer.config())? as f64 * (t.batch * t.accumulate) as f64 / 1e9;
    let memory = trainer.bytes() + trainer.data().bytes();
    // The first round is measured; others may have fewer or more calls of a teacher.
    let per_step = trainer.measure()?.as_secs_f64() * passes / first;
    let total = per_step * steps as f64;
    let epochs = steps as f64 * (t.batch * t.accumulate) as f64 / images as f64;
    let out = output.folder.display().to_string();
    output.common.finish_dry_run(
        &json!({
            "parameters": parameters, "images": images, "steps": steps, "batch": t.batch * t.accumulate,
            "gflop_per_step": gflop, "memory_bytes": memory, "seconds_per_step": per_step, "seconds": total,
            "threads": threads, "ranks": ranks, "out": out,
        }),
        &[
            format!("data        {name}, {images} images of {:?}", trainer.data().shape()),
            format!("network     {parameters} parameters"),
            format!("length      {} steps of {} images, {epochs:.1} epochs", steps, t.batch * t.accumulate),
            format!("work        {gflop:.2} GFLOP per step"),
            match ranks {
                1 => format!("memory      about {}", bytes(memory)),
                size => format!("memory      about {} on each of {size} ranks", bytes(memory)),
            },
            format!(
                "time        {} per step (measured with {threads} thread(s)), {} in total",
                duration(per_step),
                duration(total)
            ),
            format!("would write {out}"),
        ],
    )
}

/// Trains to the end, or until the user stops it.
pub fn train(output: Output<'_>, mut run: Run) -> anyhow::Result<Done> {
    let (model, channels) = (run.model(), run.trainer().config().image_channels());
    let (first, steps) = (run.trainer().step_count(), run.trainer().recipe().total_steps());
    let Output { doing, done, .. } = output;
    if run.trainer().is_finished() {
        run.train(&mut |_| ControlFlow::Continue(()))?;
        say(format_args!("{doing} is already finished: {first} of {steps} steps"));
        conclude(output, &model, channels)?;
        return Ok(Done::Finished);
    }
    if first > 0 {
        say(format_args!("resuming after step {first} of {steps}"));
    }
    let bar = crate::bars::bar(doing, first, steps);
    let mut progress = Progress { json: output.common.json, smooth: None, stdout: None, bar };
    let ended = run.train(&mut |event| progress.show(event));
    progress.bar.finish_and_clear();
    match ended {
        Err(error) if error.is_stopped() => {
            let (step, again) = (run.trainer().step_count(), interrupt::command_line(Some("--resume")));
            say(format_args!("saved at step {step}; continue with: {again}"));
            match progress.stdout {
                Some(stdout) => Err(stdout.unfinished().into()),
                None => Ok(Done::Interrupted),
            }
        }
        ended => {
            ended?;
            say(format_args!("{done} {steps} steps"));
            conclude(output, &model, channels)?;
            Ok(Done::Finished)
        }
    }
}

/// Prints where the results are and what to run next.
fn conclude(output: Output<'_>, model: &Path, channels: usize) -> anyhow::Result<()> {
    let out = output.folder;
    for (what, path) in [
        ("model", model.to_path_buf()),
        ("loss curve", out.join("loss.png")),
        ("previews", out.join("previews")),
        ("students", out.join("students")),
    ] {
        if path.exists() {
            say(format_args!("{what:<11}{}", path.display()));
        }
    }
    let quoted = interrupt::quoted(&model.display().to_string());
    let tensor = if is_picture(channels) { "" } else { " -o samples.npy" };
    say(format_args!("{:<11}skipstone sample --model {quoted}{tensor}", "next"));
    if !output.common.json {
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
            Event::Round { index, rounds, round: Round { teacher, student } } => {
                let what = match teacher == student {
                    true => format!("{student} steps of the teacher, converted"),
                    false => format!("{teacher} steps of the teacher in {student}"),
                };
                let said = format!("round {} of {rounds}: {what}", index + 1);
                say(said);
            }
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
