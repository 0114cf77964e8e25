use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Serialize, Serializer};

use crate::error::{Error, Result};

/// A timestep t of the paper: 0 is clean data, 1..=T are the trained noise levels.
///
/// It may lie between two trained timesteps, but not between 0 and 1.
///
/// ```
/// use skipstone::math::schedule::Time;
/// let t = Time::between(17.5)?;
/// assert_eq!(t.index().unwrap().value(), 16.5);
/// assert_eq!((t.whole(), Time::new(17).whole()), (None, Some(17)));
/// # Ok::<(), skipstone::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Time(f64);

impl Time {
    /// t = 0: clean data, where the network is never called.
    pub const CLEAN: Self = Self(0.0);

    /// A whole timestep t.
    pub const fn new(t: u32) -> Self {
        Self(t as f64)
    }

    /// A timestep t that may lie between two trained ones.
    ///
    /// # Errors
    /// t is neither 0 nor a finite number of at least 1.
    pub fn between(t: f64) -> Result<Self> {
        if t == 0.0 {
            return Ok(Self::CLEAN);
        }
        if t.is_finite() && t >= 1.0 {
            return Ok(Self(t));
        }
        Err(Error::argument(format!("timestep: expected 0 or a finite number of at least 1, found {t}")))
    }

    /// A timestep known to be finite and at least 1.
    pub(super) const fn positive(t: f64) -> Self {
        Self(t)
    }

    /// The timestep of a network index, t = index + 1.
    pub const fn from_index(index: u32) -> Self {
        Self(index as f64 + 1.0)
    }

    /// The index on which the network is conditioned, t − 1; `None` for clean data.
    pub fn index(self) -> Option<Index> {
        (self.0 > 0.0).then_some(Index(self.0 - 1.0))
    }

    /// t as a number.
    pub const fn get(self) -> f64 {
        self.0
    }

    /// t if it is a whole number, as every trained timestep is.
    pub fn whole(self) -> Option<u32> {
        (self.0.fract() == 0.0 && self.0 <= f64::from(u32::MAX)).then_some(self.0 as u32)
    }

    /// The nearest whole timestep, for networks with a learned table of timestep embeddings.
    #[must_use]
    pub fn rounded(self) -> Self {
        Self(self.0.round_ties_even())
    }
}

// A `Time` is never NaN or −0, so float equality is an equivalence relation and the order is total.
impl PartialEq for Time {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Time {}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Time {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Hash for Time {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The index on which a network is conditioned: t − 1, a whole number for trained timesteps. Text and JSON hold it as a
/// number, for example 999 or 998.5.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Index(f64);

impl Index {
    /// The index as a number.
    pub const fn value(self) -> f64 {
        self.0
    }

    /// The timestep of this index, t = index + 1.
    pub const fn time(self) -> Time {
        Time(self.0 + 1.0)
    }

    /// The index if it is a whole number.
    pub fn whole(self) -> Option<u32> {
        Time(self.0).whole()
    }
}

impl From<u32> for Index {
    fn from(index: u32) -> Self {
        Self(f64::from(index))
    }
}

impl PartialEq<u32> for Index {
    fn eq(&self, other: &u32) -> bool {
        self.0 == f64::from(*other)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Index {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.whole() {
            Some(index) => serializer.serialize_u32(index),
            None => serializer.serialize_f64(self.0),
        }
    }
}
