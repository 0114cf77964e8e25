//! The [`Denoiser`] trait, through which samplers call networks, and the two views x̂₀ and ε̂ of a network's output.

mod autoguided;
mod clip;
mod condition;
mod differentiable;
mod guided;
mod views;

pub use autoguided::Autoguided;
pub use clip::{Bound, Clip, DynamicThreshold};
pub use condition::{Condition, classes};
pub(crate) use condition::{check_count, per_row};
pub use differentiable::{DifferentiableDenoiser, Pullback};
pub use guided::{Guided, Interval};
pub use views::{Denoised, denoise, views};

use std::fmt;
use std::str::FromStr;

use ndarray::Array4;

use crate::error::{Error, Kind, Result};
use crate::math::schedule::Time;

/// The prediction type: what a network's output means. Given x_t and the noise level, each type determines the others.
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

/// A network, or anything else that predicts noise, data or velocity from x_t and the timestep t.
///
/// Arrays are `[n, channels, height, width]`, one row per image. Each row has its own timestep and condition. Its
/// prediction depends only on these and its pixels, bit for bit: never on the other rows, on n, or on the number of
/// threads. Callers may therefore batch rows of different requests into one call.
pub trait Denoiser {
    /// `[channels, height, width]` of one image.
    fn shape(&self) -> [usize; 3];

    /// What [`predict`](Self::predict) returns.
    fn prediction(&self) -> Prediction;

    /// Channels of an output: those of an image; or twice as many in a network that learns the variance of a step. Its
    /// second half then holds 2v − 1 for the v of [`NoiseScale::Learned`](crate::math::sigma::NoiseScale::Learned).
    fn output_channels(&self) -> usize {
        self.shape()[0]
    }

    /// Predicts each row of `x_t`, `[n, output_channels, height, width]`: row i at `times[i]` (never [`Time::CLEAN`]) with `conditions[i]`. An empty list of
    /// conditions means [`Condition::Null`] for every row.
    ///
    /// # Errors
    /// The shape is wrong, the number of times or conditions differs from the number of rows, a class is out of range,
    /// or an unconditional network is given a class.
    fn predict(&self, x_t: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Array4<f32>>;

    /// Whether the network accepts timesteps between two indices. Sinusoidal embeddings do; a learned table of embeddings
    /// does not.
    fn takes_fractional_times(&self) -> bool {
        true
    }

    /// How often a prediction at this time asks a network, for each image: more than once with guidance, where it acts.
    fn evaluations(&self, time: Time) -> usize {
        let _ = time;
        1
    }

    /// Precomputes the conditioning for every pair of these timesteps and conditions. A run calls it with all its
    /// timesteps before the first prediction. Predictions never depend on it. The default does nothing.
    fn prepare(&self, times: &[Time], conditions: &[Condition]) {
        let _ = (times, conditions);
    }
}

/// Implements [`Denoiser`] for pointers to one.
macro_rules! delegate {
    ($($pointer:ty),*) => {$(
        impl<D: Denoiser + ?Sized> Denoiser for $pointer {
            fn shape(&self) -> [usize; 3] {
                (**self).shape()
            }

            fn prediction(&self) -> Prediction {
                (**self).prediction()
            }

            fn output_channels(&self) -> usize {
                (**self).output_channels()
            }

            fn predict(&self, x_t: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Array4<f32>> {
                (**self).predict(x_t, times, conditions)
            }

            fn takes_fractional_times(&self) -> bool {
                (**self).takes_fractional_times()
            }

            fn evaluations(&self, time: Time) -> usize {
                (**self).evaluations(time)
            }

            fn prepare(&self, times: &[Time], conditions: &[Condition]) {
                (**self).prepare(times, conditions);
            }
        }
    )*};
}

delegate!(&D, Box<D>, std::sync::Arc<D>);

/// Refuses `x` unless it is `[n, c, h, w]` with n > 0 and `[c, h, w]` = `shape`. The message calls it `name`.
pub(crate) fn check_shape(name: &str, x: &Array4<f32>, shape: [usize; 3]) -> Result<()> {
    let (n, c, h, w) = x.dim();
    if [c, h, w] == shape && n > 0 {
        return Ok(());
    }
    let [c, h, w] = shape;
    Err(Error::argument(format!("{name}: expected [n, {c}, {h}, {w}] with n > 0, found {:?}", x.shape())))
}

/// Refuses NaN and infinity in `x`. The message calls it `name` and names the first image that holds one.
pub(crate) fn check_finite(name: &str, x: &Array4<f32>) -> Result<()> {
    match x.outer_iter().position(|image| image.iter().any(|value| !value.is_finite())) {
        None => Ok(()),
        Some(i) => Err(Error::new(Kind::NonFinite, format!("{name}: image {i} of the batch holds NaN or infinity"))),
    }
}

#[cfg(test)]
mod tests;
