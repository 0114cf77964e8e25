//! One function per scheme. Each takes a [`Step`] from x_t to x_s and returns x_s, `[n, c, h, w]`. Scalars are f64; each
//! element is computed in f64, then rounded to f32.

mod deis;
mod sa;
mod unipc;

pub(super) use deis::deis;
pub(super) use sa::sa;
pub(super) use unipc::{second as unipc_2, third as unipc_3};

use ndarray::{Array4, Zip};

use super::Step;
use crate::error::Result;
use crate::math::schedule::NoiseLevel;
use crate::sampling::sampler;

/// DDIM (Eq. 12): x_s = √a_s·x̂₀ + √(1 − a_s − σ²)·ε̂ + σ·z. With σ = 0 it is Euler's method in σ_ve, order 1.
pub(super) fn ddim(step: &mut Step<'_>) -> Result<Array4<f32>> {
    let c = step.coefficients;
    let z = if c.z == 0.0 { None } else { Some(step.noise()?) };
    Ok(sampler::step(step.here, c, z.as_ref()))
}

/// Euler on dx̄ = ½·ε̂/σ_ve·d(σ_ve²) (DDIM Prop. 1, Eq. 15): x̄_s = x̄_t + ½·(σ_s² − σ_t²)/σ_t·ε̂. Order 1. Near clean
/// data, where σ_s/σ_t is small, it removes only half as much noise as DDIM.
pub(super) fn ve_euler(step: &mut Step<'_>) -> Result<Array4<f32>> {
    let (t, s) = step.sigmas();
    Ok(moved(step, [(0.5 * (s - t) * (s + t) / t, &step.here.eps)]))
}

/// Heun (Karras et al., arXiv 2206.00364, Alg. 1): an Euler step, then the mean of the slopes at both ends. Order 2. The
/// last step stays Euler, because the network is never called on clean data.
pub(super) fn heun(step: &mut Step<'_>) -> Result<Array4<f32>> {
    let (t, s) = step.sigmas();
    let h = s - t;
    let euler = moved(step, [(h, &step.here.eps)]);
    if step.is_last() {
        return Ok(euler);
    }
    let there = step.ask(&euler, step.to)?;
    Ok(moved(step, [(0.5 * h, &step.here.eps), (0.5 * h, &there.eps)]))
}

/// DPM-Solver-2 in σ_ve, in the form of Karras et al. (arXiv 2206.00364): an Euler step to the geometric mean
/// σ_m = √(σ_t·σ_s), then the whole step with the slope there, x̄_s = x̄_t + (σ_s − σ_t)·ε̂(x̄_m, σ_m). Order 2. The last
/// step stays Euler, because its midpoint would be clean data.
pub(super) fn dpm2(step: &mut Step<'_>) -> Result<Array4<f32>> {
    let (t, s) = step.sigmas();
    if step.is_last() {
        return Ok(moved(step, [(s - t, &step.here.eps)]));
    }
    let middle = NoiseLevel::from_log_sigma_ve(0.5 * (step.from.log_sigma_ve() + step.to.log_sigma_ve()));
    let h = middle.sigma_ve() - t;
    let x_middle = combined(step.x, middle.signal() / step.from.signal(), [(middle.signal() * h, &step.here.eps)]);
    let there = step.ask(&x_middle, middle)?;
    Ok(moved(step, [(s - t, &there.eps)]))
}

/// Adams–Bashforth: integrates the polynomial in σ_ve through the latest slopes over the step. The order is the number of
/// known slopes, so the first step equals DDIM's.
pub(super) fn adams_bashforth(step: &mut Step<'_>) -> Result<Array4<f32>> {
    let (t, s) = step.sigmas();
    let nodes: Vec<f64> = std::iter::once(t).chain(step.past.iter().map(|(level, _)| level.sigma_ve())).collect();
    let slopes = std::iter::once(&step.here.eps).chain(step.past.iter().map(|(_, answer)| &answer.eps));
    Ok(moved(step, integrals(&nodes, t, s).into_iter().zip(slopes)))
}

/// DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, Alg. 2), in λ = −ln σ_ve and h = λ_s − λ_t:
/// x̄_s = σ_s/σ_t·x̄_t + (1 − e^(−h))·D, where D extrapolates the last two x̂₀ linearly by half a step. Order 2. The first
/// step, and the step onto clean data (h infinite, D = x̂₀), have order 1.
pub(super) fn dpm_plus_plus_2m(step: &mut Step<'_>) -> Result<Array4<f32>> {
    let (t, s) = step.sigmas();
    let signal = step.to.signal();
    // 1 − e^(−h) = 1 − σ_s/σ_t.
    let gain = signal * (1.0 - s / t);
    Ok(combined(step.x, signal / step.from.signal() * s / t, half_ahead(step, gain)))
}

/// DPM-Solver++(2M) for the stochastic process (Lu et al., arXiv 2211.01095, Eq. 19 with the multistep of Alg. 2), in
/// λ = −ln σ_ve and h = λ_s − λ_t: x_s = √((1−a_s)/(1−a_t))·e^(−h)·x_t + √a_s·(1 − e^(−2h))·D + √((1−a_s)(1 − e^(−2h)))·z
/// with D as in [`dpm_plus_plus_2m`]. Order 2 in the mean, in the limit of vanishing noise. It sets its own noise scale.
pub(super) fn dpm_plus_plus_2m_sde(step: &mut Step<'_>) -> Result<Array4<f32>> {
    let (t, s) = step.sigmas();
    let ratio = s / t;
    // 1 − e^(−2h) = 1 − (σ_s/σ_t)².
    let gain = 1.0 - ratio * ratio;
    let keep = step.to.signal() / step.from.signal() * ratio * ratio;
    let z = if s == 0.0 { None } else { Some(step.noise()?) };
    let noise = z.iter().map(|z| (step.to.noise() * gain.sqrt(), z));
    let data = half_ahead(step, step.to.signal() * gain);
    Ok(combined(step.x, keep, data.into_iter().chain(noise)))
}

/// DPM-Solver++(3M), the multistep method with three x̂₀ of Lu et al. (arXiv 2211.01095), in λ = −ln σ_ve and h = λ_s − λ_t:
/// x̄_s = σ_s/σ_t·x̄_t + (1 − e^(−h))·x̂₀ + (e^(−h) − 1 + h)/h·D₁ + (½ − (e^(−h) − 1 + h)/h²)·D₂, where D₁ is h times the slope of
/// the parabola through the last three x̂₀ and D₂ is h²/2 times its second derivative. The exact integral has 2·D₂ there: the
/// authors' program and diffusers halve it, and so does this function. It makes the order 2 rather than 3. The first two
/// steps have the orders of (1M) and (2M), and so have the last two of a run of fewer than 15 steps; the step onto clean data
/// always has order 1.
pub(super) fn dpm_plus_plus_3m(step: &mut Step<'_>) -> Result<Array4<f32>> {
    let [(before, last), (first, earlier)] = step.past else { return dpm_plus_plus_2m(step) };
    if step.is_last() || step.remaining == 2 && step.steps < 15 {
        return dpm_plus_plus_2m(step);
    }
    let lambda = |level: NoiseLevel| -level.log_sigma_ve();
    let h = lambda(step.to) - lambda(step.from);
    // Lengths of the two steps before, in units of h.
    let r0 = (lambda(step.from) - lambda(*before)) / h;
    let r1 = (lambda(*before) - lambda(*first)) / h;
    let shrink = (-h).exp_m1();
    let (of_d1, of_d2) = ((shrink + h) / h, 0.5 - (shrink + h) / (h * h));
    // D₂ = (δ₀ − δ₁)/(r₀ + r₁) and D₁ = δ₀ + r₀·D₂ with δ₀ = (x̂₀ − x̂₀′)/r₀ and δ₁ = (x̂₀′ − x̂₀″)/r₁, by earlier x̂₀.
    let of_both = (of_d2 + r0 * of_d1) / (r0 + r1);
    let (of_slope, of_earlier_slope) = ((of_d1 + of_both) / r0, -of_both / r1);
    let signal = step.to.signal();
    let views = [
        (-shrink + of_slope, &step.here.x0),
        (of_earlier_slope - of_slope, &last.x0),
        (-of_earlier_slope, &earlier.x0),
    ];
    let keep = step.to.noise() / step.from.noise();
    Ok(combined(step.x, keep, views.map(|(weight, view)| (signal * weight, view))))
}

/// gain·D as weighted x̂₀. D extrapolates the last two x̂₀ linearly by half a step in λ. It is the last x̂₀ alone if there
/// is no earlier one or the step is infinite.
fn half_ahead<'a>(step: &Step<'a>, gain: f64) -> Vec<(f64, &'a Array4<f32>)> {
    let (t, s) = step.sigmas();
    match step.past.first() {
        Some((before, answer)) if s > 0.0 => {
            // 1/(2r) with r = h_last/h.
            let ahead = 0.5 * (t / s).ln() / (before.sigma_ve() / t).ln();
            vec![(gain * (1.0 + ahead), &step.here.x0), (-gain * ahead, &answer.x0)]
        }
        _ => vec![(gain, &step.here.x0)],
    }
}

/// x_s = √a_s·(x̄_t + Δ) with Δ = Σ weight·view.
fn moved<'a>(step: &Step<'_>, views: impl IntoIterator<Item = (f64, &'a Array4<f32>)>) -> Array4<f32> {
    let signal = step.to.signal();
    combined(step.x, signal / step.from.signal(), views.into_iter().map(|(weight, view)| (signal * weight, view)))
}

/// scale·x + Σ weight·view, accumulated in f64.
fn combined<'a>(x: &Array4<f32>, scale: f64, views: impl IntoIterator<Item = (f64, &'a Array4<f32>)>) -> Array4<f32> {
    let mut sum = x.mapv(|x| scale * f64::from(x));
    for (weight, view) in views {
        Zip::from(&mut sum).and(view).for_each(|sum, &view| *sum += weight * f64::from(view));
    }
    sum.mapv(|sum| sum as f32)
}

/// ∫ ℓ_j dσ from `from` to `to` for each Lagrange polynomial ℓ_j on at most four nodes.
fn integrals(nodes: &[f64], from: f64, to: f64) -> Vec<f64> {
    // Two-point Gauss–Legendre is exact for cubics, the highest degree on four nodes.
    let (middle, half) = (0.5 * (from + to), 0.5 * (to - from));
    let points = [middle - half / 3f64.sqrt(), middle + half / 3f64.sqrt()];
    (0..nodes.len()).map(|j| half * points.iter().map(|&point| lagrange(nodes, j, point)).sum::<f64>()).collect()
}

/// The Lagrange polynomial of node j at a point: 1 at the node, 0 at the others.
fn lagrange(nodes: &[f64], j: usize, point: f64) -> f64 {
    let others = nodes.iter().enumerate().filter(|&(k, _)| k != j);
    others.map(|(_, node)| (point - node) / (nodes[j] - node)).product()
}

#[cfg(test)]
mod tests {
    use super::integrals;

    #[test]
    fn adams_bashforth_weights_match_the_textbook_on_equal_steps() {
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
    fn adams_bashforth_weights_integrate_polynomials_exactly_on_unequal_steps() {
        let (nodes, from, to) = ([2.0, 3.1, 5.0, 5.4], 2.0, 1.7);
        for power in 0..4 {
            let weights = integrals(&nodes, from, to);
            let found: f64 = weights.iter().zip(nodes).map(|(w, node)| w * node.powi(power)).sum();
            let expected = (to.powi(power + 1) - from.powi(power + 1)) / f64::from(power + 1);
            assert!((found - expected).abs() < 1e-12, "{power}");
        }
    }
}
