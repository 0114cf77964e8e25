//! Data sets of image files inside larger files: read and decoded whenever they are needed.

use std::fmt;
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};

use super::fit::Fit;
use super::photo::{PictureLimits, decode_planes};
use super::source::Source;
use crate::error::{Error, Result};
use crate::io::checkpoint::blob::Blob;
use crate::io::image::from_byte;

/// Maximum size of an image file.
pub(super) const MAX_IMAGE: u64 = 1 << 29;

/// The place of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The index of the file that holds it.
    pub file: u32,
    /// Its length in bytes, at most [`MAX_IMAGE`].
    pub len: u32,
    pub start: u64,
}

/// Image files inside larger files.
pub(super) struct EncodedSource {
    /// The files with their names for errors.
    files: Vec<(String, Arc<dyn Blob>)>,
    entries: Vec<Entry>,
    fit: Fit,
    place: String,
    digest: OnceLock<[u8; 32]>,
}

impl EncodedSource {
    pub(super) fn new(files: Vec<(String, Arc<dyn Blob>)>, entries: Vec<Entry>, fit: Fit, place: String) -> Self {
        Self { files, entries, fit, place, digest: OnceLock::new() }
    }

    fn bytes(&self, index: usize) -> Result<Vec<u8>> {
        let Entry { file, len, start } = self.entries[index];
        self.files[file as usize].1.read(start, len.into()).map_err(|e| self.named(e, index))
    }

    fn named(&self, error: Error, index: usize) -> Error {
        let Entry { file, start, .. } = self.entries[index];
        let message = format!("image {index}, at byte {start}: {}", error.message());
        Error::new(error.kind(), message).in_file(&self.files[file as usize].0)
    }
}

impl fmt::Debug for EncodedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodedSource")
            .field("place", &self.place)
            .field("n", &self.entries.len())
            .finish_non_exhaustive()
    }
}

impl Source for EncodedSource {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn shape(&self) -> [usize; 3] {
        let [h, w] = self.fit.size;
        [self.fit.channels, h, w]
    }

    fn read(&self, index: usize, out: &mut [f32]) -> Result<()> {
        let mut planes = vec![0; out.len()];
        decode_planes(&self.bytes(index)?, &self.fit, &PictureLimits::default(), &mut planes)
            .map_err(|e| self.named(e, index))?;
        out.iter_mut().zip(planes).for_each(|(x, byte)| *x = from_byte(byte));
        Ok(())
    }

    fn digest(&self) -> Result<[u8; 32]> {
        if let Some(digest) = self.digest.get() {
            return Ok(*digest);
        }
        let mut hash = Sha256::new();
        for index in 0..self.entries.len() {
            let bytes = self.bytes(index)?;
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(&bytes);
        }
        Ok(*self.digest.get_or_init(|| hash.finalize().into()))
    }

    fn place(&self) -> &str {
        &self.place
    }
}
