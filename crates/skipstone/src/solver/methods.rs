//! One function per solver. Each takes x_t (`[n, c, h, w]`) and what the network said, and gives x_s; scalars are f64,
//! and each element is computed in f64 before it is rounded.

use std::collections::VecDeque;

use ndarray::{Array4, Zip};

use crate::error::Result;
use crate::schedule::Time;
use crate::sigma::Step;

/// x_s = √a_s·(x̄_t + Δ) for Δ = Σ weight·view: a move of x̄ by the network's views.
fn moved<'a>(at: &Step, x_t: &Array4<f32>, views: impl IntoIterator<Item = (f64, &'a Array4<f32>)>) -> Array4<f32> {
    let signal = at.to.signal();
    scaled(x_t, signal / at.from.signal(), views.into_iter().map(|(weight, view)| (signal * weight, view)))
}

/// scale·x + Σ weight·view, summed in f64.
fn scaled<'a>(x: &Array4<f32>, scale: f64, views: impl IntoIterator<Item = (f64, &'a Array4<f32>)>) -> Array4<f32> {
    let mut sum = x.mapv(|x| scale * f64::from(x));
    for (weight, view) in views {
        Zip::from(&mut sum).and(view).for_each(|sum, &view| *sum += weight * f64::from(view));
    }
    sum.mapv(|sum| sum as f32)
}

/// Euler on dx̄ = ½·ε̂/σ_ve·d(σ_ve²) (DDIM Prop. 1, Eq. 15): x̄_s = x̄_t + ½·(σ_s² − σ_t²)/σ_t·ε̂. Order 1. Near clean
/// data, where σ_s/σ_t is small, it takes out only half of the noise that DDIM does.
pub(super) fn ve_euler(at: &Step, x_t: &Array4<f32>, eps: &Array4<f32>) -> Array4<f32> {
    let (t, s) = (at.from.sigma_ve(), at.to.sigma_ve());
    moved(at, x_t, [(0.5 * (s - t) * (s + t) / t, eps)])
}

/// Heun (Karras et al., arXiv 2206.00364, Alg. 1): an Euler step, then the mean of the slopes at both ends. Order 2. The
/// step onto clean data, where no network can be asked, stays Euler.
pub(super) fn heun(
    at: &Step,
    x_t: &Array4<f32>,
    eps: &Array4<f32>,
    eps_at: impl FnOnce(&Array4<f32>) -> Result<Array4<f32>>,
) -> Result<Array4<f32>> {
    let h = at.to.sigma_ve() - at.from.sigma_ve();
    let euler = moved(at, x_t, [(h, eps)]);
    if at.s == Time::CLEAN {
        return Ok(euler);
    }
    let eps_s = eps_at(&euler)?;
    Ok(moved(at, x_t, [(0.5 * h, eps), (0.5 * h, &eps_s)]))
}

/// Adams–Bashforth: the polynomial in σ_ve through the latest slopes, integrated over the step. Its order is the number
/// of slopes known, `past` with the latest first; the first step is DDIM's.
pub(super) fn adams_bashforth(steps: &[Step], x_t: &Array4<f32>, past: &VecDeque<Array4<f32>>) -> Array4<f32> {
    let at = &steps[steps.len() - 1];
    let nodes: Vec<f64> = steps.iter().rev().take(past.len()).map(|step| step.from.sigma_ve()).collect();
    moved(at, x_t, integrals(&nodes, at.from.sigma_ve(), at.to.sigma_ve()).into_iter().zip(past))
}

/// ∫ ℓ_j dσ from `from` to `to` for each Lagrange polynomial ℓ_j over at most four nodes.
fn integrals(nodes: &[f64], from: f64, to: f64) -> Vec<f64> {
    // Gauss–Legendre with two points is exact for cubics, which is the highest degree that four nodes give.
    let (middle, half) = (0.5 * (from + to), 0.5 * (to - from));
    let points = [middle - half / 3f64.sqrt(), middle + half / 3f64.sqrt()];
    let basis = |j: usize, sigma: f64| -> f64 {
        let others = nodes.iter().enumerate().filter(|&(k, _)| k != j);
        others.map(|(_, node)| (sigma - node) / (nodes[j] - node)).product()
    };
    (0..nodes.len()).map(|j| half * (basis(j, points[0]) + basis(j, points[1]))).collect()
}

/// DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, Alg. 2), in λ = −ln σ_ve and h = λ_s − λ_t:
/// x̄_s = σ_s/σ_t·x̄_t + (1 − e^(−h))·D, D the line through the last two x̂₀ taken half a step ahead. Order 2; the first
/// step and the one onto clean data (h infinite: D = x̂₀) are of order 1.
pub(super) fn dpm_plus_plus_2m(steps: &[Step], x_t: &Array4<f32>, past: &VecDeque<Array4<f32>>) -> Array4<f32> {
    let at = &steps[steps.len() - 1];
    let (t, s) = (at.from.sigma_ve(), at.to.sigma_ve());
    let before = steps.len().checked_sub(2).map(|i| steps[i].from.sigma_ve());
    // 1/(2r) with r = h_last/h.
    let ahead = match before {
        Some(before) if s > 0.0 => 0.5 * (t / s).ln() / (before / t).ln(),
        _ => 0.0,
    };
    let signal = at.to.signal();
    // 1 − e^(−h) = 1 − σ_s/σ_t.
    let gain = signal * (1.0 - s / t);
    let weights = [gain * (1.0 + ahead), -gain * ahead];
    scaled(x_t, signal / at.from.signal() * s / t, weights.into_iter().zip(past))
}

#[cfg(test)]
mod tests {
    use super::integrals;

    #[test]
    fn adams_bashforth_weights_on_even_steps_are_the_textbooks() {
        let textbook: [&[f64]; 4] = [
            &[1.0],
            &[1.5, -0.5],
            &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
            &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
        ];
        for expected in textbook {
            let nodes: Vec<f64> = (0..expected.len()).map(|k| -(k as f64)).collect();
            let found = integrals(&nodes, 0.0, 1.0);
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        }
    }

    #[test]
    fn adams_bashforth_weights_integrate_polynomials_on_uneven_steps_exactly() {
        let (nodes, from, to) = ([2.0, 3.1, 5.0, 5.4], 2.0, 1.7);
        for power in 0..4 {
            let weights = integrals(&nodes, from, to);
            let found: f64 = weights.iter().zip(nodes).map(|(w, node)| w * node.powi(power)).sum();
            let expected = (to.powi(power + 1) - from.powi(power + 1)) / f64::from(power + 1);
            assert!((found - expected).abs() < 1e-12, "{power}");
        }
    }
}
