use std::sync::Arc;

use skipstone_kernels::conv::{Algorithm, Shape};
use skipstone_kernels::{Isa, Team};

use super::team;
use crate::engine::{EngineOptions, Precision};

/// How the processor runs a network. Everything but `algorithm`, `precision` and `isa` leaves results the same to the
/// bit.
#[derive(Clone, Debug)]
pub struct Options {
    /// The instruction set; [`Isa::best`] unless a test wants another.
    pub isa: Isa,
    /// The threads, shared with other networks.
    pub team: Arc<Team>,
    /// The algorithm of a convolution: [`Shape::algorithm`] unless another is forced.
    pub algorithm: fn(&Shape) -> Algorithm,
    /// How exactly.
    pub precision: Precision,
}

impl Default for Options {
    fn default() -> Self {
        Self::from(&EngineOptions::default())
    }
}

impl From<&EngineOptions> for Options {
    /// What suits the precision best.
    fn from(&EngineOptions { precision, threads, .. }: &EngineOptions) -> Self {
        let algorithm = match precision {
            Precision::F32 => Shape::algorithm,
            Precision::F16 => Shape::half_algorithm,
        };
        Self { isa: Isa::best(), team: team::of(threads), algorithm, precision }
    }
}
