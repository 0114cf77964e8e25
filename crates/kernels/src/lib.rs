//! CPU kernels of a diffusion U-Net on plain slices, forward and backward.
//!
//! Every function works on `n` images stored one after the other, each `[channels, height, width]`. What is computed
//! for an image depends on that image alone and its arithmetic has a fixed order: results do not change with `n`, with
//! the number of threads, or with the position of an image in the batch.
//!
//! Convolutions and attention are matrix products on fixed per-image tiles; the rest is plain loops compiled for each
//! instruction set and picked at run time. Backward functions *add* to the gradients they are given.

pub mod attention;
pub mod conv;
pub mod dropout;
pub mod elementwise;
pub mod linear;
pub mod matmul;
pub mod norm;
pub mod optimizer;
pub mod reference;
mod shared;
pub mod simd;
pub mod threads;

pub use threads::Threads;
