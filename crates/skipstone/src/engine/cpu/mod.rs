//! The U-Net on the processor, forward and backward.
//!
//! [`UNet`] asks a trained network and [`Backprop`] takes its gradients. `conditions` makes the vectors of time and
//! class; `execute` walks the graph's operations forwards, `backward` backwards. [`Options`] choose what only a
//! processor has: an instruction set, a team of threads, an algorithm for each convolution.

mod backprop;
mod backward;
mod conditions;
mod differentiable;
mod execute;
mod learner;
mod network;
mod options;
mod shapes;
mod team;

pub use backprop::Backprop;
pub use differentiable::DifferentiableUNet;
pub use learner::CpuLearner;
pub use network::UNet;
pub use options::Options;
/// What [`Options`] are made of.
pub use skipstone_kernels::{Isa, Team, conv::Algorithm, conv::Shape as ConvShape};

use skipstone_kernels::peak;

/// Floating-point operations in a second that so many threads reach with multiply-adds in registers.
pub fn peak_flops(threads: usize) -> f64 {
    peak::flops_per_second(Isa::best(), &team::of(threads))
}

/// The bytes in a second at which so many threads read `bytes` bytes.
pub fn bandwidth(threads: usize, bytes: usize) -> f64 {
    peak::bytes_per_second(Isa::best(), &team::of(threads), bytes)
}

#[cfg(test)]
mod tests;
