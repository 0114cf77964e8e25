//! The noise schedule: β_t, a_t and timesteps t, all scalars in f64.
//!
//! a_t is α_t of the DDIM paper and ᾱ_t of DDPM: a₀ = 1, strictly decreasing over t = 1..=T.

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
    /// a at index 0, for models whose config sets `set_alpha_to_one: false`.
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
    /// Noise levels of t = 0..=T.
    levels: Vec<NoiseLevel>,
}

impl Schedule {
    /// The schedule of a family over `train_steps` = T timesteps.
    ///
    /// Linear, scaled-linear and sigmoid use `beta_start` and `beta_end`; const uses `beta_end`; the other families use
    /// neither.
    ///
    /// # Errors
    /// T is 0 or above [`MAX_TRAIN_STEPS`], a list has a length other than T, a β is outside (0, 1) (but for the last one of a
    /// list or of jsd, which may be 1: then a_T = 0), or a_t underflows in f64.
    pub fn new(family: &BetaSchedule, beta_start: f64, beta_end: f64, train_steps: u32) -> Result<Self> {
        let betas = family.betas(beta_start, beta_end, train_steps)?;
        Self::build(betas, matches!(family, BetaSchedule::Jsd | BetaSchedule::Trained(_)))
    }

    /// The schedule of an explicit list β_1..β_T.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_betas(betas: &[f64]) -> Result<Self> {
        let train_steps = u32::try_from(betas.len()).unwrap_or(u32::MAX);
        Self::new(&BetaSchedule::Trained(betas.to_vec()), 0.0, 0.0, train_steps)
    }

    /// The same schedule rescaled so that a_T = 0 (Lin et al., arXiv 2305.08891, algorithm 1). One that ends there already stays as
    /// it is.
    ///
    /// # Errors
    /// T = 1: rescaling needs two levels.
    pub fn with_zero_terminal_snr(&self) -> Result<Self> {
        if self.is_zero_snr() {
            return Ok(self.clone());
        }
        Self::build(betas::zero_terminal_snr(&self.betas)?, true)
    }

    /// Checks the betas and runs the recursions a_t = a_s·(1 − β_t) and n_t = n_s + a_s·β_t, where n = 1 − a.
    fn build(betas: Vec<f64>, last_may_be_one: bool) -> Result<Self> {
        let mut levels = Vec::with_capacity(betas.len() + 1);
        let mut s = NoiseLevel::CLEAN;
        levels.push(s);
        for (i, &beta) in betas.iter().enumerate() {
            let ends_in_noise = beta == 1.0 && last_may_be_one && i + 1 == betas.len();
            if !(beta > 0.0 && beta < 1.0 || ends_in_noise) {
                let remedy = if beta == 1.0 && i + 1 == betas.len() {
                    "; only jsd, lists of betas and rescaled schedules (rescale_betas_zero_snr) may end with a beta of 1"
                } else {
                    ""
                };
                return Err(Error::argument(format!(
                    "betas[{i}]: expected a value strictly between 0 and 1, found {beta}{remedy}"
                )));
            }
            let t = if ends_in_noise { NoiseLevel::PURE_NOISE } else { s.after(beta) };
            let vanishes = t.alpha_bar < f64::MIN_POSITIVE && !ends_in_noise;
            // Near pure noise 1 − a rounds to 1, near clean data a does. At least one of the two must move.
            let stands_still = t.one_minus <= s.one_minus && t.alpha_bar >= s.alpha_bar;
            if vanishes || stands_still {
                let what = if vanishes { "the signal vanishes" } else { "the noise level does not rise" };
                return Err(Error::argument(format!(
                    "betas[{i}] = {beta}: {what} at t = {} (a = {}); use fewer or smaller betas",
                    i + 1,
                    t.alpha_bar
                )));
            }
            levels.push(t);
            s = t;
        }
        Ok(Self { betas, levels })
    }

    /// T, the number of trained timesteps.
    pub fn train_steps(&self) -> u32 {
        // MAX_TRAIN_STEPS fits u32.
        self.betas.len() as u32
    }

    /// β_1..β_T.
    pub fn betas(&self) -> &[f64] {
        &self.betas
    }

    /// The noise level of `t`, 0 ≤ t ≤ T. Between two trained timesteps, ln σ_ve (hence the log signal-to-noise ratio) is
    /// interpolated linearly.
    ///
    /// # Errors
    /// t > T; or t lies next to a level without noise (t < 1) or without signal (zero terminal SNR).
    pub fn level(&self, t: Time) -> Result<NoiseLevel> {
        let beyond = || {
            Error::argument(format!("timestep: expected at most the schedule's T = {}, found {t}", self.train_steps()))
        };
        if let Some(whole) = t.whole() {
            return self.levels.get(whole as usize).copied().ok_or_else(beyond);
        }
        let below = t.get().floor();
        let [s, t_above] = [below as usize, below as usize + 1].map(|i| self.levels.get(i));
        let (Some(s), Some(above)) = (s, t_above) else { return Err(beyond()) };
        let (from, to) = (s.log_sigma_ve(), above.log_sigma_ve());
        if !(from.is_finite() && to.is_finite()) {
            return Err(Error::argument(format!(
                "timestep {t}: its noise level cannot be interpolated next to clean data or pure noise (zero terminal SNR)"
            )));
        }
        Ok(NoiseLevel::from_log_sigma_ve(from + (to - from) * (t.get() - below)))
    }

    /// The timestep of a noise level, the inverse of [`level`](Self::level).
    ///
    /// It is fractional where the level lies between two trained ones. Levels outside the trained range give the nearest
    /// trained timestep.
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
        // Noise grows with t: this is the first level at least as noisy.
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
        Time::positive((above - 1) as f64 + (wanted - low) / (high - low))
    }

    /// The noise level on which the last step lands.
    pub fn final_level(&self, choice: FinalLevel) -> NoiseLevel {
        match choice {
            FinalLevel::Clean => NoiseLevel::CLEAN,
            FinalLevel::FirstTrained => self.levels[1],
        }
    }

    /// Whether a_T = 0, so that x_T carries no signal.
    pub fn is_zero_snr(&self) -> bool {
        self.levels[self.betas.len()].alpha_bar == 0.0
    }

    /// Refuses a prediction type that this schedule does not allow.
    ///
    /// # Errors
    /// ε-prediction at zero terminal SNR: x̂₀ = (x_t − √(1−a)·ε̂)/√a would divide by zero.
    pub fn check_prediction(&self, prediction: Prediction) -> Result<()> {
        if self.is_zero_snr() && prediction == Prediction::Epsilon {
            return Err(Error::argument(
                "prediction_type: epsilon cannot be used with a zero-terminal-SNR schedule (x0 = (x_T − ε)/0); \
                 use v-prediction (\"v_prediction\") or \"sample\"",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
