//! Trajectories τ: the timesteps a run visits (DDIM §4.2, D.2).
//!
//! A trajectory is a strictly decreasing list of timesteps that ends on clean data. Each step lands on the next element of
//! the list, never on "t − T/S".

mod optimal;
mod respacing;
mod spacing;

pub use optimal::{BestTimes, optimal};
pub use respacing::Respacing;
pub use spacing::Spacing;

use crate::error::{Error, Result};
use crate::math::schedule::{MAX_TRAIN_STEPS, NoiseLevel, Schedule, Time};

/// τ: strictly decreasing timesteps in 1..=T, one network call each. After the last, the run lands on [`Time::CLEAN`].
/// Timesteps may lie between two trained ones.
///
/// ```
/// use skipstone::math::schedule::Time;
/// use skipstone::math::trajectory::Trajectory;
/// let tau = Trajectory::explicit(&[999, 17], 1000)?;
/// let steps: Vec<_> = tau.steps().collect();
/// assert_eq!(steps, [(Time::new(1000), Time::new(18)), (Time::new(18), Time::CLEAN)]);
/// # Ok::<(), skipstone::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Trajectory {
    times: Vec<Time>,
}

impl Trajectory {
    /// Builds the trajectory of any named spacing over a schedule.
    ///
    /// Spacings that pick timesteps behave as in [`named`](Self::named). Spacings that pick noise levels give timesteps
    /// between the trained ones; [`whole`](Self::whole) rounds them to trained ones.
    ///
    /// ```
    /// use skipstone::math::schedule::{BetaSchedule, Schedule, Time};
    /// use skipstone::math::trajectory::{Spacing, Trajectory};
    /// let schedule = Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000)?;
    /// let tau = Trajectory::spaced(&schedule, Spacing::Karras, 10, 0)?;
    /// assert_eq!((tau.calls(), tau.start(), tau.times()[9]), (10, Time::new(1000), Time::new(1)));
    /// # Ok::<(), skipstone::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`named`](Self::named); or a spacing by noise levels at zero terminal SNR, where the first level is infinite.
    pub fn spaced(schedule: &Schedule, spacing: Spacing, steps: usize, steps_offset: u32) -> Result<Self> {
        let train_steps = schedule.train_steps();
        check_steps(steps, train_steps)?;
        let ends = [Time::new(train_steps), Time::new(1)];
        let [first, last] = [schedule.level(ends[0])?, schedule.level(ends[1])?].map(NoiseLevel::log_sigma_ve);
        let Some(levels) = spacing.levels(steps, first, last) else {
            return Self::named(spacing, steps, train_steps, steps_offset);
        };
        if schedule.is_zero_snr() {
            return Err(Error::argument(format!(
                "spacing {spacing}: the first noise level is infinite (zero terminal SNR); choose another spacing, for \
                 example trailing"
            )));
        }
        let mut times: Vec<Time> =
            levels.into_iter().map(|log_sigma| schedule.time(NoiseLevel::from_log_sigma_ve(log_sigma))).collect();
        // Rounding of the levels must not move the two ends off trained timesteps.
        times[0] = ends[0];
        if steps > 1 {
            times[steps - 1] = ends[1];
        }
        times.dedup();
        Self::from_times(times, train_steps)
    }

    /// Rounds every timestep to the nearest trained one and merges duplicates, for networks with a learned table of
    /// timestep embeddings.
    #[must_use]
    pub fn whole(&self) -> Self {
        let mut times: Vec<Time> = self.times.iter().map(|t| t.rounded()).collect();
        times.dedup();
        Self { times }
    }

    /// Builds the trajectory of a spacing that picks timesteps, for `steps` = S and `train_steps` = T. Only
    /// [`Spacing::Leading`] uses `steps_offset`.
    ///
    /// Duplicates are removed and [`Spacing::OfficialUniform`] may exceed S, so the number of network calls is
    /// [`calls`](Self::calls), not S.
    ///
    /// # Errors
    /// A spacing by noise levels, S = 0, S > T, T above [`MAX_TRAIN_STEPS`], or a leading offset that pushes the first
    /// index beyond T − 1. (diffusers accepts such an offset and reads past its table later.)
    pub fn named(spacing: Spacing, steps: usize, train_steps: u32, steps_offset: u32) -> Result<Self> {
        check_steps(steps, train_steps)?;
        // S ≤ T fits u32.
        let Some(mut times) = spacing.times(steps as u32, train_steps, steps_offset) else {
            return Err(Error::argument(format!(
                "spacing {spacing} picks noise levels, so it needs a noise schedule; use Trajectory::spaced"
            )));
        };
        times.dedup();
        times.reverse();
        if let Some(&first) = times.first()
            && first > u64::from(train_steps)
        {
            return Err(Error::argument(format!(
                "steps_offset: {steps_offset} puts the first of {steps} leading steps at index {}, beyond {}; \
                 lower steps_offset or the number of steps, or choose another spacing",
                first - 1,
                train_steps - 1
            )));
        }
        Self::from_times(times.into_iter().map(|t| Time::new(t as u32)).collect(), train_steps)
    }

    /// Builds a trajectory from network indices: strictly decreasing, each in 0..=T−1.
    ///
    /// # Errors
    /// The list is empty, an index lies outside 0..=T−1, or the indices do not strictly decrease.
    pub fn explicit(indices: &[u32], train_steps: u32) -> Result<Self> {
        if let Some(index) = indices.iter().find(|&&index| index >= train_steps) {
            return Err(Error::argument(format!(
                "times: index {index} is out of range, expected 0 to {} (the model has {train_steps} trained timesteps)",
                train_steps.saturating_sub(1)
            )));
        }
        Self::from_times(indices.iter().map(|&index| Time::from_index(index)).collect(), train_steps)
    }

    /// Builds a trajectory from timesteps of the paper: strictly decreasing, each in 1..=T.
    ///
    /// # Errors
    /// As [`explicit`](Self::explicit).
    pub fn from_times(times: Vec<Time>, train_steps: u32) -> Result<Self> {
        if times.is_empty() {
            return Err(Error::argument("times: expected at least one timestep, found none"));
        }
        if let Some(t) = times.iter().find(|t| **t == Time::CLEAN || **t > Time::new(train_steps)) {
            return Err(Error::argument(format!("times: t = {t} is outside 1 to T = {train_steps}")));
        }
        if let Some(i) = times.windows(2).position(|pair| pair[1] >= pair[0]) {
            return Err(Error::argument(format!(
                "times: must strictly decrease, but index {} is followed by {}",
                times[i].get() - 1.0,
                times[i + 1].get() - 1.0
            )));
        }
        Ok(Self { times })
    }

    /// The timesteps at which the network is called, decreasing.
    pub fn times(&self) -> &[Time] {
        &self.times
    }

    /// The number of network calls.
    pub fn calls(&self) -> usize {
        self.times.len()
    }

    /// The noisiest timestep, where sampling starts.
    pub fn start(&self) -> Time {
        self.times[0]
    }

    /// The steps (t, s) of sampling: s is the next timestep, or [`Time::CLEAN`] after the last.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = (Time, Time)> + ExactSizeIterator + '_ {
        (0..self.times.len()).map(|i| (self.times[i], self.times.get(i + 1).copied().unwrap_or(Time::CLEAN)))
    }

    /// The steps (s, t) of encoding: the same pairs in reverse, from clean data to the noisiest timestep.
    pub fn reverse_steps(&self) -> impl ExactSizeIterator<Item = (Time, Time)> + '_ {
        self.steps().rev().map(|(t, s)| (s, t))
    }
}

fn check_steps(steps: usize, train_steps: u32) -> Result<()> {
    if train_steps > MAX_TRAIN_STEPS {
        return Err(Error::argument(format!(
            "num_train_timesteps: expected at most {MAX_TRAIN_STEPS}, found {train_steps}"
        )));
    }
    if steps == 0 {
        return Err(Error::argument("steps: expected at least 1, found 0"));
    }
    if steps > train_steps as usize {
        return Err(Error::argument(format!(
            "steps: expected at most the model's {train_steps} trained timesteps, found {steps}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
