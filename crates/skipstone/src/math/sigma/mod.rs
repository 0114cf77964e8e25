//! σ, the noise a step injects, and the three coefficients of a step (DDIM Eq. 12 and 16).

mod scale;

pub use scale::{Analytic, NoiseScale};

use crate::error::Result;
use crate::math::schedule::{FinalLevel, NoiseLevel, Schedule, Time};
use crate::math::trajectory::Trajectory;

/// Noise scale of the η-family for the step t → s, DDIM Eq. 16: 0 is DDIM, 1 the DDPM posterior.
pub fn sigma(eta: f64, t: NoiseLevel, s: NoiseLevel) -> f64 {
    eta * (s.noise() / t.noise()) * t.beta_from(s).max(0.0).sqrt()
}

/// x_s = x0·x̂₀ + eps·ε̂ + z·z, the three scalars of DDIM Eq. 12.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficients {
    /// Of x̂₀: √a_s.
    pub x0: f64,
    /// Of ε̂, the direction pointing to x_t: √(1 − a_s − σ²).
    pub eps: f64,
    /// Of fresh noise z: σ.
    pub z: f64,
}

impl Coefficients {
    /// A step to the level `s` that injects σ; 0 ≤ σ² ≤ 1 − a_s.
    pub fn new(s: NoiseLevel, sigma: f64) -> Self {
        // σ² may exceed 1 − a_s by a rounding, where the direction vanishes.
        Self { x0: s.signal(), eps: (s.one_minus - sigma * sigma).max(0.0).sqrt(), z: sigma }
    }

    /// The step without noise, √a·x̂₀ + √(1−a)·ε̂, to a level on either side: towards clean data it is DDIM
    /// sampling, away from it encoding.
    pub fn deterministic(to: NoiseLevel) -> Self {
        Self::new(to, 0.0)
    }
}

/// One step of a run with all its scalars: a row of the table that `inspect` prints.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The time at which the network is called.
    pub t: Time,
    /// The time on which the step lands.
    pub s: Time,
    /// The level of t.
    pub from: NoiseLevel,
    /// The level of s.
    pub to: NoiseLevel,
    /// The σ under the root of the direction's coefficient (λ of the analytic variance).
    pub sigma: f64,
    /// What x̂₀, ε̂ and z are multiplied by.
    pub coefficients: Coefficients,
}

/// Every step of a run: the times of `trajectory`, their levels, σ by `scale`.
///
/// ```
/// use skipstone::math::schedule::{BetaSchedule, FinalLevel, Schedule};
/// use skipstone::math::sigma::{NoiseScale, table};
/// use skipstone::math::trajectory::{Spacing, Trajectory};
/// let schedule = Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000)?;
/// let tau = Trajectory::named(Spacing::Linear, 10, 1000, 0)?;
/// let steps = table(&schedule, &tau, &NoiseScale::Eta(0.0), FinalLevel::Clean)?;
/// assert!(steps.iter().all(|step| step.sigma == 0.0));
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// A trajectory that starts beyond the schedule's T, or a σ outside 0 ≤ σ² ≤ 1 − a_s (the message names the step).
pub fn table(
    schedule: &Schedule,
    trajectory: &Trajectory,
    scale: &NoiseScale,
    final_level: FinalLevel,
) -> Result<Vec<Step>> {
    scale.check(trajectory.calls())?;
    let last = trajectory.calls() - 1;
    trajectory
        .steps()
        .enumerate()
        .map(|(i, (t, s))| {
            let from = schedule.level(t)?;
            let to = if s == Time::CLEAN { schedule.final_level(final_level) } else { schedule.level(s)? };
            let (sigma, coefficients) = scale.coefficients(i, i == last, from, to).map_err(|reason| {
                let (t, s) = (t.get(), s.get());
                crate::Error::argument(format!("{scale}: step {} of {} (t = {t} to {s}): {reason}", i + 1, last + 1))
            })?;
            Ok(Step { t, s, from, to, sigma, coefficients })
        })
        .collect()
}

#[cfg(test)]
mod tests;
