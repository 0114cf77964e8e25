use std::ops::Range;
use std::path::{Path, PathBuf};

use ndarray::{Array4, ArrayView3};

use super::{Manifest, Settings, texts};
use crate::error::{Error, Result};
use crate::io::files;
use crate::io::image::{Picture, read_png, text_chunks, write_png};

/// The file name of image `index`.
pub fn image_name(index: u64) -> String {
    format!("{index:06}.png")
}

/// A folder with one PNG per image and a manifest. A run can be resumed in it at any time.
///
/// Files are written atomically, so every file that exists after a crash is complete.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Keeps other processes from writing to the folder.
    _lock: files::Lock,
    texts: Vec<(String, String)>,
    /// `[channels, height, width]`.
    shape: [usize; 3],
}

impl Folder {
    /// Opens or creates the folder `path` for images `first`..`first` + `n` of this shape.
    ///
    /// # Errors
    /// The folder holds images made with other options, or PNG files but no manifest; another process writes to it; or
    /// it is not writable.
    pub fn open(path: &Path, settings: &Settings, first: u64, n: u64, shape: [usize; 3]) -> Result<Self> {
        Self::of(path, Manifest::new(settings, first, n), shape)
    }

    /// As [`open`](Self::open), for images with this manifest.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of(path: &Path, mut manifest: Manifest, shape: [usize; 3]) -> Result<Self> {
        files::create_dir(path)?;
        let lock = files::lock(path)?;
        files::remove_stale_temporaries(path)?;
        let file = path.join("manifest.json");
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                let old = Manifest::from_json(&text).map_err(|e| e.in_file(&file))?;
                manifest = old.extended(&manifest).map_err(|e| e.in_file(path))?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => empty(path)?,
            Err(e) => return Err(Error::io(file, e)),
        }
        // Written before the first image, so images never lack a manifest.
        files::write_bytes(&file, manifest.to_json().as_bytes())?;
        Ok(Self { path: path.to_path_buf(), _lock: lock, texts: texts(&manifest.options), shape })
    }

    /// Whether image `index` exists, is complete and has the right size.
    pub fn holds(&self, index: u64) -> bool {
        let [_, height, width] = self.shape;
        read_png(&self.path.join(image_name(index)))
            .is_ok_and(|png| (png.picture.height(), png.picture.width()) == (height, width))
    }

    /// Writes image `index`, `[c, h, w]`.
    ///
    /// # Errors
    /// The file cannot be written, or the image cannot be a picture.
    pub fn write(&self, index: u64, image: ArrayView3<'_, f32>) -> Result<()> {
        let number = index.to_string();
        let mut texts = text_chunks(&self.texts);
        texts.push(("index", &number));
        write_png(&self.path.join(image_name(index)), &Picture::from_image(image)?, &texts)
    }

    /// Writes the images of these indices, `[n, c, h, w]`.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_all(&self, indices: Range<u64>, images: &Array4<f32>) -> Result<()> {
        indices.zip(images.outer_iter()).try_for_each(|(index, image)| self.write(index, image))
    }
}

/// Refuses a folder that already holds PNG files of another origin.
fn empty(path: &Path) -> Result<()> {
    for entry in std::fs::read_dir(path).map_err(|e| Error::io(path, e))? {
        let name = entry.map_err(|e| Error::io(path, e))?.file_name();
        if name.to_string_lossy().ends_with(".png") {
            let message = format!("holds {} but no manifest.json; choose another folder", name.to_string_lossy());
            return Err(Error::argument(message).in_file(path));
        }
    }
    Ok(())
}
