//! Pieces of the command line that does what a request asks for.

use std::fmt::Display;

/// ` --name value`, or nothing without a value.
pub(super) fn flag(name: &str, value: Option<impl Display>) -> String {
    value.map_or_else(String::new, |value| format!(" --{name} {value}"))
}

/// Values between commas.
pub(super) fn list(values: &[impl Display]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
