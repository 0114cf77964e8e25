//! What a run may be asked for: one vocabulary for the command line, the service, manifests and tables of evaluations.
//!
//! [`Request`] holds the options, [`FIELDS`] describes each once: its name, its sentence, its choices, how it is read and
//! written. Flags, fields of JSON, parameters of an address and their documentation are all made from that table.

mod clip;
mod kind;
mod noise;
mod request;
mod spacing;
mod table;
mod text;

pub use clip::ClipMode;
pub use kind::Kind;
pub use noise::Noise;
pub use request::{Request, unknown};
pub use spacing::SpacingChoice;
pub use table::*;

#[cfg(test)]
mod tests;
