//! A training run in a folder: checkpoints, logs, previews and resumption.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::curve::loss_curve;
use super::distill;
use super::events::EventWriter;
use super::recipe::{Recipe, Round, Sum};
use super::same::{same_everywhere, same_run};
use super::state::{Identity, State};
use super::trainer::{StepReport, Trainer};
use ndarray::{Axis, Slice};

use crate::engine::ranks::{Alone, agree, any, broadcast, gather_numbers};
use crate::engine::{EngineOptions, Ranks};
use crate::error::{Error, Kind, Result};
use crate::io::checkpoint::{self, FloatType, Model, ModelFiles, Weights};
use crate::io::data::{Dataset, RecordedRange};
use crate::io::files;
use crate::io::image::{Layout, encode_png, grid, near_square, shown_channels, write_png};
use crate::unet::Parameters;

/// The file of the training state within the folder.
const STATE: &str = "state/training.safetensors";

/// The file of the log lines within the folder.
const LOG: &str = "log.jsonl";

/// What a run reports to its observer.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A round of a distillation begins, or goes on in a resumed run.
    Round {
        /// Its number, from 0.
        index: usize,
        /// Number of rounds.
        rounds: usize,
        /// Steps of the teacher and the student.
        round: Round,
    },
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
        /// What each rank did since then, if there are several.
        ranks: &'a [RankReport],
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

/// The speed of one of several ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankReport {
    /// Images per second of its own work, while it did not wait.
    pub images_per_s: f64,
    /// The share of the time in which it waited for other ranks.
    pub waiting: f64,
}

/// A training run and its folder. Of several ranks, only rank 0 needs the folder.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    /// Keeps other processes from training in the folder; rank 0 has it.
    _lock: Option<files::Lock>,
    trainer: Trainer,
    identity: Identity,
    /// Steps after which the model is kept.
    kept: Vec<u64>,
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
        Self::open_on_ranks(folder, recipe, data, init, engine, resume, Arc::new(Alone))
    }

    /// As [`open`](Self::open), as one of the ranks that train together. All ranks get the same error, unless
    /// [`Ranks::fail`] is called: then this rank failed alone.
    ///
    /// # Errors
    /// As [`open`](Self::open); also if the ranks disagree on recipe, data, initial model, program or instruction set.
    pub fn open_on_ranks(
        folder: &Path,
        recipe: Recipe,
        data: Dataset,
        init: Option<(Parameters, String)>,
        engine: EngineOptions,
        resume: bool,
        ranks: Arc<dyn Ranks>,
    ) -> Result<Self> {
        let (init, hash) = init.unzip();
        let identity = identify(&recipe, &data, hash.unwrap_or_default());
        let with = ranks.clone();
        Self::start(folder, recipe, identity, resume, ranks, |recipe| {
            Trainer::on_ranks(recipe, data, init, engine, with)
        })
    }

    /// Checks that [`open`](Self::open) would take this folder. Writes nothing.
    ///
    /// # Errors
    /// Those of [`open`](Self::open) that are about the folder.
    pub fn check(folder: &Path, recipe: &Recipe, data: &Dataset, init: Option<&str>, resume: bool) -> Result<()> {
        let mut identity = identify(recipe, data, init.unwrap_or_default().to_owned())?;
        files::check_dir(folder)?;
        settle(folder, &mut recipe.clone(), &mut identity, resume).map(drop)
    }

    /// Checks that [`distill`](Self::distill) would take this folder. Writes nothing.
    ///
    /// # Errors
    /// Those of [`distill`](Self::distill) that are about the folder.
    pub fn check_distillation(
        folder: &Path,
        recipe: &Recipe,
        data: &Dataset,
        teacher: &Model,
        resume: bool,
    ) -> Result<()> {
        let recipe = recipe.clone().for_teacher(teacher)?;
        Self::check(folder, &recipe, data, Some(&distill::identity(teacher)?), resume)
    }

    /// Starts a distillation in `folder`, or continues the one there if `resume` is set: see [`Trainer::distill`]. The student
    /// of every round but the last is also kept, in a folder of its own ([`student`](Self::student)).
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`Trainer::distill`]; also if the run there has another teacher.
    pub fn distill(
        folder: &Path,
        recipe: Recipe,
        data: Dataset,
        teacher: Model,
        engine: EngineOptions,
        resume: bool,
    ) -> Result<Self> {
        Self::distill_on_ranks(folder, recipe, data, teacher, engine, resume, Arc::new(Alone))
    }

    /// As [`distill`](Self::distill), as one of the ranks that train together: see [`open_on_ranks`](Self::open_on_ranks).
    ///
    /// # Errors
    /// As [`distill`](Self::distill); also if the ranks disagree on recipe, data, teacher, program or instruction set.
    pub fn distill_on_ranks(
        folder: &Path,
        recipe: Recipe,
        data: Dataset,
        teacher: Model,
        engine: EngineOptions,
        resume: bool,
        ranks: Arc<dyn Ranks>,
    ) -> Result<Self> {
        let recipe = agree(&*ranks, recipe.for_teacher(&teacher))?;
        let identity = distill::identity(&teacher).and_then(|teacher| identify(&recipe, &data, teacher));
        let with = ranks.clone();
        Self::start(folder, recipe, identity, resume, ranks, |recipe| {
            Trainer::distill_on_ranks(recipe, data, teacher, engine, with)
        })
    }

    fn start(
        folder: &Path,
        mut recipe: Recipe,
        identity: Result<Identity>,
        resume: bool,
        ranks: Arc<dyn Ranks>,
        trainer: impl FnOnce(Recipe) -> Result<Trainer>,
    ) -> Result<Self> {
        let root = ranks.rank() == 0;
        let state = folder.join(STATE);
        let mut identity = agree(&*ranks, identity)?;
        same_everywhere(&*ranks, &identity)?;
        let exists = agree(&*ranks, if root { settle(folder, &mut recipe, &mut identity, resume) } else { Ok(false) })?;
        let mut told = [u8::from(exists), u8::from(recipe.train.sum == Some(Sum::Chain))];
        broadcast(&*ranks, &mut told)?;
        recipe.train.sum = Some(if told[1] == 1 { Sum::Chain } else { Sum::Tree });
        let mut trainer = agree(&*ranks, trainer(recipe))?;
        let lock = agree(&*ranks, if root { prepare(folder).map(Some) } else { Ok(None) })?;
        if told[0] == 1 {
            let found = match root {
                true => State::read(&state, trainer.weights()?.layout()).map(Some),
                false => Ok(None),
            };
            trainer.restore(agree(&*ranks, found)?)?;
            let (done, steps) = (trainer.step_count(), trainer.recipe().total_steps());
            if done > steps {
                return Err(Error::argument(format!(
                    "the recipe has {steps} steps, and the run has made {done}; leave train.steps as it was, or choose another --out"
                ))
                .in_file(folder));
            }
        }
        let run = Self { folder: folder.to_path_buf(), _lock: lock, trainer, identity, kept: Vec::new() };
        agree(&*ranks, if root { run.trim_log() } else { Ok(()) })?;
        // If the process was killed after writing the state, this updates the model folder to match it.
        run.checkpoint()?;
        let text = run.identity.recipe.as_bytes();
        let written = if root { files::write_bytes(&run.folder.join("recipe.toml"), text) } else { Ok(()) };
        agree(&*ranks, written)?;
        Ok(run)
    }

    /// Also keeps the model as it is after each of these steps, in a folder of its own ([`kept_model`](Self::kept_model)): for
    /// example an early one, which guides the final one
    /// ([`Autoguided`](crate::sampling::denoiser::Autoguided)). The training does not depend on it. Steps that are done
    /// already are left out.
    #[must_use]
    pub fn keeping(self, steps: Vec<u64>) -> Self {
        Self { kept: steps, ..self }
    }

    /// The folder of the model kept after `step` steps.
    pub fn kept_model(&self, step: u64) -> PathBuf {
        self.folder.join("kept").join(format!("step-{step:07}"))
    }

    /// The folder of the student of `steps` steps, once its round is over and another one follows.
    pub fn student(&self, steps: usize) -> PathBuf {
        self.folder.join("students").join(format!("steps-{steps}"))
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
        self.folder.join(LOG)
    }

    /// Writes the training state, then the model folder derived from it. All ranks take part, rank 0 writes.
    fn checkpoint(&self) -> Result<()> {
        let written = match self.trainer.state()? {
            Some(state) => self.write(&state),
            None => Ok(()),
        };
        agree(self.trainer.ranks(), written)
    }

    fn write(&self, state: &State<'_>) -> Result<()> {
        // A step whose update overflows the weights still succeeds; it must not replace the last good state.
        state.check_finite()?;
        if self.kept.contains(&state.step) {
            // Before the state: a training that is killed between the two repeats this step.
            self.write_model(&self.kept_model(state.step), state)?;
        }
        if let Some(round) = self.trainer.ended_round() {
            self.write_model(&self.student(round.student), state)?;
        }
        state.write(&self.folder.join(STATE), &self.identity)?;
        self.write_model(&self.model(), state)
    }

    fn write_model(&self, folder: &Path, state: &State<'_>) -> Result<()> {
        let mut provenance = BTreeMap::from([
            ("data".to_string(), self.identity.data.clone()),
            ("recipe".to_string(), self.identity.recipe.clone()),
            ("steps".to_string(), state.step.to_string()),
            ("trained_by".to_string(), format!("skipstone {}", env!("CARGO_PKG_VERSION"))),
        ]);
        if self.trainer.recipe().distill.is_some() {
            provenance.insert("teacher".to_string(), self.identity.init.clone());
        }
        if let Some(range) = self.trainer.data().range() {
            provenance.insert(RecordedRange::KEY.to_string(), range.to_string());
        }
        checkpoint::save(
            folder,
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
            .filter(|line| step_of(line).is_some_and(|step| step <= done))
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
        let ranks = self.trainer.ranks();
        let (root, size) = (ranks.rank() == 0, ranks.size());
        let mut log = agree(ranks, root.then(|| Log::open(&self.folder)).transpose())?;
        let started = log.as_mut().map_or(Ok(()), |log| log.start(self.trainer.step_count(), size));
        agree(ranks, started)?;
        let images = (t.batch * t.accumulate) as f64;
        let (begun, first) = (Instant::now(), self.trainer.step_count());
        let (mut since, mut sum, mut count) = (Instant::now(), 0.0, 0u64);
        let mut waited = self.trainer.waited();
        let mut saved = self.trainer.step_count();
        let model = self.model();
        let mut shown = None;
        while !self.trainer.is_finished() {
            let round = self.trainer.round();
            if round != shown
                && let Some((index, round)) = round
            {
                // An observer that stops here does so after the step.
                let _ = observer(Event::Round { index, rounds: self.trainer.recipe().rounds(), round });
            }
            shown = round;
            let report = self.trainer.step().map_err(|e| name_good_checkpoint(e, saved, &model))?;
            let step = report.step;
            if report.overflows > 0 {
                let written = log.as_mut().map_or(Ok(()), |log| log.overflow(&report));
                agree(self.trainer.ranks(), written)?;
            }
            sum += report.loss;
            count += 1;
            let images_per_s = (step - first) as f64 * images / begun.elapsed().as_secs_f64();
            let mut stop = observer(Event::Step { report, images_per_s }).is_break();
            let last = self.trainer.is_finished();
            if step.is_multiple_of(t.log_every) || last {
                let (loss, speed) = (sum / count as f64, count as f64 * images / since.elapsed().as_secs_f64());
                let waiting = self.trainer.waited() - waited;
                let reports = if size > 1 { self.report_ranks(count, since.elapsed(), waiting)? } else { Vec::new() };
                let student = round.map(|(_, round)| round.student);
                let written = log.as_mut().map_or(Ok(()), |log| log.write(&report, loss, speed, student, &reports));
                agree(self.trainer.ranks(), written)?;
                stop |= observer(Event::Logged { step, loss, images_per_s: speed, ranks: &reports }).is_break();
                (since, sum, count, waited) = (Instant::now(), 0.0, 0, self.trainer.waited());
            }
            if t.preview_every > 0 && (step.is_multiple_of(t.preview_every) || last) {
                let ema = self.trainer.ema()?;
                let path = log.as_mut().map(|log| self.write_preview(ema.into_owned(), &mut log.events)).transpose();
                if let Some(path) = agree(self.trainer.ranks(), path)? {
                    stop |= observer(Event::Preview { step, path: &path }).is_break();
                }
            }
            // What one rank's observer answers holds for all.
            stop = any(self.trainer.ranks(), stop)?;
            if step.is_multiple_of(t.checkpoint_every) || last || stop || self.keeps(step) {
                self.checkpoint().map_err(|e| name_good_checkpoint(e, saved, &model))?;
                saved = step;
                stop |= any(self.trainer.ranks(), observer(Event::Checkpoint { step }).is_break())?;
            }
            if stop && !last {
                return Err(Error::stopped());
            }
        }
        self.write_curve()
    }

    /// Whether the model after step `step`, the last one, is kept.
    fn keeps(&self, step: u64) -> bool {
        self.kept.contains(&step) || self.trainer.ended_round().is_some()
    }

    /// What each rank did in the last `steps` steps.
    fn report_ranks(&self, steps: u64, time: Duration, waiting: Duration) -> Result<Vec<RankReport>> {
        let images = (steps * self.trainer.own_images() as u64) as f64;
        let busy = time.saturating_sub(waiting).as_secs_f64().max(1e-9);
        let mine = [images / busy, waiting.as_secs_f64() / time.as_secs_f64().max(1e-9)];
        let ranks = self.trainer.ranks();
        let all = gather_numbers(ranks, &mine, &vec![2; ranks.size()]).inspect_err(|_| ranks.fail())?;
        Ok(all.chunks_exact(2).map(|rank| RankReport { images_per_s: rank[0], waiting: rank[1] }).collect())
    }

    fn write_preview(&self, ema: Parameters, events: &mut EventWriter) -> Result<PathBuf> {
        let step = self.trainer.step_count();
        let mut images = self.trainer.preview_of(ema)?;
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
        let ranks = self.trainer.ranks();
        agree(ranks, if ranks.rank() == 0 { self.draw_curve() } else { Ok(()) })
    }

    fn draw_curve(&self) -> Result<()> {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let losses: Vec<(u64, f64)> = text.lines().filter_map(step_and_loss).collect();
        if losses.is_empty() {
            return Ok(());
        }
        let picture = loss_curve(&format!("training loss, {}", self.trainer.data().name()), &losses)?;
        write_png(&self.folder.join("loss.png"), &picture, &[("Software", "skipstone")])
    }
}

/// What identifies a run with this recipe, data and initial model or teacher.
fn identify(recipe: &Recipe, data: &Dataset, init: String) -> Result<Identity> {
    let range = data.range().map_or_else(String::new, |range| format!(", range {range}"));
    Ok(Identity {
        recipe: recipe.to_toml(),
        data: format!("{} ({} images, sha256 {}{range})", data.name(), data.len(), data.digest()?),
        init,
    })
}

/// Checks the run in the folder, if there is one, and settles the order of sums: a new run gets the tree, and one whose
/// recipe has no such key keeps its chain and its recipe. Returns whether there is a run.
fn settle(folder: &Path, recipe: &mut Recipe, identity: &mut Identity, resume: bool) -> Result<bool> {
    let state = folder.join(STATE);
    let exists = state.exists();
    if exists && !resume {
        return Err(Error::argument(
            "the folder already holds a training run; continue it with --resume or choose another --out",
        )
        .in_file(folder));
    }
    let mut model = std::fs::read_dir(folder.join("model")).into_iter().flatten();
    if !exists && model.next().is_some() {
        return Err(Error::argument(
            "the folder holds a model without the state of its training, and a run would overwrite it; choose another --out",
        )
        .in_file(folder));
    }
    let was = if exists { Some(Identity::read(&state)?) } else { None };
    let before = match &was {
        Some(was) => stored_sum(&was.recipe).map_err(|e| e.in_file(&state))?,
        None => Some(Sum::Tree),
    };
    if before.is_none() && recipe.train.sum == Some(Sum::Chain) {
        recipe.train.sum = None;
    }
    recipe.train.sum = recipe.train.sum.or(before);
    identity.recipe = recipe.to_toml();
    if let Some(was) = was {
        same_run(&was, identity).map_err(|e| e.in_file(&state))?;
        // A resumed run need not name its initial model again, and its data may have been renamed.
        (identity.init, identity.data) = (was.init, was.data);
    }
    recipe.train.sum.get_or_insert(Sum::Chain);
    Ok(exists)
}

/// The order of sums in the recipe of a state, if it has one.
fn stored_sum(recipe: &str) -> Result<Option<Sum>> {
    let wrong = |e: toml::de::Error| Error::data(format!("stored recipe: {}", e.message()));
    let table: toml::Table = recipe.parse().map_err(wrong)?;
    table.get("train").and_then(|train| train.get("sum")).map(|sum| sum.clone().try_into().map_err(wrong)).transpose()
}

/// Creates the folders of a run and locks them.
fn prepare(folder: &Path) -> Result<files::Lock> {
    for sub in ["", "state", "previews", "events"] {
        files::create_dir(&folder.join(sub))?;
    }
    let lock = files::lock(folder)?;
    for sub in ["", "state", "previews", "students", "kept"] {
        files::remove_stale_temporaries(&folder.join(sub))?;
    }
    let inside =
        |sub: &str| std::fs::read_dir(folder.join(sub)).into_iter().flatten().flatten().map(|entry| entry.path());
    for model in inside("students").chain(inside("kept")).chain([folder.join("model")]) {
        for sub in ["", "unet", "scheduler"] {
            files::remove_stale_temporaries(&model.join(sub))?;
        }
    }
    Ok(lock)
}

/// The logs of a run.
struct Log {
    path: PathBuf,
    lines: File,
    events: EventWriter,
}

impl Log {
    fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(LOG);
        Ok(Self { lines: append(&path)?, path, events: EventWriter::create(&folder.join("events"))? })
    }

    /// Notes on how many ranks a run goes on, if they are several.
    fn start(&mut self, step: u64, ranks: usize) -> Result<()> {
        if ranks == 1 {
            return Ok(());
        }
        let line = serde_json::json!({"step": step, "started": format!("{ranks} ranks")});
        writeln!(self.lines, "{line}").map_err(|e| Error::io(&self.path, e))
    }

    /// Notes that the gradient of a step overflowed in half precision.
    fn overflow(&mut self, report: &StepReport) -> Result<()> {
        let StepReport { step, overflows, loss_scale, .. } = *report;
        let scale = loss_scale.unwrap_or(1.0);
        tracing::warn!("step {step}: the gradient overflowed {overflows} time(s); the loss scale is now {scale}");
        let line = serde_json::json!({"step": step, "overflows": overflows, "loss_scale": scale});
        writeln!(self.lines, "{line}").map_err(|e| Error::io(&self.path, e))
    }

    fn write(
        &mut self,
        report: &StepReport,
        loss: f64,
        images_per_s: f64,
        student: Option<usize>,
        ranks: &[RankReport],
    ) -> Result<()> {
        let StepReport { step, learning_rate, gradient_norm, .. } = *report;
        let mut line = serde_json::json!({
            "step": step, "loss": loss, "learning_rate": learning_rate, "gradient_norm": gradient_norm,
            "images_per_s": images_per_s,
        });
        if let Some(student) = student {
            line["student"] = student.into();
        }
        let mut scalars = vec![
            ("loss".to_owned(), loss),
            ("learning_rate".to_owned(), learning_rate),
            ("gradient_norm".to_owned(), gradient_norm),
            ("images_per_s".to_owned(), images_per_s),
        ];
        if let Some(scale) = report.loss_scale {
            line["loss_scale"] = scale.into();
            scalars.push(("loss_scale".to_owned(), scale));
        }
        if !ranks.is_empty() {
            line["ranks"] = ranks
                .iter()
                .map(|rank| serde_json::json!({"images_per_s": rank.images_per_s, "waiting": rank.waiting}))
                .collect();
        }
        for (i, rank) in ranks.iter().enumerate() {
            scalars.push((format!("ranks/{i}/images_per_s"), rank.images_per_s));
            scalars.push((format!("ranks/{i}/waiting"), rank.waiting));
        }
        writeln!(self.lines, "{line}").map_err(|e| Error::io(&self.path, e))?;
        scalars.iter().try_for_each(|(tag, value)| self.events.scalar(tag, *value, step))?;
        self.events.flush()
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

fn step_of(line: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(line).ok()?.get("step")?.as_u64()
}

fn step_and_loss(line: &str) -> Option<(u64, f64)> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    Some((value.get("step")?.as_u64()?, value.get("loss")?.as_f64()?))
}
