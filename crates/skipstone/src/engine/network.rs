use std::fmt;
use std::time::Duration;

use ndarray::Array4;

use crate::engine::EngineOptions;
use crate::error::Result;
use crate::math::schedule::Time;
use crate::sampling::denoiser::{Condition, Denoiser, Prediction};
use crate::unet::Config;

/// The cost of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations of one call for one image; 0 if nobody has counted them.
    pub flops: u64,
    /// Bytes of activations per image of a call.
    pub activation_bytes: usize,
    /// Bytes of the weights in the engine's format.
    pub weight_bytes: usize,
    /// The number of images that keeps the device busy; `None` where that depends on the number of threads.
    pub batch: Option<usize>,
}

impl Cost {
    /// The cost of two networks that are asked one after the other.
    #[must_use]
    pub fn beside(self, other: Self) -> Self {
        Self {
            // Unknown if one is.
            flops: if self.flops == 0 || other.flops == 0 { 0 } else { self.flops + other.flops },
            activation_bytes: self.activation_bytes + other.activation_bytes,
            weight_bytes: self.weight_bytes + other.weight_bytes,
            batch: match (self.batch, other.batch) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
        }
    }
}

/// A network ready to run on an engine.
pub trait Network: Denoiser + fmt::Debug + Send + Sync {
    /// The architecture.
    fn config(&self) -> &Config;

    /// The cost of a call.
    fn cost(&self) -> Cost;

    /// Makes one call and reports each part of it to `part`: its description, its duration and its floating-point
    /// operations for the whole batch.
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

/// A network that brings its own engine, such as an ONNX file. A [`Model`](crate::io::checkpoint::Model) that holds one has
/// no parameters of ours, and its config is only an [outline](Config::outline).
pub trait NetworkSource: fmt::Debug + Send + Sync {
    /// Number of parameters.
    fn parameters(&self) -> usize;

    /// What the network is, such as "an ONNX network": for errors about what it cannot do.
    fn kind(&self) -> &'static str;

    /// Opens the network.
    ///
    /// # Errors
    /// It cannot be run, or not with these options.
    fn open(&self, prediction: Prediction, options: &EngineOptions) -> Result<Box<dyn Network>>;
}
