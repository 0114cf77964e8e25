//! Images that are read from their file when they are needed, so that a data set may be larger than memory.

use std::fmt;

use crate::error::Result;

/// Images of equal shape in a file. Threads read them at the same time.
pub(super) trait Source: fmt::Debug + Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;

    /// `[channels, height, width]` of every image.
    fn shape(&self) -> [usize; 3];

    /// Writes image `index` to `out`, `[channels, height, width]`, as network values.
    ///
    /// # Errors
    /// The file cannot be read, or the image is damaged or not finite.
    fn read(&self, index: usize, out: &mut [f32]) -> Result<()>;

    /// SHA-256 of everything that determines the images. Reads the file from start to end.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn digest(&self) -> Result<[u8; 32]>;

    /// The file, and the part of it that holds the images. Equal places hold equal images.
    fn place(&self) -> &str;
}
