use ndarray::{Array4, Array5, Axis};

use super::{Purpose, fill_gaussian};
use crate::error::{Error, Result};
use crate::sampling::denoiser::check_finite;

/// Where a run's fresh noise z comes from.
pub trait NoiseSource {
    /// Fills `out`, `[n, c, h, w]`, with the noise of step `call` (0 for the first step of the run).
    ///
    /// # Errors
    /// The source has no noise for that step or of that shape.
    fn fill(&mut self, call: usize, out: &mut Array4<f32>) -> Result<()>;
}

/// Noise of a seed, keyed by image and step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeded {
    /// The run's seed.
    pub seed: u64,
    /// The index, within the run, of the first image of the batch.
    pub first_image: u64,
    /// What the noise is for: [`Purpose::Step`] when sampling.
    pub purpose: Purpose,
}

impl Seeded {
    /// The noise of sampling steps for a batch that starts at image `first_image`.
    pub const fn new(seed: u64, first_image: u64) -> Self {
        Self { seed, first_image, purpose: Purpose::Step }
    }
}

impl NoiseSource for Seeded {
    fn fill(&mut self, call: usize, out: &mut Array4<f32>) -> Result<()> {
        let step = u32::try_from(call).map_err(|_| Error::argument(format!("step {call} is beyond 2^32 - 1")))?;
        fill_gaussian(self.seed, self.purpose, self.first_image, step, out);
        Ok(())
    }
}

/// Noise read from a tensor `[calls, n, c, h, w]`, in step order.
#[derive(Clone, Debug, PartialEq)]
pub struct Given(Array5<f32>);

impl Given {
    /// Noise from `z`.
    pub fn new(z: Array5<f32>) -> Self {
        Self(z)
    }
}

impl NoiseSource for Given {
    fn fill(&mut self, call: usize, out: &mut Array4<f32>) -> Result<()> {
        if call >= self.0.dim().0 || self.0.shape()[1..] != *out.shape() {
            return Err(Error::argument(format!(
                "noise: step {} needs [{}, n, c, h, w] or longer with {:?} per step, found {:?}",
                call + 1,
                call + 1,
                out.shape(),
                self.0.shape()
            )));
        }
        out.assign(&self.0.index_axis(Axis(0), call));
        check_finite(&format!("noise of step {}", call + 1), out)
    }
}

/// No noise at all: for runs that must be deterministic, a request for noise is an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forbidden;

impl NoiseSource for Forbidden {
    fn fill(&mut self, call: usize, _: &mut Array4<f32>) -> Result<()> {
        Err(Error::argument(format!("step {} asks for noise in a run that must be deterministic", call + 1)))
    }
}
