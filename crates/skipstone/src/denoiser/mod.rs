//! The one contract between samplers and networks, and the two views x̂₀ and ε̂ of a network's output.

mod clip;
mod differentiable;
mod guided;
mod views;

pub use clip::{Bound, Clip, DynamicThreshold};
pub use differentiable::{DifferentiableDenoiser, Pullback};
pub use guided::Guided;
pub use views::{Denoised, denoise, views};

use std::fmt;
use std::str::FromStr;

use ndarray::Array4;

use crate::error::{Error, Kind, Result};
use crate::schedule::Time;

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

/// Something that, given x_t and the time t, predicts noise, data or velocity.
///
/// Arrays are `[n, channels, height, width]`. Image i of the output depends on image i of the input
/// only, to the bit: never on n, nor on the number of threads.
pub trait Denoiser {
    /// `[channels, height, width]` of one image.
    fn shape(&self) -> [usize; 3];

    /// What [`predict`](Self::predict) returns.
    fn prediction(&self) -> Prediction;

    /// The prediction for each image of `x_t`, all at time `t` (never [`Time::CLEAN`]); `classes`, one per image,
    /// for a network that is conditioned on them.
    ///
    /// # Errors
    /// A wrong shape, a class out of range, or classes given to an unconditional network.
    fn predict(&self, x_t: &Array4<f32>, t: Time, classes: Option<&[usize]>) -> Result<Array4<f32>>;

    /// Hears at which times, and for which classes, it is about to be asked: what depends on these alone can be made
    /// for all of them at once. Nothing need be done, and nothing changes a prediction.
    fn prepare(&self, times: &[Time], classes: Option<&[usize]>) {
        let _ = (times, classes);
    }
}

impl<D: Denoiser + ?Sized> Denoiser for &D {
    fn shape(&self) -> [usize; 3] {
        (**self).shape()
    }

    fn prediction(&self) -> Prediction {
        (**self).prediction()
    }

    fn predict(&self, x_t: &Array4<f32>, t: Time, classes: Option<&[usize]>) -> Result<Array4<f32>> {
        (**self).predict(x_t, t, classes)
    }

    fn prepare(&self, times: &[Time], classes: Option<&[usize]>) {
        (**self).prepare(times, classes);
    }
}

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
