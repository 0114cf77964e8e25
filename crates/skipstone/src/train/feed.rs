//! The inputs and targets of training batches, as functions of the recipe, the data and the batch's number.

use std::ops::Range;

use ndarray::Array4;

use super::objective::{Draws, Examples, Objective};
use super::recipe::Recipe;
use crate::engine::{Batch, Targets};
use crate::error::Result;
use crate::io::data::{Dataset, Epochs, Pick, Stream};
use crate::math::noise::{KeyedRng, Purpose, fill_gaussian};
use crate::math::schedule::Time;
use crate::objective::antithetic_indices;
use crate::sampling::denoiser::Condition;

/// The random words that determine a data set's epochs.
type RandomWords = Box<dyn Fn(Stream, u64, u64) -> u64 + Send + Sync>;

/// Makes training batches. Every draw is keyed by the image's position in the run, so a resumed run repeats it exactly.
pub(super) struct Feed {
    pub recipe: Recipe,
    pub objective: Box<dyn Objective>,
    pub data: Dataset,
    epochs: Epochs<RandomWords>,
    /// The class that means "no class", if classes are dropped.
    pub null_class: Option<usize>,
}

/// Part of a batch, ready for the network.
pub(super) struct Prepared {
    x_t: Array4<f32>,
    target: Array4<f32>,
    times: Vec<Time>,
    conditions: Vec<Condition>,
    /// A key per image, if the network has dropout.
    dropout: Option<Vec<u64>>,
    weights: Vec<f64>,
}

impl Prepared {
    /// The inputs.
    pub fn batch(&self) -> Batch<'_> {
        let Self { x_t, times, conditions, dropout, .. } = self;
        Batch { x_t, times, conditions, dropout: dropout.as_deref() }
    }

    /// The targets, for the gradient of `scale`·Σ loss.
    pub fn targets(&self, scale: f64) -> Targets<'_> {
        Targets { target: &self.target, weights: &self.weights, scale }
    }
}

impl Feed {
    /// # Errors
    /// The data set has too many images.
    pub fn new(
        recipe: Recipe,
        data: Dataset,
        null_class: Option<usize>,
        objective: Box<dyn Objective>,
    ) -> Result<Self> {
        let seed = recipe.train.seed;
        let words: RandomWords = Box::new(move |stream, epoch, counter| epoch_word(seed, stream, epoch, counter));
        let epochs = Epochs::new(data.len(), words)?;
        Ok(Self { recipe, objective, data, epochs, null_class })
    }

    /// These images of batch `batch_index`.
    ///
    /// # Errors
    /// The data cannot be read or a teacher's output is not finite.
    pub fn prepare(&mut self, batch_index: u64, images: Range<usize>) -> Result<Prepared> {
        let n = images.len();
        let seed = self.recipe.train.seed;
        let first = batch_index * self.recipe.train.batch as u64 + images.start as u64;
        let picks: Vec<Pick> = (first..first + n as u64)
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
        let times = self.draw_times(batch_index)[images].to_vec();
        let conditions = self.draw_conditions(&picks, first);
        let draws = Draws { x0: &x0, eps: &eps, times: &times, conditions: &conditions };
        let Examples { x_t, target, weights } = self.objective.examples(&draws)?;
        let drops = self.recipe.model.dropout > 0.0 && self.objective.drops();
        let key = |i: u64| KeyedRng::new(seed, Purpose::Dropout, first + i, 0).next_u64();
        let dropout = drops.then(|| (0..n as u64).map(key).collect());
        Ok(Prepared { x_t, target, times, conditions, dropout, weights })
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

    fn draw_conditions(&self, picks: &[Pick], first: u64) -> Vec<Condition> {
        let Some(labels) = self.data.labels().filter(|_| self.recipe.data.classes) else { return Vec::new() };
        let (seed, p) = (self.recipe.train.seed, self.recipe.data.class_dropout);
        let condition = |(i, pick): (usize, &Pick)| {
            let dropped = KeyedRng::new(seed, Purpose::ClassDrop, first + i as u64, 0).next_f64() < p;
            Condition::Class(self.null_class.filter(|_| dropped).unwrap_or(labels[pick.index] as usize))
        };
        picks.iter().enumerate().map(condition).collect()
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
