use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::math::schedule::{NoiseLevel, Time};
use crate::math::sigma::Step;

/// The formula for the weights γ_t in J_σ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightFormula {
    /// The exact weight from the KL divergence.
    #[default]
    Exact,
    /// The paper's 1/(2dσ²a_t). It omits a squared coefficient and a factor 1 − a_t, and divides by d.
    Paper,
}

impl fmt::Display for WeightFormula {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exact => "exact",
            Self::Paper => "paper",
        })
    }
}

impl FromStr for WeightFormula {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "exact" => Ok(Self::Exact),
            "paper" => Ok(Self::Paper),
            _ => Err(Error::argument(format!("weights \"{name}\": expected exact or paper"))),
        }
    }
}

/// The weight of ‖ε − ε̂‖² in KL(q_σ(x_s|x_t,x₀) ‖ p_θ(x_s|x_t)), in nats:
/// [√a_s − √((1−a_s−σ²)·a_t/(1−a_t))]²·(1−a_t)/(2·a_t·σ²), for 0 < σ² ≤ 1 − a_s and a_t > 0.
pub fn exact_weight(t: NoiseLevel, s: NoiseLevel, sigma: f64) -> f64 {
    // The derivative of the mean by x̂₀; the factor (1−a_t)/a_t below is the squared derivative of x̂₀ by ε̂.
    let of_x0 = s.signal() - ((s.one_minus - sigma * sigma).max(0.0) * t.alpha_bar / t.one_minus).sqrt();
    of_x0 * of_x0 * t.one_minus / (2.0 * t.alpha_bar * sigma * sigma)
}

/// The weight of ‖ε − ε̂‖² in the last step's −log N(x₀; x̂₀, σ₁²I), in nats: (1−a_t)/(2·a_t·σ₁²).
pub fn last_exact_weight(t: NoiseLevel, sigma_1: f64) -> f64 {
    t.one_minus / (2.0 * t.alpha_bar * sigma_1 * sigma_1)
}

/// γ_t as printed in the paper (Theorem 1): 1/(2dσ²a_t), where d is the number of dimensions of an image.
pub fn paper_weight(t: NoiseLevel, sigma: f64, dims: usize) -> f64 {
    1.0 / (2.0 * dims as f64 * sigma * sigma * t.alpha_bar)
}

/// The weights of J_σ for every step of a run. The last step uses `sigma_1` instead of the σ in `steps`.
///
/// # Errors
/// A σ or σ₁ is not positive, which makes the divergence infinite.
pub fn j_sigma_weights(steps: &[Step], sigma_1: f64, weighting: WeightFormula, dims: usize) -> Result<Vec<f64>> {
    steps
        .iter()
        .map(|step| {
            let is_last = step.s == Time::CLEAN;
            let sigma = if is_last { sigma_1 } else { step.sigma };
            check_sigma(sigma, step)?;
            Ok(match weighting {
                WeightFormula::Paper => paper_weight(step.from, sigma, dims),
                WeightFormula::Exact if is_last => last_exact_weight(step.from, sigma),
                WeightFormula::Exact => exact_weight(step.from, step.to, sigma),
            })
        })
        .collect()
}

/// Refuses a σ (σ₁ for the last step) that makes a term of the bound infinite.
pub(super) fn check_sigma(sigma: f64, step: &Step) -> Result<()> {
    if sigma.is_finite() && sigma > 0.0 {
        return Ok(());
    }
    if step.s == Time::CLEAN {
        return Err(Error::argument(format!("sigma_1: the decoder needs a finite number above 0, found {sigma}")));
    }
    Err(Error::argument(format!(
        "step t = {} to {}: the variational objective needs sigma > 0, found {sigma}; choose eta > 0",
        step.t.get(),
        step.s.get()
    )))
}
