use std::fmt;
use std::time::Duration;

use ndarray::Array4;

use crate::denoiser::{Condition, Denoiser, Prediction};
use crate::error::Result;
use crate::schedule::Time;
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

impl<D: Denoiser + ?Sized> Denoiser for Box<D> {
    fn shape(&self) -> [usize; 3] {
        (**self).shape()
    }

    fn prediction(&self) -> Prediction {
        (**self).prediction()
    }

    fn predict(&self, x_t: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Array4<f32>> {
        (**self).predict(x_t, times, conditions)
    }

    fn takes_fractional_times(&self) -> bool {
        (**self).takes_fractional_times()
    }

    fn prepare(&self, times: &[Time], conditions: &[Condition]) {
        (**self).prepare(times, conditions);
    }
}
