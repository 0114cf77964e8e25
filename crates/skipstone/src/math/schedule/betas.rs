use std::f64::consts::FRAC_PI_2;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The largest T accepted. A config with a larger one is treated as corrupt.
pub const MAX_TRAIN_STEPS: u32 = 1_000_000;

/// A family of noise schedules β_1..β_T, under the names that checkpoints use.
#[derive(Clone, Debug, PartialEq)]
pub enum BetaSchedule {
    /// β equally spaced from start to end (DDPM: 1e-4 to 0.02 over 1000 timesteps).
    Linear,
    /// √β equally spaced; "quad" in the authors' code.
    ScaledLinear,
    /// a_t ∝ cos²((t/T + 0.008)/1.008·π/2), with β capped at 0.999 (Nichol & Dhariwal, arXiv 2102.09672).
    SquaredCosCapV2,
    /// β on a logistic curve over −6..=6.
    Sigmoid,
    /// β = end at every timestep.
    Const,
    /// β_t = 1/(T − t + 1), from 1/T to 1, so a_T = 0 (Sohl-Dickstein et al., arXiv 1503.03585).
    Jsd,
    /// An explicit list β_1..β_T.
    Trained(Vec<f64>),
}

impl fmt::Display for BetaSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear",
            Self::ScaledLinear => "scaled_linear",
            Self::SquaredCosCapV2 => "squaredcos_cap_v2",
            Self::Sigmoid => "sigmoid",
            Self::Const => "const",
            Self::Jsd => "jsd",
            Self::Trained(_) => "trained_betas",
        })
    }
}

impl FromStr for BetaSchedule {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "linear" => Self::Linear,
            "scaled_linear" | "quad" => Self::ScaledLinear,
            "squaredcos_cap_v2" => Self::SquaredCosCapV2,
            "sigmoid" => Self::Sigmoid,
            "const" => Self::Const,
            "jsd" => Self::Jsd,
            _ => {
                return Err(Error::unsupported(format!(
                    "beta schedule \"{name}\": expected linear, scaled_linear (quad), squaredcos_cap_v2, sigmoid, \
                     const or jsd, or a list of trained betas"
                )));
            }
        })
    }
}

impl BetaSchedule {
    /// β_1..β_T, not yet checked to lie in (0, 1).
    ///
    /// # Errors
    /// T is 0 or above [`MAX_TRAIN_STEPS`], or an explicit list has a length other than T.
    pub(super) fn betas(&self, start: f64, end: f64, train_steps: u32) -> Result<Vec<f64>> {
        if train_steps == 0 || train_steps > MAX_TRAIN_STEPS {
            return Err(Error::argument(format!(
                "num_train_timesteps: expected 1 to {MAX_TRAIN_STEPS}, found {train_steps}"
            )));
        }
        let n = train_steps as usize;
        let total = f64::from(train_steps);
        let cos2 = |t: f64| libm::cos((t + 0.008) / 1.008 * FRAC_PI_2).powi(2);
        Ok(match self {
            Self::Linear => linspace(start, end, n).collect(),
            Self::ScaledLinear => linspace(start.sqrt(), end.sqrt(), n).map(|root| root * root).collect(),
            Self::SquaredCosCapV2 => (0..train_steps)
                .map(|i| {
                    // Divide as floats: integer division would make every β but the last zero.
                    let (t1, t2) = (f64::from(i) / total, f64::from(i + 1) / total);
                    (1.0 - cos2(t2) / cos2(t1)).min(0.999)
                })
                .collect(),
            Self::Sigmoid => linspace(-6.0, 6.0, n).map(|x| (end - start) / (1.0 + libm::exp(-x)) + start).collect(),
            Self::Const => vec![end; n],
            Self::Jsd => (0..train_steps).map(|i| 1.0 / f64::from(train_steps - i)).collect(),
            Self::Trained(betas) if betas.len() == n => betas.clone(),
            Self::Trained(betas) => {
                return Err(Error::argument(format!("trained_betas: expected {n} values, found {}", betas.len())));
            }
        })
    }
}

/// `n` equally spaced values with both ends exact. For n = 1 only the start.
pub(crate) fn linspace(start: f64, end: f64, n: usize) -> impl Iterator<Item = f64> {
    let step = if n > 1 { (end - start) / (n - 1) as f64 } else { 0.0 };
    (0..n).map(move |i| if n > 1 && i + 1 == n { end } else { i as f64 * step + start })
}

/// The betas of s'_t = (s_t − s_T)·s_1/(s_1 − s_T) with s_t = √a_t. The first level stays; the last has no signal.
pub(super) fn zero_terminal_snr(betas: &[f64]) -> Result<Vec<f64>> {
    let mut s = Vec::with_capacity(betas.len());
    let mut root = 1.0;
    for &beta in betas {
        root *= (1.0 - beta).sqrt();
        s.push(root);
    }
    let (Some(&s_first), Some(&s_last), true) = (s.first(), s.last(), betas.len() > 1) else {
        return Err(Error::argument("rescale_betas_zero_snr: expected at least 2 trained timesteps, found 1"));
    };
    let rescaled = |i: usize| (s[i] - s_last) * s_first / (s_first - s_last);
    let mut out = vec![betas[0]];
    for t in 1..betas.len() {
        let (before, after) = (rescaled(t - 1), rescaled(t));
        // 1 − (after/before)², factored to keep the digits of a small difference:
        // s_{t−1} − s_t = s_{t−1}·(1 − √(1−β)) = s_{t−1}·β/(1 + √(1−β)).
        let root_step = s[t - 1] * betas[t] / (1.0 + (1.0 - betas[t]).sqrt()) * s_first / (s_first - s_last);
        out.push(if after == 0.0 { 1.0 } else { root_step * (before + after) / (before * before) });
    }
    Ok(out)
}
