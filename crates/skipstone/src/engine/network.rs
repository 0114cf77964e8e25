use std::fmt;
use std::time::Duration;

use ndarray::Array4;

use crate::error::Result;
use crate::math::schedule::Time;
use crate::sampling::denoiser::{Condition, Denoiser};
use crate::unet::Config;

/// What a network costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations of one call for one image.
    pub flops: u64,
    /// Bytes of activations for each image of a call.
    pub activation_bytes: usize,
    /// Bytes of the weights as the engine holds them.
    pub weight_bytes: usize,
}

/// A network that an engine holds ready.
pub trait Network: Denoiser + fmt::Debug + Send + Sync {
    /// The architecture.
    fn config(&self) -> &Config;

    /// What a call costs.
    fn cost(&self) -> Cost;

    /// Makes one call and says of each of its parts what it is, how long it took and its floating-point operations for
    /// the whole batch.
    ///
    /// # Errors
    /// As [`predict`](Denoiser::predict).
    fn profile(
        &self,
        x_t: &Array4<f32>,
        times: &[Time],
        conditions: &[Condition],
        part: &mut dyn FnMut(String, Duration, u64),
    ) -> Result<()>;
}
