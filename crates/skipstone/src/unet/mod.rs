//! The U-Net of DDPM on the CPU, forward and backward.
//!
//! A [`Config`] says what the network is, in the words of diffusers' `UNet2DModel`. [`layout`] lists the parameters it
//! has; [`UNet`] asks a trained one; [`Backprop`] takes gradients.
//!
//! Inside, `graph` turns the config into lists of operations: a short one from time and class to vectors
//! (`conditions`), a long one from image to output, with normalisations, additions, doublings and concatenations folded
//! into the convolutions beside them. `plan` finds every value its place in memory; `execute` walks the list forwards,
//! `backward` backwards.

mod backprop;
mod backward;
mod conditions;
mod config;
mod execute;
mod graph;
mod network;
mod params;
mod plan;
mod team;

pub use backprop::{Backprop, Batch};
pub use config::{Config, DownBlock, TimeEmbedding, TimeScaleShift, UpBlock};
pub use network::{Options, Precision, UNet, flops, initialise, layout};
pub use params::{Layout, ParameterSpec, Parameters};
/// What [`Options`] are made of.
pub use skipstone_kernels::{Isa, Team, conv::Algorithm, conv::Shape as ConvShape};

#[cfg(test)]
mod tests;
