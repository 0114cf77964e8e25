use ndarray::Array4;

use crate::error::Result;
use crate::math::noise::NoiseSource;
use crate::math::schedule::{NoiseLevel, Schedule};
use crate::math::sigma::Coefficients;
use crate::sampling::denoiser::Denoised;

/// A network call: x̂₀ and ε̂ of a state at a noise level.
pub(crate) type Ask<'a> = dyn FnMut(&Array4<f32>, NoiseLevel) -> Result<Denoised> + 'a;

/// The input of a [`Scheme`](super::Scheme)'s step from x_t to x_s: the state, both noise levels, the predictions so far,
/// the network and fresh noise.
pub struct Step<'a> {
    /// x_t, `[n, c, h, w]`.
    pub x: &'a Array4<f32>,
    /// Noise level of t.
    pub from: NoiseLevel,
    /// Noise level of s.
    pub to: NoiseLevel,
    /// x̂₀ and ε̂ at x_t.
    pub here: &'a Denoised,
    /// Predictions of earlier steps with their noise levels, latest first. Holds up to
    /// [`Scheme::memory`](super::Scheme) of them; fewer at the start of the run.
    pub past: &'a [(NoiseLevel, Denoised)],
    /// DDIM coefficients of this step, with the run's σ.
    pub coefficients: Coefficients,
    /// Steps of the run.
    pub steps: usize,
    /// Steps from this one to the end: `steps` on the first step, 1 on the last.
    pub remaining: usize,
    /// The noise schedule of the run.
    pub schedule: &'a Schedule,
    pub(crate) ask: &'a mut Ask<'a>,
    pub(crate) source: &'a mut dyn NoiseSource,
    pub(crate) index: usize,
}

impl Step<'_> {
    /// σ_ve at t and at s.
    pub fn sigmas(&self) -> (f64, f64) {
        (self.from.sigma_ve(), self.to.sigma_ve())
    }

    /// Whether this is the last step, after which the network is not called again.
    pub fn is_last(&self) -> bool {
        self.remaining == 1
    }

    /// Makes one more network call: x̂₀ and ε̂ of the state `x`, `[n, c, h, w]`, at any noise level.
    ///
    /// The call uses the timestep of that level, which may lie between two trained ones. A network with a learned table of
    /// timestep embeddings uses the nearest trained timestep.
    ///
    /// # Errors
    /// The network fails, or a prediction is not finite.
    pub fn ask(&mut self, x: &Array4<f32>, level: NoiseLevel) -> Result<Denoised> {
        (self.ask)(x, level)
    }

    /// The fresh noise of this step, z ~ N(0, I), `[n, c, h, w]`, keyed by seed, image and step. Repeated calls give the
    /// same z.
    ///
    /// # Errors
    /// The noise source fails.
    pub fn noise(&mut self) -> Result<Array4<f32>> {
        let mut z = Array4::zeros(self.x.dim());
        self.source.fill(self.index, &mut z)?;
        Ok(z)
    }
}
