//! Training of the classifier.

use std::sync::Arc;

use skipstone::error::{Error, Kind, Result};
use skipstone::io::data::Dataset;
use skipstone::math::noise::{KeyedRng, Purpose};
use skipstone::unet::Parameters;
use skipstone_kernels::Isa;
use skipstone_kernels::optimizer::{self, Adam};

use super::FashionCnn;
use super::architecture::{Before, CLASSES, Stage, layout, stages};
use super::backward::cross_entropy;
use super::forward::Network;

/// The hyperparameters of a training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// Passes over the data.
    pub epochs: usize,
    /// Images of a step. An epoch leaves out its last images if they do not fill a step.
    pub batch: usize,
    /// Learning rate after the warm-up. From there it falls to 0 along a cosine.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises.
    pub warmup: u64,
    /// Decoupled weight decay (AdamW).
    pub weight_decay: f64,
    /// Decay of the moving average of the weights, which becomes the result.
    pub ema: f64,
    /// Most pixels by which images are shifted in each direction. Half of the images are also mirrored.
    pub shift: usize,
    /// Seed of the weights, the order and the augmentation.
    pub seed: u64,
}

impl Default for Recipe {
    /// The recipe of the built-in classifier.
    fn default() -> Self {
        Self {
            epochs: 10,
            batch: 64,
            learning_rate: 2e-3,
            warmup: 200,
            weight_decay: 0.02,
            ema: 0.998,
            shift: 2,
            seed: 0,
        }
    }
}

/// The outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Steps done.
    pub step: u64,
    /// Steps in total.
    pub of: u64,
    /// Mean cross-entropy of the step's images before the step, in nats.
    pub loss: f64,
}

/// A running training. Its result depends only on recipe and data, not on the threads.
pub struct Training<'d> {
    recipe: Recipe,
    data: &'d Dataset,
    labels: &'d [u32],
    network: Network,
    weights: Parameters,
    ema: Parameters,
    moments: [Vec<f32>; 2],
    gradient: Vec<f32>,
    step: u64,
    order: (u64, Vec<usize>),
}

impl std::fmt::Debug for Training<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Training").field("recipe", &self.recipe).field("step", &self.step).finish_non_exhaustive()
    }
}

impl<'d> Training<'d> {
    /// A training of fresh weights on labelled 28×28 gray images of up to ten classes.
    ///
    /// # Errors
    /// The data are of another form, the batch is empty or larger than the data, or there is no epoch.
    pub fn new(recipe: Recipe, data: &'d Dataset) -> Result<Self> {
        let labels = data.labels().unwrap_or_default();
        if data.shape() != [1, 28, 28] || labels.is_empty() || labels.iter().any(|&l| l as usize >= CLASSES) {
            return Err(Error::argument(format!(
                "{}: the classifier is trained on 28×28 gray images of up to {CLASSES} classes",
                data.name()
            )));
        }
        if recipe.batch == 0 || recipe.batch > data.len() || recipe.epochs == 0 {
            let (batch, epochs, n) = (recipe.batch, recipe.epochs, data.len());
            return Err(Error::argument(format!("{epochs} epochs of {n} images in batches of {batch}")));
        }
        let weights = initial(recipe.seed);
        let layout = weights.layout().clone();
        let zeros = || vec![0.0; layout.len()];
        Ok(Self {
            data,
            labels,
            network: Network::new(Isa::best(), super::team()?),
            ema: weights.clone(),
            moments: [zeros(), zeros()],
            gradient: zeros(),
            weights,
            step: 0,
            order: (u64::MAX, Vec::new()),
            recipe,
        })
    }

    /// Steps in total.
    pub fn steps(&self) -> u64 {
        (self.recipe.epochs * (self.data.len() / self.recipe.batch)) as u64
    }

    /// Makes a step. Returns `None` when all are done.
    ///
    /// # Errors
    /// The loss is not finite.
    pub fn step(&mut self) -> Result<Option<Step>> {
        let of = self.steps();
        if self.step == of {
            return Ok(None);
        }
        let (images, labels) = self.batch()?;
        self.gradient.fill(0.0);
        self.network.pack(&self.weights);
        let activations = self.network.forward(&self.weights, &images);
        let n = labels.len() as f64;
        let (losses, dscores) = cross_entropy(activations.scores(), &labels, 1.0 / n);
        let loss = losses.iter().sum::<f64>() / n;
        if !loss.is_finite() {
            return Err(Error::new(Kind::NonFinite, format!("step {}: the loss is not finite", self.step + 1)));
        }
        self.network.add_gradient(&self.weights, &activations, dscores, &mut self.gradient);
        self.step += 1;
        let adam = Adam {
            lr: self.learning_rate(),
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: self.recipe.weight_decay,
            decoupled: true,
        };
        let (isa, team) = (self.network.isa, &self.network.team);
        let [m, v] = &mut self.moments;
        adam.step(isa, team, self.step, &self.gradient, self.weights.data_mut(), m, v);
        // At first the average follows closely, so that it forgets the initial weights.
        let decay = self.recipe.ema.min((1.0 + self.step as f64) / (10.0 + self.step as f64));
        optimizer::moving_average(isa, team, decay, self.weights.data(), self.ema.data_mut());
        Ok(Some(Step { step: self.step, of, loss }))
    }

    /// The classifier with the moving average of the weights, rounded to half precision as in its file.
    ///
    /// # Errors
    /// The system cannot start threads.
    pub fn classifier(&self) -> Result<FashionCnn> {
        let mut rounded = self.ema.clone();
        rounded.data_mut().iter_mut().for_each(|w| *w = half::f16::from_f32(*w).to_f32());
        FashionCnn::new(rounded)
    }

    fn learning_rate(&self) -> f64 {
        let (step, warmup) = (self.step as f64, self.recipe.warmup as f64);
        let peak = self.recipe.learning_rate;
        if step < warmup {
            return peak * step / warmup;
        }
        let done = (step - warmup) / (self.steps() as f64 - warmup).max(1.0);
        peak * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * done))
    }

    /// The augmented images of the next step, and their classes.
    fn batch(&mut self) -> Result<(Vec<f32>, Vec<u32>)> {
        let Recipe { batch, seed, shift, .. } = self.recipe;
        let per_epoch = (self.data.len() / batch) as u64;
        let (epoch, place) = (self.step / per_epoch, (self.step % per_epoch) as usize);
        if self.order.0 != epoch {
            let mut order: Vec<usize> = (0..self.data.len()).collect();
            KeyedRng::new(seed, Purpose::DataOrder, epoch, 0).shuffle(&mut order);
            self.order = (epoch, order);
        }
        let chosen = &self.order.1[place * batch..(place + 1) * batch];
        let mut images = Vec::with_capacity(batch * 28 * 28);
        for &index in chosen {
            let mut rng = KeyedRng::new(seed, Purpose::Augment, epoch, index as u32);
            let mut moved = || rng.below(2 * shift as u64 + 1) as isize - shift as isize;
            let (down, right) = (moved(), moved());
            let flip = rng.below(2) == 1;
            let image = self.data.image(index)?;
            for y in 0..28 {
                for x in 0..28 {
                    let column = if flip { 27 - x } else { x } - right;
                    let row = y - down;
                    let inside = (0..28).contains(&row) && (0..28).contains(&column);
                    // The outside is black, like the background of these images.
                    let byte = if inside { image[[0, row as usize, column as usize]] } else { 0 };
                    images.push((f64::from(byte) / 127.5 - 1.0) as f32);
                }
            }
        }
        Ok((images, chosen.iter().map(|&index| self.labels[index]).collect()))
    }
}

/// Weights after He et al. (arXiv 1502.01852), but from a uniform distribution; γ = 1, β = 0, no bias.
pub(super) fn initial(seed: u64) -> Parameters {
    let mut parameters = Parameters::zeros(Arc::new(layout()));
    let mut rng = KeyedRng::new(seed, Purpose::Weights, 0, 0);
    for Stage { before, conv, weights: [weights, _], .. } in stages() {
        let fan_in = conv.patch() as f64;
        // The last layer begins with small weights, so that the first losses are those of a guess.
        let gain = if before == Before::Silu { 0.1 } else { 1.0 };
        let bound = gain * (6.0 / fan_in).sqrt();
        for w in &mut parameters.data_mut()[weights] {
            *w = (bound * (2.0 * rng.next_f64() - 1.0)) as f32;
        }
        if let Before::Norm(_, [gamma, _]) = before {
            parameters.data_mut()[gamma].fill(1.0);
        }
    }
    parameters
}
