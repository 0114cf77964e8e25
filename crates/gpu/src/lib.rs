//! Kernels of a diffusion U-Net for graphics processors, forward and backward, written once with CubeCL and compiled at run
//! time for Vulkan, Metal or DirectX 12.
//!
//! Images are stored channels-last ([`View`]): pixel after pixel, with the channels of a pixel contiguous. Kernels are chosen
//! by a layer's shape, and each element is computed in a fixed order of operations, whatever the tile, so an image's result does
//! not depend on the batch or on the image's position in it. Functions submit work and return; [`Gpu::read`] waits for it.
//!
//! | module | contents |
//! |---|---|
//! | [`conv`], [`gradient`] | convolutions with fused normalisation before and additions after; their gradients |
//! | [`norm`] | group normalisation: statistics and gradients |
//! | [`attention`], [`matmul`] | attention, and the batched matrix product that it and linear layers are made of |
//! | [`elementwise`], [`embedding`] | activations, changes of size, sums; rows of tables and dropout |
//! | [`optimizer`] | the loss, Adam, moving averages and norms of flat parameter buffers |
//!
//! Every function checks the lengths of its operands before it launches a kernel, since kernels do not. Operands that are
//! written must not overlap operands that are read: the device would read some elements before and some after.

pub mod attention;
mod buffer;
pub mod conv;
mod device;
pub mod elementwise;
pub mod embedding;
mod error;
pub mod gradient;
mod grid;
mod math;
pub mod matmul;
pub mod norm;
pub mod optimizer;
mod tile;
mod tuning;

pub use buffer::{ALIGNMENT, Buffer, Element, View};
pub use device::{Adapter, Api, Gpu, Properties, adapters};
pub use error::{Error, Result};
pub use tuning::{Keep, Tile, Tuning};
