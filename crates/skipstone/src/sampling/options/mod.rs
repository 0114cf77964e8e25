//! The options of a run, shared by the command line, the service, manifests and evaluation tables.
//!
//! [`Request`] holds the options. [`FIELDS`] describes each one: its name, help text and choices, and how it is parsed and
//! written. Flags, JSON fields, query parameters and their documentation all come from that table.

mod clip;
mod kind;
mod noise;
mod preset;
mod request;
mod solver;
mod spacing;
mod table;
mod text;

pub use clip::ClipMode;
pub use kind::Kind;
pub use noise::Noise;
pub use preset::Preset;
pub use request::{Request, unknown};
pub use solver::SolverChoice;
pub use spacing::SpacingChoice;
pub use table::*;
pub use text::quoted;

#[cfg(test)]
mod tests;
