//! Denoising diffusion implicit models: the paper's whole family, exact and fast.
//!
//! ```no_run
//! use skipstone::Pipeline;
//!
//! Pipeline::load("runs/a/model")?.steps(20).sample(16)?.save_grid("out.png")?;
//! # Ok::<(), skipstone::Error>(())
//! ```
//!
//! [`Pipeline`] loads a model and samples, encodes, decodes, interpolates and scores with it. The programs in `examples/`
//! show more: a denoiser and a solver of one's own, training on arrays, editing an image by its latent.
//!
//! Long functions take an observer, which sees every step and answers with a
//! [`ControlFlow`](std::ops::ControlFlow). When it breaks off, the function returns an error of [`Kind::Stopped`].
//!
//! The modules are the layers of the library, from the bottom up:
//!
//! - [`math`]: the noise schedule a_t, trajectories τ, the scales σ, keyed noise.
//! - [`unet`]: what a network is: its configuration, parameters and graph of operations.
//! - [`engine`]: what computes a network, for sampling and for training.
//! - [`io`]: checkpoints ([`io::checkpoint::load`]), data sets, images.
//! - [`sampling`]: the `Denoiser` seam, the sampling loop over it, solvers, inversion, inpainting;
//!   [`sampling::generate::Generator`] resolves a request as the `skipstone` command does.
//! - [`objective`]: the training loss, the evidence lower bound, the likelihood.
//! - [`train`]: recipes and runs.
//!
//! Scores of images are in the crate `skipstone-eval`.
#![forbid(unsafe_code)]

pub mod engine;
pub mod error;
pub mod io;
pub mod math;
pub mod objective;
mod pipeline;
pub mod sampling;
pub mod train;
pub mod unet;

pub use error::{Error, Kind, Result};
pub use pipeline::{Images, Pipeline};
