use std::path::Path;

use ndarray::Array4;

use crate::error::Result;
use crate::io::image::{Layout, grid, near_square, npy, write_png};
use crate::sampling::generate::{Folder, Settings};

/// Images that a [`Pipeline`](crate::Pipeline) made, with the options that made them.
#[derive(Clone, Debug)]
pub struct Images {
    pub(super) array: Array4<f32>,
    pub(super) settings: Settings,
    /// The absolute index of the first.
    pub(super) first: u64,
    /// Columns of a grid.
    pub(super) columns: usize,
}

impl Images {
    pub(super) fn new(array: Array4<f32>, settings: Settings, first: u64) -> Self {
        let columns = near_square(array.dim().0);
        Self { array, settings, first, columns }
    }

    /// The images, `[n, channels, height, width]`: what the network made, −1..1 for black to white, not clamped.
    pub fn array(&self) -> &Array4<f32> {
        &self.array
    }

    /// The same, without a copy.
    pub fn into_array(self) -> Array4<f32> {
        self.array
    }

    /// The options as they were decided.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Writes one PNG file with all images in a grid: the file that `skipstone sample -o NAME.png` writes.
    ///
    /// # Errors
    /// The file cannot be written, or the images have no picture (neither 1 nor 3 channels).
    pub fn save_grid(&self, path: impl AsRef<Path>) -> Result<()> {
        let (n, _, h, w) = self.array.dim();
        let picture = grid(&self.array, self.columns, &Layout::magnified(h, w))?;
        let mut texts = self.settings.to_texts();
        texts.extend([("first".to_owned(), self.first.to_string()), ("n".to_owned(), n.to_string())]);
        let texts: Vec<_> = texts.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
        write_png(path.as_ref(), &picture, &texts)
    }

    /// Writes one PNG file per image into a folder, beside a manifest of the options: the folder that
    /// `skipstone sample -o NAME/` writes.
    ///
    /// # Errors
    /// As [`Folder::open`] and [`Folder::write`].
    pub fn save_folder(&self, path: impl AsRef<Path>) -> Result<()> {
        let (n, c, h, w) = self.array.dim();
        let folder = Folder::open(path.as_ref(), &self.settings, self.first, n as u64, [c, h, w])?;
        folder.write_all(self.first..self.first + n as u64, &self.array)
    }

    /// Writes the array as a `.npy` file, which [`npy::read`] and NumPy read.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_npy(&self, path: impl AsRef<Path>) -> Result<()> {
        npy::write(path.as_ref(), self.array.view())
    }
}
