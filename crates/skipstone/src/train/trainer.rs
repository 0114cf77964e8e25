//! The trainer, which makes one optimiser step at a time.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use ndarray::Array4;

use super::recipe::{OptimizerKind, Recipe};
use super::state::State;
use crate::engine::{self, Batch, EngineOptions, Group, Learner, Sharding, Targets, Update};
use crate::error::{Error, Kind, Result};
use crate::io::checkpoint::SchedulerConfig;
use crate::io::data::{Dataset, Epochs, Stream};
use crate::math::noise::{Forbidden, KeyedRng, Purpose, fill_gaussian, initial_latent};
use crate::math::process;
use crate::math::schedule::{FinalLevel, Schedule, Time};
use crate::math::sigma::NoiseScale;
use crate::math::trajectory::{Spacing, Trajectory};
use crate::objective::antithetic_times;
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
/// The result of step k depends only on the recipe, the data and the state after step k − 1, not on threads.
pub struct Trainer {
    recipe: Recipe,
    config: Config,
    scheduler: SchedulerConfig,
    schedule: Schedule,
    data: Dataset,
    epochs: Epochs<RandomWords>,
    null_class: Option<usize>,
    step: u64,
    learner: Box<dyn Learner>,
    engine: EngineOptions,
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
        let m = &recipe.model;
        let [height, width] = m.sample_size;
        if data.shape() != [m.channels, height, width] {
            return Err(Error::argument(format!(
                "{}: images are {:?}, but model.channels and model.sample_size ask for {:?}",
                data.name(),
                data.shape(),
                [m.channels, height, width]
            )));
        }
        if data.is_empty() {
            return Err(Error::argument(format!("{}: the data set has no images", data.name())));
        }
        let classes = match (recipe.data.classes, data.num_classes()) {
            (false, _) => None,
            (true, Some(k)) => Some(k),
            (true, None) => {
                return Err(Error::argument(format!("data.classes = true, but {} has no classes", data.name())));
            }
        };
        let config = recipe.config(classes)?;
        let null_class = classes.filter(|_| recipe.data.class_dropout > 0.0);
        let scheduler = recipe.scheduler();
        let schedule = scheduler.schedule()?;
        let weights = match init {
            Some(parameters) if **parameters.layout() == unet::layout(&config)? => parameters,
            Some(_) => return Err(Error::argument("the initial model and the recipe have different architectures")),
            None => {
                let mut uniform = KeyedRng::new(recipe.train.seed, Purpose::Weights, 0, 0);
                let mut gaussian = KeyedRng::new(recipe.train.seed, Purpose::Weights, 1, 0);
                unet::initialise(&config, || uniform.next_f64(), || gaussian.next_gaussians()[0])?
            }
        };
        let train = &recipe.train;
        let sharding = Sharding { images: train.shard, recompute: train.recompute };
        let learner = engine::open_learner(config.clone(), weights, sharding, &engine)?;
        let seed = recipe.train.seed;
        let words: RandomWords = Box::new(move |stream, epoch, counter| epoch_word(seed, stream, epoch, counter));
        let epochs = Epochs::new(data.len(), words)?;
        Ok(Self { recipe, config, scheduler, schedule, data, epochs, null_class, step: 0, learner, engine })
    }

    /// Steps done.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Whether all steps of the recipe are done.
    pub fn is_finished(&self) -> bool {
        self.step >= self.recipe.train.steps
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
        &self.scheduler
    }

    /// The class that means "no class", if classes are dropped.
    pub fn null_class(&self) -> Option<usize> {
        self.null_class
    }

    /// The trained weights.
    ///
    /// # Errors
    /// The device fails.
    pub fn weights(&self) -> Result<Cow<'_, Parameters>> {
        self.learner.group(Group::Weights)
    }

    /// The moving average (EMA) of the weights.
    ///
    /// # Errors
    /// The device fails.
    pub fn ema(&self) -> Result<Cow<'_, Parameters>> {
        self.learner.group(Group::Ema)
    }

    /// The state that a checkpoint stores.
    pub(super) fn state(&self) -> Result<State<'_>> {
        let [weights, ema, m, v] = Group::ALL.map(|group| self.learner.group(group));
        Ok(State { step: self.step, groups: [weights?, ema?, m?, v?] })
    }

    /// Continues from a checkpoint.
    pub(super) fn restore(&mut self, state: State<'_>) -> Result<()> {
        for (group, values) in Group::ALL.into_iter().zip(state.groups) {
            self.learner.set_group(group, values.into_owned())?;
        }
        self.step = state.step;
        Ok(())
    }

    /// The training data.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// Peak memory of the training in bytes without the data: parameters, moments, activations, gradients.
    pub fn bytes(&self) -> usize {
        self.learner.bytes(self.recipe.train.batch)
    }

    /// Makes one optimiser step.
    ///
    /// # Errors
    /// The loss or the gradient is not finite ([`Kind::NonFinite`]). The state is then still that before the step.
    pub fn step(&mut self) -> Result<StepReport> {
        let (loss, gradient_norm) = self.compute_gradient()?;
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
        let learning_rate = self.recipe.learning_rate(step);
        self.learner.update(&Update {
            step,
            shrink: (o.clip > 0.0 && gradient_norm > o.clip).then(|| (o.clip / gradient_norm) as f32),
            learning_rate,
            beta1: o.beta1,
            beta2: o.beta2,
            eps: o.eps,
            weight_decay: o.weight_decay,
            decoupled: o.kind == OptimizerKind::AdamW,
            ema_decay: self.recipe.ema_decay(step),
        })?;
        self.step = step;
        Ok(StepReport { step, loss, gradient_norm, learning_rate })
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
        let mut loss = 0.0;
        for micro in 0..accumulate as u64 {
            let batch_index = self.step * accumulate as u64 + micro;
            loss += self.add_batch(batch_index, 1.0 / (batch * accumulate) as f64)?;
        }
        Ok((loss, self.learner.gradient_norm()?))
    }

    /// Adds the gradient of `scale`·Σ loss over batch `batch_index`. Returns that scaled sum.
    fn add_batch(&mut self, batch_index: u64, scale: f64) -> Result<f64> {
        let n = self.recipe.train.batch;
        let seed = self.recipe.train.seed;
        // Every draw is keyed by the image's position in the run, so a resumed run repeats it exactly.
        let first = batch_index * n as u64;
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
        let times = self.draw_times(batch_index)?;
        let levels = times.iter().map(|t| self.schedule.level(*t)).collect::<Result<Vec<_>>>()?;
        let prediction = self.scheduler.prediction_type;
        let x_t = process::diffuse(&x0, &eps, &levels)?;
        let target = process::target(prediction, &x0, &eps, &levels)?;
        let conditions = self.draw_conditions(&picks, first);
        let dropout: Vec<u64> =
            (0..n as u64).map(|i| KeyedRng::new(seed, Purpose::Dropout, first + i, 0).next_u64()).collect();

        let weighting = self.recipe.weighting();
        let weights: Vec<f64> = levels.iter().map(|level| weighting.at(prediction, *level)).collect();
        let batch = Batch {
            x_t: &x_t,
            times: &times,
            conditions: &conditions,
            dropout: (self.config.dropout > 0.0).then_some(&dropout[..]),
        };
        let losses = self.learner.add_gradient(batch, Targets { target: &target, weights: &weights, scale })?;
        Ok(losses.iter().sum::<f64>() * scale)
    }

    fn draw_times(&self, batch_index: u64) -> Result<Vec<Time>> {
        let (n, steps) = (self.recipe.train.batch, self.schedule.train_steps());
        let mut rng = KeyedRng::new(self.recipe.train.seed, Purpose::TrainTime, batch_index, 0);
        if self.recipe.train.antithetic {
            return Ok(antithetic_times(&mut rng, n, steps));
        }
        Ok((0..n).map(|_| Time::from_index(rng.below(u64::from(steps)) as u32)).collect())
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
        let prediction = self.scheduler.prediction_type;
        let network = engine::open(self.config.clone(), self.ema()?.into_owned(), prediction, &self.engine)?;
        let t = &self.recipe.train;
        let times = self.schedule.train_steps();
        let steps = t.preview_steps.min(times as usize);
        let trajectory = Trajectory::named(Spacing::Linear, steps, times, 0)?;
        let scale = NoiseScale::Eta(0.0);
        let plan = Plan::new(&self.schedule, &trajectory, &scale, FinalLevel::Clean, Clip::Off)?;
        let latents = initial_latent(t.seed, 0, t.preview_images, self.data.shape());
        let condition = |k: usize| (0..t.preview_images).map(|i| Condition::Class(i % k)).collect();
        let conditions: Vec<Condition> = self.config.num_class_embeds.map_or_else(Vec::new, condition);
        sample(&network, &plan, latents, &mut Forbidden, &conditions, &mut unobserved)
    }
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
