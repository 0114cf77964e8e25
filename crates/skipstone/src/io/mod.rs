//! Files: checkpoints, data sets, images and arrays, each written whole or not at all.

pub mod checkpoint;
pub mod data;
pub mod files;
pub mod hex;
pub mod image;
