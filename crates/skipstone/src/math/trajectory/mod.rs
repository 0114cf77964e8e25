//! Trajectories τ: which times a run visits (DDIM §4.2, D.2).
//!
//! A trajectory is a strictly decreasing list of times that ends on clean data. The target of a step is the next
//! element, never "t − T/S": the list alone says where a step lands.

mod optimal;
mod spacing;

pub use optimal::{BestTimes, optimal};
pub use spacing::Spacing;

use crate::error::{Error, Result};
use crate::math::schedule::{MAX_TRAIN_STEPS, NoiseLevel, Schedule, Time};

/// τ: strictly decreasing times from 1 to T, perhaps between two trained ones, one network call each, landing on [`Time::CLEAN`] after the last.
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
    /// The trajectory of any named spacing over a schedule: those that pick times, as [`named`](Self::named), and those
    /// that pick noise levels, whose times lie between the trained ones ([`whole`](Self::whole) brings them onto these).
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
    /// As [`named`](Self::named); zero terminal SNR under a spacing by noise levels, which has no first level.
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
                "spacing {spacing}: the first noise level is infinite (zero terminal SNR); choose another spacing"
            )));
        }
        let mut times: Vec<Time> =
            levels.into_iter().map(|log_sigma| schedule.time(NoiseLevel::from_log_sigma_ve(log_sigma))).collect();
        // The ends are trained times, whatever the rounding of the levels between.
        times[0] = ends[0];
        if steps > 1 {
            times[steps - 1] = ends[1];
        }
        times.dedup();
        Self::from_times(times, train_steps)
    }

    /// The same trajectory over trained times alone, each the nearest one: for networks with a table of times. Times
    /// that fall together become one.
    #[must_use]
    pub fn whole(&self) -> Self {
        let mut times: Vec<Time> = self.times.iter().map(|t| t.rounded()).collect();
        times.dedup();
        Self { times }
    }

    /// The trajectory of a spacing that picks times: `steps` = S asked for, `train_steps` = T; `steps_offset` concerns
    /// [`Spacing::Leading`] alone. Duplicates are removed and the official spacing over-runs, so
    /// [`calls`](Self::calls), not S, is the number of network calls.
    ///
    /// # Errors
    /// A spacing by noise levels, S = 0, S > T, T above [`MAX_TRAIN_STEPS`], or a leading offset that pushes the first
    /// index beyond T − 1. (diffusers lets that pass and reads past its table later.)
    pub fn named(spacing: Spacing, steps: usize, train_steps: u32, steps_offset: u32) -> Result<Self> {
        check_steps(steps, train_steps)?;
        // S ≤ T fits u32.
        let Some(mut times) = spacing.times(steps as u32, train_steps, steps_offset) else {
            return Err(Error::argument(format!("spacing {spacing}: picks noise levels, so it needs the schedule")));
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

    /// The trajectory whose network calls have these indices (0..T−1), strictly decreasing.
    ///
    /// # Errors
    /// An empty list, an index outside 0..T−1, or one that does not decrease.
    pub fn explicit(indices: &[u32], train_steps: u32) -> Result<Self> {
        if let Some(index) = indices.iter().find(|&&index| index >= train_steps) {
            return Err(Error::argument(format!(
                "times: index {index} is out of range, expected 0 to {} (the model has {train_steps} trained steps)",
                train_steps.saturating_sub(1)
            )));
        }
        Self::from_times(indices.iter().map(|&index| Time::from_index(index)).collect(), train_steps)
    }

    /// The trajectory of these times of the paper (1..=T), strictly decreasing.
    ///
    /// # Errors
    /// As [`explicit`](Self::explicit).
    pub fn from_times(times: Vec<Time>, train_steps: u32) -> Result<Self> {
        if times.is_empty() {
            return Err(Error::argument("times: expected at least one, found none"));
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

    /// The times at which the network is called, decreasing.
    pub fn times(&self) -> &[Time] {
        &self.times
    }

    /// The number of network calls.
    pub fn calls(&self) -> usize {
        self.times.len()
    }

    /// The noisiest time, where sampling starts.
    pub fn start(&self) -> Time {
        self.times[0]
    }

    /// The steps (t, s) of generation: s is the next time, [`Time::CLEAN`] after the last.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = (Time, Time)> + ExactSizeIterator + '_ {
        (0..self.times.len()).map(|i| (self.times[i], self.times.get(i + 1).copied().unwrap_or(Time::CLEAN)))
    }

    /// The steps (s, t) of encoding: the same pairs walked backwards, from clean data to the noisiest time.
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
            "steps: expected at most the model's {train_steps} trained steps, found {steps}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
