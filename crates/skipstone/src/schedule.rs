//! β, a_t and times.

/// A time of the paper: 0 is clean data, 1..=T are the trained noise levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u32);

impl Time {
    /// t = 0: clean data, where no network is ever asked.
    pub const CLEAN: Self = Self(0);

    /// The paper's t.
    pub const fn new(t: u32) -> Self {
        Self(t)
    }

    /// The time whose network index is `index` (= t − 1).
    pub const fn from_index(index: u32) -> Self {
        Self(index + 1)
    }

    /// The index the network is conditioned on, t − 1; `None` at clean data.
    pub const fn index(self) -> Option<u32> {
        self.0.checked_sub(1)
    }

    /// The paper's t.
    pub const fn get(self) -> u32 {
        self.0
    }
}
