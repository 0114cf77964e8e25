use ndarray::{Array4, Array5, Axis};

use super::{Purpose, fill_gaussian};
use crate::error::{Error, Result};
use crate::sampling::denoiser::check_finite;

/// A source of the fresh noise z that sampling steps inject.
pub trait NoiseSource {
    /// Fills `out`, `[n, c, h, w]`, with the noise of step `call`, counted from 0.
    ///
    /// # Errors
    /// The source has no noise for this step or this shape.
    fn fill(&mut self, call: usize, out: &mut Array4<f32>) -> Result<()>;
}

/// Noise generated from a seed, keyed by image and step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeded {
    /// The run's seed.
    pub seed: u64,
    /// Index within the run of the batch's first image.
    pub first_image: u64,
    /// The purpose of the noise: [`Purpose::Step`] for sampling.
    pub purpose: Purpose,
}

impl Seeded {
    /// The noise of sampling steps for a batch starting at image `first_image`.
    pub const fn new(seed: u64, first_image: u64) -> Self {
        Self { seed, first_image, purpose: Purpose::Step }
    }
}

impl NoiseSource for Seeded {
    fn fill(&mut self, call: usize, out: &mut Array4<f32>) -> Result<()> {
        let step = u32::try_from(call)
            .map_err(|_| Error::argument(format!("noise: expected a step of at most 2^32 - 1, found {call}")))?;
        fill_gaussian(self.seed, self.purpose, self.first_image, step, out);
        Ok(())
    }
}

/// Noise taken from a tensor `[calls, n, c, h, w]`, in step order.
#[derive(Clone, Debug, PartialEq)]
pub struct Given(Array5<f32>);

impl Given {
    /// Wraps the tensor `z`.
    pub fn new(z: Array5<f32>) -> Self {
        Self(z)
    }
}

impl NoiseSource for Given {
    fn fill(&mut self, call: usize, out: &mut Array4<f32>) -> Result<()> {
        if call >= self.0.dim().0 || self.0.shape()[1..] != *out.shape() {
            return Err(Error::argument(format!(
                "noise: step {step} needs a tensor [calls, n, c, h, w] with at least {step} calls of {:?}, found {:?}",
                out.shape(),
                self.0.shape(),
                step = call + 1
            )));
        }
        out.assign(&self.0.index_axis(Axis(0), call));
        check_finite(&format!("noise of step {}", call + 1), out)
    }
}

/// No noise, for runs that must be deterministic: any request for noise is an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forbidden;

impl NoiseSource for Forbidden {
    fn fill(&mut self, call: usize, _: &mut Array4<f32>) -> Result<()> {
        Err(Error::argument(format!("noise: step {} injects noise, but this run must be deterministic", call + 1)))
    }
}
