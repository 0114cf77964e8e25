use ndarray::Array4;

use super::{Condition, Denoiser};
use crate::error::Result;
use crate::math::schedule::Time;

/// A network's output and a vector-Jacobian product.
#[derive(Clone, Debug, PartialEq)]
pub struct Pullback {
    /// The output at x_t, `[n, c, h, w]`, without a learned variance.
    pub out: Array4<f32>,
    /// (∂out/∂x_t)ᵀ·cotangent, image by image, `[n, c, h, w]`.
    pub gradient: Array4<f32>,
}

/// A [`Denoiser`] that can compute vector-Jacobian products with respect to x_t.
pub trait DifferentiableDenoiser: Denoiser {
    /// The output at `x_t` and the product cotangentᵀ·∂out/∂x_t. `cotangent` has the shape
    /// of x_t, `[n, c, h, w]`: the product leaves out a learned variance.
    ///
    /// # Errors
    /// As [`predict`](Denoiser::predict); or the cotangent has another shape.
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
