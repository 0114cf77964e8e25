//! The U-Net on the processor, forward and backward.

mod backprop;
mod backward;
mod conditions;
mod differentiable;
mod execute;
mod network;
mod team;

pub use backprop::{Backprop, Batch};
pub use differentiable::DifferentiableUNet;
pub use network::{Options, UNet};
/// What [`Options`] are made of.
pub use skipstone_kernels::{Isa, Team, conv::Algorithm, conv::Shape as ConvShape};
