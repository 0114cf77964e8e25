use std::collections::BTreeMap;
use std::ops::ControlFlow;

use ndarray::Array4;

use super::{Calibration, LocalErrors, measure, measure_path};
use crate::error::Result;
use crate::math::noise::{NOISE_VERSION, Purpose, Seeded, initial_latent};
use crate::math::schedule::{Schedule, Time};
use crate::objective::default_sigma_1;
use crate::sampling::denoiser::{Condition, Denoiser};

/// What a calibration is made of, as its file says it. The same origin gives the same calibration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Hash of the model.
    pub model: String,
    /// Hash of the process it was trained on.
    pub process: String,
    /// A name for the images.
    pub data: String,
    /// Seed of the noise and of the latents.
    pub seed: u64,
}

impl Origin {
    /// Calibrates the model on the images `x0`, `[n, c, h, w]`, with the noise of the seed and the usual σ₁.
    ///
    /// ```
    /// use ndarray::{Array3, Array4};
    /// use skipstone::objective::calibration::Origin;
    /// use skipstone::{math::schedule::Schedule, sampling::oracle::Oracle};
    /// let schedule = Schedule::from_betas(&[0.1, 0.3])?;
    /// let oracle = Oracle::gaussian(&schedule, Array3::zeros((1, 2, 2)), Array3::ones((1, 2, 2)))?;
    /// let origin = Origin { model: "oracle".into(), process: String::new(), data: "zeros".into(), seed: 1 };
    /// let go_on = &mut |_| std::ops::ControlFlow::Continue(());
    /// let found = origin.calibrate(&oracle, &schedule, &Array4::zeros((2, 1, 2, 2)), &[], go_on)?;
    /// assert_eq!((&*found.model, &*found.provenance["seed"]), ("oracle", "1"));
    /// # Ok::<(), skipstone::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`measure()`]; or T = 1, so there is no usual σ₁.
    pub fn calibrate<D: Denoiser + ?Sized>(
        &self,
        denoiser: &D,
        schedule: &Schedule,
        x0: &Array4<f32>,
        conditions: &[Condition],
        observer: &mut dyn FnMut(Time) -> ControlFlow<()>,
    ) -> Result<Calibration> {
        let mut noise = Seeded { seed: self.seed, first_image: 0, purpose: Purpose::Likelihood };
        let sigma_1 = default_sigma_1(schedule)?;
        let found = measure(denoiser, schedule, x0, &mut noise, conditions, sigma_1, observer)?;
        let provenance = BTreeMap::from([
            ("data".to_owned(), self.data.clone()),
            ("made_by".to_owned(), format!("skipstone {}", env!("CARGO_PKG_VERSION"))),
            ("noise_version".to_owned(), NOISE_VERSION.to_string()),
            ("seed".to_owned(), self.seed.to_string()),
        ]);
        Ok(Calibration { model: self.model.clone(), process: self.process.clone(), provenance, ..found })
    }

    /// Measures the path of the deterministic process from the first `latents` latents of the seed. The conditions are those of
    /// the images, used in turn.
    ///
    /// # Errors
    /// As [`measure_path()`].
    pub fn fit<D: Denoiser + ?Sized>(
        &self,
        denoiser: &D,
        schedule: &Schedule,
        latents: usize,
        conditions: &[Condition],
        observer: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<LocalErrors> {
        let x_t = initial_latent(self.seed, 0, latents, denoiser.shape());
        let conditions: Vec<_> = conditions.iter().cycle().take(latents).copied().collect();
        measure_path(denoiser, schedule, &x_t, &conditions, observer)
    }
}
