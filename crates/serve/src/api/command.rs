//! Pieces of the command line that does what a request asks for.

use std::fmt::Display;

/// Values between commas.
pub(super) fn list(values: &[impl Display]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
