//! The trainer, which makes one optimiser step at a time.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ndarray::Array4;

use super::distill;
use super::objective::{Draws, Examples, Objective, Start, denoising};
use super::recipe::{OptimizerKind, Recipe, Round, Sum};
use super::state::State;
use crate::engine::ranks::{Alone, agree, broadcast, gather_numbers};
use crate::engine::{self, Batch, EngineOptions, Group, Learner, Ranks, Sharding, Targets, Update};
use crate::error::{Error, Kind, Result};
use crate::io::checkpoint::{Model, SchedulerConfig};
use crate::io::data::{Dataset, Epochs, Stream};
use crate::math::noise::{Forbidden, KeyedRng, Purpose, fill_gaussian, initial_latent};
use crate::math::schedule::Time;
use crate::math::sigma::NoiseScale;
use crate::objective::antithetic_indices;
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
}

/// The random words that determine a data set's epochs.
type RandomWords = Box<dyn Fn(Stream, u64, u64) -> u64 + Send + Sync>;

/// Training in progress: network, optimiser, moving average and data.
///
/// The result of step k depends only on the recipe, the data and the state after step k − 1, not on threads or ranks.
pub struct Trainer {
    recipe: Recipe,
    config: Config,
    objective: Box<dyn Objective>,
    data: Dataset,
    epochs: Epochs<RandomWords>,
    null_class: Option<usize>,
    step: u64,
    /// The round of the last step made.
    round: usize,
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
        let learner = match train.sum {
            Some(Sum::Chain) if size > 1 => {
                return Err(Error::argument(format!(
                    "train.sum = \"chain\": this run adds its shards one after the other, which {size} ranks cannot; train it \
                     in one process, or start another run with --init and train.sum = \"tree\""
                )));
            }
            Some(Sum::Chain) => engine::open_learner(config.clone(), weights, sharding, &engine)?,
            None | Some(Sum::Tree) => {
                engine::open_tree_learner(config.clone(), weights, sharding, count, ranks.clone(), &engine)?
            }
        };
        let shards = engine::share(count, ranks.rank(), size);
        let seed = recipe.train.seed;
        let words: RandomWords = Box::new(move |stream, epoch, counter| epoch_word(seed, stream, epoch, counter));
        let epochs = Epochs::new(data.len(), words)?;
        Ok(Self {
            recipe,
            config,
            objective,
            data,
            epochs,
            null_class,
            step: 0,
            round: 0,
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
        (0..self.recipe.train.accumulate).map(|micro| self.recipe.images(micro, &self.shards).len()).sum()
    }

    /// Steps done.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Whether all steps of the recipe are done.
    pub fn is_finished(&self) -> bool {
        self.step >= self.recipe.total_steps()
    }

    /// The round of the next step, or of the last one if all are done: its number from 0 and what it is about; `None` if this
    /// is no distillation.
    pub fn round(&self) -> Option<(usize, Round)> {
        let next = if self.is_finished() { self.step } else { self.step + 1 };
        let (index, _) = self.recipe.place(next.max(1));
        self.recipe.distill.as_ref().and_then(|distill| Some((index, *distill.rounds().get(index)?)))
    }

    /// The round that the last step ended, unless it was the last round.
    pub(super) fn ended_round(&self) -> Option<Round> {
        let (next, _) = self.recipe.place(self.step + 1);
        if next > self.round && !self.is_finished() { self.objective.round() } else { None }
    }

    /// Calls of a teacher for each image of a step, of which each costs about a third of what the image costs the student.
    pub fn teacher_calls(&self) -> usize {
        self.objective.calls(0).0
    }

    /// The training recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The network's architecture.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The noise schedule, as saved in the model folder.
    pub fn scheduler(&self) -> &SchedulerConfig {
        self.objective.scheduler()
    }

    /// The class that means "no class", if classes are dropped.
    pub fn null_class(&self) -> Option<usize> {
        self.null_class
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
        let teacher = self.objective.teacher().map(Cow::Borrowed);
        Ok(Some(State { step: self.step, groups: [weights?, ema?, m?, v?], teacher }))
    }

    /// Continues from a checkpoint, which rank 0 has read.
    pub(super) fn restore(&mut self, state: Option<State<'_>>) -> Result<()> {
        let ranks = self.ranks.clone();
        let mut step = state.as_ref().map_or([0; 8], |state| state.step.to_le_bytes());
        broadcast(&*ranks, &mut step)?;
        let step = u64::from_le_bytes(step);
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
        let (round, _) = self.recipe.place(step.max(1));
        if round > 0 {
            let missing = teacher.is_none() && ranks.rank() == 0;
            let found = if missing { Err(Error::data("the training state has no teacher")) } else { Ok(()) };
            agree(&*ranks, found)?;
            self.objective.begin(round, shared(teacher)?, &self.engine)?;
        }
        (self.step, self.round) = (step, round);
        Ok(())
    }

    /// The training data.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// Peak memory of the training in bytes without the data: parameters, moments, activations, gradients.
    pub fn bytes(&self) -> usize {
        let batch = self.recipe.train.batch;
        self.learner.bytes(batch) + self.objective.calls(batch).1
    }

    /// Makes one optimiser step.
    ///
    /// # Errors
    /// The loss or the gradient is not finite ([`Kind::NonFinite`]). The state is then still that before the step.
    pub fn step(&mut self) -> Result<StepReport> {
        let ranks = self.ranks.clone();
        let (round, within) = self.recipe.place(self.step + 1);
        if round != self.round {
            self.begin(round).inspect_err(|_| ranks.fail())?;
        }
        let (loss, gradient_norm) = self.compute_gradient().inspect_err(|_| ranks.fail())?;
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
        let o = &self.recipe.optimizer;
        let learning_rate = self.recipe.learning_rate(within);
        let update = Update {
            step: within,
            shrink: (o.clip > 0.0 && gradient_norm > o.clip).then(|| (o.clip / gradient_norm) as f32),
            learning_rate,
            beta1: o.beta1,
            beta2: o.beta2,
            eps: o.eps,
            weight_decay: o.weight_decay,
            decoupled: o.kind == OptimizerKind::AdamW,
            ema_decay: self.recipe.ema_decay(within),
        };
        self.learner.update(&update).inspect_err(|_| ranks.fail())?;
        self.step = step;
        Ok(StepReport { step, loss, gradient_norm, learning_rate })
    }

    /// Begins a round: the average of the student's weights becomes the teacher and the next student's weights.
    fn begin(&mut self, round: usize) -> Result<()> {
        let student = self.learner.group(Group::Ema)?.into_owned();
        let zeros = Parameters::zeros(student.layout().clone());
        self.learner.set_group(Group::Weights, student.clone())?;
        self.learner.set_group(Group::Ema, student.clone())?;
        self.learner.set_group(Group::FirstMoment, zeros.clone())?;
        self.learner.set_group(Group::SecondMoment, zeros)?;
        self.objective.begin(round, student, &self.engine)?;
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

    /// Loss and gradient norm of the next step's batches. Leaves the gradient in the learner.
    fn compute_gradient(&mut self) -> Result<(f64, f64)> {
        self.learner.zero_gradient();
        let (batch, accumulate) = (self.recipe.train.batch, self.recipe.train.accumulate);
        let scale = 1.0 / (batch * accumulate) as f64;
        let mut losses = Vec::with_capacity(self.own_images());
        for micro in 0..accumulate {
            let images = self.recipe.images(micro, &self.shards);
            if !images.is_empty() {
                let batch_index = self.step * accumulate as u64 + micro as u64;
                losses.extend(self.add_batch(batch_index, images, scale)?);
            }
        }
        self.learner.finish_gradient()?;
        let begun = Instant::now();
        let losses = self.gather_losses(losses)?;
        let loss = losses.chunks(batch).map(|losses| losses.iter().sum::<f64>() * scale).sum();
        let norm = self.learner.gradient_norm()?;
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
            let shards = engine::share(self.recipe.shards(), rank, size);
            (0..self.recipe.train.accumulate).map(|micro| self.recipe.images(micro, &shards).len()).sum()
        };
        gather_numbers(&*self.ranks, &mine, &(0..size).map(images).collect::<Vec<usize>>())
    }

    /// Adds the gradient of `scale`·Σ loss over these images of batch `batch_index`. Returns the losses.
    fn add_batch(&mut self, batch_index: u64, images: Range<usize>, scale: f64) -> Result<Vec<f64>> {
        let n = images.len();
        let seed = self.recipe.train.seed;
        // Every draw is keyed by the image's position in the run, so a resumed run repeats it exactly.
        let first = batch_index * self.recipe.train.batch as u64 + images.start as u64;
        let picks: Vec<_> = (first..first + n as u64)
            .map(|position| {
                let mut pick = self.epochs.pick_at(position);
                pick.flip &= self.recipe.data.flip;
                pick
            })
            .collect();
        let [c, h, w] = self.data.shape();
        let mut x0 = Array4::zeros((n, c, h, w));
        self.data.fill_batch(&picks, &mut x0)?;
        let mut eps = Array4::zeros((n, c, h, w));
        fill_gaussian(seed, Purpose::TrainNoise, first, 0, &mut eps);
        // Times are drawn for a whole batch at once.
        let times = &self.draw_times(batch_index)[images];
        let conditions = self.draw_conditions(&picks, first);
        let dropout: Vec<u64> =
            (0..n as u64).map(|i| KeyedRng::new(seed, Purpose::Dropout, first + i, 0).next_u64()).collect();

        let draws = Draws { x0: &x0, eps: &eps, times, conditions: &conditions };
        let Examples { x_t, target, weights } = self.objective.examples(&draws)?;
        let drops = self.config.dropout > 0.0 && self.objective.drops();
        let batch = Batch { x_t: &x_t, times, conditions: &conditions, dropout: drops.then_some(&dropout[..]) };
        self.learner.add_gradient(batch, Targets { target: &target, weights: &weights, scale })
    }

    fn draw_times(&self, batch_index: u64) -> Vec<Time> {
        let (n, times) = (self.recipe.train.batch, self.objective.times());
        let count = times.len() as u32;
        let mut rng = KeyedRng::new(self.recipe.train.seed, Purpose::TrainTime, batch_index, 0);
        let indices: Vec<u32> = if self.recipe.train.antithetic {
            antithetic_indices(&mut rng, n, count)
        } else {
            (0..n).map(|_| rng.below(u64::from(count)) as u32).collect()
        };
        indices.into_iter().map(|index| times[index as usize]).collect()
    }

    fn draw_conditions(&self, picks: &[crate::io::data::Pick], first: u64) -> Vec<Condition> {
        let Some(labels) = self.data.labels().filter(|_| self.recipe.data.classes) else { return Vec::new() };
        let (seed, p) = (self.recipe.train.seed, self.recipe.data.class_dropout);
        let condition = |(i, pick): (usize, &crate::io::data::Pick)| {
            let dropped = KeyedRng::new(seed, Purpose::ClassDrop, first + i as u64, 0).next_f64() < p;
            Condition::Class(self.null_class.filter(|_| dropped).unwrap_or(labels[pick.index] as usize))
        };
        picks.iter().enumerate().map(condition).collect()
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
        let scheduler = self.objective.scheduler();
        let network = engine::open(self.config.clone(), ema, scheduler.prediction_type, &self.engine)?;
        let t = &self.recipe.train;
        let trajectory = self.objective.preview(t.preview_steps)?;
        let (schedule, scale) = (scheduler.schedule()?, NoiseScale::Eta(0.0));
        // Recipes leave the end of a run to be clean; a teacher may have another.
        let plan = Plan::new(&schedule, &trajectory, &scale, scheduler.final_level(), Clip::Off)?;
        let latents = initial_latent(t.seed, 0, t.preview_images, self.data.shape());
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

/// Random words for the data order and the flips, keyed by (seed, epoch).
fn epoch_word(seed: u64, stream: Stream, epoch: u64, counter: u64) -> u64 {
    let purpose = match stream {
        Stream::Order => Purpose::DataOrder,
        Stream::Flip => Purpose::Augment,
    };
    // A data set has fewer than 2³² images, so the counter fits.
    KeyedRng::new(seed, purpose, epoch, counter as u32).next_u64()
}
