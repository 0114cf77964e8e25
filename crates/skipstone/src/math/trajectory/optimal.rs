use super::Trajectory;
use crate::error::{Error, Kind, Result};
use crate::math::schedule::Time;

/// Largest T. The cost table has half of this squared in entries: 256 MB.
const MOST_TIMES: u32 = 8192;

/// Finds the cheapest trajectory of exactly `steps` network calls from T to clean data, where a step t → s costs
/// `cost(t, s)` (Watson et al., arXiv 2106.03802, Alg. 1).
///
/// Dynamic programming computes the least cost of reaching clean data from each timestep in k calls. Ties go to the
/// noisier timestep.
///
/// ```
/// use skipstone::math::schedule::Time;
/// // Squared jumps are cheapest when all are equal.
/// let cost = |t: Time, s: Time| (t.get() - s.get()).powi(2);
/// let tau = skipstone::math::trajectory::optimal(4, 100, cost)?;
/// assert_eq!(tau.times(), [100, 75, 50, 25].map(Time::new));
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// `steps` is 0 or above T, T is above 8192 (the table would not fit), or a cost is NaN.
pub fn optimal(steps: usize, train_steps: u32, cost: impl FnMut(Time, Time) -> f64) -> Result<Trajectory> {
    BestTimes::new(steps, train_steps, cost)?.trajectory(steps)
}

/// The cheapest trajectories for every number of calls from 1 to a maximum, each the same as [`optimal()`] returns.
///
/// Holds the table of the dynamic programme: the next timestep for every timestep and every number of remaining calls.
/// Building it takes at most about `most`·T² / 2 additions; reading a trajectory takes `steps` look-ups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BestTimes {
    /// `next[k - 1][t]`: where the next step from t lands, with k calls left to reach clean data.
    next: Vec<Vec<u16>>,
    train_steps: u32,
}

impl BestTimes {
    /// Builds the table for up to `most` calls, where a step t → s costs `cost(t, s)`.
    ///
    /// # Errors
    /// As [`optimal()`], for `most` in place of `steps`.
    pub fn new(most: usize, train_steps: u32, mut cost: impl FnMut(Time, Time) -> f64) -> Result<Self> {
        check(most, train_steps)?;
        if train_steps > MOST_TIMES {
            return Err(Error::unsupported(format!(
                "optimal spacing: expected at most {MOST_TIMES} trained timesteps (the cost table grows with their \
                 square), found {train_steps}"
            )));
        }
        let times = train_steps as usize;
        let mut costs = Vec::with_capacity(times);
        for t in 1..=train_steps {
            let row: Vec<f64> = (0..t).map(|s| cost(Time::new(t), Time::new(s))).collect();
            if let Some(s) = row.iter().position(|cost| cost.is_nan()) {
                return Err(Error::new(
                    Kind::NonFinite,
                    format!("cost of the step t = {t} to {s}: expected a number, found NaN"),
                ));
            }
            costs.push(row);
        }
        // least[t]: least cost from t to clean data in `calls` calls. With none, only clean data itself costs nothing.
        let mut least = vec![f64::INFINITY; times + 1];
        least[0] = 0.0;
        let mut next = Vec::with_capacity(most);
        for calls in 0..most {
            let mut improved = vec![f64::INFINITY; times + 1];
            let mut to = vec![0u16; times + 1];
            // Timesteps strictly decrease, so `calls` + 1 calls need t ≥ `calls` + 1.
            for t in calls + 1..=times {
                for (s, cost) in costs[t - 1].iter().enumerate().skip(calls) {
                    let total = cost + least[s];
                    if total <= improved[t] && least[s].is_finite() {
                        // s < MOST_TIMES fits u16.
                        (improved[t], to[t]) = (total, s as u16);
                    }
                }
            }
            least = improved;
            next.push(to);
        }
        Ok(Self { next, train_steps })
    }

    /// The cheapest trajectory of exactly `steps` calls.
    ///
    /// # Errors
    /// `steps` is 0, above T, or above the table's maximum.
    pub fn trajectory(&self, steps: usize) -> Result<Trajectory> {
        check(steps, self.train_steps)?;
        if steps > self.next.len() {
            let most = self.next.len();
            return Err(Error::argument(format!("steps: the table of optimal times holds 1 to {most}, found {steps}")));
        }
        let mut t = self.train_steps;
        let mut found = Vec::with_capacity(steps);
        for to in self.next[..steps].iter().rev() {
            found.push(Time::new(t));
            t = to[t as usize].into();
        }
        Trajectory::from_times(found, self.train_steps)
    }
}

fn check(steps: usize, train_steps: u32) -> Result<()> {
    if steps == 0 || steps > train_steps as usize {
        return Err(Error::argument(format!(
            "steps: expected 1 to the model's {train_steps} trained timesteps, found {steps}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An irregular cost.
    fn uneven(t: Time, s: Time) -> f64 {
        let mixed = (t.get() * 2_654_435.0 + s.get() * 40_503.0) % 1009.0;
        mixed + (t.get() - s.get()).powi(2)
    }

    /// Every trajectory of `calls` calls starting at `t`, with its cost.
    fn all(t: u32, calls: usize) -> Vec<(Vec<u32>, f64)> {
        if calls == 1 {
            return vec![(vec![t], uneven(Time::new(t), Time::CLEAN))];
        }
        let step = |s: u32| {
            all(s, calls - 1).into_iter().map(move |(rest, cost)| {
                (std::iter::once(t).chain(rest).collect(), cost + uneven(Time::new(t), Time::new(s)))
            })
        };
        (1..t).flat_map(step).collect()
    }

    #[test]
    fn optimal_matches_exhaustive_search() {
        for calls in 1..=5 {
            let (times, cost) = all(12, calls).into_iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
            let found = optimal(calls, 12, uneven).unwrap();
            let of_found: f64 = found.steps().map(|(t, s)| uneven(t, s)).sum();
            assert!((of_found - cost).abs() < 1e-9, "{calls}: {found:?} instead of {times:?}");
            assert_eq!((found.calls(), found.start()), (calls, Time::new(12)));
        }
    }

    #[test]
    fn t_steps_visit_every_timestep_and_invalid_arguments_are_refused() {
        let every: Vec<Time> = (1..=9).rev().map(Time::new).collect();
        assert_eq!(optimal(9, 9, uneven).unwrap().times(), every);
        assert!(optimal(0, 9, uneven).is_err());
        assert!(optimal(10, 9, uneven).is_err());
        assert_eq!(optimal(2, 9, |_, _| f64::NAN).unwrap_err().kind(), Kind::NonFinite);
        assert_eq!(optimal(2, 10_000, uneven).unwrap_err().kind(), Kind::Unsupported);
    }

    #[test]
    fn one_table_gives_the_optimum_for_every_number_of_calls() {
        let table = BestTimes::new(12, 12, uneven).unwrap();
        for calls in 1..=12 {
            let found = table.trajectory(calls).unwrap();
            let of_found: f64 = found.steps().map(|(t, s)| uneven(t, s)).sum();
            let least = all(12, calls).into_iter().map(|(_, cost)| cost).min_by(f64::total_cmp).unwrap();
            assert!((of_found - least).abs() < 1e-9, "{calls}: {found:?}");
            assert_eq!(found.calls(), calls);
        }
        assert!(table.trajectory(0).is_err());
        assert!(table.trajectory(13).is_err());
        assert!(BestTimes::new(3, 12, uneven).unwrap().trajectory(4).is_err());
    }
}
