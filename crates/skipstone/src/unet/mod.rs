//! The U-Net of DDPM on the CPU, forward and backward.

mod config;
mod params;

pub use config::{Config, DownBlock, TimeEmbedding, TimeScaleShift, UpBlock};
pub use params::{Layout, ParameterSpec, Parameters};
