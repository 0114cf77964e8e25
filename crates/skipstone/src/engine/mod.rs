//! Who computes networks.

pub mod cpu;
mod precision;

pub use precision::Precision;
