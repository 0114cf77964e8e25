//! TensorBoard event files with the scalars and images of a training run.
//!
//! A file is a sequence of records: length (u64), its checksum, the bytes, their checksum, all little-endian. Each
//! record is a protocol buffers message `Event`. The few fields in use are encoded here by hand: Event { 1 wall_time:
//! double, 2 step: int64, 3 file_version: string, 5 summary: Summary }, Summary { 1 value: repeated Value }, Value { 1
//! tag: string, 2 simple_value: float, 4 image: Image }, Image { 1 height, 2 width, 3 colorspace: int32, 4
//! encoded_image_string: bytes }.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::io::files;

/// Writes an event file. TensorBoard sees what was written after [`flush`](Self::flush).
///
/// ```no_run
/// use skipstone::train::events::EventWriter;
/// let mut events = EventWriter::create("run/events".as_ref()).unwrap();
/// events.scalar("loss", 0.25, 100).unwrap();
/// events.flush().unwrap();
/// ```
pub struct EventWriter {
    path: PathBuf,
    out: BufWriter<File>,
}

impl EventWriter {
    /// Starts a new file in `folder`, creating the folder if necessary. TensorBoard reads all files of a folder as one
    /// run, so a resumed run starts another file and leaves the earlier ones alone.
    ///
    /// # Errors
    /// The folder or the file cannot be created.
    pub fn create(folder: &Path) -> Result<Self> {
        files::create_dir(folder)?;
        let seconds = now() as u64;
        // TensorBoard reads files whose names contain "tfevents", in the order of their names.
        let names = (0..1000).map(|k| folder.join(format!("events.out.tfevents.{seconds:010}.{k:03}.skipstone")));
        for path in names {
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    let mut writer = Self { path, out: BufWriter::new(file) };
                    let version = event(now(), 0, |out| string(out, 3, b"brain.Event:2"));
                    writer.write(&version)?;
                    writer.flush()?;
                    return Ok(writer);
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io(path, e)),
            }
        }
        Err(Error::argument("1000 event files already exist for this second").in_file(folder))
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Records `value` for `tag` at `step`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn scalar(&mut self, tag: &str, value: f64, step: u64) -> Result<()> {
        let bytes = summary(step, tag, |out| {
            key(out, 2, FIXED32);
            out.extend((value as f32).to_le_bytes());
        });
        self.write(&bytes)
    }

    /// Records an image of `width` × `height` pixels, given as a PNG file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn image(&mut self, tag: &str, png: &[u8], width: u32, height: u32, step: u64) -> Result<()> {
        let mut image = Vec::with_capacity(png.len() + 32);
        integer(&mut image, 1, height.into());
        integer(&mut image, 2, width.into());
        integer(&mut image, 3, 3); // RGB; readers use the PNG itself
        string(&mut image, 4, png);
        let bytes = summary(step, tag, |out| string(out, 4, &image));
        self.write(&bytes)
    }

    /// Passes all recorded events to the operating system.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(|e| Error::io(&self.path, e))
    }

    fn write(&mut self, message: &[u8]) -> Result<()> {
        self.out.write_all(&record(message)).map_err(|e| Error::io(&self.path, e))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// A record of the file.
fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(message.len() + 16);
    bytes.extend(length);
    bytes.extend(masked_crc(&length).to_le_bytes());
    bytes.extend(message);
    bytes.extend(masked_crc(message).to_le_bytes());
    bytes
}

/// CRC-32C, rotated and offset, so that a checksum stored within data differs from the checksum of that data.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Wire types of protocol buffers.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// An Event whose Summary has one value.
fn summary(step: u64, tag: &str, write_value: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut value = Vec::new();
    string(&mut value, 1, tag.as_bytes());
    write_value(&mut value);
    let mut summary = Vec::new();
    string(&mut summary, 1, &value);
    event(now(), step, |out| string(out, 5, &summary))
}

fn event(wall_time: f64, step: u64, write_what: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    key(&mut out, 1, FIXED64);
    out.extend(wall_time.to_le_bytes());
    integer(&mut out, 2, step);
    write_what(&mut out);
    out
}

fn key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(out, field << 3 | wire_type);
}

fn integer(out: &mut Vec<u8>, field: u64, value: u64) {
    key(out, field, VARINT);
    varint(out, value);
}

fn string(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    key(out, field, LENGTH);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Seven bits per byte, lowest first; the high bit marks that more bytes follow.
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_have_their_known_values() {
        // RFC 3720, B.4: 32 zero bytes, 32 bytes of ones; and the usual check string.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c::crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        // The mask, worked out apart from its code: rotated by 15 bits, plus a constant.
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5);
    }

    #[test]
    fn messages_are_the_bytes_protocol_buffers_prescribe() {
        let mut out = Vec::new();
        varint(&mut out, 300);
        assert_eq!(out, [0xac, 0x02]); // the example of the format's own documentation
        // wall_time 1.0, step 150, file_version "ab"
        let bytes = event(1.0, 150, |out| string(out, 3, b"ab"));
        assert_eq!(bytes, [0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0x10, 0x96, 0x01, 0x1a, 2, b'a', b'b']);
        // After the time and the step: summary, value, tag "l", simple_value 0.5
        let bytes = summary(7, "l", |out| {
            key(out, 2, FIXED32);
            out.extend(0.5f32.to_le_bytes());
        });
        assert_eq!(bytes[9..], [0x10, 7, 0x2a, 10, 0x0a, 8, 0x0a, 1, b'l', 0x15, 0, 0, 0, 0x3f]);
    }

    /// The messages of a file, every length and checksum compared.
    fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            assert_eq!(bytes[8..12], masked_crc(&bytes[..8]).to_le_bytes());
            let message = &bytes[12..12 + length];
            assert_eq!(bytes[12 + length..16 + length], masked_crc(message).to_le_bytes());
            found.push(message.to_vec());
            bytes = &bytes[16 + length..];
        }
        found
    }

    /// Files for another program to read. With `pip install tensorboard==2.21.0` in a virtual environment, this read
    /// back the three losses at their steps and a 6×4 image:
    ///
    /// ```python
    /// from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    /// events = EventAccumulator(folder); events.Reload()
    /// print([(e.step, e.value) for e in events.Scalars("loss")])
    /// print([(e.step, e.width, e.height, e.encoded_image_string[:4]) for e in events.Images("samples")])
    /// ```
    #[test]
    #[ignore = "writes to the folder $SKIPSTONE_OUT for TensorBoard to read"]
    fn a_folder_for_tensorboard() {
        let folder = PathBuf::from(std::env::var_os("SKIPSTONE_OUT").expect("SKIPSTONE_OUT names a folder"));
        let mut first = EventWriter::create(&folder).unwrap();
        first.scalar("loss", 0.5, 0).unwrap();
        first.scalar("loss", 0.25, 150).unwrap();
        first.flush().unwrap();
        let mut resumed = EventWriter::create(&folder).unwrap();
        resumed.scalar("loss", 0.125, 1 << 40).unwrap();
        let picture = crate::io::image::Picture::new(6, 4, 3, (0..72).collect()).unwrap();
        let png = crate::io::image::encode_png(&picture, &[]).unwrap();
        resumed.image("samples", &png, 6, 4, 300).unwrap();
        resumed.flush().unwrap();
    }

    #[test]
    fn a_resumed_run_starts_another_file_and_keeps_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("events");
        let mut first = EventWriter::create(&folder).unwrap();
        first.scalar("loss", 0.25, 1).unwrap();
        first.flush().unwrap();
        let before = std::fs::read(first.path()).unwrap();
        let mut second = EventWriter::create(&folder).unwrap();
        assert!(second.path() > first.path());
        second.image("samples", b"not looked into", 4, 3, 300).unwrap();
        second.flush().unwrap();
        assert_eq!(std::fs::read(first.path()).unwrap(), before);
        let (first, second) = (messages(&before), messages(&std::fs::read(second.path()).unwrap()));
        assert_eq!((first.len(), second.len()), (2, 2));
        assert!(second[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        // step 300; image: height 3, width 4, RGB, the bytes
        assert_eq!(second[1][9..12], [0x10, 0xac, 0x02]);
        assert!(second[1].ends_with(b"\x08\x03\x10\x04\x18\x03\x22\x0fnot looked into"));
    }
}
