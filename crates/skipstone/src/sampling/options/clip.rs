use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text::choose;
use crate::error::{Error, Result};
use crate::sampling::denoiser::{Bound, Clip, DynamicThreshold};

/// How to clip an x̂₀ outside the data range. The range itself comes from the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipMode {
    /// Do not clip.
    Off,
    /// Clip x̂₀ and keep ε̂, as diffusers does.
    KeepEps,
    /// Clip x̂₀ and derive ε̂ from it again.
    RederiveEps,
}

impl ClipMode {
    /// Every mode, in the order the command line lists them.
    pub const ALL: [Self; 3] = [Self::Off, Self::KeepEps, Self::RederiveEps];

    /// Adds a range to the mode.
    pub fn within(self, range: Bound) -> Clip {
        match self {
            Self::Off => Clip::Off,
            Self::KeepEps => Clip::KeepEps(range),
            Self::RederiveEps => Clip::RederiveEps(range),
        }
    }

    /// Splits a [`Clip`] into its mode and its range.
    pub fn of(clip: Clip) -> (Self, Option<Bound>) {
        match clip {
            Clip::Off => (Self::Off, None),
            Clip::KeepEps(bound) => (Self::KeepEps, Some(bound)),
            Clip::RederiveEps(bound) => (Self::RederiveEps, Some(bound)),
        }
    }
}

impl fmt::Display for ClipMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::KeepEps => "keep-eps",
            Self::RederiveEps => "rederive-eps",
        })
    }
}

impl FromStr for ClipMode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        choose("clip", name, &Self::ALL)
    }
}

impl fmt::Display for DynamicThreshold {
    /// `RATIO,MAX`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.ratio, self.max)
    }
}

impl FromStr for DynamicThreshold {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers =
            text.split_once(',').and_then(|(ratio, max)| Some((ratio.trim().parse().ok()?, max.trim().parse().ok()?)));
        let (ratio, max) = numbers.ok_or_else(|| {
            Error::argument(format!("threshold: expected two numbers, for example 0.995,1.5, found \"{text}\""))
        })?;
        Ok(Self { ratio, max })
    }
}

impl Serialize for DynamicThreshold {
    /// `[ratio, max]`, as in manifests.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        [self.ratio, self.max].serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for DynamicThreshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <[f64; 2]>::deserialize(deserializer).map(|[ratio, max]| Self { ratio, max })
    }
}
