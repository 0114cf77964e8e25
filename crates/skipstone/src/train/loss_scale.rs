//! Dynamic loss scaling (Micikevicius et al., arXiv 1710.03740), for training in half precision.

use crate::error::{Error, Result};

/// A power of two by which the loss is multiplied, so that small gradients do not vanish in half precision. It halves when a
/// gradient overflows and doubles after [`PATIENCE`](Self::PATIENCE) steps without overflow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LossScale {
    factor: f64,
    /// Steps since the factor last changed.
    calm: u32,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { factor: 65_536.0, calm: 0 }
    }
}

impl LossScale {
    /// Steps without overflow after which the factor doubles.
    const PATIENCE: u32 = 2000;

    /// The largest factor.
    const MOST: f64 = (1u64 << 32) as f64;

    pub fn factor(self) -> f64 {
        self.factor
    }

    /// Notes a step whose gradient was finite.
    pub fn held(&mut self) {
        self.calm += 1;
        if self.calm >= Self::PATIENCE {
            *self = Self { factor: (2.0 * self.factor).min(Self::MOST), calm: 0 };
        }
    }

    /// Halves the factor after an overflow. Returns false if it is 1 already: then no scale helps.
    pub fn overflowed(&mut self) -> bool {
        let can = self.factor > 1.0;
        if can {
            *self = Self { factor: self.factor / 2.0, calm: 0 };
        }
        can
    }

    /// As text, for the training state.
    pub fn to_text(self) -> String {
        format!("{} {}", self.factor, self.calm)
    }

    /// Reads [`to_text`](Self::to_text).
    pub fn parse(text: &str) -> Result<Self> {
        let parts = text.split_once(' ').and_then(|(factor, calm)| Some((factor.parse().ok()?, calm.parse().ok()?)));
        match parts {
            Some((factor, calm)) if (1.0..=Self::MOST).contains(&factor) && calm < Self::PATIENCE => {
                Ok(Self { factor, calm })
            }
            _ => Err(Error::data(format!("\"loss_scale\" in the training state: found \"{text}\""))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_halves_at_once_and_doubles_with_patience() {
        let mut scale = LossScale::default();
        (1..LossScale::PATIENCE).for_each(|_| scale.held());
        assert_eq!(scale.factor(), 65_536.0);
        assert_eq!(LossScale::parse(&scale.to_text()).unwrap(), scale);
        scale.held();
        assert_eq!(scale.factor(), 131_072.0);
        assert!(scale.overflowed());
        assert_eq!(scale.factor(), 65_536.0);
        // An overflow starts the count again.
        (1..LossScale::PATIENCE).for_each(|_| scale.held());
        assert_eq!(scale.factor(), 65_536.0);
        assert_eq!((0..100).filter(|_| scale.overflowed()).count(), 16);
        assert_eq!(scale.factor(), 1.0);
    }

    #[test]
    fn a_state_with_another_scale_is_refused() {
        for text in ["", "65536", "0 0", "NaN 3", "2 2000", "1e30 1", "two 1"] {
            assert!(LossScale::parse(text).is_err(), "{text}");
        }
    }
}
