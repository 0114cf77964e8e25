//! The diffusion model that skipstone carries: a diffusers folder as names and bytes.

/// The folder's files, `("unet/config.json", …)` and so on; empty in a build without a model.
pub const FILES: &[(&str, &[u8])] = &[];
