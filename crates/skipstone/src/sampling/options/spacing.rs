use std::fmt;
use std::str::FromStr;

use super::text::choose;
use crate::error::{Error, Result};
use crate::math::trajectory::Spacing;

/// How a run picks S of the model's T timesteps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpacingChoice {
    /// By a named rule.
    Named(Spacing),
    /// The timesteps with the best evidence lower bound, from the model's calibration.
    Optimal,
}

impl SpacingChoice {
    /// Every choice, in the order the command line lists them.
    pub fn all() -> Vec<Self> {
        Spacing::ALL.into_iter().map(Self::Named).chain([Self::Optimal]).collect()
    }
}

impl From<Spacing> for SpacingChoice {
    fn from(spacing: Spacing) -> Self {
        Self::Named(spacing)
    }
}

impl fmt::Display for SpacingChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(spacing) => spacing.fmt(f),
            Self::Optimal => f.write_str("optimal"),
        }
    }
}

impl FromStr for SpacingChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        choose("spacing", name, &Self::all())
    }
}
