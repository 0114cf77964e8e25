//! Calibration: one pass over data measures a trained network at every timestep. The result gives better variances and
//! better timesteps without further training.
//!
//! [`measure()`] calls the network at every t = 1..=T. Its error gives the optimal variances of Analytic-DPM (arXiv
//! 2201.06503) for any trajectory. The error and the decoder's likelihood give the cost of every step t → s in the
//! evidence lower bound, and thus the best timesteps for any number of calls (arXiv 2106.03802).
//!
//! [`measure_path()`] compares single steps with a fine run of the deterministic process. The timesteps with the least errors
//! give images close to those of many steps (arXiv 2405.11326). [`Origin`] does both for a model. One small file beside the model holds the numbers.

mod file;
mod local_errors;
mod measure;
mod origin;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use local_errors::{LocalErrors, MOST_LATENTS, PathWork, candidates, measure_path, path_work};
pub use measure::measure;
pub use origin::Origin;

use crate::error::{Error, Kind, Result};
use crate::math::schedule::{Schedule, Time};
use crate::math::sigma::{Analytic, Coefficients, NoiseScale, sigma};
use crate::math::trajectory::{BestTimes, Trajectory};

/// The file's name in a model's folder.
pub const FILE: &str = "calibration.json";

/// The command that makes the file.
const COMMAND: &str = "skipstone calibrate --model DIR --data DATASET";

/// Means over images at every timestep t = 1..=T, per dimension of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Hash of the calibrated model.
    pub model: String,
    /// Hash of the process it was trained on: [`process_hash`](crate::io::checkpoint::process_hash()).
    pub process: String,
    /// How the numbers were made: data, images, seed.
    pub provenance: BTreeMap<String, String>,
    /// σ₁ of the decoder.
    pub sigma_1: f64,
    /// E‖ε̂‖²/d. For the optimal network, it and E‖ε − ε̂‖²/d add up to 1.
    pub eps_squares: Vec<f64>,
    /// E‖x₀ − x̂₀‖²/d.
    pub x0_errors: Vec<f64>,
    /// E[−log p_θ(x₀|x_t)]/d in nats: the cost of a step from t onto clean data.
    pub decoder_nats: Vec<f64>,
    /// The errors of single steps of the deterministic process, if they were measured.
    pub local_errors: Option<LocalErrors>,
}

impl Calibration {
    /// The path of the calibration of the model at `path`: inside a model folder, or beside a model file with its name as
    /// prefix.
    pub fn path_of(path: &Path) -> PathBuf {
        if path.is_dir() {
            return path.join(FILE);
        }
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".");
        name.push(FILE);
        path.with_file_name(name)
    }

    /// Checks that the calibration belongs to this model, process and T.
    ///
    /// # Errors
    /// A hash differs (other or further trained weights, another schedule or prediction type), or T differs.
    pub fn check(&self, model_hash: &str, process: &str, train_steps: u32) -> Result<()> {
        let others = [
            ("model", &self.model, model_hash, "other weights, or trained further"),
            ("process", &self.process, process, "another schedule, or another prediction type"),
        ];
        for (what, of, found, why) in others {
            if of != found {
                return Err(Error::data(format!(
                    "the calibration belongs to {what} {}, but this {what} is {} ({why}); repeat it with: {COMMAND}",
                    short(of),
                    short(found)
                )));
            }
        }
        if self.eps_squares.len() != train_steps as usize {
            return Err(Error::data(format!(
                "the calibration has {} timesteps, but the model's schedule has {train_steps}; repeat it with: \
                 {COMMAND}",
                self.eps_squares.len()
            )));
        }
        Ok(())
    }

    /// The optimal variances along `trajectory`, with λ = σ(η).
    ///
    /// E‖ε̂‖²/d is computed as 1 − E‖ε − ε̂‖²/d. For the optimal network the two are equal. For a trained network this
    /// form gives the variance that minimises the bound (Bao et al., arXiv 2206.07309, for imperfect means). It is also
    /// measurable: at high noise both forms differ from 1 by only about 1e-5, which the scatter of ‖ε̂‖² itself would
    /// hide.
    ///
    /// # Errors
    /// The trajectory goes beyond the calibrated timesteps or the schedule.
    pub fn analytic(&self, schedule: &Schedule, eta: f64, trajectory: &Trajectory) -> Result<NoiseScale> {
        let at = |&t: &Time| {
            let x0_error = nearest(t).and_then(|index| self.x0_errors.get(index)).ok_or_else(|| {
                let most = self.x0_errors.len();
                Error::argument(format!("timestep: expected at most the calibration's {most}, found {t}"))
            })?;
            let level = schedule.level(t)?;
            // ε − ε̂ = √(a/(1−a))·(x̂₀ − x₀).
            Ok((1.0 - x0_error * level.alpha_bar / level.one_minus).max(0.0))
        };
        let mean_squares = trajectory.times().iter().map(at).collect::<Result<Vec<f64>>>()?;
        Ok(NoiseScale::Analytic(Analytic { eta, mean_squares }))
    }

    /// The cost of the step t → s: its term of the bound at η = 1, in nats per dimension.
    ///
    /// It is the divergence [√a_s − √((1−a_s−σ²)·a_t/(1−a_t))]²·E‖x₀−x̂₀‖²/(2dσ²), the exact weight times the error of
    /// ε̂. For clean s it is the decoder's term.
    ///
    /// # Errors
    /// A timestep is beyond the schedule or the calibration, t = 0, or s is not below t.
    pub fn cost(&self, schedule: &Schedule, t: Time, s: Time) -> Result<f64> {
        let index = nearest(t).filter(|&index| index < self.x0_errors.len() && s < t);
        let Some(index) = index else {
            let most = self.x0_errors.len();
            return Err(Error::argument(format!("step: expected s < t <= {most}, found t = {t} and s = {s}")));
        };
        if s == Time::CLEAN {
            return Ok(self.decoder_nats[index]);
        }
        let (from, to) = (schedule.level(t)?, schedule.level(s)?);
        let sigma = sigma(1.0, from, to);
        let direction = Coefficients::new(to, sigma).eps;
        // In terms of x̂₀, because ε̂ does not determine x̂₀ at zero SNR.
        let of_x0 = to.signal() - direction * from.signal() / from.noise();
        Ok(of_x0 * of_x0 * self.x0_errors[index] / (2.0 * sigma * sigma))
    }

    /// The trajectory of `steps` network calls from T down that minimises the bound.
    ///
    /// # Errors
    /// As [`trajectory::optimal()`](crate::math::trajectory::optimal()); or the schedule has another T.
    pub fn optimal(&self, schedule: &Schedule, steps: usize) -> Result<Trajectory> {
        self.best_times(schedule, steps)?.trajectory(steps)
    }

    /// The trajectory of `steps` network calls from T down that follows the deterministic path best.
    ///
    /// # Errors
    /// As [`LocalErrors::fitted`]; or the calibration lacks the local errors.
    pub fn fitted(&self, steps: usize) -> Result<Trajectory> {
        let errors = self.local_errors.as_ref().ok_or_else(|| {
            let what = "spacing fitted needs the errors of single steps, which the model's calibration lacks";
            Error::new(Kind::NotFound, format!("{what}; repeat it with: {COMMAND} --fitted 32"))
        })?;
        errors.fitted(steps)
    }

    /// [`optimal`](Self::optimal) for every number of network calls up to `most`.
    ///
    /// # Errors
    /// As [`optimal`](Self::optimal).
    pub fn best_times(&self, schedule: &Schedule, most: usize) -> Result<BestTimes> {
        let mut failure = None;
        let found = BestTimes::new(most, schedule.train_steps(), |t, s| {
            self.cost(schedule, t, s).unwrap_or_else(|error| {
                failure.get_or_insert(error);
                f64::NAN
            })
        });
        match failure {
            Some(error) => Err(error),
            None => found,
        }
    }
}

/// The calibration that the option `what` needs. The error tells how to make one.
///
/// # Errors
/// There is no calibration, or it belongs to another model.
pub fn required<'a>(
    calibration: Option<&'a Calibration>,
    what: &str,
    model_hash: &str,
    process: &str,
    train_steps: u32,
) -> Result<&'a Calibration> {
    let calibration = calibration.ok_or_else(|| {
        Error::new(
            Kind::NotFound,
            format!(
                "{what} needs the model's calibration, but there is no usable {FILE} beside it; make it with: {COMMAND}"
            ),
        )
    })?;
    calibration.check(model_hash, process, train_steps)?;
    Ok(calibration)
}

fn short(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

/// The index of the calibrated timestep nearest to `t`.
fn nearest(t: Time) -> Option<usize> {
    t.rounded().index()?.whole().map(|index| index as usize)
}

#[cfg(test)]
mod tests;
