use std::fmt;
use std::str::FromStr;

use super::text::choose;
use crate::error::Result;
use crate::math::trajectory::Spacing;

/// A number of steps and a spacing for a purpose, with the [automatic solver](super::SolverChoice::Auto). They follow the
/// measurements in `docs/guide/solvers.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Preset {
    /// 10 steps.
    Fast,
    /// 20 steps: nearer to the exact process than DDIM with 50.
    Balanced,
    /// 50 steps.
    Best,
}

impl Preset {
    /// Every preset, in the order the command line lists them.
    pub const ALL: [Self; 3] = [Self::Fast, Self::Balanced, Self::Best];

    /// The number of steps. It is at most 50, the default of a model.
    pub fn steps(self) -> usize {
        match self {
            Self::Fast => 10,
            Self::Balanced => 20,
            Self::Best => 50,
        }
    }

    /// The spacing.
    pub fn spacing(self) -> Spacing {
        Spacing::Linear
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fast => "fast",
            Self::Balanced => "balanced",
            Self::Best => "best",
        })
    }
}

impl FromStr for Preset {
    type Err = crate::Error;

    fn from_str(name: &str) -> Result<Self> {
        choose("preset", name, &Self::ALL)
    }
}
