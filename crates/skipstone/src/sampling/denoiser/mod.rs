//! The one contract between samplers and networks, and the two views x̂₀ and ε̂ of a network's output.

mod clip;
mod condition;
mod differentiable;
mod guided;
mod views;

pub use clip::{Bound, Clip, DynamicThreshold};
pub use condition::Condition;
pub(crate) use condition::{classes, per_row};
pub use differentiable::{DifferentiableDenoiser, Pullback};
pub use guided::Guided;
pub use views::{Denoised, denoise, views};

use std::fmt;
use std::str::FromStr;

use ndarray::Array4;

use crate::error::{Error, Kind, Result};
use crate::math::schedule::Time;

/// What a network's output means; convertible into each other given x_t and the noise level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prediction {
    /// The noise ε.
    Epsilon,
    /// The clean data x₀.
    Sample,
    /// v = √a·ε − √(1−a)·x₀ (Salimans & Ho, arXiv 2202.00512).
    Velocity,
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Epsilon => "epsilon",
            Self::Sample => "sample",
            Self::Velocity => "v_prediction",
        })
    }
}

impl FromStr for Prediction {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = [Self::Epsilon, Self::Sample, Self::Velocity];
        known
            .into_iter()
            .find(|prediction| prediction.to_string() == name)
            .ok_or_else(|| Error::argument(format!("prediction \"{name}\": expected epsilon, sample or v_prediction")))
    }
}

/// A network, or anything else that predicts noise, data or velocity from x_t and the time t.
///
/// Arrays are `[n, channels, height, width]`, one row per image. Each row has its own time and its own condition, and
/// its prediction depends on these and on its pixels alone, to the bit: never on the other rows, on n, or on the number
/// of threads. Whoever has rows for different requests can therefore ask for all of them in one call.
pub trait Denoiser {
    /// `[channels, height, width]` of one image.
    fn shape(&self) -> [usize; 3];

    /// What [`predict`](Self::predict) returns.
    fn prediction(&self) -> Prediction;

    /// The prediction for each row of `x_t`, row i at `times[i]` (never [`Time::CLEAN`]) under `conditions[i]`. An empty
    /// list of conditions means [`Condition::Null`] for every row.
    ///
    /// # Errors
    /// A wrong shape, another number of times or conditions than rows, a class out of range, a class for an
    /// unconditional network.
    fn predict(&self, x_t: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Array4<f32>>;

    /// Whether the network can be asked at a time between two indices. Sinusoidal embeddings can; a learned table of
    /// embeddings cannot.
    fn takes_fractional_times(&self) -> bool {
        true
    }

    /// Precomputes the conditioning for these timesteps, each under each of these conditions. A run announces its times
    /// this way; the default does nothing, and predictions never depend on it.
    fn prepare(&self, times: &[Time], conditions: &[Condition]) {
        let _ = (times, conditions);
    }
}

/// Whatever points to a denoiser is one.
macro_rules! delegate {
    ($($pointer:ty),*) => {$(
        impl<D: Denoiser + ?Sized> Denoiser for $pointer {
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
    )*};
}

delegate!(&D, Box<D>, std::sync::Arc<D>);

/// Refuses `x` unless it is `[n, c, h, w]` with n > 0 and `[c, h, w]` = `shape`; `name` is how the message calls it.
pub(crate) fn check_shape(name: &str, x: &Array4<f32>, shape: [usize; 3]) -> Result<()> {
    let (n, c, h, w) = x.dim();
    if [c, h, w] == shape && n > 0 {
        return Ok(());
    }
    let [c, h, w] = shape;
    Err(Error::argument(format!("{name}: expected [n, {c}, {h}, {w}] with n > 0, found {:?}", x.shape())))
}

/// Refuses NaN and infinity in `x`, naming the first image that holds one.
pub(crate) fn check_finite(name: &str, x: &Array4<f32>) -> Result<()> {
    match x.outer_iter().position(|image| image.iter().any(|value| !value.is_finite())) {
        None => Ok(()),
        Some(i) => Err(Error::new(Kind::NonFinite, format!("{name}: image {i} of the batch is not finite"))),
    }
}

#[cfg(test)]
mod tests;
