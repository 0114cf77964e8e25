//! The `skipstone` command from outside: its files, its messages, its exit codes.

mod accuracy;
mod arrays;
mod benchmark;
mod evaluating;
mod frozen;
mod latents;
mod models;
#[cfg(feature = "onnx")]
mod onnx;
mod sampling;
mod scoring;
mod serving;
mod support;
mod tools;
mod training;
