use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::math::sigma::NoiseScale;

/// The noise injected by each step: a member of the η-family (DDIM Eq. 16), a named variance, or a list of σ.
///
/// ```
/// use skipstone::sampling::options::Noise;
/// let named: Vec<Noise> = ["0.2", "hat", "analytic", "learned"].iter().map(|name| name.parse().unwrap()).collect();
/// assert_eq!(named, [Noise::Eta(0.2), Noise::Hat, Noise::Analytic { eta: 1.0 }, Noise::Learned]);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "Json", try_from = "Json")]
pub enum Noise {
    /// σ(η): 0 is DDIM, 1 is DDPM.
    Eta(f64),
    /// σ̂, DDPM's larger variance.
    Hat,
    /// The variance that is optimal for the network (Analytic-DPM), from the model's calibration.
    Analytic {
        /// η of λ, the σ in the coefficient of ε̂: 1 is Analytic-DDPM, 0 is Analytic-DDIM.
        eta: f64,
    },
    /// The variance that the network predicts, for networks that learn it.
    Learned,
    /// One σ per network call, in step order.
    Vector(Vec<f64>),
}

impl Noise {
    /// The named variances.
    pub const NAMED: [Self; 3] = [Self::Hat, Self::Analytic { eta: 1.0 }, Self::Learned];

    /// σ(η).
    ///
    /// # Errors
    /// η is negative or not finite.
    pub fn eta(eta: f64) -> Result<Self> {
        checked(eta).map(Self::Eta)
    }
}

/// Checks η. Turns −0 into 0, so the same noise always has the same name.
pub(super) fn checked(eta: f64) -> Result<f64> {
    if eta.is_finite() && eta >= 0.0 {
        return Ok(eta.abs());
    }
    Err(Error::argument(format!("eta: expected a finite number of at least 0, found {eta}")))
}

impl Default for Noise {
    /// η = 0 (DDIM).
    fn default() -> Self {
        Self::Eta(0.0)
    }
}

impl From<&NoiseScale> for Noise {
    fn from(scale: &NoiseScale) -> Self {
        match scale {
            NoiseScale::Eta(eta) => Self::Eta(*eta),
            NoiseScale::Hat => Self::Hat,
            NoiseScale::Learned => Self::Learned,
            NoiseScale::Vector(sigmas) => Self::Vector(sigmas.clone()),
            NoiseScale::Analytic(analytic) => Self::Analytic { eta: analytic.eta },
        }
    }
}

impl fmt::Display for Noise {
    /// η as a number, `hat`, `learned`, `analytic` (or `analytic:0.5` for λ = σ(0.5)), or a list such as `[0.1,0.2]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eta(eta) => eta.fmt(f),
            Self::Hat => f.write_str("hat"),
            Self::Learned => f.write_str("learned"),
            Self::Analytic { eta: 1.0 } => f.write_str("analytic"),
            Self::Analytic { eta } => write!(f, "analytic:{eta}"),
            Self::Vector(sigmas) => {
                let sigmas: Vec<String> = sigmas.iter().map(f64::to_string).collect();
                write!(f, "[{}]", sigmas.join(","))
            }
        }
    }
}

impl FromStr for Noise {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| text.trim().parse().ok();
        let eta = |text: &str| number(text).and_then(|eta| checked(eta).ok());
        let noise = if let Some(named) = Self::NAMED.into_iter().find(|named| named.to_string() == text) {
            Some(named)
        } else if let Some(lambda_eta) = text.strip_prefix("analytic:") {
            eta(lambda_eta).map(|eta| Self::Analytic { eta })
        } else if let Some(list) = text.strip_prefix('[').and_then(|list| list.strip_suffix(']')) {
            list.split(',').map(number).collect::<Option<_>>().map(Self::Vector)
        } else {
            eta(text).map(Self::Eta)
        };
        noise.ok_or_else(|| {
            let names = Self::NAMED.map(|noise| noise.to_string()).join(", ");
            Error::argument(format!("eta: expected a number of at least 0, or one of {names}, found \"{text}\""))
        })
    }
}

/// Noise in JSON: a number, a name or a list.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Json {
    Number(f64),
    List(Vec<f64>),
    Text(String),
}

impl From<Noise> for Json {
    fn from(noise: Noise) -> Self {
        match noise {
            Noise::Eta(eta) => Self::Number(eta),
            Noise::Vector(sigmas) => Self::List(sigmas),
            named => Self::Text(named.to_string()),
        }
    }
}

impl TryFrom<Json> for Noise {
    type Error = Error;

    fn try_from(json: Json) -> Result<Self> {
        match json {
            Json::Number(eta) => Self::eta(eta),
            Json::List(sigmas) => Ok(Self::Vector(sigmas)),
            Json::Text(text) => text.parse(),
        }
    }
}
