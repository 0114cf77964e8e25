use ndarray::Array4;

use crate::error::Result;
use crate::math::noise::NoiseSource;
use crate::math::schedule::NoiseLevel;
use crate::math::sigma::Coefficients;
use crate::sampling::denoiser::Denoised;

/// Asks the network about a state at a noise level.
pub(crate) type Ask<'a> = dyn FnMut(&Array4<f32>, NoiseLevel) -> Result<Denoised> + 'a;

/// One step from x_t to x_s, as a [`Scheme`](super::Scheme) sees it: the state, the two noise levels, what the network
/// said, the network itself and fresh noise.
pub struct Step<'a> {
    /// x_t, `[n, c, h, w]`.
    pub x: &'a Array4<f32>,
    /// The level of t.
    pub from: NoiseLevel,
    /// The level of s.
    pub to: NoiseLevel,
    /// x̂₀ and ε̂ at x_t.
    pub here: &'a Denoised,
    /// What the network said at earlier steps of the run and at which level, the latest first: as many as the scheme
    /// remembers, fewer at the start.
    pub past: &'a [(NoiseLevel, Denoised)],
    /// DDIM's coefficients of this step, which hold the σ of the run.
    pub coefficients: Coefficients,
    /// Whether this is the last step of the run. It lands on clean data, where no network can be asked.
    pub is_last: bool,
    pub(crate) ask: &'a mut Ask<'a>,
    pub(crate) source: &'a mut dyn NoiseSource,
    pub(crate) index: usize,
}

impl Step<'_> {
    /// σ_ve at t and at s.
    pub fn sigmas(&self) -> (f64, f64) {
        (self.from.sigma_ve(), self.to.sigma_ve())
    }

    /// x̂₀ and ε̂ at the state `x` of any noise level: one more network call. The network is asked at the time of that
    /// level, between two trained ones if need be, or at the nearest trained one if it has a table of times.
    ///
    /// # Errors
    /// Whatever the network refuses, and predictions that are not finite.
    pub fn ask(&mut self, x: &Array4<f32>, level: NoiseLevel) -> Result<Denoised> {
        (self.ask)(x, level)
    }

    /// The fresh noise of this step, z ~ N(0, I), keyed by seed, image and step. Asking twice gives the same z.
    ///
    /// # Errors
    /// Whatever the noise source refuses.
    pub fn noise(&mut self) -> Result<Array4<f32>> {
        let mut z = Array4::zeros(self.x.dim());
        self.source.fill(self.index, &mut z)?;
        Ok(z)
    }
}
