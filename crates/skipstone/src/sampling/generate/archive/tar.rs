use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use ndarray::{Array4, ArrayView3};

use super::{check_same, open_locked};
use crate::error::{Error, Kind, Result};
use crate::io::files::refused;
use crate::io::image::{Picture, decode_png, encode_png, text_chunks};
use crate::sampling::generate::{ClassRule, Manifest, Settings, image_name};

/// Size of a header, and unit of everything else.
const BLOCK: usize = 512;
/// The manifest's name: webdataset skips names between double underscores.
const MANIFEST: &str = "__manifest__/manifest.json";
/// What ends an archive: two blocks of zeros.
const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
/// Maximum size of a manifest or an image.
const MOST: u64 = 1 << 30;

/// An archive as webdataset reads it: `000012.png` for each image and, of a conditional network, `000012.cls` with its
/// class. The file only grows. It is locked while it is open.
#[derive(Debug)]
pub struct TarFile {
    path: PathBuf,
    file: File,
    entries: Entries,
    first: u64,
    n: u64,
    done: u64,
    ended: bool,
}

impl TarFile {
    /// Opens or creates the archive for images `first`..`first` + `n` of this shape, and removes what a killed run left
    /// half written.
    ///
    /// # Errors
    /// The file holds something else, or images made with other options or of another range; another process writes it;
    /// or it cannot be written.
    pub fn open(path: &Path, settings: &Settings, manifest: &Manifest, shape: [usize; 3]) -> Result<Self> {
        let file = open_locked(path, path)?;
        let entries = Entries::new(settings);
        let (first, n) = (manifest.first, manifest.n);
        let mut archive = Self { path: path.to_path_buf(), file, entries, first, n, done: 0, ended: false };
        archive.resume(manifest, shape).map_err(|e| e.in_file(path))?;
        Ok(archive)
    }

    /// Finds the end of the last complete image, and cuts the file there.
    fn resume(&mut self, manifest: &Manifest, shape: [usize; 3]) -> Result<()> {
        let path = self.path.clone();
        let failed = |e| refused(&path, e);
        let length = self.file.metadata().map_err(failed)?.len();
        let head = entry(MANIFEST, manifest.to_json().as_bytes());
        if length < head.len() as u64 {
            let mut found = Vec::new();
            self.file.read_to_end(&mut found).map_err(failed)?;
            if !head.starts_with(&found) {
                return Err(Error::argument("the file is not an archive of this run; choose another name"));
            }
            self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(failed)?;
            return self.file.write_all(&head).map_err(failed);
        }
        let mut reader = Entry { file: &mut self.file, at: 0, length };
        let found = reader.next()?.filter(|(name, _)| name == MANIFEST);
        let Some((_, found)) = found else {
            return Err(Error::argument("the file is not an archive of this program; choose another name"));
        };
        check_same(&found, manifest)?;
        let mut kept = reader.at;
        while self.done < self.n {
            let index = self.first + self.done;
            // A disk that fails here says nothing about the images, which may be whole.
            let Some((name, bytes)) = reader.next()? else { break };
            let complete =
                decode_png(&bytes).is_ok_and(|png| (png.picture.height(), png.picture.width()) == (shape[1], shape[2]));
            if name != image_name(index) || !complete {
                break;
            }
            if let Some(label) = self.entries.label(index) {
                match reader.next()? {
                    Some((_, bytes)) if bytes == label.as_bytes() => {}
                    _ => break,
                }
            }
            kept = reader.at;
            self.done += 1;
        }
        self.ended = self.done == self.n && length == kept + END.len() as u64;
        if !self.ended {
            self.file.set_len(kept).map_err(failed)?;
        }
        self.file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(())
    }

    /// The images that are missing.
    pub fn missing(&self) -> Range<u64> {
        self.first + self.done..self.first + self.n
    }

    /// Adds the images of these indices, `[n, c, h, w]`: the next ones.
    ///
    /// # Errors
    /// The images are not the next ones or cannot be pictures, or the file cannot be written.
    pub fn write_all(&mut self, indices: Range<u64>, images: &Array4<f32>) -> Result<()> {
        if indices.start != self.first + self.done || indices.end > self.first + self.n {
            return Err(Error::argument(format!("expected images {:?}, found {indices:?}", self.missing())));
        }
        for (index, image) in indices.zip(images.outer_iter()) {
            let bytes = self.entries.image(index, image)?;
            self.file.write_all(&bytes).map_err(|e| refused(&self.path, e))?;
            self.done += 1;
        }
        Ok(())
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// Images are missing, or the file cannot be written.
    pub fn finish(mut self) -> Result<()> {
        if self.done < self.n {
            return Err(Error::argument(format!("images {:?} are missing", self.missing())).in_file(self.path));
        }
        if !self.ended {
            self.file.write_all(&END).and_then(|()| self.file.sync_all()).map_err(|e| refused(&self.path, e))?;
        }
        Ok(())
    }
}

/// The same archive to a stream, such as standard output.
pub struct TarStream<W> {
    out: W,
    entries: Entries,
}

impl<W: Write> TarStream<W> {
    /// Begins an archive.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(mut out: W, settings: &Settings, manifest: &Manifest) -> std::io::Result<Self> {
        out.write_all(&entry(MANIFEST, manifest.to_json().as_bytes()))?;
        Ok(Self { out, entries: Entries::new(settings) })
    }

    /// Adds the images of these indices, `[n, c, h, w]`.
    ///
    /// # Errors
    /// An image cannot be a picture.
    ///
    /// The inner result has the errors of the stream.
    pub fn write_all(&mut self, indices: Range<u64>, images: &Array4<f32>) -> Result<std::io::Result<()>> {
        for (index, image) in indices.zip(images.outer_iter()) {
            let bytes = self.entries.image(index, image)?;
            if let Err(error) = self.out.write_all(&bytes) {
                return Ok(Err(error));
            }
        }
        Ok(self.out.flush())
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn finish(mut self) -> std::io::Result<()> {
        self.out.write_all(&END)?;
        self.out.flush()
    }
}

/// What makes an image's entries.
#[derive(Debug)]
struct Entries {
    texts: Vec<(String, String)>,
    classes: Option<ClassRule>,
}

impl Entries {
    fn new(settings: &Settings) -> Self {
        Self { texts: settings.to_texts(), classes: settings.classes.clone() }
    }

    fn label(&self, index: u64) -> Option<String> {
        self.classes.as_ref().map(|rule| rule.class(index).to_string())
    }

    fn image(&self, index: u64, image: ArrayView3<'_, f32>) -> Result<Vec<u8>> {
        let (number, name) = (index.to_string(), image_name(index));
        let mut texts = text_chunks(&self.texts);
        texts.push(("index", &number));
        let mut bytes = entry(&name, &encode_png(&Picture::from_image(image)?, &texts)?);
        if let Some(label) = self.label(index) {
            bytes.extend(entry(&name.replace(".png", ".cls"), label.as_bytes()));
        }
        Ok(bytes)
    }
}

/// A file of an archive: its header in the POSIX format, its bytes, zeros up to the next block. Times and owners are zero.
fn entry(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = [0u8; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", bytes.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let padding = bytes.len().next_multiple_of(BLOCK) - bytes.len();
    [&header[..], bytes, &vec![0; padding]].concat()
}

/// Reads entries as this program writes them.
struct Entry<'a> {
    file: &'a mut File,
    at: u64,
    length: u64,
}

impl Entry<'_> {
    /// Name and bytes of the next complete entry; `None` at the end of the archive or of the file.
    fn next(&mut self) -> Result<Option<(String, Vec<u8>)>> {
        let mut header = [0; BLOCK];
        if self.at + BLOCK as u64 > self.length {
            return Ok(None);
        }
        let failed = |e| Error::new(Kind::Io, format!("cannot read: {e}"));
        self.file.seek(SeekFrom::Start(self.at)).map_err(failed)?;
        self.file.read_exact(&mut header).map_err(failed)?;
        let text = |bytes: &[u8]| {
            let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        };
        let (name, size) = (text(&header[..100]), text(&header[124..136]));
        let size = u64::from_str_radix(&size, 8).ok().filter(|&size| size <= MOST && !name.is_empty());
        let Some(size) = size else { return Ok(None) };
        let end = self.at + BLOCK as u64 + size.next_multiple_of(BLOCK as u64);
        if end > self.length {
            return Ok(None);
        }
        let mut bytes = vec![0; size as usize];
        self.file.read_exact(&mut bytes).map_err(failed)?;
        // Anything else than what would be written again is torn.
        let whole = entry(&name, &bytes);
        if whole[..BLOCK] != header {
            return Ok(None);
        }
        self.at = end;
        Ok(Some((name, bytes)))
    }
}
