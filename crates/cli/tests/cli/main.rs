//! The `skipstone` command from outside: its files, its messages, its exit codes.

mod accuracy;
mod arrays;
mod benchmark;
mod distilling;
mod evaluating;
mod frozen;
#[cfg(feature = "gpu")]
mod gpu;
mod latents;
mod models;
#[cfg(feature = "onnx")]
mod onnx;
mod sampling;
mod scoring;
mod serving;
mod shards;
mod support;
mod tools;
mod training;
