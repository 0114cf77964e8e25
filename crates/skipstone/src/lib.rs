//! Denoising diffusion implicit models: the paper's whole family, exact and fast.
#![forbid(unsafe_code)]

pub mod bench;
pub mod calibration;
pub mod checkpoint;
pub mod data;
pub mod denoiser;
pub mod error;
pub mod eval;
pub mod files;
pub mod generate;
mod hex;
pub mod image;
pub mod inpaint;
pub mod inversion;
pub mod latent;
pub mod likelihood;
pub mod noise;
pub mod objective;
pub mod oracle;
pub mod process;
pub mod sampler;
pub mod schedule;
pub mod sigma;
pub mod solver;
pub mod train;
pub mod trajectory;
pub mod unet;

pub use error::{Error, Kind, Result};
