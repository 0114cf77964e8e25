//! The paper's mathematics, without a network: the noise schedule a_t, trajectories τ, the scales σ, the forward process,
//! keyed noise, and the geometry of latents.

pub mod latent;
pub mod noise;
pub mod process;
pub mod schedule;
pub mod sigma;
pub mod trajectory;
