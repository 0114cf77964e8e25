//! The U-Net of DDPM: what it consists of, whoever computes it ([`crate::engine`]).
//!
//! A [`Config`] says what the network is, in the words of diffusers' `UNet2DModel`. [`layout`] lists its parameters,
//! [`flops`] counts its work, [`initialise`] draws the weights of a new one.
//!
//! Inside, `graph` turns the config into two lists of operations: a short one from time and class to vectors, a long one
//! from image to output, with normalisations, additions, doublings and concatenations folded into the convolutions beside
//! them. `plan` finds a place in memory for every value.

mod config;
pub(crate) mod graph;
mod initialise;
mod params;
pub(crate) mod plan;
pub(crate) mod shapes;

pub use config::{Config, DownBlock, TimeEmbedding, TimeScaleShift, UpBlock};
pub use initialise::initialise;
pub use params::{Layout, ParameterSpec, Parameters};

use crate::error::Result;
use graph::Graph;

/// The parameters a network of this config has: names, shapes, order.
///
/// # Errors
/// The config makes no sense or is not supported; the message names the field.
///
/// ```
/// let layout = skipstone::unet::layout(&Default::default()).unwrap();
/// assert_eq!(layout.get("conv_in.weight").unwrap().shape, [32, 1, 3, 3]);
/// ```
pub fn layout(config: &Config) -> Result<Layout> {
    Ok(Graph::new(config, false)?.layout)
}

/// Floating-point operations of one call for one image, a multiplication and an addition counted as two.
///
/// # Errors
/// As [`layout`].
pub fn flops(config: &Config) -> Result<u64> {
    Ok(Graph::new(config, false)?.flops())
}

#[cfg(test)]
mod tests;
