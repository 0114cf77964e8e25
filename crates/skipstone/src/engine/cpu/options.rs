use std::sync::Arc;

use skipstone_kernels::conv::{self, Algorithm, Shape};
use skipstone_kernels::{Isa, Team};

use super::team;
use crate::engine::{EngineOptions, Precision};

/// How the CPU runs a network. Only `algorithm`, `precision` and `isa` affect results; the rest leaves them
/// bit-identical.
#[derive(Clone, Debug)]
pub struct Options {
    /// The instruction set; [`Isa::best`] by default.
    pub isa: Isa,
    /// The thread team, shared with other networks.
    pub team: Arc<Team>,
    /// The algorithm of each convolution; [`Shape::algorithm`] by default.
    pub algorithm: fn(&Shape) -> Algorithm,
    /// The precision of weights and products.
    pub precision: Precision,
}

impl Default for Options {
    fn default() -> Self {
        Self::from(&EngineOptions::default())
    }
}

impl From<&EngineOptions> for Options {
    /// The best options for this precision and number of threads.
    fn from(&EngineOptions { precision, threads, .. }: &EngineOptions) -> Self {
        let isa = Isa::best();
        let algorithm = match precision {
            Precision::F32 | Precision::Bf16 => Shape::algorithm,
            Precision::F16 => conv::Precision::algorithms(isa),
        };
        Self { isa, team: team::of(threads), algorithm, precision }
    }
}

/// The precision that networks have on this processor if they are asked for `precision`: f32 where that is no slower.
pub fn precision(asked: Precision) -> Precision {
    let isa = Isa::best();
    let faster = match asked {
        Precision::F32 => true,
        Precision::F16 => conv::Precision::least(isa, Algorithm::Direct) != conv::Precision::Single,
        Precision::Bf16 => conv::has_units(isa),
    };
    if faster { asked } else { Precision::F32 }
}
