use std::borrow::Cow;
use std::sync::Arc;

use skipstone_gpu::optimizer::{self, State, scratch, squared_norm};
use skipstone_gpu::{Buffer, Gpu, elementwise};

use super::backprop::{Backprop, Slope};
use super::element;
use crate::engine::{Batch, Group, Learner, Precision, Sharding, Targets, Update};
use crate::error::{Error, Result};
use crate::sampling::denoiser::check_shape;
use crate::unet::{Config, Layout, Parameters};

/// Training on a graphics processor: weights, moments, moving average and gradient stay on it.
///
/// In f16, activations, their gradients and the weights as convolutions read them are in half precision. The weights that the
/// optimiser steps, its moments, the parameters' gradient and all sums stay in f32. The caller scales the loss
/// ([`Targets::scale`]), so that small gradients do not vanish.
#[derive(Debug)]
pub struct GpuLearner {
    backprop: Backprop,
    layout: Arc<Layout>,
    /// The parameter groups, in the order of [`Group::ALL`].
    groups: [Buffer; 4],
    gradient: Buffer,
    scratch: Buffer,
    /// `[channels, height, width]` of an output.
    output: [usize; 3],
}

impl GpuLearner {
    /// Starts training from these weights.
    ///
    /// # Errors
    /// The config is invalid, the weights belong to another architecture, the shard size is 0, or the device has too little
    /// memory or lacks the precision.
    pub fn new(
        gpu: Gpu,
        config: Config,
        weights: &Parameters,
        sharding: Sharding,
        precision: Precision,
    ) -> Result<Self> {
        let [height, width] = config.sample_size;
        let output = [config.out_channels, height, width];
        let backprop = Backprop::new(gpu.clone(), config, sharding, element(&gpu, precision)?)?;
        if *backprop.layout() != **weights.layout() {
            return Err(Error::data("the weights do not fit the config: they belong to another architecture"));
        }
        let zero = || -> Result<Buffer> {
            let buffer = gpu.reserve(weights.data().len())?;
            elementwise::fill(&gpu, &buffer, buffer.len(), 0.0);
            Ok(buffer)
        };
        let groups = [gpu.upload(weights.data())?, gpu.upload(weights.data())?, zero()?, zero()?];
        let (gradient, scratch) = (zero()?, gpu.reserve(scratch(weights.data().len()))?);
        Ok(Self { backprop, layout: weights.layout().clone(), groups, gradient, scratch, output })
    }
}

impl Learner for GpuLearner {
    fn zero_gradient(&mut self) {
        elementwise::fill(&self.backprop.gpu, &self.gradient, self.gradient.len(), 0.0);
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
        let dims = (target.len() / n) as f64;
        let factors: Vec<f32> = weights.iter().map(|weight| (2.0 * weight * scale / dims) as f32).collect();
        let slope = Slope::Targets { target, factors: &factors };
        let errors = self.backprop.add_gradient(&self.groups[0], batch, slope, &self.gradient, None)?;
        Ok(errors.iter().zip(weights).map(|(error, weight)| weight * error / dims).collect())
    }

    fn gradient_norm(&self) -> Result<f64> {
        Ok(squared_norm(&self.backprop.gpu, &self.gradient, &self.scratch)?.sqrt())
    }

    fn update(&mut self, update: &Update) -> Result<()> {
        let [weights, ema, first, second] = &self.groups;
        let state = State { weights, ema, first, second };
        let (adam, clip) = (update.adam().factors(update.step), update.shrink.unwrap_or(1.0));
        optimizer::step(&self.backprop.gpu, &adam, clip, update.ema_decay, &self.gradient, state);
        Ok(())
    }

    fn group(&self, group: Group) -> Result<Cow<'_, Parameters>> {
        let data = self.backprop.gpu.read(&self.groups[group as usize])?;
        Ok(Cow::Owned(Parameters::new(self.layout.clone(), data)?))
    }

    fn set_group(&mut self, group: Group, values: Parameters) -> Result<()> {
        if **values.layout() != *self.layout {
            return Err(Error::data("the values do not fit the config: they belong to another architecture"));
        }
        self.backprop.gpu.write(&self.groups[group as usize], values.data());
        Ok(())
    }

    fn bytes(&self, n: usize) -> usize {
        // Four groups and the gradient.
        5 * 4 * self.gradient.len() + self.backprop.bytes(n)
    }
}
