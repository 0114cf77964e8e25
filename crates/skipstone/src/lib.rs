//! Denoising diffusion implicit models: the paper's whole family, exact and fast.
//!
//! [`io::checkpoint::load`] reads a model; [`sampling::generate::Generator`] samples it as the `skipstone` command does. The
//! modules below are the layers of the library, from the bottom up:
//!
//! - [`math`]: the noise schedule a_t, trajectories τ, the scales σ, keyed noise.
//! - [`unet`]: what a network is: its configuration, parameters and graph of operations.
//! - [`engine`]: what computes a network, for sampling and for training.
//! - [`sampling`]: the `Denoiser` seam, the sampling loop over it, solvers, inversion, inpainting.
//! - [`objective`]: the training loss, the evidence lower bound, the likelihood.
//! - [`train`]: recipes and runs.
//! - [`io`]: checkpoints, data sets, images.
//!
//! Scores of images are in the crate `skipstone-eval`.
#![forbid(unsafe_code)]

pub mod engine;
pub mod error;
pub mod io;
pub mod math;
pub mod objective;
pub mod sampling;
pub mod train;
pub mod unet;

pub use error::{Error, Kind, Result};
