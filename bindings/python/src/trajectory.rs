//! A run as an iterator.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use skipstone::Result;
use skipstone::math::noise::{Given, NoiseSource, Seeded, initial_latent};
use skipstone::sampling::denoiser::Condition;
use skipstone::sampling::generate::{Generator, Inputs};
use skipstone::sampling::sampler::Run;

use crate::errors::compute;
use crate::sampler::{Made, PyStep};

/// An iterator over the steps of a run; see `Sampler.trajectory`.
#[pyclass(module = "skipstone", frozen)]
pub struct Trajectory {
    generator: Generator,
    conditions: Vec<Condition>,
    state: Mutex<(Run, Box<dyn NoiseSource + Send>)>,
}

impl Trajectory {
    /// A run of `n` images that share each network call.
    pub fn new(generator: Generator, inputs: Inputs, n: usize) -> Result<Self> {
        let (first, seed) = (generator.first(), generator.settings().seed);
        let x_t = inputs.latents.unwrap_or_else(|| initial_latent(seed, first, n, generator.shape()));
        let noise: Box<dyn NoiseSource + Send> = match inputs.noise {
            Some(noise) => Box::new(Given::new(noise)),
            None => Box::new(Seeded::new(seed, first)),
        };
        let conditions = generator.conditions(first..first + n as u64);
        let run = Run::new(generator.network(), generator.plan(), x_t, &conditions)?;
        Ok(Self { generator, conditions, state: Mutex::new((run, noise)) })
    }
}

#[pymethods]
impl Trajectory {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __len__(&self) -> usize {
        self.generator.plan().steps().len()
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<PyStep>> {
        let made = compute(py, || {
            let (run, noise) = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let made = run.advance(self.generator.network(), self.generator.plan(), &mut **noise, &self.conditions)?;
            Ok(made.map(|progress| Made::of(&progress, self.generator.first())))
        })?;
        made.map(|made| made.step(py)).transpose()
    }
}
