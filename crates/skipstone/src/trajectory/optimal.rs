use super::Trajectory;
use crate::error::{Error, Kind, Result};
use crate::schedule::Time;

/// The table of costs has half of this squared in entries: 256 MB.
const MOST_TIMES: u32 = 8192;

/// The cheapest trajectory of exactly `steps` network calls from T to clean data, where a step t → s costs
/// `cost(t, s)` (Watson et al., arXiv 2106.03802, Alg. 1): dynamic programming over the least cost of reaching clean
/// data from each time in k calls. Among equals the later time is taken.
///
/// ```
/// use skipstone::schedule::Time;
/// // Squared jumps are cheapest when they are even.
/// let cost = |t: Time, s: Time| f64::from(t.get() - s.get()).powi(2);
/// let tau = skipstone::trajectory::optimal(4, 100, cost)?;
/// assert_eq!(tau.times(), [100, 75, 50, 25].map(Time::new));
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// `steps` of 0 or above T, T above 8192 (the table would not fit), or a cost that is not a number.
pub fn optimal(steps: usize, train_steps: u32, mut cost: impl FnMut(Time, Time) -> f64) -> Result<Trajectory> {
    if steps == 0 || steps > train_steps as usize {
        return Err(Error::argument(format!(
            "steps: expected 1 to the model's {train_steps} trained steps, found {steps}"
        )));
    }
    if train_steps > MOST_TIMES {
        return Err(Error::unsupported(format!(
            "optimal times: a table over {train_steps} times would not fit; at most {MOST_TIMES}"
        )));
    }
    let times = train_steps as usize;
    let mut costs = Vec::with_capacity(times);
    for t in 1..=train_steps {
        let row: Vec<f64> = (0..t).map(|s| cost(Time::new(t), Time::new(s))).collect();
        if let Some(s) = row.iter().position(|cost| cost.is_nan()) {
            return Err(Error::new(Kind::NonFinite, format!("the cost of the step t = {t} to {s} is not a number")));
        }
        costs.push(row);
    }
    // least[t]: from t to clean data in the number of calls so far; before any, only clean data is there already.
    let mut least = vec![f64::INFINITY; times + 1];
    least[0] = 0.0;
    let mut next = Vec::with_capacity(steps);
    for _ in 0..steps {
        let mut improved = vec![f64::INFINITY; times + 1];
        let mut to = vec![0u32; times + 1];
        for t in 1..=times {
            for (s, cost) in costs[t - 1].iter().enumerate() {
                let total = cost + least[s];
                if total <= improved[t] && least[s].is_finite() {
                    (improved[t], to[t]) = (total, s as u32);
                }
            }
        }
        least = improved;
        next.push(to);
    }
    let mut t = train_steps;
    let mut found = Vec::with_capacity(steps);
    for to in next.iter().rev() {
        found.push(Time::new(t));
        t = to[t as usize];
    }
    Trajectory::from_times(found, train_steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some cost without structure.
    fn uneven(t: Time, s: Time) -> f64 {
        let mixed = (t.get() * 2654435 + s.get() * 40503) % 1009;
        f64::from(mixed) + f64::from(t.get() - s.get()).powi(2)
    }

    /// Every trajectory of so many calls from `t` down, with its cost.
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
    fn no_trajectory_is_cheaper_by_trying_them_all() {
        for calls in 1..=5 {
            let (times, cost) = all(12, calls).into_iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
            let found = optimal(calls, 12, uneven).unwrap();
            let of_found: f64 = found.steps().map(|(t, s)| uneven(t, s)).sum();
            assert!((of_found - cost).abs() < 1e-9, "{calls}: {found:?} instead of {times:?}");
            assert_eq!((found.calls(), found.start()), (calls, Time::new(12)));
        }
    }

    #[test]
    fn all_the_steps_are_all_the_times_and_meaningless_questions_are_refused() {
        let every: Vec<Time> = (1..=9).rev().map(Time::new).collect();
        assert_eq!(optimal(9, 9, uneven).unwrap().times(), every);
        assert!(optimal(0, 9, uneven).is_err());
        assert!(optimal(10, 9, uneven).is_err());
        assert_eq!(optimal(2, 9, |_, _| f64::NAN).unwrap_err().kind(), Kind::NonFinite);
        assert_eq!(optimal(2, 10_000, uneven).unwrap_err().kind(), Kind::Unsupported);
    }
}
