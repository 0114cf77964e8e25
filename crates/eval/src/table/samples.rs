//! Samples on disk, kept under the options that determine them, so that no image is drawn twice.
//!
//! They are kept as users get them, in 8-bit pixels. A folder holds the images of one set of options, in files of
//! consecutive images such as `000000-000255.png`. A file shows its images one below the other; if these have neither 1 nor
//! 3 channels, it shows their channels one below the other, in gray. Its PNG texts record the
//! first image, the options, a digest of the pixels, and the time and machine. Folders may be copied, divided and joined
//! again, so several machines can share the work.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ndarray::{Array4, ArrayView4, Axis, Slice, concatenate};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use skipstone::error::{Error, Kind, Result};
use skipstone::io::files;
use skipstone::io::hex::hex;
use skipstone::io::image::{Picture, is_picture, read_png, write_png};
use skipstone::sampling::generate::{Settings, stated};

/// The PNG texts of a file: the program, a digest of the options, the first image, a digest of the pixels, their cost.
const TEXTS: [&str; 6] = ["Software", "options", "first", "pixels", "seconds", "machine"];

/// The cost of drawing a range of images.
#[derive(Clone, Debug, PartialEq)]
pub struct Effort {
    /// Wall-clock seconds for all images together.
    pub seconds: f64,
    /// The machine, such as `2 threads (avx512)`.
    pub machine: String,
}

/// A valid file of consecutive images.
#[derive(Clone, Debug)]
struct Block {
    images: Range<u64>,
    path: PathBuf,
    effort: Effort,
}

/// The images of one set of options.
#[derive(Debug)]
pub struct Samples {
    folder: PathBuf,
    options: Map<String, Value>,
    key: String,
    shape: [usize; 3],
    /// In order of the first image.
    blocks: Vec<Block>,
    damaged: Vec<Error>,
}

/// Options in the order of their names, for digests: any dependency can make serde_json's maps keep another order.
pub(super) fn sorted(options: &Map<String, Value>) -> BTreeMap<&String, &Value> {
    options.iter().collect()
}

/// A digest of the options. Runs with equal digests have equal images.
fn key_of(options: &Map<String, Value>) -> String {
    hex(&Sha256::digest(json!(sorted(options)).to_string()))
}

/// The most telling options, for names of folders.
fn label(options: &Map<String, Value>) -> String {
    let word = |name: &str| stated(options, name);
    let noise = word("sigma").or_else(|| word("eta").map(|eta| format!("eta{eta}")));
    let words = [word("steps"), noise, word("spacing"), word("solver")];
    let words: Vec<String> = words.into_iter().flatten().collect();
    words.join("-").replace(|c: char| !(c.is_ascii_alphanumeric() || "-.+".contains(c)), "_")
}

impl Samples {
    /// Opens the images in `root` with these options, and verifies each file. Nothing is written.
    ///
    /// # Errors
    /// The folder cannot be read. Damaged files are not an error: they count as
    /// absent, see [`damaged`](Self::damaged).
    pub fn open(root: &Path, settings: &Settings, shape: [usize; 3]) -> Result<Self> {
        let options = settings.to_json();
        let key = key_of(&options);
        let folder = root.join(format!("{}-{}", label(&options), &key[..12]));
        let mut samples = Self { folder, options, key, shape, blocks: Vec::new(), damaged: Vec::new() };
        samples.scan()?;
        Ok(samples)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The damaged files, with the reasons.
    pub fn damaged(&self) -> &[Error] {
        &self.damaged
    }

    /// Takes out the damaged files; [`repair`](Self::repair) will not remove them.
    pub(super) fn take_damaged(&mut self) -> Vec<Error> {
        std::mem::take(&mut self.damaged)
    }

    /// The most telling options, for names of files.
    pub(super) fn label(&self) -> String {
        label(&self.options)
    }

    /// The images of `wanted`, `[n, channels, height, width]`.
    ///
    /// # Errors
    /// As [`read`](Self::read), or `wanted` is empty.
    pub fn all(&self, wanted: Range<u64>) -> Result<Array4<u8>> {
        let mut parts = Vec::new();
        self.read(wanted, &mut |images| {
            parts.push(images);
            Ok(())
        })?;
        let views: Vec<_> = parts.iter().map(|images| images.view()).collect();
        concatenate(Axis(0), &views).map_err(|_| Error::argument("samples: expected at least 1 image, found 0"))
    }

    /// Removes the damaged files.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn repair(&mut self) -> Result<()> {
        for path in self.damaged.drain(..).filter_map(|error| error.path().map(Path::to_path_buf)) {
            match std::fs::remove_file(&path) {
                // Another process has removed it.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.map_err(|e| Error::io(path, e))?,
            }
        }
        Ok(())
    }

    fn scan(&mut self) -> Result<()> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io(&self.folder, e)),
        };
        for entry in entries {
            let path = entry.map_err(|e| Error::io(&self.folder, e))?.path();
            let Some(images) = path.file_name().and_then(|name| images_of(&name.to_string_lossy())) else { continue };
            match self.verified(&path, &images) {
                Ok((_, effort)) => self.blocks.push(Block { images, path, effort }),
                Err(error) if error.kind() != Kind::Io => self.damaged.push(error.in_file(&path)),
                // The disk fails or permission is missing; the images may be whole.
                Err(error) => return Err(error.in_file(&path)),
            }
        }
        self.sort();
        Ok(())
    }

    fn sort(&mut self) {
        // The longer first, so that files within it are skipped.
        self.blocks.sort_by_key(|block| (block.images.start, std::cmp::Reverse(block.images.end)));
    }

    /// The pixels of a file, if its content matches its name.
    fn verified(&self, path: &Path, images: &Range<u64>) -> Result<(Picture, Effort)> {
        let file = read_png(path)?;
        let found = |name: &str| file.text.iter().find(|(key, _)| key == name).map(|(_, text)| text.as_str());
        // PNG readers skip a damaged text.
        if let Some(name) = TEXTS.iter().find(|name| found(name).is_none()) {
            return Err(Error::data(format!("{name}: missing")));
        }
        let text = |name: &str| found(name).unwrap_or_default();
        let [c, h, w] = self.shape;
        let size = [file.picture.channels(), file.picture.height(), file.picture.width()];
        // The range in the name is not empty.
        let rows = h * (images.end - images.start) as usize;
        let expected = if is_picture(c) { [c, rows, w] } else { [1, c * rows, w] };
        let digest = hex(&Sha256::digest(file.picture.data()));
        let parts = [
            ("options", text("options") == self.key),
            ("first", text("first") == images.start.to_string()),
            ("size", size == expected),
            ("pixels", text("pixels") == digest),
        ];
        if let Some((name, _)) = parts.iter().find(|(_, good)| !good) {
            return Err(Error::data(format!("{name}: not what was written under this name")));
        }
        let seconds = text("seconds").parse().ok().filter(|s: &f64| s.is_finite() && *s >= 0.0);
        let seconds = seconds.ok_or_else(|| Error::data("seconds: expected a number"))?;
        Ok((file.picture, Effort { seconds, machine: text("machine").to_owned() }))
    }

    /// The images of `wanted` that are missing.
    pub fn missing(&self, wanted: Range<u64>) -> Vec<Range<u64>> {
        let (mut missing, mut next) = (Vec::new(), wanted.start);
        for block in &self.blocks {
            let start = block.images.start.min(wanted.end);
            if start > next {
                missing.push(next..start);
            }
            next = next.max(block.images.end);
        }
        if next < wanted.end {
            missing.push(next..wanted.end);
        }
        missing
    }

    /// Keeps images that begin at index `first`, `[n, channels, height, width]`.
    ///
    /// # Errors
    /// The images have another shape, there are none, or the file cannot be written.
    pub fn write(&mut self, first: u64, images: ArrayView4<'_, u8>, effort: Effort) -> Result<()> {
        let (n, c, h, w) = images.dim();
        if [c, h, w] != self.shape || n == 0 {
            return Err(Error::argument(format!(
                "samples: expected [n, {:?}] with n > 0, found {:?}",
                self.shape,
                images.shape()
            )));
        }
        if self.blocks.is_empty() {
            files::create_dir(&self.folder)?;
            let options = json!({"format": 1, "options": self.options});
            files::write_bytes(&self.folder.join("options.json"), format!("{options:#}\n").as_bytes())?;
        }
        // One below the other, channels last.
        let picture = if is_picture(c) {
            Picture::new(w, h * n, c, images.permuted_axes([0, 2, 3, 1]).iter().copied().collect())?
        } else {
            Picture::new(w, c * h * n, 1, images.iter().copied().collect())?
        };
        let range = first..first + n as u64;
        let path = self.folder.join(format!("{:06}-{:06}.png", range.start, range.end - 1));
        let (start, seconds) = (first.to_string(), effort.seconds.to_string());
        let program = concat!("skipstone ", env!("CARGO_PKG_VERSION"));
        let pixels = hex(&Sha256::digest(picture.data()));
        let said: [&str; 6] = [program, &self.key, &start, &pixels, &seconds, &effort.machine];
        let texts: Vec<_> = TEXTS.into_iter().zip(said).collect();
        write_png(&path, &picture, &texts)?;
        self.blocks.push(Block { images: range, path, effort });
        self.sort();
        Ok(())
    }

    /// The blocks that make up `wanted`, each with its part of it.
    fn parts(&self, wanted: &Range<u64>) -> Vec<(&Block, Range<u64>)> {
        let (mut parts, mut next) = (Vec::new(), wanted.start);
        for block in &self.blocks {
            let part = next.max(block.images.start)..wanted.end.min(block.images.end);
            if part.start < part.end {
                next = part.end;
                parts.push((block, part));
            }
        }
        parts
    }

    /// Passes every image of `wanted` to `see` in order, file by file, and verifies each file again.
    ///
    /// # Errors
    /// An image is missing, a file has changed, or `see` fails.
    pub fn read(&self, wanted: Range<u64>, see: &mut dyn FnMut(Array4<u8>) -> Result<()>) -> Result<()> {
        if let Some(gap) = self.missing(wanted.clone()).first() {
            let message = format!("images {} to {} are missing", gap.start, gap.end - 1);
            return Err(Error::new(skipstone::Kind::NotFound, message).in_file(&self.folder));
        }
        for (block, part) in self.parts(&wanted) {
            let (picture, _) = self.verified(&block.path, &block.images).map_err(|e| e.in_file(&block.path))?;
            let [c, h, w] = self.shape;
            let n = (block.images.end - block.images.start) as usize;
            let all = if is_picture(c) {
                ArrayView4::from_shape((n, h, w, c), picture.data()).map(|all| all.permuted_axes([0, 3, 1, 2]))
            } else {
                ArrayView4::from_shape((n, c, h, w), picture.data())
            };
            let images = all.expect("the size was verified");
            let start = (part.start - block.images.start) as usize;
            let rows = Slice::from(start..start + (part.end - part.start) as usize);
            // Standard layout, for readers of rows.
            let images = images.slice_axis(Axis(0), rows).as_standard_layout().into_owned();
            see(images)?;
        }
        Ok(())
    }

    /// The cost of the images of `wanted`: total seconds, and the machines that drew them, in order of the first image. A file
    /// that is used in part counts in part.
    pub fn effort(&self, wanted: &Range<u64>) -> (f64, Vec<String>) {
        let (mut seconds, mut machines) = (0.0, Vec::new());
        for (block, part) in self.parts(wanted) {
            let share = (part.end - part.start) as f64 / (block.images.end - block.images.start) as f64;
            seconds += share * block.effort.seconds;
            if !machines.contains(&block.effort.machine) {
                machines.push(block.effort.machine.clone());
            }
        }
        (seconds, machines)
    }
}

/// The images named by a file name; `None` for other files.
fn images_of(name: &str) -> Option<Range<u64>> {
    let (first, last) = name.strip_suffix(".png")?.split_once('-')?;
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    let (first, end) = (number(first)?, number(last)?.checked_add(1)?);
    // No file of ours holds more images, so none may claim more memory.
    (first < end && end - first <= 1 << 24).then_some(first..end)
}

#[cfg(test)]
mod tests;
