//! Shards: parts of the images for several machines.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The part of the images for one machine: the K-th of N nearly equal ranges.
///
/// ```
/// use skipstone::io::Shard;
/// let parts: Vec<_> = (1..=3).map(|k| format!("{k}/3").parse::<Shard>().unwrap().range(100..110)).collect();
/// assert_eq!(parts, [100..103, 103..106, 106..110]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// K, from 1.
    k: u64,
    /// N.
    of: u64,
}

impl Shard {
    /// The K-th of N parts.
    ///
    /// # Errors
    /// K is not from 1 to N.
    pub fn new(k: u64, of: u64) -> Result<Self> {
        match 1 <= k && k <= of {
            true => Ok(Self { k, of }),
            false => Err(Error::argument(format!("shard {k}/{of}: expected K/N with K from 1 to N"))),
        }
    }

    /// K, from 1.
    pub fn index(self) -> u64 {
        self.k
    }

    /// N.
    pub fn count(self) -> u64 {
        self.of
    }

    /// What a shard adds to the name of its output: `-00002-of-00003`.
    pub fn suffix(self) -> String {
        format!("-{:05}-of-{:05}", self.k, self.of)
    }

    /// The name before the suffix, and the shard, of a name that ends in one.
    pub fn split_name(name: &str) -> Option<(&str, Self)> {
        let (rest, of) = name.rsplit_once("-of-")?;
        let (stem, k) = rest.rsplit_once('-')?;
        let number =
            |text: &str| text.parse().ok().filter(|_| text.len() >= 5 && text.bytes().all(|b| b.is_ascii_digit()));
        Some((stem, Self::new(number(k)?, number(of)?).ok()?))
    }

    /// The images of this part.
    pub fn range(self, all: Range<u64>) -> Range<u64> {
        let n = u128::from(all.end - all.start);
        // The quotient is at most n.
        let at = |k: u64| all.start + (n * u128::from(k) / u128::from(self.of)) as u64;
        at(self.k - 1)..at(self.k)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.k, self.of)
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once('/').and_then(|(k, of)| Some((k.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((k, of)) if 1 <= k && k <= of => Ok(Self { k, of }),
            _ => Err(Error::argument(format!(
                "shard: expected K/N with K from 1 to N, for example 2/4, found \"{text}\""
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shards_cover_every_image_once(first in 0u64..1 << 60, n in 0u64..10_000, of in 1u64..50) {
            let all = first..first + n;
            let mut end = first;
            for k in 1..=of {
                let part = Shard { k, of }.range(all.clone());
                prop_assert_eq!(part.start, end);
                prop_assert!(part.end - part.start <= n / of + 1);
                end = part.end;
            }
            prop_assert_eq!(end, all.end);
        }
    }

    #[test]
    fn a_name_with_a_suffix_is_read_back() {
        let shard = Shard { k: 2, of: 3 };
        let name = format!("x-1{}", shard.suffix());
        assert_eq!(name, "x-1-00002-of-00003");
        assert_eq!(Shard::split_name(&name), Some(("x-1", shard)));
        for other in ["x", "x-2-of-3", "x-00004-of-00003", "x-00000-of-00003", "x-0000a-of-00003"] {
            assert_eq!(Shard::split_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_shard_that_is_none_is_refused() {
        for text in ["", "1", "0/2", "3/2", "a/b", "1/0", "-1/2"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
        assert_eq!("2/4".parse::<Shard>().unwrap().to_string(), "2/4");
    }
}
