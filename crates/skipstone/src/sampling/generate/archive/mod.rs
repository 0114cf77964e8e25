//! One file in place of a folder of images: webdataset's tar, and NumPy's archive.
//!
//! Both keep what is finished: a run that was killed at any byte continues after the last complete image and ends in the
//! same bytes. A manifest inside the file says what it holds.

mod npz;
mod tar;

pub use npz::NpzFile;
pub use tar::{TarFile, TarStream};

use std::fs::{File, TryLockError};
use std::path::Path;

use super::Manifest;
use crate::error::{Error, Kind, Result};
use crate::io::files::refused;

/// Opens a file that grows, and keeps other processes from it. Errors name `output`, the file that the user has asked for.
fn open_locked(path: &Path, output: &Path) -> Result<File> {
    check_regular(path).map_err(|e| e.in_file(output))?;
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(|e| refused(output, e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let message = "another process is writing this file; wait until it is done, or choose another name";
            return Err(Error::new(Kind::Io, message).in_file(output));
        }
        Err(TryLockError::Error(error)) => {
            tracing::warn!(file = %path.display(), %error, "cannot lock; make sure that no other process writes it");
        }
    }
    Ok(file)
}

/// Refuses a folder, a device or a pipe, none of which could be continued.
fn check_regular(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(Error::new(Kind::Io, "is no regular file; choose another name")),
        _ => Ok(()),
    }
}

/// Refuses a file whose manifest `found` is not the wanted one.
fn check_same(found: &[u8], wanted: &Manifest) -> Result<()> {
    let found = std::str::from_utf8(found).map_err(|_| Error::data("its manifest is no text"))?;
    if found == wanted.to_json() {
        return Ok(());
    }
    let found = Manifest::from_json(found)?;
    found.extended(wanted)?;
    let range = |manifest: &Manifest| format!("{} images from {} on", manifest.n, manifest.first);
    Err(Error::argument(format!(
        "the file holds {} of a run, but now {} are wanted; choose another name",
        range(&found),
        range(wanted)
    )))
}

#[cfg(test)]
mod tests;
