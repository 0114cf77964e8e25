//! The one contract between samplers and networks.

use ndarray::Array4;

use crate::error::Result;
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
}
