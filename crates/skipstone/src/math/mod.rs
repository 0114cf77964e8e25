//! The paper's mathematics, independent of any network: the noise schedule a_t, trajectories τ, noise scales σ, the
//! forward process, keyed noise, and latent interpolation.

pub mod latent;
pub mod noise;
pub mod process;
pub mod schedule;
pub mod sigma;
pub mod trajectory;
