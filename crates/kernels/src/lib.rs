//! CPU kernels of a diffusion U-Net on plain slices, forward and backward.
//!
//! Images lie in memory pixel after pixel, the channels of a pixel side by side ([`View`]). What is computed for an
//! image depends on that image alone and its arithmetic has a fixed order: results do not change with the batch, with
//! the number of threads ([`Team`]), or with an image's position. They differ in the last places between instruction
//! sets ([`Isa`]), which are picked at run time.
//!
//! | module | what |
//! |---|---|
//! | [`conv`] | convolutions, with normalisation before and additions after them folded in |
//! | [`norm`] | group normalisation: statistics and gradients |
//! | [`attention`], [`linear`], [`elementwise`], [`dropout`] | the other layers |
//! | [`optimizer`] | Adam, moving averages, norms over flat parameters |
//! | [`peak`] | what the processor can do at best |
//! | [`mod@reference`] | every kernel once more in f64, as plainly as its definition: the oracle of the tests |

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
pub mod view;

pub use buffer::Buffer;
pub use isa::Isa;
pub use team::Team;
pub use view::{View, ViewMut};
