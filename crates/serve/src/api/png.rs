use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ndarray::{Array4, ArrayView3};
use serde::{Serialize, Serializer};
use skipstone::Result;
use skipstone::image::{Layout, Picture, encode_png, grid};

/// The bytes of a PNG file; base64 in JSON.
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

/// Bytes as base64.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The grid that the command line writes: the same magnification, the same gutters.
///
/// # Errors
/// Images without a picture.
pub fn grid_png(images: &Array4<f32>, columns: usize, texts: &[(String, String)]) -> Result<Png> {
    let (_, _, h, w) = images.dim();
    let picture = grid(images, columns, &Layout::magnified(h, w))?;
    let texts: Vec<_> = texts.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
    Ok(Png(encode_png(&picture, &texts)?))
}

/// One image at its own size, without a gutter.
///
/// # Errors
/// As [`grid_png`].
pub fn image_png(image: ArrayView3<'_, f32>) -> Result<Png> {
    Ok(Png(encode_png(&Picture::from_image(image)?, &[])?))
}
