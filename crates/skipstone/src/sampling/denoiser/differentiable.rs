use ndarray::Array4;

use super::{Condition, Denoiser};
use crate::error::Result;
use crate::math::schedule::Time;

/// A network's output and what a cotangent becomes when it is pulled back through the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Pullback {
    /// The output at x_t, `[n, c, h, w]`.
    pub out: Array4<f32>,
    /// (∂out/∂x_t)ᵀ·cotangent, image by image, `[n, c, h, w]`.
    pub gradient: Array4<f32>,
}

/// A [`Denoiser`] that knows its derivative by x_t, as a vector-Jacobian product.
pub trait DifferentiableDenoiser: Denoiser {
    /// The output at `x_t` and the product of `cotangent` (of the output's shape) with the Jacobian from the left.
    ///
    /// # Errors
    /// As [`predict`](Denoiser::predict), or a cotangent of another shape.
    fn pullback(
        &self,
        x_t: &Array4<f32>,
        times: &[Time],
        conditions: &[Condition],
        cotangent: &Array4<f32>,
    ) -> Result<Pullback>;
}

impl<D: DifferentiableDenoiser + ?Sized> DifferentiableDenoiser for &D {
    fn pullback(
        &self,
        x_t: &Array4<f32>,
        times: &[Time],
        conditions: &[Condition],
        cotangent: &Array4<f32>,
    ) -> Result<Pullback> {
        (**self).pullback(x_t, times, conditions, cotangent)
    }
}
