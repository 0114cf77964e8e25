//! The subset of ZIP that `torch.save` and NumPy use: a central directory, stored or deflated entries, ZIP64 numbers.
//!
//! Entries of checkpoints are never inflated, so their size is bounded by the file's size. Other entries are inflated
//! up to a limit.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blob::{self, Blob, Stream, Window};
use crate::error::{Error, Result};

const END: &[u8] = b"PK\x05\x06";
const END64_LOCATOR: &[u8] = b"PK\x06\x07";
const END64: &[u8] = b"PK\x06\x06";
const CENTRAL: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";

/// The position of a stored file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub start: u64,
    pub len: u64,
    pub crc32: u32,
}

fn bad(what: impl Into<String>) -> Error {
    Error::data(format!("bad zip archive: {}", what.into()))
}

/// The checksum of ZIP entries.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Reads a little-endian number; fails if the slice is too short.
fn number(bytes: &[u8], at: usize, size: usize) -> Result<u64> {
    let field = at.checked_add(size).and_then(|end| bytes.get(at..end)).ok_or_else(|| bad("truncated"))?;
    Ok(field.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
}

/// Start and length of the central directory.
fn directory(blob: &dyn Blob) -> Result<(u64, u64)> {
    // The end record has 22 bytes and a comment of at most 65535.
    let tail_len = blob.len().min(22 + 65535);
    let tail_start = blob.len() - tail_len;
    let tail = blob.read(tail_start, tail_len)?;
    let end = (0..=tail.len().saturating_sub(22))
        .rev()
        .find(|&i| {
            tail[i..].starts_with(END)
                && number(&tail, i + 20, 2).is_ok_and(|comment| i as u64 + 22 + comment == tail_len)
        })
        .ok_or_else(|| bad("truncated, no directory at the end"))?;
    let (mut size, mut start) = (number(&tail, end + 12, 4)?, number(&tail, end + 16, 4)?);
    let end = tail_start + end as u64;
    if end >= 20 {
        let locator = blob.read(end - 20, 20)?;
        if locator.starts_with(END64_LOCATOR) {
            let record = blob.read(number(&locator, 8, 8)?, 56)?;
            if !record.starts_with(END64) {
                return Err(bad("the 64-bit directory record is missing"));
            }
            (size, start) = (number(&record, 40, 8)?, number(&record, 48, 8)?);
        }
    }
    Ok((start, size))
}

/// All entries of an archive by name; all of them must be stored uncompressed.
pub(crate) fn entries(blob: &dyn Blob) -> Result<BTreeMap<String, Stored>> {
    let stored = |(name, entry): (String, Packed)| match entry.method {
        0 if entry.len != entry.stored.len => {
            Err(bad(format!("{name}: {} bytes stored, {} claimed", entry.stored.len, entry.len)))
        }
        0 => Ok((name, entry.stored)),
        method => Err(Error::unsupported(format!(
            "{name}: compressed (method {method}); expected an uncompressed entry, as torch.save writes"
        ))),
    };
    packed_entries(blob)?.into_iter().map(stored).collect()
}

/// An archive on disk whose entries may be deflated, as in NumPy's `.npz`.
pub struct Archive {
    path: PathBuf,
    blob: Arc<dyn Blob>,
    entries: BTreeMap<String, Packed>,
}

impl Archive {
    /// Opens the archive at `path` and reads its directory.
    ///
    /// # Errors
    /// The file is missing, unreadable or not an archive.
    pub fn open(path: &Path) -> Result<Self> {
        let blob: Arc<dyn Blob> = blob::open(path)?.into();
        let entries = packed_entries(&*blob)?;
        Ok(Self { path: path.to_path_buf(), blob, entries })
    }

    /// The names of the entries, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The unpacked bytes of the entry called `name`; `None` if it does not exist.
    ///
    /// # Errors
    /// The entry is damaged, larger than `limit` bytes, or compressed by a method other than deflate.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        self.entries.get(name).map(|entry| entry.unpack(&*self.blob, limit)).transpose()
    }

    /// The entry called `name` as a stream that checks nothing, and its length; `None` if it does not exist.
    pub(crate) fn peek(&self, name: &str) -> Result<Option<(Box<dyn Read>, u64)>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let packed = Window::new(self.blob.clone(), entry.stored.start, entry.stored.len)?;
        let stream: Box<dyn Read> = match entry.method {
            0 => Box::new(Stream::new(packed)),
            8 => Box::new(flate2::bufread::DeflateDecoder::new(BufReader::new(Stream::new(packed)))),
            method => return Err(unsupported_method(method)),
        };
        Ok(Some((stream, entry.len)))
    }

    /// The entry called `name`, for reading in parts; `None` if it does not exist. A stored entry is read where it lies.
    /// A deflated one is first unpacked into a temporary file.
    ///
    /// # Errors
    /// The entry is damaged, compressed by a method other than deflate, or claims more than deflate can hold; or the
    /// temporary file cannot be written.
    pub(crate) fn open_entry(&self, name: &str) -> Result<Option<Arc<dyn Blob>>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let packed = Window::new(self.blob.clone(), entry.stored.start, entry.stored.len)?;
        match entry.method {
            0 if entry.len == entry.stored.len => Ok(Some(Arc::new(packed))),
            0 => Err(bad(format!("{name}: {} bytes stored, {} claimed", entry.stored.len, entry.len))),
            8 => entry.unpack_to_disk(&packed, &self.path).map(Some),
            method => Err(unsupported_method(method)),
        }
    }
}

/// Maximum compression ratio of deflate.
const MAX_DEFLATE_RATIO: u64 = 1032;
/// Above this size, an entry that shrank more than [`SUSPECT_RATIO`]-fold is not unpacked: no set of images does.
const SUSPECT_SIZE: u64 = 1 << 30;
const SUSPECT_RATIO: u64 = 200;

/// An entry as stored in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packed {
    /// The bytes in the archive, with the checksum of the unpacked bytes.
    stored: Stored,
    /// Unpacked size according to the archive.
    len: u64,
    /// 0 for stored, 8 for deflated.
    method: u64,
}

impl Packed {
    /// The unpacked bytes in a temporary file, which disappears with the blob.
    fn unpack_to_disk(&self, packed: &dyn Blob, path: &Path) -> Result<Arc<dyn Blob>> {
        let ratio = self.len / packed.len().max(1);
        if ratio > MAX_DEFLATE_RATIO || (self.len > SUSPECT_SIZE && ratio > SUSPECT_RATIO) {
            return Err(bad(format!(
                "{} bytes that claim to unpack to {}; save the array uncompressed, with numpy.savez",
                packed.len(),
                self.len
            )));
        }
        let mut file = tempfile::tempfile().map_err(|e| Error::io(std::env::temp_dir(), e))?;
        // Reading one byte more than claimed detects an entry that is longer.
        let mut stream = flate2::bufread::DeflateDecoder::new(BufReader::new(Stream::new(packed))).take(self.len + 1);
        let (mut crc, mut buffer, mut len) = (flate2::Crc::new(), vec![0; 1 << 16], 0);
        loop {
            let n = stream.read(&mut buffer).map_err(|e| bad(e.to_string()))?;
            if n == 0 {
                break;
            }
            crc.update(&buffer[..n]);
            len += n as u64;
            file.write_all(&buffer[..n]).map_err(|e| Error::io(std::env::temp_dir(), e))?;
        }
        if len != self.len || crc.sum() != self.stored.crc32 {
            return Err(bad("an entry is damaged: its length or checksum contradicts the directory"));
        }
        blob::temporary(path, file)
    }

    /// The unpacked bytes, at most `limit`.
    fn unpack(&self, blob: &dyn Blob, limit: u64) -> Result<Vec<u8>> {
        if self.len > limit {
            return Err(bad(format!("expected at most {limit} bytes unpacked, found {}", self.len)));
        }
        let packed = blob.read(self.stored.start, self.stored.len)?;
        let mut bytes = Vec::new();
        match self.method {
            0 => bytes = packed,
            8 => {
                // Reading one byte more than claimed detects an entry that is longer.
                let inflated =
                    flate2::read::DeflateDecoder::new(&packed[..]).take(self.len + 1).read_to_end(&mut bytes);
                inflated.map_err(|e| bad(e.to_string()))?;
            }
            method => return Err(unsupported_method(method)),
        }
        if bytes.len() as u64 != self.len || crc32(&bytes) != self.stored.crc32 {
            return Err(bad("an entry is damaged: its length or checksum contradicts the directory"));
        }
        Ok(bytes)
    }
}

fn unsupported_method(method: u64) -> Error {
    Error::unsupported(format!("unsupported zip compression method {method}: expected stored (0) or deflated (8)"))
}

/// All entries of an archive by name.
fn packed_entries(blob: &dyn Blob) -> Result<BTreeMap<String, Packed>> {
    let (start, size) = directory(blob)?;
    let directory = blob.read(start, size)?;
    let mut entries = BTreeMap::new();
    let mut at = 0;
    while at < directory.len() {
        let record = &directory[at..];
        if !record.starts_with(CENTRAL) {
            return Err(bad("the directory is damaged"));
        }
        let field = |offset, size| number(record, offset, size);
        let [name_len, extra_len, comment_len] = [field(28, 2)?, field(30, 2)?, field(32, 2)?].map(|n| n as usize);
        let name = record.get(46..46 + name_len).ok_or_else(|| bad("truncated"))?;
        let name = std::str::from_utf8(name).map_err(|_| bad("a name is not UTF-8"))?.to_owned();
        let extra = record.get(46 + name_len..46 + name_len + extra_len).ok_or_else(|| bad("truncated"))?;
        let mut sizes = [field(24, 4)?, field(20, 4)?, field(42, 4)?];
        wide(extra, &mut sizes)?;
        let [len, packed, header] = sizes;
        let (flags, method, crc32) = (field(8, 2)?, field(10, 2)?, field(16, 4)? as u32);
        if flags & 1 != 0 {
            return Err(Error::unsupported(format!("{name}: encrypted zip entries are not supported")));
        }
        let local = blob.read(header, 30)?;
        if !local.starts_with(LOCAL) {
            return Err(bad(format!("{name}: no file at the position in the directory")));
        }
        let start = header + 30 + number(&local, 26, 2)? + number(&local, 28, 2)?;
        if start.checked_add(packed).is_none_or(|end| end > blob.len()) {
            return Err(bad(format!("{name}: {packed} bytes at {start} reach beyond the end of the file")));
        }
        let stored = Stored { start, len: packed, crc32 };
        if entries.insert(name.clone(), Packed { stored, len, method }).is_some() {
            return Err(bad(format!("{name}: the entry occurs twice")));
        }
        at += 46 + name_len + extra_len + comment_len;
    }
    Ok(entries)
}

/// Replaces sizes of 0xffffffff by the 64-bit sizes in the extra field.
fn wide(mut extra: &[u8], sizes: &mut [u64; 3]) -> Result<()> {
    while extra.len() >= 4 {
        let (tag, len) = (number(extra, 0, 2)?, number(extra, 2, 2)? as usize);
        let body = extra.get(4..4 + len).ok_or_else(|| bad("truncated"))?;
        if tag == 1 {
            let mut at = 0;
            for size in sizes.iter_mut().filter(|s| **s == 0xffff_ffff) {
                *size = number(body, at, 8)?;
                at += 8;
            }
            return Ok(());
        }
        extra = &extra[4 + len..];
    }
    Ok(())
}

/// An archive of uncompressed entries in the given order. It contains no time stamps, so equal files give equal bytes.
///
/// # Errors
/// The entries need the 64-bit format: more than 4 GiB in total, or more than 65,535 entries.
pub fn archive(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let too_large = |_| Error::unsupported("the zip archive needs more than 4 GiB or 65,535 entries");
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        let (len, place) =
            (u32::try_from(bytes.len()).map_err(too_large)?, u32::try_from(out.len()).map_err(too_large)?);
        // No flags, stored; midnight of 1 January 1980, the earliest date of the format.
        let mut common = vec![0, 0, 0, 0, 0, 0, 0x21, 0];
        common.extend(crc32(bytes).to_le_bytes());
        common.extend(len.to_le_bytes());
        common.extend(len.to_le_bytes());
        common.extend(u16::try_from(name.len()).map_err(too_large)?.to_le_bytes());
        common.extend([0, 0]);
        directory.extend(CENTRAL);
        directory.extend(b"\x14\0\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(place.to_le_bytes());
        directory.extend(name.bytes());
        out.extend(LOCAL);
        out.extend(b"\x14\0");
        out.extend(&common);
        out.extend(name.bytes());
        out.extend(*bytes);
    }
    let (start, size) = (out.len(), directory.len());
    out.extend(&directory);
    out.extend(END);
    out.extend([0; 4]);
    let count = u16::try_from(files.len()).map_err(too_large)?.to_le_bytes();
    out.extend([count, count].concat());
    for number in [size, start] {
        out.extend(u32::try_from(number).map_err(too_large)?.to_le_bytes());
    }
    out.extend([0, 0]);
    Ok(out)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// [`super::archive`] for entries that fit.
    pub(crate) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        super::archive(files).unwrap()
    }

    fn names(bytes: &[u8]) -> Result<Vec<String>> {
        entries(&bytes).map(|e| e.into_keys().collect())
    }

    #[test]
    fn stored_entries_are_found() {
        let bytes = archive(&[("a/x", b"hello"), ("a/y", b"")]);
        let found = entries(&&bytes[..]).unwrap();
        let x = found["a/x"];
        assert_eq!(&bytes[x.start as usize..][..x.len as usize], b"hello");
        // CRC-32 of "hello" from published check values.
        assert_eq!(x.crc32, 0x3610_a686);
        assert_eq!(found["a/y"].len, 0);
    }

    #[test]
    fn an_archive_cut_anywhere_is_an_error() {
        let bytes = archive(&[("a/x", b"hello"), ("b", b"world")]);
        for end in 0..bytes.len() {
            assert!(names(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn any_damaged_byte_is_survived() {
        let bytes = archive(&[("a/x", b"hello"), ("b", b"world")]);
        for at in 0..bytes.len() {
            for value in 0..=255 {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let _ = names(&damaged);
            }
        }
    }

    #[test]
    fn lying_sizes_compression_and_encryption_are_refused() {
        let good = archive(&[("x", b"hello")]);
        let central = good.windows(4).position(|w| w == CENTRAL).unwrap();
        let with = |patches: &[(usize, u32)]| {
            let mut bytes = good.clone();
            for &(offset, value) in patches {
                bytes[central + offset..][..4].copy_from_slice(&value.to_le_bytes());
            }
            names(&bytes).unwrap_err().to_string()
        };
        assert!(with(&[(24, 1 << 30)]).contains("claimed"));
        assert!(with(&[(20, 1 << 30), (24, 1 << 30)]).contains("beyond the end"));
        assert!(with(&[(20, u32::MAX), (24, u32::MAX)]).contains("beyond the end"));
        assert!(with(&[(42, 1 << 20)]).contains("truncated"));
        assert!(with(&[(10, 8)]).contains("compressed (method 8)"));
        assert!(with(&[(8, 1)]).contains("encrypted"));
        let e = names(&archive(&[("x", b"1"), ("x", b"2")])).unwrap_err();
        assert!(e.to_string().contains("twice"));
    }

    #[test]
    fn deflated_entries_are_unpacked_within_their_limit() {
        use std::io::Write;
        let text = b"skip skip skip skip skip skip skip skip";
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(text).unwrap();
        let packed = encoder.finish().unwrap();
        assert!(packed.len() < text.len());
        // Archives the packed bytes, then corrects method, unpacked length and checksum in the directory.
        let mut bytes = archive(&[("x", &packed)]);
        let central = bytes.windows(4).position(|w| w == CENTRAL).unwrap();
        bytes[central + 10] = 8;
        bytes[central + 16..][..4].copy_from_slice(&crc32(text).to_le_bytes());
        bytes[central + 24..][..4].copy_from_slice(&(text.len() as u32).to_le_bytes());
        let unpack = |bytes: &[u8], limit| packed_entries(&bytes).unwrap()["x"].unpack(&bytes, limit);
        assert_eq!(unpack(&bytes, 100).unwrap(), text);
        assert!(unpack(&bytes, 10).unwrap_err().to_string().contains("at most 10"));
        for (offset, value) in [(24, 5u32), (24, 90), (16, 7)] {
            let mut wrong = bytes.clone();
            wrong[central + offset..][..4].copy_from_slice(&value.to_le_bytes());
            assert!(unpack(&wrong, 100).unwrap_err().to_string().contains("damaged"), "{offset}: {value}");
        }
        assert!(names(&bytes).unwrap_err().to_string().contains("compressed (method 8)"));
    }
}
