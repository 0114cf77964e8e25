//! CPU kernels for a diffusion U-Net, forward and backward, on plain slices.
//!
//! Images are stored channels-last ([`View`]): pixel after pixel, with the channels of a pixel contiguous. Each image
//! is computed independently and in a fixed order of operations, so results do not depend on the batch, on the image's
//! position in it, or on the number of threads ([`Team`]). Results differ in the last digits between instruction sets
//! ([`Isa`]), which are selected at run time.
//!
//! | module | contents |
//! |---|---|
//! | [`conv`] | convolutions with fused normalisation before and additions after |
//! | [`norm`] | group normalisation: statistics and gradients |
//! | [`activation`], [`attention`], [`linear`], [`elementwise`], [`dropout`] | the other layers |
//! | [`optimizer`] | Adam, moving averages and norms of flat parameter buffers |
//! | [`peak`] | peak arithmetic and memory throughput of the processor |
//! | [`mod@reference`] | plain f64 versions of every kernel, used as test oracles |

pub mod activation;
pub mod attention;
pub mod buffer;
pub mod conv;
pub mod dropout;
pub mod elementwise;
mod half;
pub mod isa;
pub mod linear;
mod math;
mod micro;
pub mod norm;
pub mod optimizer;
pub mod peak;
pub mod reference;
mod shared;
mod sums;
pub mod team;
#[cfg(target_arch = "x86_64")]
mod units;
pub mod view;

pub use buffer::Buffer;
pub use isa::Isa;
pub use team::Team;
pub use view::{View, ViewMut};
