//! tAB-DEIS (Zhang & Chen, arXiv 2204.13902): the polynomial in the timestep through the latest ε̂, integrated exactly.
//!
//! x̄_s = x̄_t + Σ_j ε̂_j·∫ ℓ_j(τ(σ)) dσ from σ_t to σ_s, with the Lagrange polynomials ℓ_j of the predictions' timesteps and
//! τ(σ) the timestep of a noise level. Adams–Bashforth (`ab2`, …) takes a polynomial in σ instead. The schedule gives τ(σ)
//! between two trained levels as everywhere: linear in ln σ. Below the first it is linear in σ, so that the last step,
//! onto clean data, needs no other method.

use ndarray::Array4;

use super::{lagrange, moved};
use crate::error::Result;
use crate::math::schedule::{NoiseLevel, Schedule, Time};
use crate::sampling::solver::Step;

/// tAB: the order is the number of known predictions. The first step equals DDIM's.
pub(in crate::sampling::solver) fn deis(step: &mut Step<'_>) -> Result<Array4<f32>> {
    let levels = std::iter::once(step.from).chain(step.past.iter().map(|(level, _)| *level));
    let nodes: Vec<f64> = levels.map(|level| time(step.schedule, level)).collect();
    let weights = integrals(step.schedule, &nodes, time(step.schedule, step.to))?;
    let slopes = std::iter::once(&step.here.eps).chain(step.past.iter().map(|(_, answer)| &answer.eps));
    Ok(moved(step, weights.into_iter().zip(slopes)))
}

/// The timestep of a level of the trajectory, 0 for clean data.
fn time(schedule: &Schedule, level: NoiseLevel) -> f64 {
    if level == NoiseLevel::CLEAN { 0.0 } else { schedule.time(level).get() }
}

/// ∫ ℓ_j(τ(σ)) dσ from τ = `nodes[0]` down to τ = `to` for each node.
fn integrals(schedule: &Schedule, nodes: &[f64], to: f64) -> Result<Vec<f64>> {
    let mut sums = vec![0.0; nodes.len()];
    let mut low = to;
    while low < nodes[0] {
        let high = (low.floor() + 1.0).min(nodes[0]);
        let (low_sigma, high_sigma) = (sigma(schedule, low)?, sigma(schedule, high)?);
        let (middle, half) = (0.5 * (low + high), 0.5 * (high - low));
        for (point, weight) in GAUSS {
            let tau = middle + half * point;
            // dσ/dτ within an interval of the schedule.
            let slope = match low_sigma {
                0.0 => high_sigma / high,
                _ => sigma(schedule, tau)? * (high_sigma / low_sigma).ln() / (high - low),
            };
            // Downwards, so with a minus.
            let weight = -half * weight * slope;
            sums.iter_mut().enumerate().for_each(|(j, sum)| *sum += weight * lagrange(nodes, j, tau));
        }
        low = high;
    }
    Ok(sums)
}

/// σ_ve at a timestep; linear from 0 to that of timestep 1.
fn sigma(schedule: &Schedule, tau: f64) -> Result<f64> {
    if tau < 1.0 {
        return Ok(tau * schedule.level(Time::new(1))?.sigma_ve());
    }
    Ok(schedule.level(Time::between(tau)?)?.sigma_ve())
}

/// Points and weights of Gauss–Legendre quadrature with four points on [−1, 1].
const GAUSS: [(f64, f64); 4] = [
    (-0.861_136_311_594_052_6, 0.347_854_845_137_453_85),
    (-0.339_981_043_584_856_3, 0.652_145_154_862_546_1),
    (0.339_981_043_584_856_3, 0.652_145_154_862_546_1),
    (0.861_136_311_594_052_6, 0.347_854_845_137_453_85),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::schedule::BetaSchedule;

    #[test]
    fn weights_add_up_to_the_step_in_sigma() {
        let schedule = Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap();
        for (nodes, to) in [(&[1000.0, 1000.0][..1], 900.0), (&[901.5, 940.0, 1000.0], 340.25), (&[12.0, 40.0], 0.0)] {
            let sum: f64 = integrals(&schedule, nodes, to).unwrap().iter().sum();
            let expected = sigma(&schedule, to).unwrap() - sigma(&schedule, nodes[0]).unwrap();
            assert!((sum / expected - 1.0).abs() < 1e-10, "{nodes:?}: {sum} {expected}");
        }
    }
}
