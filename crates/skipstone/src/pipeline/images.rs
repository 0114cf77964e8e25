use std::path::Path;

use ndarray::Array4;

use crate::error::Result;
use crate::io::image::{Layout, grid, near_square, npy, text_chunks, write_png};
use crate::sampling::generate::{Folder, Settings};

/// Images from a [`Pipeline`](crate::Pipeline) and the options they were generated with.
#[derive(Clone, Debug)]
pub struct Images {
    pub(super) array: Array4<f32>,
    pub(super) settings: Settings,
    /// The absolute index of the first image.
    pub(super) first: u64,
    /// Columns of a grid.
    pub(super) columns: usize,
}

impl Images {
    pub(super) fn new(array: Array4<f32>, settings: Settings, first: u64) -> Self {
        let columns = near_square(array.dim().0);
        Self { array, settings, first, columns }
    }

    /// The images, `[n, channels, height, width]`. −1 is black and 1 is white; values are not clamped.
    pub fn array(&self) -> &Array4<f32> {
        &self.array
    }

    /// As [`array`](Self::array), without a copy.
    pub fn into_array(self) -> Array4<f32> {
        self.array
    }

    /// The resolved options.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Writes all images as a grid to one PNG file, as `skipstone sample -o NAME.png` does.
    ///
    /// # Errors
    /// The file cannot be written, or the images do not have 1 or 3 channels.
    pub fn save_grid(&self, path: impl AsRef<Path>) -> Result<()> {
        let (n, _, h, w) = self.array.dim();
        let picture = grid(&self.array, self.columns, &Layout::magnified(h, w))?;
        write_png(path.as_ref(), &picture, &text_chunks(&self.settings.to_texts_of(self.first, n)))
    }

    /// Writes one PNG file per image and a manifest of the options to a folder, as `skipstone sample -o NAME/` does.
    ///
    /// # Errors
    /// As [`Folder::open`] and [`Folder::write`].
    pub fn save_folder(&self, path: impl AsRef<Path>) -> Result<()> {
        let (n, c, h, w) = self.array.dim();
        let folder = Folder::open(path.as_ref(), &self.settings, self.first, n as u64, [c, h, w])?;
        folder.write_all(self.first..self.first + n as u64, &self.array)
    }

    /// Writes the array to a `.npy` file for NumPy or [`npy::read`].
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_npy(&self, path: impl AsRef<Path>) -> Result<()> {
        npy::write(path.as_ref(), self.array.view())
    }
}
