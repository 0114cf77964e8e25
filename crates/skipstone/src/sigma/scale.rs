use std::fmt;

use super::{Coefficients, sigma};
use crate::error::{Error, Result};
use crate::schedule::NoiseLevel;

/// How much noise each step injects.
#[derive(Clone, Debug, PartialEq)]
pub enum NoiseScale {
    /// σ_t(η) of DDIM Eq. 16; η ≥ 0. The last step lands on its level without noise.
    Eta(f64),
    /// σ̂, DDPM's larger variance (DDIM §5): the direction keeps σ(1), the noise has √(1 − a_t/a_s), none on the
    /// last step. It leaves the family whose marginals are preserved.
    Hat,
    /// One σ per step, in step order.
    Vector(Vec<f64>),
}

impl fmt::Display for NoiseScale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eta(eta) => write!(f, "eta = {eta}"),
            Self::Hat => f.write_str("sigma hat"),
            Self::Vector(_) => f.write_str("sigmas"),
        }
    }
}

impl NoiseScale {
    /// What can be refused before any step is looked at.
    pub(super) fn check(&self, calls: usize) -> Result<()> {
        match self {
            Self::Eta(eta) if !(eta.is_finite() && *eta >= 0.0) => {
                Err(Error::argument(format!("eta: expected a finite number of at least 0, found {eta}")))
            }
            Self::Vector(sigmas) if sigmas.len() != calls => Err(Error::argument(format!(
                "sigmas: expected one value per network call, {calls}, found {}",
                sigmas.len()
            ))),
            _ => Ok(()),
        }
    }

    /// σ and the coefficients of step `i` from t to s, or why they do not exist.
    pub(super) fn coefficients(
        &self,
        i: usize,
        is_last: bool,
        t: NoiseLevel,
        s: NoiseLevel,
    ) -> std::result::Result<(f64, Coefficients), String> {
        match self {
            // Noise on the last step would stay in the image, whatever level that step lands on.
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
            Self::Vector(sigmas) => {
                let sigma = in_range(sigmas[i], s)?;
                Ok((sigma, Coefficients::new(s, sigma)))
            }
        }
    }
}

/// σ if 0 ≤ σ² ≤ 1 − a_s, else what is wrong. Above the bound the direction's coefficient would be imaginary.
fn in_range(sigma: f64, s: NoiseLevel) -> std::result::Result<f64, String> {
    // A σ read from text, or η = 1 at adjacent levels, may exceed the bound by its rounding.
    const TOLERANCE: f64 = 1e-9;
    if !(sigma.is_finite() && sigma >= 0.0) {
        return Err(format!("expected a finite sigma of at least 0, found {sigma}"));
    }
    let bound = s.noise();
    if sigma > bound * (1.0 + TOLERANCE) {
        return Err(format!("sigma = {sigma} is above its bound sqrt(1 - a_s) = {bound}"));
    }
    Ok(sigma.min(bound))
}
