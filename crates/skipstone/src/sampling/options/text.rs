//! Options as text: JSON names of enums, the same as their text, and words for a shell.

use crate::engine::Precision;
use crate::error::{Error, Result};
use crate::math::schedule::BetaSchedule;
use crate::sampling::denoiser::Prediction;
use crate::sampling::solver::Solver;

/// Serialises these types as their names.
macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
                name.parse().map_err(|error: Error| serde::de::Error::custom(error.message()))
            }
        }
    )*};
}

as_text!(
    super::ClipMode,
    super::Preset,
    super::SolverChoice,
    super::SpacingChoice,
    Solver,
    Precision,
    Prediction,
    BetaSchedule
);

/// The member of `all` that displays as `name`. The error lists them all.
pub(super) fn choose<T: Clone + std::fmt::Display>(what: &str, name: &str, all: &[T]) -> Result<T> {
    all.iter().find(|one| one.to_string() == name).cloned().ok_or_else(|| {
        let names: Vec<String> = all.iter().map(T::to_string).collect();
        Error::argument(format!("{what} \"{name}\": expected one of {}", names.join(", ")))
    })
}

/// A word, quoted for a shell if necessary.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
