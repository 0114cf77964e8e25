//! UniPC (Zhao et al., arXiv 2302.04867) on x̂₀ with B₂(h) = e^(−h) − 1: DPM-Solver++ with a corrector that costs no call.
//!
//! With λ = −ln σ_ve, h = λ_s − λ_t and D_j = (x̂₀_j − x̂₀)/r_j at r_j = (λ_j − λ_t)/h, both halves have the form
//! x_s = σ_s/σ_t·x_t − √a_s·(e^(−h) − 1)·(x̂₀ + Σ ρ_j·D_j). The predictor uses the earlier steps only. The next call then
//! tells x̂₀ at s, and the corrector repeats the step with it. The network is not called at the corrected state.

use ndarray::Array4;

use super::combined;
use crate::error::Result;
use crate::math::schedule::NoiseLevel;
use crate::sampling::solver::Step;

/// A prediction of x̂₀ and its noise level.
type Node<'a> = (NoiseLevel, &'a Array4<f32>);

/// UniPC-2: order 3, one more than that of its predictor.
pub(in crate::sampling::solver) fn second(step: &mut Step<'_>) -> Result<Array4<f32>> {
    Ok(run(step, 2))
}

/// UniPC-3: order 4.
pub(in crate::sampling::solver) fn third(step: &mut Step<'_>) -> Result<Array4<f32>> {
    Ok(run(step, 3))
}

/// The steps at the start have too few predictions for a higher order, and the order falls again towards the end, where
/// the steps in λ are long: the last one, onto clean data, is infinite.
fn run(step: &Step<'_>, order: usize) -> Array4<f32> {
    let past: Vec<Node<'_>> = step.past.iter().map(|(level, answer)| (*level, &answer.x0)).collect();
    let here = (step.from, &step.here.x0);
    // Both halves of the last step begin at the same state, so their difference needs the predictions only.
    let correction = past.split_first().map_or_else(Vec::new, |(&base, earlier)| {
        let order = order.min(past.len()).min(step.remaining + 1);
        let earlier = &earlier[..order - 1];
        let mut change = increment(base, step.from, earlier, Some(here.1));
        change.extend(increment(base, step.from, earlier, None).into_iter().map(|(weight, x0)| (-weight, x0)));
        change
    });
    let order = order.min(past.len() + 1).min(step.remaining);
    let keep = step.to.noise() / step.from.noise();
    let corrected = correction.into_iter().map(|(weight, x0)| (keep * weight, x0));
    let predicted = increment(here, step.to, &past[..order - 1], None);
    combined(step.x, keep, corrected.chain(predicted))
}

/// −√a_s·(e^(−h) − 1)·(x̂₀ + Σ ρ_j·D_j) of the step from `base` to `to` as weighted predictions. `there` is x̂₀ at `to`,
/// which makes the step the corrector's.
fn increment<'a>(
    base: Node<'a>,
    to: NoiseLevel,
    earlier: &[Node<'a>],
    there: Option<&'a Array4<f32>>,
) -> Vec<(f64, &'a Array4<f32>)> {
    let lambda = |level: NoiseLevel| -level.log_sigma_ve();
    let h = lambda(to) - lambda(base.0);
    let gain = -to.signal() * (-h).exp_m1();
    let mut nodes: Vec<(f64, &Array4<f32>)> =
        earlier.iter().map(|(level, x0)| ((lambda(*level) - lambda(base.0)) / h, *x0)).collect();
    nodes.extend(there.map(|x0| (1.0, x0)));
    let ratios: Vec<f64> = nodes.iter().map(|node| node.0).collect();
    let slopes: Vec<f64> = rho(&ratios, h).iter().zip(&ratios).map(|(rho, r)| gain * rho / r).collect();
    let first = (gain - slopes.iter().sum::<f64>(), base.1);
    std::iter::once(first).chain(slopes.into_iter().zip(nodes.into_iter().map(|node| node.1))).collect()
}

/// ρ with Σ_j ρ_j·r_j^(k−1) = k!·φ_(k+1)(z)·z/(e^z − 1) for k = 1…n and z = −h, where φ₁(z) = (e^z − 1)/z and
/// φ_(k+1)(z) = (φ_k(z) − 1/k!)/z: polynomials of degree n in λ are integrated exactly. A single ρ is ½, as in the
/// authors' program, which keeps the order.
fn rho(ratios: &[f64], h: f64) -> Vec<f64> {
    if ratios.len() <= 1 {
        return vec![0.5; ratios.len()];
    }
    let z = -h;
    let (mut phi, mut factorial) = (z.exp_m1() / z, 1.0);
    let right: Vec<f64> = (1..=ratios.len())
        .map(|k| {
            factorial *= k as f64;
            phi = (phi - 1.0 / factorial) / z;
            phi * factorial * z / z.exp_m1()
        })
        .collect();
    vandermonde(ratios, &right)
}

/// Solves Σ_j ρ_j·r_j^k = b_k for k = 0…n−1 and distinct r. By the Lagrange polynomials ℓ_j of the r, ρ_j = Σ_k ℓ_jk·b_k.
fn vandermonde(ratios: &[f64], right: &[f64]) -> Vec<f64> {
    let lagrange = |j: usize| {
        let others = ratios.iter().enumerate().filter(|&(i, _)| i != j);
        others.fold(vec![1.0], |coefficients, (_, r)| {
            // Times (x − r)/(r_j − r).
            let scale = 1.0 / (ratios[j] - r);
            let mut product = vec![0.0; coefficients.len() + 1];
            for (k, c) in coefficients.iter().enumerate() {
                product[k] -= scale * r * c;
                product[k + 1] += scale * c;
            }
            product
        })
    };
    (0..ratios.len()).map(|j| lagrange(j).iter().zip(right).map(|(l, b)| l * b).sum()).collect()
}

#[cfg(test)]
mod tests {
    use super::{rho, vandermonde};

    #[test]
    fn the_system_is_solved() {
        let (ratios, right) = ([-1.3, -0.4, 1.0], [0.7, -0.2, 0.5]);
        let found = vandermonde(&ratios, &right);
        for (k, b) in right.iter().enumerate() {
            let left: f64 = found.iter().zip(ratios).map(|(rho, r)| rho * r.powi(k as i32)).sum();
            assert!((left - b).abs() < 1e-12, "{k}");
        }
    }

    #[test]
    fn the_conditions_on_rho_are_moments_of_the_exponential() {
        // The right sides are h/(1 − e^(−h))·∫₀¹ e^(h(u−1))·u^k du, here by quadrature.
        let h = 0.8;
        let ratios = [-0.9, 1.0];
        let found = rho(&ratios, h);
        for k in 1..=2 {
            let n = 20_000;
            let mean: f64 = (0..n)
                .map(|i| (f64::from(i) + 0.5) / f64::from(n))
                .map(|u| (h * (u - 1.0)).exp() * u.powi(k))
                .sum::<f64>()
                / f64::from(n)
                * h
                / (1.0 - (-h).exp());
            let left: f64 = found.iter().zip(ratios).map(|(rho, r)| rho * r.powi(k - 1)).sum();
            assert!((left - mean).abs() < 1e-8, "{k}: {left} {mean}");
        }
    }
}
