use std::borrow::Cow;

use ndarray::Array4;

use crate::error::Result;
use crate::math::schedule::Time;
use crate::sampling::denoiser::Condition;
use crate::unet::Parameters;

/// The rows of one training batch.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The noisy images, `[n, c, h, w]`.
    pub x_t: &'a Array4<f32>,
    /// The time of each.
    pub times: &'a [Time],
    /// The condition of each; empty for an unconditional network.
    pub conditions: &'a [Condition],
    /// A key for each image's dropout masks; `None` switches dropout off.
    pub dropout: Option<&'a [u64]>,
}

/// What the outputs of a batch should be. The loss of image i, of d values, is wᵢ·‖output − target‖²/d.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// Of the output's shape.
    pub target: &'a Array4<f32>,
    /// wᵢ, one per image.
    pub weights: &'a [f64],
    /// The gradient is that of `scale` times the sum of the losses.
    pub scale: f64,
}

/// How a batch goes through the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharding {
    /// Images that go through together: memory against speed. The order of the gradient's sums, and with it their last
    /// bits, depend on it.
    pub images: usize,
    /// Makes what is read within a block only again on the way back instead of keeping it: about half the memory for
    /// about a third more time, the same bits.
    pub recompute: bool,
}

/// One step of the optimiser: Adam (Kingma & Ba, arXiv 1412.6980; decoupled decay: Loshchilov & Hutter, 1711.05101),
/// then the moving average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// The number of the step, from 1.
    pub step: u64,
    /// The gradient is multiplied by this first, where it is clipped.
    pub shrink: Option<f32>,
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay: of the weights themselves if `decoupled` (AdamW), else added to the gradient.
    pub weight_decay: f64,
    /// AdamW rather than Adam.
    pub decoupled: bool,
    /// Decay of the moving average.
    pub ema_decay: f64,
}

/// What a learner remembers from step to step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// The weights that are trained.
    Weights,
    /// Their exponential moving average.
    Ema,
    /// Adam's first moment.
    FirstMoment,
    /// Adam's second moment.
    SecondMoment,
}

impl Group {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Weights, Self::Ema, Self::FirstMoment, Self::SecondMoment];
}

/// A training under way on an engine: it holds the weights, their moving average, the moments and the gradient.
///
/// What a step leaves depends on the batches, the sharding and the groups before it alone, never on threads.
pub trait Learner: Send + Sync {
    /// Sets the gradient to zero.
    fn zero_gradient(&mut self);

    /// Runs a batch and adds its gradient to that which is there. Returns the loss of each image.
    ///
    /// # Errors
    /// As [`Denoiser::predict`](crate::sampling::denoiser::Denoiser::predict).
    fn add_gradient(&mut self, batch: Batch<'_>, targets: Targets<'_>) -> Result<Vec<f64>>;

    /// The gradient's Euclidean norm.
    ///
    /// # Errors
    /// The device fails.
    fn gradient_norm(&self) -> Result<f64>;

    /// Makes a step by the gradient.
    ///
    /// # Errors
    /// The device fails.
    fn update(&mut self, update: &Update) -> Result<()>;

    /// A group as it is now.
    ///
    /// # Errors
    /// The device fails.
    fn group(&self, group: Group) -> Result<Cow<'_, Parameters>>;

    /// Replaces a group, as when a training goes on.
    ///
    /// # Errors
    /// Parameters of another architecture; the device fails.
    fn set_group(&mut self, group: Group, values: Parameters) -> Result<()>;

    /// Bytes it holds at its peak for batches of `n` images: groups, gradient, activations and their gradients.
    fn bytes(&self, n: usize) -> usize;
}
