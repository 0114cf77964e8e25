//! From noise to images and back: the [`Denoiser`](denoiser::Denoiser) seam, the sampling loop and its solvers, inversion,
//! inpainting, and [`generate`], which resolves a request against a model as every front end does.

pub mod denoiser;
pub mod generate;
pub mod inpaint;
pub mod inversion;
pub mod options;
pub mod oracle;
pub mod sampler;
pub mod solver;
