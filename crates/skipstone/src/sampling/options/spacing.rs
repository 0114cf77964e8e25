use std::fmt;
use std::str::FromStr;

use super::text::choose;
use crate::error::Result;
use crate::math::trajectory::{Respacing, Spacing};

/// How a run picks S of the model's T timesteps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SpacingChoice {
    /// By a named rule.
    Named(Spacing),
    /// The timesteps with the best evidence lower bound, from the model's calibration.
    Optimal,
    /// The timesteps whose run follows the deterministic path best, from the model's calibration.
    Fitted,
    /// By improved-diffusion's respacing, which states S.
    Respaced(Respacing),
}

impl SpacingChoice {
    /// Every choice with a name, in the order the command line lists them.
    pub fn all() -> Vec<Self> {
        Spacing::ALL.into_iter().map(Self::Named).chain([Self::Optimal, Self::Fitted]).collect()
    }
}

impl From<Spacing> for SpacingChoice {
    fn from(spacing: Spacing) -> Self {
        Self::Named(spacing)
    }
}

impl From<Respacing> for SpacingChoice {
    fn from(respacing: Respacing) -> Self {
        Self::Respaced(respacing)
    }
}

impl fmt::Display for SpacingChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(spacing) => spacing.fmt(f),
            Self::Optimal => f.write_str("optimal"),
            Self::Fitted => f.write_str("fitted"),
            Self::Respaced(respacing) => respacing.fmt(f),
        }
    }
}

impl FromStr for SpacingChoice {
    type Err = crate::Error;

    fn from_str(name: &str) -> Result<Self> {
        if let Some(rest) = name.strip_prefix("ddim").or(Some(name))
            && rest.starts_with(|first: char| first.is_ascii_digit())
        {
            return name.parse().map(Self::Respaced);
        }
        choose("spacing", name, &Self::all())
    }
}
