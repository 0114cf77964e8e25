//! Data sets in tar archives, as webdataset lays them out: an image and its label have the same name with different
//! extensions, such as `0001.jpg` and `0001.cls`.
//!
//! Only headers are read at first. Nothing is unpacked, so the paths inside an archive lead nowhere.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Dataset;
use super::encoded::{EncodedSource, Entry, MAX_IMAGE};
use super::fit::Fit;
use crate::error::{Error, Kind, Result};
use crate::io::checkpoint::blob::{self, Blob};

/// Size of a header, and unit of everything else.
const BLOCK: u64 = 512;
/// Maximum size of a long name or of extended attributes.
const MAX_NAME: u64 = 1 << 20;
/// Maximum size of a label file.
const MAX_LABEL: u64 = 64;

/// The data set in these archives: all images in order, with classes if every image has a label file.
///
/// # Errors
/// A file is missing, damaged, compressed or no archive, or there is no image.
pub(super) fn read_tar(name: String, paths: &[PathBuf], fit: &Fit) -> Result<Dataset> {
    fit.validate()?;
    let (mut files, mut entries, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for (i, path) in paths.iter().enumerate() {
        let read = || {
            let blob: Arc<dyn Blob> = blob::open(path)?.into();
            let samples = samples(&*blob)?;
            Ok((blob, samples))
        };
        let (blob, samples) = read().map_err(|e: Error| e.in_file(path))?;
        files.push((path.display().to_string(), blob));
        for Sample { image, label } in samples {
            entries.push(Entry { file: i as u32, ..image });
            labels.push(label);
        }
    }
    let first = paths.first().map_or(Path::new(""), PathBuf::as_path);
    if entries.is_empty() {
        let message = "the archive has no .png, .jpg, .jpeg or .webp file";
        return Err(Error::new(Kind::NotFound, message).in_file(first));
    }
    let labelled = labels.iter().flatten().count();
    let (n, labels) = (entries.len(), labels.into_iter().collect::<Option<Vec<u32>>>());
    let source = EncodedSource::new(files, entries, *fit, format!("{paths:?}"));
    let data = Dataset::streamed(name, Arc::new(source), labels, Vec::new())?;
    Ok(match labelled {
        0 => data,
        _ if labelled == n => data,
        _ => data.with_note(format!("only {labelled} of {n} images have a .cls file, so there are no classes")),
    })
}

/// The manifest of an archive that `sample` wrote.
///
/// # Errors
/// The file cannot be read.
pub(super) fn manifest(path: &Path) -> Result<Option<String>> {
    let archive = blob::open(path)?;
    let mut found = None;
    // The first entry; an archive that goes on badly is reported when its images are read.
    let _ = walk(&*archive, &mut |name, start, len| {
        if name == "__manifest__/manifest.json" && len <= MAX_NAME {
            found = String::from_utf8(archive.read(start, len)?).ok();
        }
        Err(Error::stopped())
    });
    Ok(found)
}

/// An image and its class.
#[derive(Debug, PartialEq, Eq)]
struct Sample {
    image: Entry,
    label: Option<u32>,
}

/// The images of an archive, in order.
fn samples(archive: &dyn Blob) -> Result<Vec<Sample>> {
    let mut samples: Vec<Sample> = Vec::new();
    // The sample of a key, and labels that come before their images.
    let (mut keys, mut early) = (HashMap::<String, usize>::new(), HashMap::<String, u32>::new());
    walk(archive, &mut |name, start, len| {
        let (key, extension) = key_and_extension(name);
        match extension.to_ascii_lowercase().as_str() {
            "png" | "jpg" | "jpeg" | "webp" => {
                if len == 0 || len > MAX_IMAGE {
                    return Err(Error::data(format!("{name}: an image of {len} bytes; expected 1 to {MAX_IMAGE}")));
                }
                if keys.contains_key(key) {
                    return Err(Error::data(format!("{name}: a second image of the sample {key}")));
                }
                keys.insert(key.to_owned(), samples.len());
                samples.push(Sample { image: Entry { file: 0, len: len as u32, start }, label: early.remove(key) });
            }
            "cls" => {
                let text = archive.read(start, len.min(MAX_LABEL))?;
                let label = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
                let label = label.filter(|_| len <= MAX_LABEL).ok_or_else(|| {
                    Error::data(format!(
                        "{name}: expected the number of a class, found {:?}",
                        String::from_utf8_lossy(&text)
                    ))
                })?;
                match keys.get(key) {
                    Some(&i) => samples[i].label = Some(label),
                    None => drop(early.insert(key.to_owned(), label)),
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(samples)
}

/// A path up to the first dot of its last part, and what follows its last dot.
fn key_and_extension(name: &str) -> (&str, &str) {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[file..].find('.') {
        // A hidden file, such as macOS's `._0001.jpg`, belongs to no sample.
        Some(0) | None => (name, ""),
        Some(dot) => (&name[..file + dot], name.rsplit('.').next().unwrap_or_default()),
    }
}

/// Calls `see` with name, start and length of every ordinary file.
fn walk(archive: &dyn Blob, see: &mut dyn FnMut(&str, u64, u64) -> Result<()>) -> Result<()> {
    let (mut at, mut long_name, mut long_size) = (0, None, None);
    loop {
        if archive.len() - at < BLOCK {
            // A complete archive ends with two blocks of zeros.
            return Err(Error::data(match at {
                0 => "not a tar archive: it is shorter than a header".to_owned(),
                _ => format!("truncated: the archive has no end after byte {at}"),
            }));
        }
        let header = archive.read(at, BLOCK)?;
        if header.iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        check(&header, at)?;
        let kind = header[156];
        let size = number(&header[124..136]).ok_or_else(|| bad(at, "its size is no number"))?;
        let size = if matches!(kind, b'0' | 0 | b'7') { long_size.take().unwrap_or(size) } else { size };
        let start = at + BLOCK;
        if start.checked_add(size).is_none_or(|end| end > archive.len()) {
            let held = archive.len();
            return Err(bad(at, &format!("{size} bytes reach beyond the end of the file, {held}")));
        }
        // `start + size` fits, so the padding may only pass the end of the file.
        let next = (start + size).checked_next_multiple_of(BLOCK).filter(|&next| next <= archive.len());
        let extra = |what| {
            if size > MAX_NAME {
                return Err(bad(at, &format!("{what} of {size} bytes")));
            }
            archive.read(start, size)
        };
        match kind {
            b'0' | 0 | b'7' => {
                let name = long_name.take().unwrap_or_else(|| name(&header));
                see(&name, start, size)?;
            }
            b'L' => long_name = Some(text(&extra("a name")?)),
            b'x' => {
                for (key, value) in attributes(&extra("attributes")?).ok_or_else(|| bad(at, "damaged attributes"))? {
                    match key.as_str() {
                        "path" => long_name = Some(value),
                        "size" => {
                            let size = value.parse().map_err(|_| bad(at, "its size is no number"))?;
                            long_size = Some(size);
                        }
                        _ => {}
                    }
                }
            }
            b'S' => {
                return Err(Error::unsupported(format!(
                    "sparse file at byte {at}; write the archive without --sparse"
                )));
            }
            // Folders, links, devices and global attributes hold no image.
            _ => long_name = None,
        }
        at = next.ok_or_else(|| Error::data(format!("truncated: the archive has no end after byte {at}")))?;
    }
}

fn bad(at: u64, what: &str) -> Error {
    Error::data(format!("damaged tar header at byte {at}: {what}"))
}

/// Checks a header's checksum: the sum of its bytes with spaces in the place of the checksum.
fn check(header: &[u8], at: u64) -> Result<()> {
    let sum: u64 = header.iter().map(|&byte| u64::from(byte)).sum();
    let field = &header[148..156];
    let sum = sum - field.iter().map(|&byte| u64::from(byte)).sum::<u64>() + 8 * u64::from(b' ');
    if number(field) == Some(sum) {
        return Ok(());
    }
    if at > 0 {
        return Err(bad(at, "wrong checksum"));
    }
    Err(match header {
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', ..] => {
            Error::unsupported("the archive is compressed; unpack it to a plain .tar (images gain nothing from it)")
        }
        _ => Error::data("not a tar archive: its first header has a wrong checksum"),
    })
}

/// A number in octal digits, or in base 256 if the highest bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (first, rest) = field.split_first()?;
        let (zeros, low) = rest.split_at(rest.len().saturating_sub(8));
        return (*first == 0x80 && zeros.iter().all(|&byte| byte == 0))
            .then(|| low.iter().fold(0, |n, &byte| n << 8 | u64::from(byte)));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// Bytes up to the first zero, as text.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// The name in a header, with its prefix in the POSIX format.
fn name(header: &[u8]) -> String {
    let (name, prefix) = (text(&header[..100]), text(&header[345..500]));
    if header[257..263] == *b"ustar\0" && !prefix.is_empty() { format!("{prefix}/{name}") } else { name }
}

/// The extended attributes: lines of their length, a key and a value, as in `21 path=a/long/name\n`.
fn attributes(mut bytes: &[u8]) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|&byte| byte == b' ')?;
        let len: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let line = bytes.get(space + 1..len)?.strip_suffix(b"\n")?;
        let equals = line.iter().position(|&byte| byte == b'=')?;
        let part = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
        found.push((part(&line[..equals]), part(&line[equals + 1..])));
        bytes = &bytes[len..];
    }
    Some(found)
}
