//! The U-Net of DDPM, independent of the engine that computes it ([`crate::engine`]).
//!
//! A [`Config`] describes the network in the terms of diffusers' `UNet2DModel`. [`layout`] lists its parameters,
//! [`flops`] counts its operations and [`initialise`] draws the weights of an untrained network.
//!
//! Internally, `graph` turns the config into two lists of operations: a short one from time and class to vectors, and a
//! long one from image to output. Normalisations, additions, upsampling and concatenations are fused into the adjacent
//! convolutions. `plan` assigns memory to every value.

pub(crate) mod config;
pub(crate) mod graph;
mod initialise;
mod params;
pub(crate) mod plan;
pub(crate) mod shapes;

pub use config::{Activation, ClassEmbedding, Config, DownBlock, TimeEmbedding, TimeScaleShift, UpBlock};
pub use initialise::initialise;
pub use params::{Layout, ParameterSpec, Parameters};

use crate::error::Result;
use graph::Graph;

/// The parameters of a network with this config: names, shapes and order.
///
/// # Errors
/// The config is invalid or unsupported; the message names the field.
///
/// ```
/// let layout = skipstone::unet::layout(&Default::default()).unwrap();
/// assert_eq!(layout.get("conv_in.weight").unwrap().shape, [32, 1, 3, 3]);
/// ```
pub fn layout(config: &Config) -> Result<Layout> {
    Ok(Graph::new(config, false)?.layout)
}

/// Floating-point operations of one call for one image; a multiply-add counts as two.
///
/// # Errors
/// As [`layout`].
pub fn flops(config: &Config) -> Result<u64> {
    Ok(Graph::new(config, false)?.flops())
}

#[cfg(test)]
mod tests;
