//! SA-Solver (Xue et al., arXiv 2309.05019) on x̂₀: stochastic Adams methods, predictor and corrector of order 2.
//!
//! τ scales the noise of the reverse process: 0 is the deterministic one, 1 the SDE of Song et al. With λ = −ln σ_ve,
//! h = λ_s − λ_t and k = 1 + τ², a step with x̂₀ linear in λ is
//! x_s = σ_s/σ_t·e^(−τ²h)·x_t + √a_s·((1 − e^(−kh))·x̂₀ + k·w·D) + σ_s·√(1 − e^(−2τ²h))·z, with the slope D of x̂₀ in λ.
//! The predictor takes D from the earlier step, the corrector from the step's end. As in the authors' program, w is h²/2,
//! the limit of the exact integral for short steps, which keeps the order.

use ndarray::Array4;

use super::combined;
use crate::error::Result;
use crate::math::schedule::{NoiseLevel, Schedule};
use crate::sampling::solver::Step;

/// The part of the timesteps in which τ is 1, as fractions of T; it is 0 outside.
const NOISY: std::ops::RangeInclusive<f64> = 0.2..=0.8;

/// x_s of SA-Solver. Both halves of a step have the same noise, so their difference needs the predictions only.
pub(in crate::sampling::solver) fn sa(step: &mut Step<'_>) -> Result<Array4<f32>> {
    let next = Interval::new(step.schedule, step.from, step.to);
    let z = if next.noise == 0.0 { None } else { Some(step.noise()?) };
    let here = &step.here.x0;
    let mut views = vec![(-next.signal * (-next.k * next.h).exp_m1(), here)];
    if let Some((before, last)) = step.past.first() {
        // The corrector puts the slope at the end of the step before in the place of the predictor's.
        let previous = Interval::new(step.schedule, *before, step.from);
        let correction = next.keep * previous.slope_weight();
        views.extend([(correction / previous.h, here), (-correction / previous.h, &last.x0)]);
        if let Some((first, earlier)) = step.past.get(1) {
            let h = lambda(*before) - lambda(*first);
            views.extend([(-correction / h, &last.x0), (correction / h, &earlier.x0)]);
        }
        // The last step has order 1: onto clean data, it is infinite.
        if step.remaining > 1 {
            let weight = next.slope_weight();
            views.extend([(weight / previous.h, here), (-weight / previous.h, &last.x0)]);
        }
    }
    views.extend(z.iter().map(|z| (next.noise, z)));
    Ok(combined(step.x, next.keep, views))
}

/// −ln σ_ve.
fn lambda(level: NoiseLevel) -> f64 {
    -level.log_sigma_ve()
}

/// The scalars of a step.
struct Interval {
    /// λ_s − λ_t.
    h: f64,
    /// 1 + τ².
    k: f64,
    /// √a_s.
    signal: f64,
    /// Coefficient of x_t.
    keep: f64,
    /// Coefficient of z.
    noise: f64,
}

impl Interval {
    fn new(schedule: &Schedule, from: NoiseLevel, to: NoiseLevel) -> Self {
        let index = schedule.time(from).get() - 1.0;
        let is_noisy = NOISY.contains(&(index / f64::from(schedule.train_steps())));
        let h = lambda(to) - lambda(from);
        let (signal, ratio) = (to.signal(), to.noise() / from.noise());
        if is_noisy {
            let noise = to.noise() * (-(-2.0 * h).exp_m1()).sqrt();
            Self { h, k: 2.0, signal, keep: ratio * (-h).exp(), noise }
        } else {
            Self { h, k: 1.0, signal, keep: ratio, noise: 0.0 }
        }
    }

    /// √a_s·k·w, the weight of the slope D.
    fn slope_weight(&self) -> f64 {
        0.5 * self.signal * self.k * self.h * self.h
    }
}
