use std::borrow::Cow;
use std::time::Duration;

use ndarray::Array4;
use skipstone_kernels::optimizer::Adam;

use crate::error::Result;
use crate::math::schedule::Time;
use crate::sampling::denoiser::Condition;
use crate::unet::Parameters;

/// The inputs of one training batch.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The noisy images, `[n, channels, height, width]`.
    pub x_t: &'a Array4<f32>,
    /// The time of each image.
    pub times: &'a [Time],
    /// The condition of each image; empty for an unconditional network.
    pub conditions: &'a [Condition],
    /// A dropout key per image; `None` disables dropout.
    pub dropout: Option<&'a [u64]>,
}

/// The targets of a batch. The loss of image i, which has d values, is wᵢ·‖output − target‖²/d.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// The target outputs, of the output's shape.
    pub target: &'a Array4<f32>,
    /// wᵢ, one per image.
    pub weights: &'a [f64],
    /// The gradient is that of `scale` times the sum of the losses.
    pub scale: f64,
}

/// How a batch is split for the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharding {
    /// Images per pass through the network: trades memory for speed. The summation order of the gradient depends on
    /// this number, and so do its last bits.
    pub images: usize,
    /// Whether the backward pass recomputes values used within one block only, instead of storing them. Takes about
    /// half the memory and about a third more time; the results are bit-identical.
    pub recompute: bool,
}

/// One optimiser step: Adam (Kingma & Ba, arXiv 1412.6980; decoupled decay: Loshchilov & Hutter, 1711.05101), then the
/// update of the moving average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Number of the step, counted from 1.
    pub step: u64,
    /// A factor applied to the gradient first, if it is clipped.
    pub shrink: Option<f32>,
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay rate of the first moment, β₁.
    pub beta1: f64,
    /// Decay rate of the second moment, β₂.
    pub beta2: f64,
    /// ε, added to the square root of the second moment.
    pub eps: f64,
    /// Weight decay: applied to the weights if `decoupled` (AdamW), otherwise added to the gradient.
    pub weight_decay: f64,
    /// Whether this is AdamW rather than Adam.
    pub decoupled: bool,
    /// Decay of the moving average, per step.
    pub ema_decay: f64,
}

impl Update {
    /// The step without clipping and moving average, as the kernels of every engine take it.
    pub(super) fn adam(&self) -> Adam {
        let Self { learning_rate: lr, beta1, beta2, eps, weight_decay, decoupled, .. } = *self;
        Adam { lr, beta1, beta2, eps, weight_decay, decoupled }
    }
}

/// The parameter groups that a learner keeps from step to step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// The trained weights.
    Weights,
    /// The exponential moving average (EMA) of the weights.
    Ema,
    /// Adam's first moment.
    FirstMoment,
    /// Adam's second moment.
    SecondMoment,
}

impl Group {
    /// All groups.
    pub const ALL: [Self; 4] = [Self::Weights, Self::Ema, Self::FirstMoment, Self::SecondMoment];
}

/// Training in progress on an engine. Holds the weights, their moving average, the moments and the gradient.
///
/// The result of a step depends only on the batches, the sharding and the groups before it, never on threads.
pub trait Learner: Send + Sync {
    /// Sets the gradient to zero.
    fn zero_gradient(&mut self);

    /// Runs a batch and adds its gradient to the current one. Returns the loss of each image.
    ///
    /// # Errors
    /// As [`Denoiser::predict`](crate::sampling::denoiser::Denoiser::predict).
    fn add_gradient(&mut self, batch: Batch<'_>, targets: Targets<'_>) -> Result<Vec<f64>>;

    /// Completes the gradient after the last [`add_gradient`](Self::add_gradient) of a step, as a learner has to that adds
    /// several shards or ranks.
    ///
    /// # Errors
    /// Shards are missing, or the exchange with the other ranks fails.
    fn finish_gradient(&mut self) -> Result<()> {
        Ok(())
    }

    /// The gradient's Euclidean norm.
    ///
    /// # Errors
    /// The device fails.
    fn gradient_norm(&self) -> Result<f64>;

    /// Makes one optimiser step with the gradient.
    ///
    /// # Errors
    /// The device fails.
    fn update(&mut self, update: &Update) -> Result<()>;

    /// The current values of a group.
    ///
    /// # Errors
    /// The device fails.
    fn group(&self, group: Group) -> Result<Cow<'_, Parameters>>;

    /// Replaces a group, for example to resume a training.
    ///
    /// # Errors
    /// The parameters belong to another architecture, or the device fails.
    fn set_group(&mut self, group: Group, values: Parameters) -> Result<()>;

    /// Peak memory in bytes for batches of `n` images: groups, gradient, activations and their gradients.
    fn bytes(&self, n: usize) -> usize;

    /// How long the computation has waited for other ranks so far.
    fn waited(&self) -> Duration {
        Duration::ZERO
    }
}
