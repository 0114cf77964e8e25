//! The trainer, which makes one optimiser step at a time.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ndarray::Array4;

use super::distill;
use super::feed::{Feed, Prepared};
use super::loss_scale::LossScale;
use super::objective::{Start, denoising};
use super::recipe::{OptimizerKind, Recipe, Round, Sum};
use super::state::State;
use crate::engine::ranks::{Alone, agree, broadcast, gather_numbers};
use crate::engine::{self, Device, EngineOptions, Group, Learner, Precision, Ranks, Sharding, Update};
use crate::error::{Error, Kind, Result};
use crate::io::checkpoint::{Model, SchedulerConfig};
use crate::io::data::Dataset;
use crate::math::noise::{Forbidden, KeyedRng, Purpose, initial_latent};
use crate::math::sigma::NoiseScale;
use crate::sampling::denoiser::{Clip, Condition};
use crate::sampling::sampler::{Plan, sample, unobserved};
use crate::unet::{self, Config, Parameters};

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Number of the step, counted from 1.
    pub step: u64,
    /// Mean loss over the step's images, before the update.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// The factor on the loss, in half precision.
    pub loss_scale: Option<f64>,
    /// How often the gradient overflowed in half precision. Each time its update was skipped, and the step made again with
    /// half the loss scale.
    pub overflows: u32,
}

/// The number of a batch, and some of its images.
type BatchPart = (u64, Range<usize>);

/// Training in progress: network, optimiser, moving average and data.
///
/// The result of step k depends only on the recipe, the data and the state after step k − 1, not on threads or ranks.
pub struct Trainer {
    feed: Feed,
    /// What another thread has prepared.
    ahead: Option<(BatchPart, Result<Prepared>)>,
    config: Config,
    step: u64,
    /// The round of the last step made.
    round: usize,
    loss_scale: Option<LossScale>,
    learner: Box<dyn Learner>,
    engine: EngineOptions,
    ranks: Arc<dyn Ranks>,
    /// The shards of a step that this rank computes.
    shards: Range<usize>,
    /// How long this rank has waited for others to give their losses.
    waited: Duration,
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer").field("step", &self.step).field("config", &self.config).finish_non_exhaustive()
    }
}

impl Trainer {
    /// Starts training at the first step, from the weights `init` or from random ones, on `engine`.
    ///
    /// # Errors
    /// The data's shape is not the recipe's, classes are missing, `init` has another architecture, or
    /// [`engine::open_learner`] fails.
    pub fn new(recipe: Recipe, data: Dataset, init: Option<Parameters>, engine: EngineOptions) -> Result<Self> {
        Self::on_ranks(recipe, data, init, engine, Arc::new(Alone))
    }

    /// As [`new`](Self::new), as one of the ranks that train together. All ranks have the same recipe, data and initial
    /// weights and call the same functions in the same order. If one fails alone, [`Ranks::fail`] is called.
    ///
    /// # Errors
    /// As [`new`](Self::new); also if there are several ranks, but the recipe sums in a chain.
    pub fn on_ranks(
        recipe: Recipe,
        data: Dataset,
        init: Option<Parameters>,
        engine: EngineOptions,
        ranks: Arc<dyn Ranks>,
    ) -> Result<Self> {
        let m = &recipe.model;
        let [height, width] = m.sample_size;
        let shape = [m.channels, height, width];
        check_data(&data, shape, "model.channels and model.sample_size ask for")?;
        let start = denoising(&recipe, &data, init)?;
        Self::start(recipe, data, start, engine, ranks)
    }

    /// Starts a distillation: a student that begins with the weights of `teacher` learns its deterministic steps, by a
    /// recipe of [`Recipe::parse_distillation`].
    ///
    /// # Errors
    /// The teacher has no gradient or other timesteps than the recipe needs, the data's shape or classes are not the
    /// teacher's, guidance is asked of a teacher without a null class, or [`engine::open_learner`] fails.
    pub fn distill(recipe: Recipe, data: Dataset, teacher: Model, engine: EngineOptions) -> Result<Self> {
        Self::distill_on_ranks(recipe, data, teacher, engine, Arc::new(Alone))
    }

    /// As [`distill`](Self::distill), as one of the ranks that train together: see [`on_ranks`](Self::on_ranks).
    ///
    /// # Errors
    /// As [`distill`](Self::distill); also if there are several ranks, but the recipe sums in a chain.
    pub fn distill_on_ranks(
        recipe: Recipe,
        data: Dataset,
        teacher: Model,
        engine: EngineOptions,
        ranks: Arc<dyn Ranks>,
    ) -> Result<Self> {
        let recipe = recipe.for_teacher(&teacher)?;
        let [height, width] = teacher.config.sample_size;
        check_data(&data, [teacher.config.in_channels, height, width], "the teacher's are")?;
        let start = distill::start(&recipe, &data, teacher, &engine)?;
        Self::start(recipe, data, start, engine, ranks)
    }

    fn start(
        recipe: Recipe,
        data: Dataset,
        start: Start,
        engine: EngineOptions,
        ranks: Arc<dyn Ranks>,
    ) -> Result<Self> {
        let Start { config, weights, null_class, objective } = start;
        let weights = match weights {
            Some(weights) => weights,
            None => {
                let mut uniform = KeyedRng::new(recipe.train.seed, Purpose::Weights, 0, 0);
                let mut gaussian = KeyedRng::new(recipe.train.seed, Purpose::Weights, 1, 0);
                unet::initialise(&config, || uniform.next_f64(), || gaussian.next_gaussians()[0])?
            }
        };
        let train = &recipe.train;
        let sharding = Sharding { images: train.shard, recompute: train.recompute };
        let (count, size) = (recipe.shards(), ranks.size());
        let learning = EngineOptions { precision: train.precision, ..engine };
        let loss_scale = (train.precision == Precision::F16).then(LossScale::default);
        let learner = match train.sum {
            Some(Sum::Chain) if size > 1 => {
                return Err(Error::argument(format!(
                    "train.sum = \"chain\": this run adds its shards one after the other, which {size} ranks cannot; train it \
                     in one process, or start another run with --init and train.sum = \"tree\""
                )));
            }
            Some(Sum::Chain) => engine::open_learner(config.clone(), weights, sharding, &learning)?,
            None | Some(Sum::Tree) => {
                engine::open_tree_learner(config.clone(), weights, sharding, count, ranks.clone(), &learning)?
            }
        };
        let shards = engine::share(count, ranks.rank(), size);
        Ok(Self {
            feed: Feed::new(recipe, data, null_class, objective)?,
            ahead: None,
            config,
            step: 0,
            round: 0,
            loss_scale,
            learner,
            engine,
            ranks,
            shards,
            waited: Duration::ZERO,
        })
    }

    /// The ranks that train together.
    pub fn ranks(&self) -> &dyn Ranks {
        &*self.ranks
    }

    /// How long this rank has waited for others so far.
    pub fn waited(&self) -> Duration {
        self.waited + self.learner.waited()
    }

    /// The images of a step that this rank computes.
    pub fn own_images(&self) -> usize {
        (0..self.feed.recipe.train.accumulate).map(|micro| self.feed.recipe.images(micro, &self.shards).len()).sum()
    }

    /// Steps done.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Whether all steps of the recipe are done.
    pub fn is_finished(&self) -> bool {
        self.step >= self.feed.recipe.total_steps()
    }

    /// The round of the next step, or of the last one if all are done: its number from 0 and what it is about; `None` if this
    /// is no distillation.
    pub fn round(&self) -> Option<(usize, Round)> {
        let next = if self.is_finished() { self.step } else { self.step + 1 };
        let (index, _) = self.feed.recipe.place(next.max(1));
        self.feed.recipe.distill.as_ref().and_then(|distill| Some((index, *distill.rounds().get(index)?)))
    }

    /// The round that the last step ended, unless it was the last round.
    pub(super) fn ended_round(&self) -> Option<Round> {
        let (next, _) = self.feed.recipe.place(self.step + 1);
        if next > self.round && !self.is_finished() { self.feed.objective.round() } else { None }
    }

    /// Calls of a teacher for each image of a step in each round, of which each costs about a third of what the image costs the
    /// student. One round without a teacher if this is no distillation.
    pub fn teacher_calls(&self) -> Vec<usize> {
        (0..self.feed.recipe.rounds()).map(|round| self.feed.objective.calls(round)).collect()
    }

    /// The training recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.feed.recipe
    }

    /// The network's architecture.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The noise schedule, as saved in the model folder.
    pub fn scheduler(&self) -> &SchedulerConfig {
        self.feed.objective.scheduler()
    }

    /// The class that means "no class", if classes are dropped.
    pub fn null_class(&self) -> Option<usize> {
        self.feed.null_class
    }

    /// The trained weights.
    ///
    /// # Errors
    /// The device or the exchange with the other ranks fails.
    pub fn weights(&self) -> Result<Cow<'_, Parameters>> {
        self.learner.group(Group::Weights)
    }

    /// The moving average (EMA) of the weights. All ranks have to ask for it.
    ///
    /// # Errors
    /// The device or the exchange with the other ranks fails.
    pub fn ema(&self) -> Result<Cow<'_, Parameters>> {
        self.learner.group(Group::Ema).inspect_err(|_| self.ranks.fail())
    }

    /// The state that a checkpoint stores, on rank 0. All ranks have to ask for it.
    pub(super) fn state(&self) -> Result<Option<State<'_>>> {
        let group = |group| self.learner.group(group).inspect_err(|_| self.ranks.fail());
        if self.ranks.rank() > 0 {
            // One after the other, so that memory for one suffices.
            return Group::ALL.into_iter().try_for_each(|g| group(g).map(drop)).map(|()| None);
        }
        let [weights, ema, m, v] = Group::ALL.map(group);
        let teacher = self.feed.objective.teacher().map(Cow::Borrowed);
        let (step, loss_scale) = (self.step, self.loss_scale);
        Ok(Some(State { step, groups: [weights?, ema?, m?, v?], loss_scale, teacher }))
    }

    /// Continues from a checkpoint, which rank 0 has read.
    pub(super) fn restore(&mut self, state: Option<State<'_>>) -> Result<()> {
        let ranks = self.ranks.clone();
        let mut step = state.as_ref().map_or([0; 8], |state| state.step.to_le_bytes());
        broadcast(&*ranks, &mut step)?;
        let step = u64::from_le_bytes(step);
        // Only one process trains in half precision, so no other rank needs the scale.
        if let Some(state) = &state {
            // A run that was in another precision begins with the scale that a new one has.
            self.loss_scale = self.loss_scale.map(|new| state.loss_scale.unwrap_or(new));
        }
        let (mut groups, teacher) = state.map_or((None, None), |s| (Some(s.groups.into_iter()), s.teacher));
        let layout = self.learner.group(Group::Weights)?.layout().clone();
        let shared = |read: Option<Cow<'_, Parameters>>| {
            let mut values = read.map_or_else(|| Parameters::zeros(layout.clone()), Cow::into_owned);
            broadcast(&*ranks, bytemuck::cast_slice_mut(values.data_mut())).map(|()| values)
        };
        for group in Group::ALL {
            let read = groups.as_mut().and_then(Iterator::next);
            self.learner.set_group(group, shared(read)?)?;
        }
        let (round, _) = self.feed.recipe.place(step.max(1));
        if round > 0 {
            let missing = teacher.is_none() && ranks.rank() == 0;
            let found = if missing { Err(Error::data("the training state has no teacher")) } else { Ok(()) };
            agree(&*ranks, found)?;
            self.feed.objective.begin(round, shared(teacher)?, &self.engine)?;
        }
        self.ahead = None;
        (self.step, self.round) = (step, round);
        Ok(())
    }

    /// The training data.
    pub fn data(&self) -> &Dataset {
        &self.feed.data
    }

    /// Peak memory of the training in bytes without the data: parameters, moments, activations, gradients.
    pub fn bytes(&self) -> usize {
        let batch = self.feed.recipe.train.batch;
        self.learner.bytes(batch) + self.feed.objective.bytes(batch)
    }

    /// Makes one optimiser step.
    ///
    /// # Errors
    /// The loss or the gradient is not finite ([`Kind::NonFinite`]). The state is then still that before the step.
    pub fn step(&mut self) -> Result<StepReport> {
        let ranks = self.ranks.clone();
        let (round, within) = self.feed.recipe.place(self.step + 1);
        if round != self.round {
            self.begin(round).inspect_err(|_| ranks.fail())?;
        }
        let mut overflows = 0;
        let (loss, gradient_norm) = loop {
            let (loss, norm) = self.compute_gradient().inspect_err(|_| ranks.fail())?;
            let overflow = loss.is_finite() && !norm.is_finite();
            if !(overflow && self.loss_scale.as_mut().is_some_and(LossScale::overflowed)) {
                break (loss, norm);
            }
            overflows += 1;
        };
        let step = self.step + 1;
        if !loss.is_finite() || !gradient_norm.is_finite() {
            let what = if loss.is_finite() { "gradient" } else { "loss" };
            return Err(Error::new(
                Kind::NonFinite,
                format!(
                    "step {step}: the {what} is not finite; \
                     lower optimizer.lr, lengthen optimizer.warmup or set optimizer.clip = 1.0"
                ),
            ));
        }
        let o = &self.feed.recipe.optimizer;
        let learning_rate = self.feed.recipe.learning_rate(within);
        let clip = (o.clip > 0.0 && gradient_norm > o.clip).then(|| o.clip / gradient_norm);
        let loss_scale = self.loss_scale.map(LossScale::factor);
        let shrink = loss_scale.map_or(clip, |scale| Some(clip.unwrap_or(1.0) / scale));
        let update = Update {
            step: within,
            shrink: shrink.map(|factor| factor as f32),
            learning_rate,
            beta1: o.beta1,
            beta2: o.beta2,
            eps: o.eps,
            weight_decay: o.weight_decay,
            decoupled: o.kind == OptimizerKind::AdamW,
            ema_decay: self.feed.recipe.ema_decay(within),
        };
        self.learner.update(&update).inspect_err(|_| ranks.fail())?;
        self.step = step;
        if let Some(scale) = &mut self.loss_scale {
            scale.held();
        }
        Ok(StepReport { step, loss, gradient_norm, learning_rate, loss_scale, overflows })
    }

    /// Begins a round: the average of the student's weights becomes the teacher and the next student's weights.
    fn begin(&mut self, round: usize) -> Result<()> {
        let student = self.learner.group(Group::Ema)?.into_owned();
        let zeros = Parameters::zeros(student.layout().clone());
        self.learner.set_group(Group::Weights, student.clone())?;
        self.learner.set_group(Group::Ema, student.clone())?;
        self.learner.set_group(Group::FirstMoment, zeros.clone())?;
        self.learner.set_group(Group::SecondMoment, zeros)?;
        // What was prepared ahead is of the former round.
        self.ahead = None;
        self.feed.objective.begin(round, student, &self.engine)?;
        self.round = round;
        Ok(())
    }

    /// The time to compute a step's gradient: the faster of two measurements. Does not advance the training.
    ///
    /// # Errors
    /// As [`step`](Self::step), except that a non-finite gradient is no error.
    pub fn measure(&mut self) -> Result<Duration> {
        let mut best = Duration::MAX;
        for _ in 0..2 {
            let begun = Instant::now();
            self.compute_gradient()?;
            best = best.min(begun.elapsed());
        }
        Ok(best)
    }

    /// Loss and gradient norm of the next step's batches. Leaves the gradient, times the loss scale, in the learner.
    fn compute_gradient(&mut self) -> Result<(f64, f64)> {
        self.learner.zero_gradient();
        let (batch, accumulate) = (self.feed.recipe.train.batch, self.feed.recipe.train.accumulate);
        let scale = 1.0 / (batch * accumulate) as f64;
        let loss_scale = self.loss_scale.map_or(1.0, LossScale::factor);
        let mut losses = Vec::with_capacity(self.own_images());
        for micro in 0..accumulate {
            let images = |micro: usize| self.feed.recipe.images(micro % accumulate, &self.shards);
            let (images, following) = (images(micro), images(micro + 1));
            if !images.is_empty() {
                let number = self.step * accumulate as u64 + micro as u64;
                losses.extend(self.add_batch((number, images), (number + 1, following), scale * loss_scale)?);
            }
        }
        self.learner.finish_gradient()?;
        let begun = Instant::now();
        let losses = self.gather_losses(losses)?;
        let loss = losses.chunks(batch).map(|losses| losses.iter().sum::<f64>() * scale).sum();
        let norm = self.learner.gradient_norm()? / loss_scale;
        if self.ranks.size() > 1 {
            self.waited += begun.elapsed();
        }
        Ok((loss, norm))
    }

    /// The losses of all images of a step, in order.
    fn gather_losses(&self, mine: Vec<f64>) -> Result<Vec<f64>> {
        let size = self.ranks.size();
        if size == 1 {
            return Ok(mine);
        }
        let images = |rank: usize| {
            let shards = engine::share(self.feed.recipe.shards(), rank, size);
            (0..self.feed.recipe.train.accumulate).map(|micro| self.feed.recipe.images(micro, &shards).len()).sum()
        };
        gather_numbers(&*self.ranks, &mine, &(0..size).map(images).collect::<Vec<usize>>())
    }

    /// Adds the gradient of `scale`·Σ loss over these images of a batch. Returns the losses.
    ///
    /// While a device computes, another thread prepares the `next` part of a batch.
    fn add_batch(&mut self, batch: BatchPart, next: BatchPart, scale: f64) -> Result<Vec<f64>> {
        let ready = self.ahead.take().filter(|(part, _)| *part == batch);
        let prepared = ready.map_or_else(|| self.feed.prepare(batch.0, batch.1), |(_, prepared)| prepared)?;
        let (feed, learner) = (&mut self.feed, &mut self.learner);
        if self.engine.device == Device::Cpu {
            return learner.add_gradient(prepared.batch(), prepared.targets(scale));
        }
        std::thread::scope(|scope| {
            let ahead = scope.spawn({
                let next = next.clone();
                move || feed.prepare(next.0, next.1)
            });
            let losses = learner.add_gradient(prepared.batch(), prepared.targets(scale));
            // A failure is reported when the batch is due; a panic leaves it to be prepared then.
            self.ahead = ahead.join().ok().map(|prepared| (next, prepared));
            losses
        })
    }

    /// DDIM samples from the moving average, always from the same latents.
    ///
    /// # Errors
    /// The samples are not finite.
    pub fn preview(&self) -> Result<Array4<f32>> {
        self.preview_of(self.ema()?.into_owned())
    }

    /// [`preview`](Self::preview) of this average.
    pub(super) fn preview_of(&self, ema: Parameters) -> Result<Array4<f32>> {
        let scheduler = self.feed.objective.scheduler();
        let network = engine::open(self.config.clone(), ema, scheduler.prediction_type, &self.engine)?;
        let t = &self.feed.recipe.train;
        let trajectory = self.feed.objective.preview(t.preview_steps)?;
        let (schedule, scale) = (scheduler.schedule()?, NoiseScale::Eta(0.0));
        // Recipes leave the end of a run to be clean; a teacher may have another.
        let plan = Plan::new(&schedule, &trajectory, &scale, scheduler.final_level(), Clip::Off)?;
        let latents = initial_latent(t.seed, 0, t.preview_images, self.feed.data.shape());
        let condition = |k: usize| (0..t.preview_images).map(|i| Condition::Class(i % k)).collect();
        let conditions: Vec<Condition> = self.config.num_class_embeds.map_or_else(Vec::new, condition);
        sample(&network, &plan, latents, &mut Forbidden, &conditions, &mut unobserved)
    }
}

/// Refuses images of another shape.
fn check_data(data: &Dataset, shape: [usize; 3], whose: &str) -> Result<()> {
    if data.shape() != shape {
        let found = data.shape();
        return Err(Error::argument(format!("{}: images are {found:?}, but {whose} {shape:?}", data.name())));
    }
    if data.is_empty() {
        return Err(Error::argument(format!("{}: the data set has no images", data.name())));
    }
    Ok(())
}
