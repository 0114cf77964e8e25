use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ndarray::{Array4, ArrayView3};
use serde::{Serialize, Serializer};
use skipstone::Result;
use skipstone::io::image::{Layout, Picture, encode_png, grid, text_chunks};
use utoipa::ToSchema;

/// The bytes of a PNG file, base64 in JSON.
#[derive(Clone, PartialEq, Eq)]
pub struct Png(pub Vec<u8>);

impl Png {
    /// The base64 of the bytes.
    pub fn base64(&self) -> String {
        STANDARD.encode(&self.0)
    }
}

impl Serialize for Png {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.base64())
    }
}

impl std::fmt::Debug for Png {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PNG of {} bytes", self.0.len())
    }
}

/// The layout of a grid. Image i begins `gutter + (i mod columns)·(width + gutter)` pixels from the left, and likewise
/// from the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Tile {
    /// Width of an image in the grid, in pixels.
    pub width: usize,
    /// Height of an image in the grid, in pixels.
    pub height: usize,
    /// Pixels between and around the images.
    pub gutter: usize,
    /// Magnification in each direction.
    pub scale: usize,
}

impl Tile {
    /// The layout of a grid of images of this shape.
    pub fn of([_, h, w]: [usize; 3]) -> Self {
        let Layout { gutter, scale, .. } = Layout::magnified(h, w);
        Self { width: w * scale, height: h * scale, gutter: gutter * scale, scale }
    }
}

/// Bytes as base64.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The grid that the command line writes, with the same magnification and gutters.
///
/// # Errors
/// The images have neither one nor three channels.
pub fn grid_png(images: &Array4<f32>, columns: usize, texts: &[(String, String)]) -> Result<Png> {
    let (_, _, h, w) = images.dim();
    let picture = grid(images, columns, &Layout::magnified(h, w))?;
    Ok(Png(encode_png(&picture, &text_chunks(texts))?))
}

/// An image at its own size, without a gutter.
///
/// # Errors
/// As [`grid_png`].
pub fn image_png(image: ArrayView3<'_, f32>) -> Result<Png> {
    Ok(Png(encode_png(&Picture::from_image(image)?, &[])?))
}
