//! Files: checkpoints, ONNX, data sets, images and arrays. All files are written atomically.

pub mod checkpoint;
pub mod data;
pub mod files;
pub mod hex;
pub mod hub;
pub mod image;
pub mod onnx;
mod shard;

pub use shard::Shard;
