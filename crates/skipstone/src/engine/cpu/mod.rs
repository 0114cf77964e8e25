//! The U-Net on the CPU, forward and backward.
//!
//! [`UNet`] evaluates a trained network and [`Backprop`] computes its gradients. `conditions` computes the time and
//! class vectors; `execute` is the forward pass over the graph, `backward` the backward pass. [`Options`] hold the
//! settings that only a CPU has: the instruction set, the thread team and the algorithm of each convolution.

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
mod tree;

pub use backprop::Backprop;
pub use differentiable::DifferentiableUNet;
pub use learner::CpuLearner;
pub use network::UNet;
pub use options::Options;
pub(super) use options::precision;
/// The types that [`Options`] are made of.
pub use skipstone_kernels::{Isa, Team, conv::Algorithm, conv::Shape as ConvShape};
pub use tree::TreeLearner;
pub(super) use tree::share;

use skipstone_kernels::peak;

/// Peak floating-point operations per second of `threads` threads: multiply-adds in registers.
pub fn peak_flops(threads: usize) -> f64 {
    peak::flops_per_second(Isa::best(), &team::of(threads))
}

/// Bytes per second at which `threads` threads read `bytes` bytes.
pub fn bandwidth(threads: usize, bytes: usize) -> f64 {
    peak::bytes_per_second(Isa::best(), &team::of(threads), bytes)
}

#[cfg(test)]
mod tests;
