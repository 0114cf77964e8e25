use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// How to clip an x̂₀ outside the data range, and what to do with its ε̂.
///
/// ```
/// use skipstone::sampling::denoiser::{Bound, Clip};
/// assert_eq!("keep-eps".parse::<Clip>()?, Clip::KeepEps(Bound::Range(1.0)));
/// # Ok::<(), skipstone::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Clip {
    /// Do not clip, as in the authors' code.
    #[default]
    Off,
    /// Clip x̂₀ and keep the network's ε̂ (diffusers' default).
    KeepEps(Bound),
    /// Clip x̂₀ and derive ε̂ from it again (guided-diffusion). Only this mode makes η = 1 equal DDPM with clipping.
    RederiveEps(Bound),
}

/// The range to which x̂₀ is clipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Clamp to ±range.
    Range(f64),
    /// Clamp to a quantile of each image, then scale to ±1.
    Dynamic(DynamicThreshold),
}

/// Dynamic thresholding (Saharia et al., arXiv 2205.11487): s = clamp(quantile(|x̂₀|, ratio), 1, max) per image,
/// x̂₀ = clamp(x̂₀, ±s)/s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicThreshold {
    /// The quantile, in 0..=1.
    pub ratio: f64,
    /// The largest s, at least 1.
    pub max: f64,
}

/// The bound of one image, with its quantile computed.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    range: f64,
    divisor: f64,
}

impl Limit {
    pub(super) fn apply(self, x0: f64) -> f64 {
        x0.clamp(-self.range, self.range) / self.divisor
    }
}

impl Clip {
    /// The same mode with dynamic thresholding instead of a fixed range.
    ///
    /// # Errors
    /// Clipping is off, so it is undefined whether to keep ε̂; or the threshold is invalid.
    pub fn with_threshold(self, threshold: DynamicThreshold) -> Result<Self> {
        let clip = match self {
            Self::Off => {
                return Err(Error::argument(
                    "threshold: needs clipping, which is off; choose clip keep-eps or rederive-eps",
                ));
            }
            Self::KeepEps(_) => Self::KeepEps(Bound::Dynamic(threshold)),
            Self::RederiveEps(_) => Self::RederiveEps(Bound::Dynamic(threshold)),
        };
        clip.check()?;
        Ok(clip)
    }

    /// Checks the range or the threshold.
    ///
    /// # Errors
    /// The range is not a positive finite number, the ratio is outside 0..=1, or the maximum is below 1.
    pub fn check(self) -> Result<()> {
        match self {
            Self::Off => Ok(()),
            Self::KeepEps(Bound::Range(range)) | Self::RederiveEps(Bound::Range(range)) => {
                if range.is_finite() && range > 0.0 {
                    return Ok(());
                }
                Err(Error::argument(format!("clip range: expected a positive finite number, found {range}")))
            }
            Self::KeepEps(Bound::Dynamic(by)) | Self::RederiveEps(Bound::Dynamic(by)) => {
                if (0.0..=1.0).contains(&by.ratio) && by.max.is_finite() && by.max >= 1.0 {
                    return Ok(());
                }
                Err(Error::argument(format!(
                    "threshold: expected a ratio of 0 to 1 and a maximum of at least 1, found {} and {}",
                    by.ratio, by.max
                )))
            }
        }
    }

    /// The limit for one image. `magnitudes` returns its |x̂₀| and is called only for a quantile.
    pub(super) fn limit(self, magnitudes: impl FnOnce() -> Vec<f64>) -> Limit {
        match self {
            Self::Off => Limit { range: f64::INFINITY, divisor: 1.0 },
            Self::KeepEps(Bound::Range(range)) | Self::RederiveEps(Bound::Range(range)) => {
                Limit { range, divisor: 1.0 }
            }
            Self::KeepEps(Bound::Dynamic(by)) | Self::RederiveEps(Bound::Dynamic(by)) => {
                let s = quantile(&mut magnitudes(), by.ratio).clamp(1.0, by.max);
                Limit { range: s, divisor: s }
            }
        }
    }
}

/// The quantile with linear interpolation, as in torch.quantile. 0 for no values.
pub(super) fn quantile(values: &mut [f64], ratio: f64) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let rank = ratio * (values.len() - 1) as f64;
    let below = rank.floor() as usize;
    let (_, &mut low, rest) = values.select_nth_unstable_by(below, f64::total_cmp);
    let high = rest.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    low + (high - low) * (rank - rank.floor())
}

impl fmt::Display for Clip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bound) = match self {
            Self::Off => return f.write_str("off"),
            Self::KeepEps(bound) => ("keep-eps", bound),
            Self::RederiveEps(bound) => ("rederive-eps", bound),
        };
        match bound {
            Bound::Range(range) => write!(f, "{name} to ±{range}"),
            Bound::Dynamic(by) => write!(f, "{name} at the quantile {}, at most ±{}", by.ratio, by.max),
        }
    }
}

impl FromStr for Clip {
    type Err = Error;

    /// `off`, `keep-eps` or `rederive-eps`; the last two with the range ±1.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "off" => Ok(Self::Off),
            "keep-eps" => Ok(Self::KeepEps(Bound::Range(1.0))),
            "rederive-eps" => Ok(Self::RederiveEps(Bound::Range(1.0))),
            _ => Err(Error::argument(format!("clip \"{name}\": expected off, keep-eps or rederive-eps"))),
        }
    }
}
