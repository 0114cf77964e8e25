//! The U-Net of DDPM on the CPU, forward and backward.
//!
//! A [`Config`] says what the network is, in the words of diffusers' `UNet2DModel`. [`layout`] lists the parameters it
//! has; [`UNet`] asks a trained one; [`Backprop`] takes gradients. Inside, `graph` turns the config into a list of
//! operations and `execute` walks it.

mod backprop;
mod config;
mod execute;
mod graph;
mod network;
mod params;

pub use backprop::{Backprop, Batch};
pub use config::{Config, DownBlock, TimeEmbedding, TimeScaleShift, UpBlock};
pub use network::{UNet, flops, initialise, layout};
pub use params::{Layout, ParameterSpec, Parameters};

#[cfg(test)]
mod tests;
