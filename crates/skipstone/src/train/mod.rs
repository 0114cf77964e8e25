//! TODO

pub mod curve;
pub mod events;
