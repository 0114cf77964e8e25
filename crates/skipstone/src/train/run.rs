//! A training run in a folder: checkpoints, logs, previews and resumption.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::curve::loss_curve;
use super::events::EventWriter;
use super::recipe::Recipe;
use super::state::{Identity, State};
use super::trainer::{StepReport, Trainer};
use ndarray::{Axis, Slice};

use crate::engine::EngineOptions;
use crate::error::{Error, Kind, Result};
use crate::io::checkpoint::{self, FloatType, ModelFiles, Weights};
use crate::io::data::{Dataset, RecordedRange};
use crate::io::files;
use crate::io::image::{Layout, encode_png, grid, near_square, shown_channels, write_png};
use crate::unet::Parameters;

/// The file of the training state within the folder.
const STATE: &str = "state/training.safetensors";

/// What a run reports to its observer.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A step was made.
    Step {
        /// The step.
        report: StepReport,
        /// Images per second since the run started or resumed.
        images_per_s: f64,
    },
    /// A log line was written, with the mean over the steps since the previous line.
    Logged {
        /// Steps done.
        step: u64,
        /// Mean loss.
        loss: f64,
        /// Images per second since the previous line.
        images_per_s: f64,
    },
    /// A preview grid was written.
    Preview {
        /// Steps done.
        step: u64,
        /// The image file.
        path: &'a Path,
    },
    /// A checkpoint was written.
    Checkpoint {
        /// Steps done.
        step: u64,
    },
}

/// A training run and its folder.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    /// Keeps other processes from training in the folder.
    _lock: files::Lock,
    trainer: Trainer,
    identity: Identity,
}

impl Run {
    /// Starts a training run in `folder`, or continues the one there if `resume` is set.
    ///
    /// `init` is the initial model and its hash.
    ///
    /// # Errors
    /// The folder holds a run and `resume` is not set; its run has another recipe, other data or another initial model;
    /// another process trains there; or [`Trainer::new`] fails.
    pub fn open(
        folder: &Path,
        recipe: Recipe,
        data: Dataset,
        init: Option<(Parameters, String)>,
        engine: EngineOptions,
        resume: bool,
    ) -> Result<Self> {
        let state = folder.join(STATE);
        let exists = state.exists();
        if exists && !resume {
            return Err(Error::argument(
                "the folder already holds a training run; continue it with --resume or choose another --out",
            )
            .in_file(folder));
        }
        let range = data.range().map_or_else(String::new, |range| format!(", range {range}"));
        let identity = Identity {
            recipe: recipe.to_toml(),
            data: format!("{} ({} images, sha256 {}{range})", data.name(), data.len(), data.digest()?),
            init: init.as_ref().map(|(_, hash)| hash.clone()).unwrap_or_default(),
        };
        let mut trainer = Trainer::new(recipe, data, init.map(|(parameters, _)| parameters), engine)?;
        for sub in ["", "state", "previews", "events"] {
            files::create_dir(&folder.join(sub))?;
        }
        let lock = files::lock(folder)?;
        files::remove_stale_temporaries(folder)?;
        files::remove_stale_temporaries(&folder.join("state"))?;
        if exists {
            let (found, was) = State::read(&state, trainer.weights()?.layout())?;
            same_run(&was, &identity).map_err(|e| e.in_file(&state))?;
            trainer.restore(found)?;
        }
        let run = Self { folder: folder.to_path_buf(), _lock: lock, trainer, identity };
        run.trim_log()?;
        // If the process was killed after writing the state, this updates the model folder to match it.
        run.checkpoint()?;
        let recipe = run.identity.recipe.clone();
        files::write_bytes(&folder.join("recipe.toml"), recipe.as_bytes())?;
        Ok(run)
    }

    /// The trainer.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// The model folder.
    pub fn model(&self) -> PathBuf {
        self.folder.join("model")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("log.jsonl")
    }

    /// Writes the training state, then the model folder derived from it.
    fn checkpoint(&self) -> Result<()> {
        let state = self.trainer.state()?;
        // A step whose update overflows the weights still succeeds; it must not replace the last good state.
        state.check_finite()?;
        state.write(&self.folder.join(STATE), &self.identity)?;
        let mut provenance = BTreeMap::from([
            ("data".to_string(), self.identity.data.clone()),
            ("recipe".to_string(), self.identity.recipe.clone()),
            ("steps".to_string(), state.step.to_string()),
            ("trained_by".to_string(), format!("skipstone {}", env!("CARGO_PKG_VERSION"))),
        ]);
        if let Some(range) = self.trainer.data().range() {
            provenance.insert(RecordedRange::KEY.to_string(), range.to_string());
        }
        checkpoint::save(
            &self.model(),
            &ModelFiles {
                config: self.trainer.config(),
                weights: &state.groups[1],
                kind: Weights::Ema,
                raw: Some(&state.groups[0]),
                scheduler: self.trainer.scheduler(),
                null_class: self.trainer.null_class(),
                provenance: &provenance,
                float_type: FloatType::F32,
            },
        )
    }

    /// Removes log lines of steps after the last checkpoint, which will be repeated.
    fn trim_log(&self) -> Result<()> {
        let path = self.log_path();
        let Ok(text) = std::fs::read_to_string(&path) else { return Ok(()) };
        let done = self.trainer.step_count();
        let kept: String = text
            .lines()
            .filter(|line| step_and_loss(line).is_some_and(|(step, _)| step <= done))
            .flat_map(|line| [line, "\n"])
            .collect();
        files::write_bytes(&path, kept.as_bytes())
    }

    /// Trains up to the recipe's last step. The observer sees every step and may stop the run, which then writes a
    /// checkpoint first and can be continued.
    ///
    /// # Errors
    /// The observer stopped the run ([`Kind::Stopped`]), the loss or the gradient is not finite (the message names the last
    /// good checkpoint), or a write fails.
    pub fn train(&mut self, observer: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>) -> Result<()> {
        let t = self.trainer.recipe().train.clone();
        if self.trainer.is_finished() {
            return self.write_curve();
        }
        let mut log = append(&self.log_path())?;
        let mut events = EventWriter::create(&self.folder.join("events"))?;
        let images = (t.batch * t.accumulate) as f64;
        let (begun, first) = (Instant::now(), self.trainer.step_count());
        let (mut since, mut sum, mut count) = (Instant::now(), 0.0, 0u64);
        let mut saved = self.trainer.step_count();
        let model = self.model();
        while !self.trainer.is_finished() {
            let report = self.trainer.step().map_err(|e| name_good_checkpoint(e, saved, &model))?;
            let step = report.step;
            sum += report.loss;
            count += 1;
            let images_per_s = (step - first) as f64 * images / begun.elapsed().as_secs_f64();
            let mut stop = observer(Event::Step { report, images_per_s }).is_break();
            let last = self.trainer.is_finished();
            if step.is_multiple_of(t.log_every) || last {
                let (loss, speed) = (sum / count as f64, count as f64 * images / since.elapsed().as_secs_f64());
                let line = serde_json::json!({
                    "step": step, "loss": loss, "learning_rate": report.learning_rate,
                    "gradient_norm": report.gradient_norm, "images_per_s": speed,
                });
                writeln!(log, "{line}").map_err(|e| Error::io(self.log_path(), e))?;
                for (tag, value) in [
                    ("loss", loss),
                    ("learning_rate", report.learning_rate),
                    ("gradient_norm", report.gradient_norm),
                    ("images_per_s", speed),
                ] {
                    events.scalar(tag, value, step)?;
                }
                events.flush()?;
                stop |= observer(Event::Logged { step, loss, images_per_s: speed }).is_break();
                (since, sum, count) = (Instant::now(), 0.0, 0);
            }
            if t.preview_every > 0 && (step.is_multiple_of(t.preview_every) || last) {
                let path = self.write_preview(&mut events)?;
                stop |= observer(Event::Preview { step, path: &path }).is_break();
            }
            if step.is_multiple_of(t.checkpoint_every) || last || stop {
                self.checkpoint().map_err(|e| name_good_checkpoint(e, saved, &model))?;
                saved = step;
                stop |= observer(Event::Checkpoint { step }).is_break();
            }
            if stop && !last {
                // The observer may have stopped the run at a step without a checkpoint.
                if saved != step {
                    self.checkpoint().map_err(|e| name_good_checkpoint(e, saved, &model))?;
                }
                return Err(Error::stopped());
            }
        }
        self.write_curve()
    }

    fn write_preview(&self, events: &mut EventWriter) -> Result<PathBuf> {
        let step = self.trainer.step_count();
        let mut images = self.trainer.preview()?;
        let [channels, height, width] = self.trainer.data().shape();
        let shown = shown_channels(channels);
        images.slice_axis_inplace(Axis(1), Slice::from(..shown));
        let picture = grid(&images, near_square(images.dim().0), &Layout::magnified(height, width))?;
        let path = self.folder.join("previews").join(format!("step-{step:07}.png"));
        let text = step.to_string();
        let note = format!("first {shown} of {channels}");
        let mut texts = vec![("Software", "skipstone"), ("step", &text)];
        if shown < channels {
            texts.push(("channels", &note));
        }
        write_png(&path, &picture, &texts)?;
        let png = encode_png(&picture, &[])?;
        events.image("preview", &png, picture.width() as u32, picture.height() as u32, step)?;
        events.flush()?;
        Ok(path)
    }

    fn write_curve(&self) -> Result<()> {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let losses: Vec<(u64, f64)> = text.lines().filter_map(step_and_loss).collect();
        if losses.is_empty() {
            return Ok(());
        }
        let picture = loss_curve(&format!("training loss, {}", self.trainer.data().name()), &losses)?;
        write_png(&self.folder.join("loss.png"), &picture, &[("Software", "skipstone")])
    }
}

/// Adds the last usable checkpoint to the error of a diverged training run.
fn name_good_checkpoint(error: Error, saved: u64, model: &Path) -> Error {
    if error.kind() != Kind::NonFinite {
        return error;
    }
    let message = format!("{}; the last good checkpoint is step {saved} in {}", error.message(), model.display());
    Error::new(Kind::NonFinite, message)
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(path).map_err(|e| Error::io(path, e))
}

fn step_and_loss(line: &str) -> Option<(u64, f64)> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    Some((value.get("step")?.as_u64()?, value.get("loss")?.as_f64()?))
}

/// Keys that may change when a run is resumed: they affect its length and output, not the result of a step.
const CHANGEABLE: [&str; 7] =
    ["steps", "recompute", "checkpoint_every", "log_every", "preview_every", "preview_images", "preview_steps"];

/// Checks that a state belongs to the requested run.
fn same_run(was: &Identity, now: &Identity) -> Result<()> {
    let differs = |what: &str, was: &str, now: &str| {
        Err(Error::argument(format!(
            "the run was started with {what} {was}, but now it is {now}; \
             resume with the same value, or start another run with --init"
        )))
    };
    if was.data != now.data {
        return differs("data", &was.data, &now.data);
    }
    // A resumed run may omit the initial model, but a different one is a mistake.
    if !now.init.is_empty() && was.init != now.init {
        return differs("the initial model", &was.init, &now.init);
    }
    let table = |text: &str| text.parse::<toml::Table>().map_err(|e| Error::data(format!("stored recipe: {e}")));
    // States used to store this alias of the schedule as it was typed.
    let old = was.recipe.replace("schedule = \"quad\"", "schedule = \"scaled_linear\"");
    let (old, new) = (table(&old)?, table(&now.recipe)?);
    for (section, entries) in &new {
        for (key, value) in entries.as_table().into_iter().flatten() {
            let before = old.get(section).and_then(|s| s.get(key));
            if before != Some(value) && !(section == "train" && CHANGEABLE.contains(&key.as_str())) {
                let before = before.map_or("unset".to_string(), ToString::to_string);
                return differs(&format!("{section}.{key} ="), &before, &value.to_string());
            }
        }
    }
    Ok(())
}
