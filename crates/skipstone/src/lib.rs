//! Denoising diffusion implicit models: the paper's whole family, exact and fast.
//!
//! A model comes from [`checkpoint::load`]; [`generate::Generator`] makes images of it and of a [`options::Request`], as the
//! command does. Below, each piece of the paper alone: [`schedule`] (a_t), [`trajectory`] (τ), [`sigma`] (σ, and the
//! coefficients of a step), [`denoiser`] (x̂₀ and ε̂), [`engine`] (who computes a network), and [`sampler::sample`], the
//! loop over them, whose example runs without a network. What determinism gives are [`inversion`], [`latent`] and
//! [`inpaint`]; the bounds are in [`objective`] and [`likelihood`], training in [`train`]. Scores of images are the crate
//! `skipstone-eval`.
#![forbid(unsafe_code)]

pub mod bench;
pub mod calibration;
pub mod checkpoint;
pub mod data;
pub mod denoiser;
pub mod engine;
pub mod error;
pub mod files;
pub mod generate;
pub mod hex;
pub mod image;
pub mod inpaint;
pub mod inversion;
pub mod latent;
pub mod likelihood;
pub mod noise;
pub mod objective;
pub mod options;
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
