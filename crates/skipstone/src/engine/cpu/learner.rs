use std::borrow::Cow;
use std::ops::Range;

use skipstone_kernels::optimizer;

use super::Backprop;
use crate::engine::{Batch, Group, Learner, Precision, Sharding, Targets, Update};
use crate::error::{Error, Result};
use crate::objective::training_loss;
use crate::sampling::denoiser::check_shape;
use crate::unet::{Config, Parameters};

/// Training on the CPU.
#[derive(Debug)]
pub struct CpuLearner {
    backprop: Backprop,
    /// The parameter groups, in the order of [`Group::ALL`].
    groups: [Parameters; 4],
    gradient: Vec<f32>,
    /// `[channels, height, width]` of an output.
    output: [usize; 3],
}

impl CpuLearner {
    /// Starts training from these weights on `threads` threads.
    ///
    /// # Errors
    /// The config is invalid, the weights belong to another architecture, or `threads` or the shard size is 0.
    pub fn new(
        config: Config,
        weights: Parameters,
        sharding: Sharding,
        precision: Precision,
        threads: usize,
    ) -> Result<Self> {
        let [height, width] = config.sample_size;
        let output = [config.out_channels, height, width];
        let backprop = Backprop::with_recomputation(config, threads, sharding.images, sharding.recompute)?;
        let backprop = backprop.in_precision(precision)?;
        if *backprop.layout() != **weights.layout() {
            return Err(Error::data("the weights do not fit the config: they belong to another architecture"));
        }
        let gradient = vec![0.0; weights.data().len()];
        let zeros = Parameters::zeros(weights.layout().clone());
        Ok(Self { backprop, groups: [weights.clone(), weights, zeros.clone(), zeros], gradient, output })
    }
}

impl Learner for CpuLearner {
    fn zero_gradient(&mut self) {
        self.gradient.fill(0.0);
    }

    fn add_gradient(&mut self, batch: Batch<'_>, targets: Targets<'_>) -> Result<Vec<f64>> {
        let Targets { target, weights, scale } = targets;
        let n = weights.len();
        check_shape("target", target, self.output)?;
        if (batch.x_t.dim().0, target.dim().0) != (n, n) {
            let found = [batch.x_t.dim().0, target.dim().0];
            return Err(Error::argument(format!("expected {n} images and targets, one per weight, found {found:?}")));
        }
        let target = target.as_standard_layout();
        let target = target.as_slice().expect("standard layout");
        let len = target.len() / n;
        let mut losses = vec![0.0; n];
        let cotangent = |images: Range<usize>, y: &[f32], dy: &mut [f32]| {
            for ((i, y), dy) in images.zip(y.chunks_exact(len)).zip(dy.chunks_exact_mut(len)) {
                losses[i] = training_loss(y, &target[i * len..(i + 1) * len], weights[i], scale, dy);
            }
        };
        self.backprop.add_gradient(self.groups[0].data(), batch, cotangent, &mut self.gradient, None)?;
        Ok(losses)
    }

    fn gradient_norm(&self) -> Result<f64> {
        Ok(optimizer::squared_norm(self.backprop.isa(), &self.gradient).sqrt())
    }

    fn update(&mut self, update: &Update) -> Result<()> {
        let (isa, team) = (self.backprop.isa(), self.backprop.team());
        if let Some(factor) = update.shrink {
            optimizer::scale(isa, team, factor, &mut self.gradient);
        }
        let [weights, ema, m, v] = &mut self.groups;
        update.adam().step(isa, team, update.step, &self.gradient, weights.data_mut(), m.data_mut(), v.data_mut());
        optimizer::moving_average(isa, team, update.ema_decay, weights.data(), ema.data_mut());
        Ok(())
    }

    fn group(&self, group: Group) -> Result<Cow<'_, Parameters>> {
        Ok(Cow::Borrowed(&self.groups[group as usize]))
    }

    fn set_group(&mut self, group: Group, values: Parameters) -> Result<()> {
        if values.layout() != self.groups[0].layout() {
            return Err(Error::data("the values do not fit the config: they belong to another architecture"));
        }
        self.groups[group as usize] = values;
        Ok(())
    }

    fn bytes(&self, n: usize) -> usize {
        // Four groups and the gradient.
        5 * 4 * self.gradient.len() + self.backprop.bytes(n)
    }
}
