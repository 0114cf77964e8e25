use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use ndarray::Array4;

use super::{check_regular, check_same, open_locked};
use crate::error::{Error, Kind, Result};
use crate::io::checkpoint::zip::Archive;
use crate::io::files;
use crate::io::image::{npy, to_byte};
use crate::sampling::generate::Manifest;

/// The entry of the manifest.
const MANIFEST: &str = "manifest.json";
/// Maximum size of a manifest.
const MOST: u64 = 1 << 24;

/// NumPy's archive with one array, `arr_0`: bytes `[n, height, width, channels]`, as guided-diffusion's evaluator reads it.
///
/// Finished images are kept beside it in `.NAME.partial`, which is locked while it is open, until all are there.
#[derive(Debug)]
pub struct NpzFile {
    path: PathBuf,
    manifest: Manifest,
    /// `[channels, height, width]`.
    shape: [usize; 3],
    /// The partial file and the number of its images; `None` if the archive is complete.
    partial: Option<(File, u64)>,
}

impl NpzFile {
    /// Opens or creates the archive of a manifest's images, which have this shape.
    ///
    /// # Errors
    /// The file holds something else, or images made with other options or of another range; another process writes it;
    /// or it cannot be written.
    pub fn open(path: &Path, manifest: &Manifest, shape: [usize; 3]) -> Result<Self> {
        let mut archive = Self { path: path.to_path_buf(), manifest: manifest.clone(), shape, partial: None };
        if path.exists() {
            check_regular(path).map_err(|e| e.in_file(path))?;
            let found = Archive::open(path).and_then(|archive| archive.read(MANIFEST, MOST));
            // It appeared complete, so something else has damaged it, or made it.
            let found = found.map_err(|e| {
                Error::data(format!("{}; remove the file to make it again, or choose another name", e.message()))
                    .in_file(path)
            })?;
            let found = found.ok_or_else(|| {
                Error::argument("the archive is not one of this program; choose another name").in_file(path)
            })?;
            check_same(&found, manifest).map_err(|e| e.in_file(path))?;
            return Ok(archive);
        }
        let partial = partial_of(path);
        let file = open_locked(&partial, path)?;
        archive.partial = Some(archive.resume(file).map_err(|e| e.in_file(&partial))?);
        Ok(archive)
    }

    /// The manifest with its length.
    fn head(&self) -> Vec<u8> {
        let text = self.manifest.to_json();
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    /// Bytes of an image.
    fn row(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64
    }

    /// Cuts a partial file after its last complete image.
    fn resume(&self, mut file: File) -> Result<(File, u64)> {
        let failed = |e| files::refused(&self.path, e);
        let head = self.head();
        let mut found = vec![0; 8];
        let length = file.metadata().map_err(failed)?.len();
        found.truncate(length.min(8) as usize);
        file.read_exact(&mut found).map_err(failed)?;
        if let Ok(size) = found[..].try_into().map(u64::from_le_bytes)
            && size <= MOST
            && 8 + size <= length
        {
            let mut text = vec![0; size as usize];
            file.read_exact(&mut text).map_err(failed)?;
            check_same(&text, &self.manifest)?;
            let done = ((length - 8 - size) / self.row()).min(self.manifest.n);
            file.set_len(8 + size + done * self.row()).map_err(failed)?;
            file.seek(SeekFrom::End(0)).map_err(failed)?;
            return Ok((file, done));
        }
        // Not even its manifest was complete.
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&head)).map_err(failed)?;
        Ok((file, 0))
    }

    /// The images that are missing.
    pub fn missing(&self) -> Range<u64> {
        let Manifest { first, n, .. } = self.manifest;
        first + self.partial.as_ref().map_or(n, |(_, done)| *done)..first + n
    }

    /// Adds the images of these indices, `[n, c, h, w]`: the next ones.
    ///
    /// # Errors
    /// The images are not the next ones or not finite, or the file cannot be written.
    pub fn write_all(&mut self, indices: Range<u64>, images: &Array4<f32>) -> Result<()> {
        let missing = self.missing();
        let Some((file, done)) = self.partial.as_mut().filter(|_| indices.start == missing.start) else {
            return Err(Error::argument(format!("expected images {missing:?}, found {indices:?}")));
        };
        for (index, image) in indices.zip(images.outer_iter()) {
            if image.iter().any(|value| !value.is_finite()) {
                return Err(Error::new(Kind::NonFinite, format!("image {index} is not finite")));
            }
            let bytes: Vec<u8> = image.permuted_axes([1, 2, 0]).iter().map(|&value| to_byte(value)).collect();
            file.write_all(&bytes).map_err(|e| files::refused(&self.path, e))?;
            *done += 1;
        }
        Ok(())
    }

    /// Writes the archive and removes the partial file.
    ///
    /// # Errors
    /// Images are missing, or a file cannot be read or written.
    pub fn finish(self) -> Result<()> {
        let missing = self.missing();
        let (path, partial) = (&self.path, partial_of(&self.path));
        if !missing.is_empty() {
            return Err(Error::argument(format!("images {missing:?} are missing")).in_file(path));
        }
        let head = self.head();
        let Some((mut file, n)) = self.partial else { return Ok(()) };
        let [c, h, w] = self.shape;
        let header = npy::header("|u1", &[n as usize, h, w, c]);
        let failed = |e| Error::io(&partial, e);
        let mut rows = |see: &mut dyn FnMut(&[u8]) -> Result<()>| -> Result<()> {
            file.seek(SeekFrom::Start(head.len() as u64)).map_err(failed)?;
            let mut buffer = vec![0; 1 << 16];
            loop {
                match file.read(&mut buffer).map_err(failed)? {
                    0 => return Ok(()),
                    read => see(&buffer[..read])?,
                }
            }
        };
        let mut crc = flate2::Crc::new();
        crc.update(&header);
        let mut length = header.len() as u64;
        rows(&mut |bytes| {
            crc.update(bytes);
            length += bytes.len() as u64;
            Ok(())
        })?;
        files::write_atomically(path, |out| {
            let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(|e| Error::io(path, e));
            let array = Entry { name: "arr_0.npy", crc32: crc.sum(), length, start: 0 };
            put(&array.local())?;
            put(&header)?;
            rows(&mut put)?;
            let text = &head[8..];
            let mut crc = flate2::Crc::new();
            crc.update(text);
            let start = array.local().len() as u64 + length;
            let manifest = Entry { name: MANIFEST, crc32: crc.sum(), length: text.len() as u64, start };
            put(&manifest.local())?;
            put(text)?;
            put(&directory(&[&array, &manifest]))
        })?;
        std::fs::remove_file(&partial).map_err(failed)
    }
}

/// Where an archive's finished images are until all are there.
fn partial_of(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.partial", path.file_name().unwrap_or_default().to_string_lossy()))
}

/// An entry of a zip archive, stored without compression, with sizes in 64 bits. Its time is the format's first day.
struct Entry {
    name: &'static str,
    crc32: u32,
    length: u64,
    start: u64,
}

impl Entry {
    /// The fields that both headers have, from the version needed to the lengths of name and extra field.
    fn common(&self, extra: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Version 4.5 knows 64 bits; no flags; stored; midnight, 1 January 1980.
        for field in [45u16, 0, 0, 0, 0x21] {
            bytes.extend(field.to_le_bytes());
        }
        for field in [self.crc32, u32::MAX, u32::MAX] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend((self.name.len() as u16).to_le_bytes());
        bytes.extend(extra.to_le_bytes());
        bytes
    }

    /// The header before the entry's bytes.
    fn local(&self) -> Vec<u8> {
        let mut bytes = [b"PK\x03\x04", &self.common(20)[..], self.name.as_bytes()].concat();
        bytes.extend([1, 0, 16, 0]);
        bytes.extend([self.length, self.length].map(u64::to_le_bytes).as_flattened());
        bytes
    }

    /// The entry in the directory.
    fn central(&self) -> Vec<u8> {
        let mut bytes = [b"PK\x01\x02\x2d\x00", &self.common(28)[..]].concat();
        // No comment, first disk, binary, no attributes; the offset is in the extra field.
        bytes.extend([0; 10]);
        bytes.extend(u32::MAX.to_le_bytes());
        bytes.extend(self.name.as_bytes());
        bytes.extend([1, 0, 24, 0]);
        bytes.extend([self.length, self.length, self.start].map(u64::to_le_bytes).as_flattened());
        bytes
    }
}

/// The directory of an archive with these entries, and its end.
fn directory(entries: &[&Entry]) -> Vec<u8> {
    let central: Vec<u8> = entries.iter().flat_map(|entry| entry.central()).collect();
    let start = entries.last().map_or(0, |last| last.start + last.local().len() as u64 + last.length);
    let (count, size) = (entries.len() as u64, central.len() as u64);
    let mut end = Vec::from(*b"PK\x06\x06");
    end.extend(44u64.to_le_bytes());
    end.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    end.extend([count, count, size, start].map(u64::to_le_bytes).as_flattened());
    end.extend(*b"PK\x06\x07\0\0\0\0");
    end.extend((start + size).to_le_bytes());
    end.extend([1, 0, 0, 0]);
    end.extend(*b"PK\x05\x06\0\0\0\0");
    end.extend([(count as u16).to_le_bytes(); 2].as_flattened());
    end.extend([(size as u32).to_le_bytes(), u32::MAX.to_le_bytes()].as_flattened());
    end.extend([0, 0]);
    [central, end].concat()
}
