//! β, a_t and times: the forward process' noise, in f64 and without arrays.
//!
//! a_t is the DDIM paper's α_t, which is DDPM's ᾱ_t: a₀ = 1, strictly decreasing over t = 1..=T.

mod betas;
mod level;
mod time;

pub(crate) use betas::linspace;
pub use betas::{BetaSchedule, MAX_TRAIN_STEPS};
pub use level::NoiseLevel;
pub use time::{Index, Time};

use crate::error::{Error, Result};
use crate::sampling::denoiser::Prediction;

/// The level on which the last step of a trajectory lands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FinalLevel {
    /// a = 1: clean data, as in the paper.
    #[default]
    Clean,
    /// a of index 0, for models whose config says `set_alpha_to_one: false`.
    FirstTrained,
}

/// The noise levels a network was trained on: β_t and a_t for t = 1..=T.
///
/// ```
/// use skipstone::math::schedule::{BetaSchedule, Schedule, Time};
/// let schedule = Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000)?;
/// assert_eq!(schedule.level(Time::CLEAN)?.alpha_bar, 1.0);
/// assert!(schedule.level(Time::new(1000))?.alpha_bar < 1e-4);
/// # Ok::<(), skipstone::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// β_1..β_T.
    betas: Vec<f64>,
    /// The levels of t = 0..=T.
    levels: Vec<NoiseLevel>,
}

impl Schedule {
    /// The schedule of a named family over `train_steps` times.
    ///
    /// `beta_start` and `beta_end` concern linear, scaled-linear, sigmoid and (the end alone) const; the other
    /// families ignore them.
    ///
    /// # Errors
    /// T of 0 or above [`MAX_TRAIN_STEPS`], a list of another length than T, a β outside (0, 1), or noise so strong
    /// that a_t vanishes in f64.
    pub fn new(family: &BetaSchedule, beta_start: f64, beta_end: f64, train_steps: u32) -> Result<Self> {
        let betas = family.betas(beta_start, beta_end, train_steps)?;
        Self::build(betas, matches!(family, BetaSchedule::Jsd))
    }

    /// The schedule of an explicit list β_1..β_T.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_betas(betas: &[f64]) -> Result<Self> {
        let train_steps = u32::try_from(betas.len()).unwrap_or(u32::MAX);
        Self::new(&BetaSchedule::Trained(betas.to_vec()), 0.0, 0.0, train_steps)
    }

    /// The same schedule rescaled so that a_T = 0 (Lin et al., arXiv 2305.08891, algorithm 1).
    ///
    /// # Errors
    /// T = 1: there is no second level to keep.
    pub fn with_zero_terminal_snr(&self) -> Result<Self> {
        Self::build(betas::zero_terminal_snr(&self.betas)?, true)
    }

    /// Checks the betas and runs the two recursions a_t = a_s·(1 − β_t) and n_t = n_s + a_s·β_t.
    fn build(betas: Vec<f64>, last_may_be_one: bool) -> Result<Self> {
        let mut levels = Vec::with_capacity(betas.len() + 1);
        let mut s = NoiseLevel::CLEAN;
        levels.push(s);
        for (i, &beta) in betas.iter().enumerate() {
            let ends_in_noise = beta == 1.0 && last_may_be_one && i + 1 == betas.len();
            if !(beta > 0.0 && beta < 1.0 || ends_in_noise) {
                let remedy = if beta == 1.0 && i + 1 == betas.len() {
                    "; a last beta of 1 is kept for zero-terminal-SNR schedules (rescale_betas_zero_snr) and jsd"
                } else {
                    ""
                };
                return Err(Error::argument(format!(
                    "betas[{i}]: expected a value strictly between 0 and 1, found {beta}{remedy}"
                )));
            }
            let t = if ends_in_noise { NoiseLevel::PURE_NOISE } else { s.after(beta) };
            let vanishes = t.alpha_bar < f64::MIN_POSITIVE && !ends_in_noise;
            // Far from clean data 1 − a rounds to 1 while a still falls; near it a rounds to 1.
            let stands_still = t.one_minus <= s.one_minus && t.alpha_bar >= s.alpha_bar;
            if vanishes || stands_still {
                let what = if vanishes { "the signal vanishes" } else { "the noise level stands still" };
                return Err(Error::argument(format!(
                    "betas[{i}] = {beta}: {what} at t = {} (a = {}); choose fewer or milder betas",
                    i + 1,
                    t.alpha_bar
                )));
            }
            levels.push(t);
            s = t;
        }
        Ok(Self { betas, levels })
    }

    /// T, the number of trained noise levels.
    pub fn train_steps(&self) -> u32 {
        // At most MAX_TRAIN_STEPS, so the conversion is exact.
        self.betas.len() as u32
    }

    /// β_1..β_T.
    pub fn betas(&self) -> &[f64] {
        &self.betas
    }

    /// The noise level of `t`, 0 ≤ t ≤ T. Between two trained times the logarithm of the signal-to-noise ratio, and with
    /// it log σ_ve, is interpolated linearly.
    ///
    /// # Errors
    /// t > T, or t between two times one of which has no noise (t < 1) or no signal (zero terminal SNR).
    pub fn level(&self, t: Time) -> Result<NoiseLevel> {
        let beyond = || Error::argument(format!("time {t} is beyond the schedule's T = {}", self.train_steps()));
        if let Some(whole) = t.whole() {
            return self.levels.get(whole as usize).copied().ok_or_else(beyond);
        }
        let below = t.get().floor();
        let [s, t_above] = [below as usize, below as usize + 1].map(|i| self.levels.get(i));
        let (Some(s), Some(above)) = (s, t_above) else { return Err(beyond()) };
        let (from, to) = (s.log_sigma_ve(), above.log_sigma_ve());
        if !(from.is_finite() && to.is_finite()) {
            return Err(Error::argument(format!("time {t} lies beside a level without noise or without signal")));
        }
        Ok(NoiseLevel::from_log_sigma_ve(from + (to - from) * (t.get() - below)))
    }

    /// The time of a noise level, the inverse of [`level`](Self::level): fractional where the level lies between two
    /// trained ones. Levels outside the trained range get the nearest trained time.
    ///
    /// ```
    /// use skipstone::math::schedule::{BetaSchedule, Schedule, Time};
    /// let schedule = Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000)?;
    /// let t = Time::between(400.25)?;
    /// assert!((schedule.time(schedule.level(t)?).get() - 400.25).abs() < 1e-9);
    /// # Ok::<(), skipstone::Error>(())
    /// ```
    pub fn time(&self, level: NoiseLevel) -> Time {
        let wanted = level.log_sigma_ve();
        // The first trained level that is noisier; levels grow with t.
        let above = self.levels.partition_point(|level| level.log_sigma_ve() < wanted);
        let last = self.levels.len() - 1;
        if above <= 1 {
            return Time::new(1);
        }
        if above > last {
            return Time::new(last as u32);
        }
        let (low, high) = (self.levels[above - 1].log_sigma_ve(), self.levels[above].log_sigma_ve());
        if wanted == high || high.is_infinite() {
            return Time::new(above as u32);
        }
        // Between two positive whole numbers.
        Time::positive((above - 1) as f64 + (wanted - low) / (high - low))
    }

    /// The level the last step lands on.
    pub fn final_level(&self, choice: FinalLevel) -> NoiseLevel {
        match choice {
            FinalLevel::Clean => NoiseLevel::CLEAN,
            FinalLevel::FirstTrained => self.levels[1],
        }
    }

    /// Whether a_T = 0: x_T then holds no signal at all.
    pub fn is_zero_snr(&self) -> bool {
        self.levels[self.betas.len()].alpha_bar == 0.0
    }

    /// Refuses a parameterization that has no meaning under this schedule: from ε̂, x̂₀ = (x_t − √(1−a)·ε̂)/√a
    /// divides by zero where a_T = 0.
    ///
    /// # Errors
    /// ε-prediction at zero terminal SNR.
    pub fn check_prediction(&self, prediction: Prediction) -> Result<()> {
        if self.is_zero_snr() && prediction == Prediction::Epsilon {
            return Err(Error::argument(
                "epsilon prediction has no meaning on a zero-terminal-SNR schedule (x0 = (x_T − ε)/0): \
                 use v-prediction (prediction_type \"v_prediction\") or sample prediction",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
