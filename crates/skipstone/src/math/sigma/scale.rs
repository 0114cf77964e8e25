use std::fmt;

use super::{Coefficients, sigma};
use crate::error::{Error, Result};
use crate::math::schedule::NoiseLevel;

/// The noise that each step of a run injects.
#[derive(Clone, Debug, PartialEq)]
pub enum NoiseScale {
    /// σ_t(η) of DDIM Eq. 16, η ≥ 0. The last step injects no noise.
    Eta(f64),
    /// σ̂, DDPM's larger variance (DDIM §5). The direction uses σ(1) and the noise has scale √(1 − a_t/a_s). The last step
    /// injects no noise. σ̂ does not preserve the marginals.
    Hat,
    /// One σ per step, in step order.
    Vector(Vec<f64>),
    /// The variance that is optimal for the network.
    Analytic(Analytic),
    /// The variance that the network predicts for each value, in a second half of its output: ln σ² = v·ln β + (1−v)·ln β̃
    /// (Nichol & Dhariwal, arXiv 2102.09672, Eq. 15), with β = 1 − a_t/a_s and β̃ = σ(1)² of the step, so for any
    /// trajectory. The direction uses σ(1). The last step injects no noise.
    Learned,
}

/// The optimal variance of Analytic-DPM (Bao et al., arXiv 2201.06503, Theorem 1).
///
/// With λ = σ_t(η) in the coefficient of ε̂, fresh noise has the variance
/// σ*² = λ² + (√((1−a_t)·a_s/a_t) − √(1−a_s−λ²))²·(1 − E‖ε̂‖²/d). The last step injects no noise.
#[derive(Clone, Debug, PartialEq)]
pub struct Analytic {
    /// η of λ: 1 is Analytic-DDPM, 0 is Analytic-DDIM.
    pub eta: f64,
    /// E‖ε̂‖²/d at the timestep of each network call, in step order. A
    /// [`Calibration`](crate::objective::calibration::Calibration::analytic) holds it for every timestep.
    pub mean_squares: Vec<f64>,
}

impl fmt::Display for NoiseScale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eta(eta) => write!(f, "eta = {eta}"),
            Self::Hat => f.write_str("sigma hat"),
            Self::Vector(_) => f.write_str("sigmas"),
            Self::Learned => f.write_str("sigma learned"),
            Self::Analytic(analytic) => write!(f, "sigma analytic, eta = {}", analytic.eta),
        }
    }
}

impl NoiseScale {
    /// Refuses an invalid η and a list whose length is not `calls`.
    pub(super) fn check(&self, calls: usize) -> Result<()> {
        match self {
            Self::Eta(eta) | Self::Analytic(Analytic { eta, .. }) if !(eta.is_finite() && *eta >= 0.0) => {
                Err(Error::argument(format!("eta: expected a finite number of at least 0, found {eta}")))
            }
            Self::Analytic(Analytic { mean_squares, .. }) if mean_squares.len() != calls => Err(Error::argument(
                format!("mean_squares: expected one value per network call, {calls}, found {}", mean_squares.len()),
            )),
            Self::Vector(sigmas) if sigmas.len() != calls => Err(Error::argument(format!(
                "sigmas: expected one value per network call, {calls}, found {}",
                sigmas.len()
            ))),
            _ => Ok(()),
        }
    }

    /// σ and the coefficients of step `i` from t to s, or the reason why they do not exist.
    pub(super) fn coefficients(
        &self,
        i: usize,
        is_last: bool,
        t: NoiseLevel,
        s: NoiseLevel,
    ) -> std::result::Result<(f64, Coefficients), String> {
        match self {
            // Noise injected by the last step would stay in the image, whatever level that step lands on.
            Self::Eta(_) if is_last => Ok((0.0, Coefficients::deterministic(s))),
            Self::Eta(eta) => {
                let sigma = in_range(sigma(*eta, t, s), s)?;
                Ok((sigma, Coefficients::new(s, sigma)))
            }
            Self::Hat => {
                let sigma = sigma(1.0, t, s);
                let z = if is_last { 0.0 } else { t.beta_from(s).sqrt() };
                Ok((sigma, Coefficients { z, ..Coefficients::new(s, sigma) }))
            }
            Self::Learned if is_last => Ok((0.0, Coefficients::deterministic(s))),
            Self::Learned => {
                let sigma = sigma(1.0, t, s);
                let z = t.beta_from(s).sqrt();
                Ok((sigma, Coefficients { z, least_z: Some(sigma), ..Coefficients::new(s, sigma) }))
            }
            Self::Vector(sigmas) => {
                let sigma = in_range(sigmas[i], s)?;
                Ok((sigma, Coefficients::new(s, sigma)))
            }
            Self::Analytic(_) if is_last => Ok((0.0, Coefficients::deterministic(s))),
            Self::Analytic(Analytic { eta, mean_squares }) => {
                let lambda = in_range(sigma(*eta, t, s), s)?;
                let c = Coefficients::new(s, lambda);
                let z = analytic_variance(lambda, c, mean_squares[i], t, s)?.sqrt();
                Ok((lambda, Coefficients { z, ..c }))
            }
        }
    }
}

/// σ*² of a step; `c` holds its coefficients for λ.
fn analytic_variance(
    lambda: f64,
    c: Coefficients,
    mean_square: f64,
    t: NoiseLevel,
    s: NoiseLevel,
) -> std::result::Result<f64, String> {
    if t.alpha_bar == 0.0 {
        return Err(
            "the analytic variance is undefined at a_t = 0 (zero terminal SNR); choose another sigma".to_owned()
        );
    }
    if !(mean_square.is_finite() && mean_square >= 0.0) {
        return Err(format!("mean_squares: expected a finite value of at least 0, found {mean_square}"));
    }
    // The derivative of x_s by ε̂. E‖ε̂‖²/d ≤ 1 for the optimal ε̂; a trained network may exceed it.
    let of_eps = (t.one_minus * s.alpha_bar / t.alpha_bar).sqrt() - c.eps;
    Ok(lambda * lambda + of_eps * of_eps * (1.0 - mean_square).max(0.0))
}

/// σ if 0 ≤ σ² ≤ 1 − a_s, otherwise the reason. Above the bound the coefficient of ε̂ would be imaginary.
fn in_range(sigma: f64, s: NoiseLevel) -> std::result::Result<f64, String> {
    // Rounding may push a σ read from text, or η = 1 at adjacent levels, above the bound.
    const TOLERANCE: f64 = 1e-9;
    if !(sigma.is_finite() && sigma >= 0.0) {
        return Err(format!("expected a finite sigma of at least 0, found {sigma}"));
    }
    let bound = s.noise();
    if sigma > bound * (1.0 + TOLERANCE) {
        return Err(format!(
            "sigma = {sigma} is above its bound sqrt(1 - a_s) = {bound}; choose a smaller eta or sigma"
        ));
    }
    Ok(sigma.min(bound))
}
