use serde::{Deserialize, Serialize};
use skipstone::generate::ClipMode;
use utoipa::ToSchema;

/// Noise that is no η.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SigmaName {
    /// σ̂, DDPM's larger variance.
    Hat,
    /// The variance that fits the network best; needs a calibration.
    Analytic,
}

impl SigmaName {
    /// The word of the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hat => "hat",
            Self::Analytic => "analytic",
        }
    }
}

/// What becomes of a predicted image outside the data's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClipName {
    /// Nothing.
    Off,
    /// x̂₀ is clipped, ε̂ kept.
    KeepEps,
    /// x̂₀ is clipped, ε̂ derived from it again.
    RederiveEps,
}

impl ClipName {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Off, Self::KeepEps, Self::RederiveEps];

    /// The word of the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::KeepEps => "keep-eps",
            Self::RederiveEps => "rederive-eps",
        }
    }

    /// The library's choice.
    pub fn mode(self) -> ClipMode {
        match self {
            Self::Off => ClipMode::Off,
            Self::KeepEps => ClipMode::KeepEps,
            Self::RederiveEps => ClipMode::RederiveEps,
        }
    }
}
