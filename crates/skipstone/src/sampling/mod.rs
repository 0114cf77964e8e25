//! Sampling and inversion: the [`Denoiser`](denoiser::Denoiser) trait, the sampling loop and its solvers, inversion,
//! inpainting, and [`generate`], which resolves a request against a model for every front end.

pub mod denoiser;
pub mod generate;
pub mod inpaint;
pub mod inversion;
pub mod options;
pub mod oracle;
pub mod sampler;
pub mod solver;
