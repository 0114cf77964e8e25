//! Tensors as pictures: grids, film strips, charts and PNG files, as well as raw `.npy` tensors.
//!
//! A tensor file holds raw network values. Only pictures map −1..1 to 0..255 and clamp.

pub mod npy;
mod picture;
pub mod plot;
mod png;

pub use picture::{Layout, Picture, film_strip, grid, is_picture, near_square, parse_size, shown_channels, to_byte};
pub(crate) use picture::{blend, from_byte};
pub use png::{Decoded, decode_png, encode_png, read_png, text_chunks, write_png};
