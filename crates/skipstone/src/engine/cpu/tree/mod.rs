//! Training on the CPU, on one or more ranks, with gradients that are summed by a fixed tree over the shards of a step.

mod blocks;
mod exchange;
mod partition;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ndarray::{Axis, Slice};
use skipstone_kernels::elementwise::axpy;
use skipstone_kernels::optimizer;

use super::Backprop;
use crate::engine::ranks::{Ranks, gather_numbers};
use crate::engine::{Batch, EngineOptions, Group, Learner, Sharding, Targets, Update};
use crate::error::{Error, Result};
use crate::objective::training_loss;
use crate::sampling::denoiser::check_shape;
use crate::unet::{Config, Parameters};
pub(in crate::engine) use blocks::share;
use blocks::{Block, most_blocks};
use exchange::{Exchange, Plan, gather_chunks};
use partition::NORM;

/// Training on the CPU as one of several ranks, or alone.
///
/// Every rank computes the gradients of its share of the step's shards, each from zero, and adds them as far as the tree
/// allows. Each parameter has an owner: all ranks send it their partial sums, layer by layer while the backward pass of
/// their last shard goes on; it completes the sum, clips, steps Adam and the moving average, and distributes the weights.
/// The moments and the average exist only with the owner. All results are bit-identical for any number of ranks.
#[derive(Debug)]
pub struct TreeLearner {
    backprop: Backprop,
    weights: Parameters,
    kept: Kept,
    /// The gradient's sum over all shards: of the owned parameters, chunk after chunk.
    sum: Vec<f32>,
    /// Partial sums of this rank's shards.
    stack: Vec<(Block, Vec<f32>)>,
    spare: Vec<Vec<f32>>,
    /// Images of a shard.
    images: usize,
    /// Shards of this rank that are done.
    done: usize,
    /// Whether the sum is complete.
    finished: bool,
    plan: Plan,
    ranks: Arc<dyn Ranks>,
    waited: Duration,
    /// `[channels, height, width]` of an output.
    output: [usize; 3],
}

/// The moving average and the two moments.
#[derive(Debug)]
enum Kept {
    /// Of all parameters, on a single rank.
    All([Parameters; 3]),
    /// Of the owned parameters, chunk after chunk.
    Owned([Vec<f32>; 3]),
}

impl Kept {
    fn values(&mut self) -> [&mut [f32]; 3] {
        match self {
            Self::All(groups) => groups.each_mut().map(Parameters::data_mut),
            Self::Owned(groups) => groups.each_mut().map(Vec::as_mut_slice),
        }
    }
}

impl TreeLearner {
    /// Starts training from these weights on the threads of `options` on each rank, and in its precision, in steps of `shards` shards over all ranks.
    ///
    /// Rank r adds the gradients of the contiguous part of the shards that [`share`](crate::engine::share) gives it.
    ///
    /// # Errors
    /// The config is invalid, the weights belong to another architecture, or `threads` or the shard size is 0.
    pub fn new(
        config: Config,
        weights: Parameters,
        sharding: Sharding,
        shards: usize,
        ranks: Arc<dyn Ranks>,
        options: &EngineOptions,
    ) -> Result<Self> {
        let [height, width] = config.sample_size;
        let output = [config.out_channels, height, width];
        let backprop = Backprop::with_recomputation(config, options.threads, sharding.images, sharding.recompute)?;
        let backprop = backprop.in_precision(options.precision)?;
        if *backprop.layout() != **weights.layout() {
            return Err(Error::data("the weights do not fit the config: they belong to another architecture"));
        }
        let plan = Plan::new(&backprop, shards, &*ranks);
        let (kept, sum) = if ranks.size() == 1 {
            let zeros = Parameters::zeros(weights.layout().clone());
            (Kept::All([weights.clone(), zeros.clone(), zeros]), Vec::new())
        } else {
            let average: Vec<f32> = plan.owned().flat_map(|range| &weights.data()[range.clone()]).copied().collect();
            let zeros = vec![0.0; average.len()];
            (Kept::Owned([average, zeros.clone(), zeros.clone()]), zeros)
        };
        Ok(Self {
            backprop,
            weights,
            kept,
            sum,
            stack: Vec::new(),
            spare: Vec::new(),
            images: sharding.images,
            done: 0,
            finished: false,
            plan,
            ranks,
            waited: Duration::ZERO,
            output,
        })
    }

    /// A buffer of zeros for the gradient of a shard.
    fn zeros(&mut self) -> Vec<f32> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.resize(self.weights.data().len(), 0.0);
        buffer
    }

    /// Adds the gradient of the next shard to the partial sums.
    fn push(&mut self, gradient: Vec<f32>) {
        let (isa, team) = (self.backprop.isa(), self.backprop.team());
        let mut top = (Block::shard(self.plan.shards().start + self.done), gradient);
        while let Some((left, mut sum)) = self.stack.pop_if(|(left, _)| left.is_left_of(top.0)) {
            axpy(isa, team, 1.0, &top.1, &mut sum);
            self.spare.push(std::mem::replace(&mut top.1, sum));
            top.0 = left.doubled();
        }
        self.stack.push(top);
    }

    /// Runs a batch of one shard and sends its gradient, together with the partial sums so far, while it becomes complete.
    fn add_last(
        &mut self,
        batch: Batch<'_>,
        cotangent: impl FnMut(Range<usize>, &[f32], &mut [f32]),
        gradient: &mut [f32],
    ) -> Result<()> {
        let (sender, receiver) = mpsc::channel();
        let Self { backprop, weights, stack, plan, ranks, sum, waited, .. } = self;
        let exchange = Exchange { plan, ranks: &**ranks, stack, sum };
        std::thread::scope(|scope| {
            let exchange = scope.spawn(move || exchange.run(Some(receiver)));
            let mut next = 0;
            let mut watch = |operation: Option<usize>, gradient: &[f32]| {
                while next < plan.chunks().len() && plan.is_complete(next, operation) {
                    // An exchange that has failed says so below.
                    let _ = sender.send(gradient[plan.chunks()[next].clone()].to_vec());
                    next += 1;
                }
            };
            let computed = backprop.add_gradient_watched(weights.data(), batch, cotangent, gradient, None, &mut watch);
            drop(sender);
            let begun = Instant::now();
            let exchanged = exchange.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            *waited += begun.elapsed();
            computed.and(exchanged)
        })
    }
}

impl Learner for TreeLearner {
    fn zero_gradient(&mut self) {
        self.spare.extend(self.stack.drain(..).map(|(_, values)| values));
        self.done = 0;
        self.finished = false;
    }

    fn add_gradient(&mut self, batch: Batch<'_>, targets: Targets<'_>) -> Result<Vec<f64>> {
        let Targets { target, weights, scale } = targets;
        let n = weights.len();
        check_shape("target", target, self.output)?;
        if (batch.x_t.dim().0, target.dim().0) != (n, n) {
            let found = [batch.x_t.dim().0, target.dim().0];
            return Err(Error::argument(format!("expected {n} images and targets, one per weight, found {found:?}")));
        }
        if batch.times.len() != n || !(batch.conditions.is_empty() || batch.conditions.len() == n) {
            let found = [batch.times.len(), batch.conditions.len()];
            return Err(Error::argument(format!("expected {n} times and conditions, found {found:?}")));
        }
        let target = target.as_standard_layout();
        let target = target.as_slice().expect("standard layout");
        let len = target.len() / n.max(1);
        let mut losses = vec![0.0; n];
        for begin in (0..n).step_by(self.images) {
            let images = begin..(begin + self.images).min(n);
            let (own, shards) = (self.plan.shards().len(), self.plan.count());
            if self.done == own {
                return Err(Error::argument(format!("expected {own} of {shards} shards in a step, found more")));
            }
            let x_t = batch.x_t.slice_axis(Axis(0), Slice::from(images.clone())).to_owned();
            let part = Batch {
                x_t: &x_t,
                times: &batch.times[images.clone()],
                conditions: batch.conditions.get(images.clone()).unwrap_or_default(),
                dropout: batch.dropout.map(|keys| &keys[images.clone()]),
            };
            let cotangent = |within: Range<usize>, y: &[f32], dy: &mut [f32]| {
                for ((i, y), dy) in within.zip(y.chunks_exact(len)).zip(dy.chunks_exact_mut(len)) {
                    let i = begin + i;
                    losses[i] = training_loss(y, &target[i * len..(i + 1) * len], weights[i], scale, dy);
                }
            };
            let mut gradient = self.zeros();
            if self.ranks.size() > 1 && self.done + 1 == own {
                self.add_last(part, cotangent, &mut gradient)?;
                self.spare.push(gradient);
                self.finished = true;
            } else {
                self.backprop.add_gradient(self.weights.data(), part, cotangent, &mut gradient, None)?;
                self.push(gradient);
            }
            self.done += 1;
        }
        Ok(losses)
    }

    fn finish_gradient(&mut self) -> Result<()> {
        if self.finished {
            return Ok(());
        }
        let (found, expected) = (self.done, self.plan.shards().len());
        if found != expected {
            return Err(Error::argument(format!("expected {expected} shards in this step, found {found}")));
        }
        if self.ranks.size() == 1 {
            let (isa, team) = (self.backprop.isa(), self.backprop.team());
            while let Some((_, right)) = self.stack.pop() {
                match self.stack.last_mut() {
                    Some((_, left)) => {
                        axpy(isa, team, 1.0, &right, left);
                        self.spare.push(right);
                    }
                    None => self.spare.push(std::mem::replace(&mut self.sum, right)),
                }
            }
        } else {
            // A rank without shards only receives.
            let begun = Instant::now();
            let Self { plan, ranks, stack, sum, .. } = self;
            Exchange { plan, ranks: &**ranks, stack, sum }.run(None)?;
            self.waited += begun.elapsed();
        }
        self.finished = true;
        Ok(())
    }

    fn gradient_norm(&self) -> Result<f64> {
        let isa = self.backprop.isa();
        if self.ranks.size() == 1 {
            return Ok(optimizer::squared_norm(isa, &self.sum).sqrt());
        }
        // The squares of the owned pieces, chunk after chunk; then those of all ranks, to be added in the layout's order.
        let mut rest = &self.sum[..];
        let mut mine = Vec::new();
        for range in self.plan.owned() {
            let chunk = rest.split_off(..range.len()).expect("the sum has the owned chunks");
            mine.extend(chunk.chunks(NORM).map(|piece| optimizer::squared_norm(isa, piece)));
        }
        let pieces = |rank: usize| self.plan.partition().all_owned(rank).map(|range| range.len().div_ceil(NORM)).sum();
        let counts: Vec<usize> = (0..self.ranks.size()).map(pieces).collect();
        let all = gather_numbers(&*self.ranks, &mine, &counts)?;
        let mut ordered = vec![0.0; all.len()];
        let owned = (0..self.ranks.size()).flat_map(|rank| self.plan.partition().all_owned(rank));
        let places = owned.flat_map(|range| range.start / NORM..range.end.div_ceil(NORM));
        places.zip(all).for_each(|(place, value)| ordered[place] = value);
        Ok(ordered.iter().sum::<f64>().sqrt())
    }

    fn update(&mut self, update: &Update) -> Result<()> {
        let (isa, team) = (self.backprop.isa(), self.backprop.team());
        if let Some(factor) = update.shrink {
            optimizer::scale(isa, team, factor, &mut self.sum);
        }
        let (adam, step) = (update.adam(), update.step);
        let [average, m, v] = self.kept.values();
        let mut begin = 0;
        for range in self.plan.owned() {
            let part = begin..begin + range.len();
            let weights = &mut self.weights.data_mut()[range.clone()];
            adam.step(isa, team, step, &self.sum[part.clone()], weights, &mut m[part.clone()], &mut v[part.clone()]);
            optimizer::moving_average(isa, team, update.ema_decay, weights, &mut average[part.clone()]);
            begin = part.end;
        }
        if self.ranks.size() > 1 {
            let begun = Instant::now();
            gather_chunks(&*self.ranks, self.plan.partition(), None, self.weights.data_mut())?;
            self.waited += begun.elapsed();
        }
        Ok(())
    }

    fn group(&self, group: Group) -> Result<Cow<'_, Parameters>> {
        let index = match group {
            Group::Weights => return Ok(Cow::Borrowed(&self.weights)),
            Group::Ema => 0,
            Group::FirstMoment => 1,
            Group::SecondMoment => 2,
        };
        match &self.kept {
            Kept::All(groups) => Ok(Cow::Borrowed(&groups[index])),
            Kept::Owned(groups) => {
                let mut all = Parameters::zeros(self.weights.layout().clone());
                gather_chunks(&*self.ranks, self.plan.partition(), Some(&groups[index]), all.data_mut())?;
                Ok(Cow::Owned(all))
            }
        }
    }

    fn set_group(&mut self, group: Group, values: Parameters) -> Result<()> {
        if values.layout() != self.weights.layout() {
            return Err(Error::data("the values do not fit the config: they belong to another architecture"));
        }
        let index = match group {
            Group::Weights => {
                self.weights = values;
                return Ok(());
            }
            Group::Ema => 0,
            Group::FirstMoment => 1,
            Group::SecondMoment => 2,
        };
        match &mut self.kept {
            Kept::All(groups) => groups[index] = values,
            Kept::Owned(groups) => {
                let owned = self.plan.owned().flat_map(|range| &values.data()[range.clone()]);
                groups[index] = owned.copied().collect();
            }
        }
        Ok(())
    }

    fn bytes(&self, n: usize) -> usize {
        let parameters = self.weights.data().len();
        let owned: usize = self.plan.owned().map(ExactSizeIterator::len).sum();
        // Partial sums, the sum, and what travels: at worst, the last shard's gradient once more.
        let gradients = most_blocks(self.plan.shards()) + usize::from(self.ranks.size() > 1);
        let sum = if self.ranks.size() > 1 { owned } else { 0 };
        4 * (parameters + 3 * owned + gradients * parameters + sum) + self.backprop.bytes(n)
    }

    fn waited(&self) -> Duration {
        self.waited
    }
}
