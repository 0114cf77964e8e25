//! What one pass over data tells about a trained network at every time, and what it is good for: better variances and
//! better times, without training anything.
//!
//! [`measure()`] asks the network at every t = 1..=T. From its error follow the optimal variances of Analytic-DPM
//! (arXiv 2201.06503) for any trajectory; from the error and the decoder's likelihood follows the cost of every step
//! t → s in the evidence lower bound, and from these the best times of every budget (arXiv 2106.03802). The numbers are
//! kept beside the model in one small file.

mod file;
mod measure;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use measure::measure;

use crate::error::{Error, Kind, Result};
use crate::math::schedule::{Schedule, Time};
use crate::math::sigma::{Analytic, Coefficients, NoiseScale, sigma};
use crate::math::trajectory::{BestTimes, Trajectory};

/// The file's name in a model's folder.
pub const FILE: &str = "calibration.json";

/// Means over images at every time t = 1..=T, per dimension of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Hash of the model the numbers are of.
    pub model: String,
    /// Hash of the process it was trained on: [`process_hash`](crate::io::checkpoint::process_hash()).
    pub process: String,
    /// How they were made: data, images, seed.
    pub provenance: BTreeMap<String, String>,
    /// σ₁ of the decoder.
    pub sigma_1: f64,
    /// E‖ε̂‖²/d; with E‖ε − ε̂‖²/d it adds to 1 for the best possible network.
    pub eps_squares: Vec<f64>,
    /// E‖x₀ − x̂₀‖²/d.
    pub x0_errors: Vec<f64>,
    /// E[−log p_θ(x₀|x_t)]/d, nats: what stepping from t onto clean data costs.
    pub decoder_nats: Vec<f64>,
}

impl Calibration {
    /// Where the calibration of the model at `path` lies: inside a folder, or beside a file under its name.
    pub fn path_of(path: &Path) -> PathBuf {
        if path.is_dir() {
            return path.join(FILE);
        }
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".");
        name.push(FILE);
        path.with_file_name(name)
    }

    /// Refuses numbers of another model or process, or of another number of times.
    ///
    /// # Errors
    /// Another hash (other weights, or the model was trained on; another schedule or prediction), another T.
    pub fn check(&self, model_hash: &str, process: &str, train_steps: u32) -> Result<()> {
        let others = [
            ("model", &self.model, model_hash, "other weights, or trained further"),
            ("process", &self.process, process, "another schedule, or another prediction"),
        ];
        for (what, of, found, why) in others {
            if of != found {
                return Err(Error::data(format!(
                    "the calibration is of the {what} {}, this one is {} ({why}); make it again with: skipstone calibrate",
                    short(of),
                    short(found)
                )));
            }
        }
        if self.eps_squares.len() != train_steps as usize {
            return Err(Error::data(format!(
                "the calibration has {} times, the model's schedule {train_steps}; make it again with: skipstone \
                 calibrate",
                self.eps_squares.len()
            )));
        }
        Ok(())
    }

    /// The optimal variances along `trajectory`, with λ = σ(η).
    ///
    /// E‖ε̂‖²/d is taken as 1 − E‖ε − ε̂‖²/d. For the best possible network the two are one. For a trained one this
    /// gives the variance that minimises the bound (Bao et al., arXiv 2206.07309, for imperfect means), and it can be
    /// measured: at high noise both are 1 but for some 1e-5, in which the scatter of ‖ε̂‖² itself would drown.
    ///
    /// # Errors
    /// A trajectory beyond the calibrated times or the schedule.
    pub fn analytic(&self, schedule: &Schedule, eta: f64, trajectory: &Trajectory) -> Result<NoiseScale> {
        let at = |&t: &Time| {
            let x0_error = nearest(t).and_then(|index| self.x0_errors.get(index)).ok_or_else(|| {
                Error::argument(format!("time {t} is beyond the calibration's {}", self.x0_errors.len()))
            })?;
            let level = schedule.level(t)?;
            // ε − ε̂ = √(a/(1−a))·(x̂₀ − x₀).
            Ok((1.0 - x0_error * level.alpha_bar / level.one_minus).max(0.0))
        };
        let mean_squares = trajectory.times().iter().map(at).collect::<Result<Vec<f64>>>()?;
        Ok(NoiseScale::Analytic(Analytic { eta, mean_squares }))
    }

    /// What the step t → s adds to the bound at η = 1, in nats per dimension: the divergence
    /// [√a_s − √((1−a_s−σ²)·a_t/(1−a_t))]²·E‖x₀−x̂₀‖²/(2dσ²), which is the exact weight times the error of ε̂, or the
    /// decoder's part for s clean.
    ///
    /// # Errors
    /// A time beyond the schedule or the calibration, t = 0, or s not below t.
    pub fn cost(&self, schedule: &Schedule, t: Time, s: Time) -> Result<f64> {
        let index = nearest(t).filter(|&index| index < self.x0_errors.len() && s < t);
        let Some(index) = index else {
            return Err(Error::argument(format!("no step leads from t = {t} to {s}")));
        };
        if s == Time::CLEAN {
            return Ok(self.decoder_nats[index]);
        }
        let (from, to) = (schedule.level(t)?, schedule.level(s)?);
        let sigma = sigma(1.0, from, to);
        let direction = Coefficients::new(to, sigma).eps;
        // In x̂₀, because ε̂ says nothing about it at zero SNR.
        let of_x0 = to.signal() - direction * from.signal() / from.noise();
        Ok(of_x0 * of_x0 * self.x0_errors[index] / (2.0 * sigma * sigma))
    }

    /// The times of a budget of `steps` network calls, from T down, under which the bound is least.
    ///
    /// # Errors
    /// As [`trajectory::optimal()`](crate::math::trajectory::optimal()), or a schedule of another T.
    pub fn optimal(&self, schedule: &Schedule, steps: usize) -> Result<Trajectory> {
        self.best_times(schedule, steps)?.trajectory(steps)
    }

    /// The same for every budget of at most `most` network calls, for whoever asks for several.
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

/// The calibration a request needs, or how to make it.
///
/// # Errors
/// There is none, or it is of another model.
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
                "{what} needs the model's calibration, and there is no {FILE} beside it; make it with: skipstone \
                 calibrate --model DIR --data DATASET"
            ),
        )
    })?;
    calibration.check(model_hash, process, train_steps)?;
    Ok(calibration)
}

fn short(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

/// The index of the measured time nearest to `t`.
fn nearest(t: Time) -> Option<usize> {
    t.rounded().index()?.whole().map(|index| index as usize)
}

#[cfg(test)]
mod tests;
