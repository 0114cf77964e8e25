use std::f64::consts::{PI, SQRT_2};

/// log P(x₀) in nats under the discretised Gaussian N(mean, σ²) (DDPM Eq. 13).
///
/// P(x₀) is the mass of the bin of width 2/255 around x₀. The bins of −1 and 1 are open outwards. `x0` is rounded to the
/// nearest of the 256 levels −1 + 2k/255.
pub fn log_likelihood(x0: f64, mean: f64, sigma: f64) -> f64 {
    let level = ((x0 + 1.0) * 127.5).round().clamp(0.0, 255.0);
    let centre = level / 127.5 - 1.0;
    let low = if level == 0.0 { f64::NEG_INFINITY } else { (centre - 1.0 / 255.0 - mean) / sigma };
    let high = if level == 255.0 { f64::INFINITY } else { (centre + 1.0 / 255.0 - mean) / sigma };
    log_mass(low, high)
}

/// log(Φ(high) − Φ(low)) for low < high, without cancellation or underflow.
fn log_mass(low: f64, high: f64) -> f64 {
    /// Below this width the density's relative curvature is under 1e-8; a difference of tails would lose more.
    const NARROW: f64 = 1e-5;
    if high - low < NARROW {
        let middle = 0.5 * (low + high);
        return (high - low).ln() - 0.5 * middle * middle - 0.5 * (2.0 * PI).ln();
    }
    if low < 0.0 && high > 0.0 {
        // Both tails are at most ½, so nothing cancels.
        return (-(log_upper_tail(high).exp() + log_upper_tail(-low).exp())).ln_1p();
    }
    // Both ends lie on one side of 0. By symmetry, use the upper tail.
    let (near, far) = if low >= 0.0 { (low, high) } else { (-high, -low) };
    let (log_near, log_far) = (log_upper_tail(near), log_upper_tail(far));
    log_near + (-(log_far - log_near).exp()).ln_1p()
}

/// log(1 − Φ(z)) for z ≥ 0.
fn log_upper_tail(z: f64) -> f64 {
    if z == f64::INFINITY {
        return f64::NEG_INFINITY;
    }
    if z < 30.0 {
        return (0.5 * libm::erfc(z / SQRT_2)).ln();
    }
    // Where erfc would underflow, its asymptotic series has converged: 1 − 1/z² + 3/z⁴ − 15/z⁶.
    let r = 1.0 / (z * z);
    -0.5 * z * z - (z * (2.0 * PI).sqrt()).ln() + (-r * (1.0 - r * (3.0 - 15.0 * r))).ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_256_bins_hold_the_whole_mass() {
        for (mean, sigma) in [(0.0, 0.5), (0.9, 0.01), (-1.5, 0.2), (0.0, 10.0)] {
            let total: f64 = (0..256).map(|k| log_likelihood(f64::from(k) / 127.5 - 1.0, mean, sigma).exp()).sum();
            assert!((total - 1.0).abs() < 1e-9, "{mean} {sigma}: {total}");
        }
    }

    #[test]
    fn a_wide_gaussian_gives_density_times_bin_width() {
        let found = log_likelihood(1.0 / 255.0, 0.3, 0.8);
        let x: f64 = 1.0 / 255.0 - 0.3;
        let density = (-x * x / (2.0 * 0.64)).exp() / (0.8 * (2.0 * PI).sqrt());
        assert!((found - (density * 2.0 / 255.0).ln()).abs() < 1e-4);
    }

    #[test]
    fn a_bin_much_narrower_than_sigma_keeps_its_digits() {
        for sigma in [1e2, 1e4, 1e6, 1e12, 1e200] {
            // The density is flat over the data range, so the mass is 2/255 of its peak up to a relative (2/σ)²/2.
            let expected = -(sigma * 127.5 * (2.0 * PI).sqrt()).ln();
            let found = log_likelihood(1.0 / 255.0, 0.0, sigma);
            assert!((found - expected).abs() < 1e-3 / sigma + 1e-9, "{sigma}: {found} {expected}");
        }
    }

    #[test]
    fn far_tails_stay_finite_and_follow_their_asymptotic_form() {
        // Deep in the tail the bin's near edge dominates: −z²/2 − ln(z·√(2π)).
        let sigma = 1e-3;
        let z = (1.0 - 1.0 / 255.0 + 0.5) / sigma;
        let found = log_likelihood(1.0, -0.5, sigma);
        assert!((found + 0.5 * z * z + (z * (2.0 * PI).sqrt()).ln()).abs() < 1e-5 * z);
        // The series continues erfc without a jump.
        let (below, above) = (log_upper_tail(30.0 - 1e-9), log_upper_tail(30.0));
        assert!((below - above).abs() < 1e-6);
    }
}
