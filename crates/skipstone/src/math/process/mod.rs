//! The forward process q(x_t | x₀), the two conditionals of the family Q_σ, and training targets.

use ndarray::{Array4, Zip};

use crate::error::{Error, Result};
use crate::math::schedule::NoiseLevel;
use crate::math::sigma::Coefficients;
use crate::sampling::denoiser::Prediction;

/// A Gaussian conditioned on x₀ and one other latent x: N(x0·x₀ + x·x, variance·I).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditional {
    /// Coefficient of x₀ in the mean.
    pub x0: f64,
    /// Coefficient of the other latent in the mean.
    pub x: f64,
    /// Variance of each element.
    pub variance: f64,
}

/// q_σ(x_s | x_t, x₀), DDIM Eq. 7: mean √a_s·x₀ + √(1−a_s−σ²)·(x_t − √a_t·x₀)/√(1−a_t), variance σ².
///
/// Requires 0 ≤ σ² ≤ 1 − a_s and a noisy t.
pub fn reverse(t: NoiseLevel, s: NoiseLevel, sigma: f64) -> Conditional {
    let c = Coefficients::new(s, sigma);
    Conditional { x0: c.x0 - c.eps * t.signal() / t.noise(), x: c.eps / t.noise(), variance: sigma * sigma }
}

/// q_σ(x_t | x_s, x₀), the "forward" conditional by Bayes (DDIM Eq. 8): mean
/// √a_t·x₀ + √((1−a_t)(1−a_s−σ²))/(1−a_s)·(x_s − √a_s·x₀), variance (1−a_t)σ²/(1−a_s).
///
/// It depends on x₀, so the process is not Markovian.
///
/// # Errors
/// s is clean, so x_s carries no noise to condition on; or σ is outside 0 < σ² ≤ 1 − a_s.
pub fn forward(t: NoiseLevel, s: NoiseLevel, sigma: f64) -> Result<Conditional> {
    if s.one_minus <= 0.0 {
        return Err(Error::argument("s: the forward conditional needs a noisy timestep (s >= 1), found clean data"));
    }
    if !(sigma > 0.0 && sigma * sigma <= s.one_minus * (1.0 + 1e-9)) {
        return Err(Error::argument(format!(
            "sigma: expected 0 < sigma <= sqrt(1 - a_s) = {}, found {sigma}",
            s.noise()
        )));
    }
    let direction = Coefficients::new(s, sigma).eps;
    let x = t.noise() * direction / s.one_minus;
    Ok(Conditional { x0: t.signal() - x * s.signal(), x, variance: t.one_minus * sigma * sigma / s.one_minus })
}

/// The x₀ for which the deterministic step from x_t lands on x_s: x₀ = (x_s − r·x_t)/(√a_s − r·√a_t) with
/// r = √((1−a_s)/(1−a_t)) (Salimans & Ho, arXiv 2202.00512, Appendix G). It is the target of a student whose one step
/// replaces several of its teacher's.
///
/// Requires a level s with less noise than t.
///
/// ```
/// use skipstone::{math::process::landing_x0, math::schedule::NoiseLevel};
/// // On clean data, the step lands on x₀ itself.
/// assert_eq!(landing_x0(NoiseLevel::from_alpha_bar(0.25), NoiseLevel::CLEAN, 0.7, -0.5), -0.5);
/// ```
pub fn landing_x0(t: NoiseLevel, s: NoiseLevel, x_t: f64, x_s: f64) -> f64 {
    let ratio = (s.one_minus / t.one_minus).sqrt();
    (x_s - ratio * x_t) / (s.signal() - ratio * t.signal())
}

/// Diffuses each image to its own noise level: x_t = √a_t·x₀ + √(1−a_t)·ε. Arrays are `[n, c, h, w]`, with n levels.
///
/// ```
/// use ndarray::Array4;
/// use skipstone::{math::process::diffuse, math::schedule::NoiseLevel};
/// let (x0, eps) = (Array4::ones((1, 1, 2, 2)), Array4::zeros((1, 1, 2, 2)));
/// let x_t = diffuse(&x0, &eps, &[NoiseLevel::from_alpha_bar(0.25)])?;
/// assert_eq!(x_t[[0, 0, 0, 0]], 0.5);
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// The shapes differ, or the number of levels differs from the number of images.
pub fn diffuse(x0: &Array4<f32>, eps: &Array4<f32>, levels: &[NoiseLevel]) -> Result<Array4<f32>> {
    per_image(x0, eps, levels, |level, x0, eps| level.signal() * x0 + level.noise() * eps)
}

/// The training target for x_t = √a_t·x₀ + √(1−a_t)·ε: ε, x₀, or v = √a·ε − √(1−a)·x₀, `[n, c, h, w]`.
///
/// # Errors
/// As [`diffuse`].
pub fn target(
    prediction: Prediction,
    x0: &Array4<f32>,
    eps: &Array4<f32>,
    levels: &[NoiseLevel],
) -> Result<Array4<f32>> {
    per_image(x0, eps, levels, |level, x0, eps| prediction.target(level, x0, eps))
}

fn per_image(
    x0: &Array4<f32>,
    eps: &Array4<f32>,
    levels: &[NoiseLevel],
    f: impl Fn(NoiseLevel, f64, f64) -> f64,
) -> Result<Array4<f32>> {
    if x0.dim() != eps.dim() || x0.dim().0 != levels.len() {
        return Err(Error::argument(format!(
            "expected x0 and eps of the same shape and one noise level per image, found {:?}, {:?} and {} levels",
            x0.shape(),
            eps.shape(),
            levels.len()
        )));
    }
    let mut out = Array4::zeros(x0.dim());
    for (((mut out, x0), eps), &level) in out.outer_iter_mut().zip(x0.outer_iter()).zip(eps.outer_iter()).zip(levels) {
        Zip::from(&mut out)
            .and(x0)
            .and(eps)
            .for_each(|out, &x0, &eps| *out = f(level, f64::from(x0), f64::from(eps)) as f32);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn the_deterministic_step_with_the_landing_x0_lands_there(
            n_s in 1e-4f64..0.99, beta in 1e-2f64..0.99, x_t in -3f64..3.0, x_s in -3f64..3.0,
        ) {
            let s = NoiseLevel { alpha_bar: 1.0 - n_s, one_minus: n_s };
            let t = s.after(beta);
            let x0 = landing_x0(t, s, x_t, x_s);
            let eps = (x_t - t.signal() * x0) / t.noise();
            let c = Coefficients::deterministic(s);
            prop_assert!((c.x0 * x0 + c.eps * eps - x_s).abs() < 1e-12);
        }

        #[test]
        fn reverse_and_forward_conditionals_preserve_the_marginals(
            n_s in 1e-4f64..0.99, beta in 1e-4f64..0.99, part in 1e-3f64..=1.0,
        ) {
            let s = NoiseLevel { alpha_bar: 1.0 - n_s, one_minus: n_s };
            let t = s.after(beta);
            let sigma = part * s.noise();
            // Lemma 1: propagate q(x_t|x₀) through q_σ(x_s|x_t,x₀), and q(x_s|x₀) through q_σ(x_t|x_s,x₀).
            let back = reverse(t, s, sigma);
            prop_assert!((back.x0 + back.x * t.signal() - s.signal()).abs() < 1e-12);
            prop_assert!((back.x * back.x * t.one_minus + back.variance - s.one_minus).abs() < 1e-12);
            let ahead = forward(t, s, sigma).unwrap();
            prop_assert!((ahead.x0 + ahead.x * s.signal() - t.signal()).abs() < 1e-12);
            prop_assert!((ahead.x * ahead.x * s.one_minus + ahead.variance - t.one_minus).abs() < 1e-12);
            // Bayes: both conditionals give the same joint, hence the same covariance of x_s and x_t.
            prop_assert!((back.x * t.one_minus - ahead.x * s.one_minus).abs() < 1e-12);
        }
    }

    #[test]
    fn forward_refuses_clean_s_and_sigma_out_of_range() {
        let (t, s) = (NoiseLevel::from_alpha_bar(0.2), NoiseLevel::from_alpha_bar(0.5));
        assert!(forward(t, NoiseLevel::CLEAN, 0.1).is_err());
        assert!(forward(t, s, 0.0).is_err());
        assert!(forward(t, s, 0.8).is_err());
        assert!(forward(t, s, f64::NAN).is_err());
    }

    #[test]
    fn forward_process_is_markovian_with_the_ddpm_sigma() {
        let (t, s) = (NoiseLevel::from_alpha_bar(0.2), NoiseLevel::from_alpha_bar(0.5));
        let ahead = forward(t, s, crate::math::sigma::sigma(1.0, t, s)).unwrap();
        // q(x_t | x_s) = N(√(a_t/a_s)·x_s, 1 − a_t/a_s), independent of x₀.
        assert!(ahead.x0.abs() < 1e-14);
        assert!((ahead.x - 0.4f64.sqrt()).abs() < 1e-14 && (ahead.variance - 0.6).abs() < 1e-14);
    }

    #[test]
    fn diffuse_gives_each_image_its_own_level_and_checks_shapes() {
        let (x0, eps) = (Array4::ones((2, 1, 1, 1)), Array4::from_elem((2, 1, 1, 1), 2.0));
        let levels = [NoiseLevel::CLEAN, NoiseLevel { alpha_bar: 0.36, one_minus: 0.64 }];
        let x = diffuse(&x0, &eps, &levels).unwrap();
        assert_eq!((x[[0, 0, 0, 0]], x[[1, 0, 0, 0]]), (1.0, 2.2));
        let v = target(Prediction::Velocity, &x0, &eps, &levels).unwrap();
        assert_eq!((v[[0, 0, 0, 0]], v[[1, 0, 0, 0]]), (2.0, 0.4));
        assert!(diffuse(&x0, &eps, &levels[..1]).is_err());
        assert!(diffuse(&x0, &Array4::zeros((2, 1, 1, 2)), &levels).is_err());
    }
}
