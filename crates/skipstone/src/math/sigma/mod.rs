//! σ, the scale of the noise a step injects, and the three coefficients of a step (DDIM Eq. 12 and 16).

mod scale;

pub use scale::{Analytic, NoiseScale};

use crate::error::Result;
use crate::math::schedule::{FinalLevel, NoiseLevel, Schedule, Time};
use crate::math::trajectory::Trajectory;

/// σ_t(η) of the step t → s (DDIM Eq. 16): η = 0 is DDIM, η = 1 the DDPM posterior.
pub fn sigma(eta: f64, t: NoiseLevel, s: NoiseLevel) -> f64 {
    eta * (s.noise() / t.noise()) * t.beta_from(s).max(0.0).sqrt()
}

/// The three scalars of DDIM Eq. 12: x_s = x0·x̂₀ + eps·ε̂ + z·z.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficients {
    /// Coefficient of x̂₀: √a_s.
    pub x0: f64,
    /// Coefficient of ε̂, the direction pointing to x_t: √(1 − a_s − σ²).
    pub eps: f64,
    /// Coefficient of fresh noise z: σ.
    pub z: f64,
    /// For a variance that the network learns, the other end of its range: ln σ of each value lies between the logarithms
    /// of this and of `z`, at the place that the network predicts.
    pub least_z: Option<f64>,
}

impl Coefficients {
    /// A step to level `s` that injects noise of scale σ, 0 ≤ σ² ≤ 1 − a_s.
    pub fn new(s: NoiseLevel, sigma: f64) -> Self {
        // At the bound, rounding may leave σ² slightly above 1 − a_s.
        Self { x0: s.signal(), eps: (s.one_minus - sigma * sigma).max(0.0).sqrt(), z: sigma, least_z: None }
    }

    /// The noise-free step √a·x̂₀ + √(1−a)·ε̂ to level `to`. Towards clean data it is DDIM sampling; away from clean data
    /// it is encoding.
    pub fn deterministic(to: NoiseLevel) -> Self {
        Self::new(to, 0.0)
    }
}

/// One step of a run with all its scalars: a row of the table printed by `inspect`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The timestep of the network call.
    pub t: Time,
    /// The timestep on which the step lands.
    pub s: Time,
    /// Noise level of t.
    pub from: NoiseLevel,
    /// Noise level of s.
    pub to: NoiseLevel,
    /// The σ inside √(1 − a_s − σ²), the coefficient of ε̂ (λ for the analytic variance).
    pub sigma: f64,
    /// Coefficients of x̂₀, ε̂ and z.
    pub coefficients: Coefficients,
}

/// Every step of a run: the timesteps of `trajectory`, their noise levels, and σ from `scale`.
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
/// The trajectory starts beyond the schedule's T, or a step has σ outside 0 ≤ σ² ≤ 1 − a_s. The message names the step.
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
