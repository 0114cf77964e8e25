//! The little of ZIP that `torch.save` uses: a central directory, stored (uncompressed) entries, ZIP64 numbers.
//!
//! Entries are never inflated, so no archive can hold more than its own size.

use std::collections::BTreeMap;

use super::blob::Blob;
use crate::error::{Error, Result};

const END: &[u8] = b"PK\x05\x06";
const END64_LOCATOR: &[u8] = b"PK\x06\x07";
const END64: &[u8] = b"PK\x06\x06";
const CENTRAL: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";

/// Where a stored file's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub start: u64,
    pub len: u64,
    pub crc32: u32,
}

fn bad(what: impl Into<String>) -> Error {
    Error::data(format!("bad zip archive: {}", what.into()))
}

/// Little-endian numbers out of a slice whose length may lie.
fn number(bytes: &[u8], at: usize, size: usize) -> Result<u64> {
    let field = at.checked_add(size).and_then(|end| bytes.get(at..end)).ok_or_else(|| bad("truncated"))?;
    Ok(field.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
}

/// Start and length of the central directory.
fn directory(blob: &dyn Blob) -> Result<(u64, u64)> {
    // The record is 22 bytes and a comment of at most 65535.
    let tail_len = blob.len().min(22 + 65535);
    let tail_start = blob.len() - tail_len;
    let tail = blob.read(tail_start, tail_len)?;
    let end = (0..=tail.len().saturating_sub(22))
        .rev()
        .find(|&i| {
            tail[i..].starts_with(END)
                && number(&tail, i + 20, 2).is_ok_and(|comment| i as u64 + 22 + comment == tail_len)
        })
        .ok_or_else(|| bad("truncated, no directory at its end"))?;
    let (mut size, mut start) = (number(&tail, end + 12, 4)?, number(&tail, end + 16, 4)?);
    let end = tail_start + end as u64;
    if end >= 20 {
        let locator = blob.read(end - 20, 20)?;
        if locator.starts_with(END64_LOCATOR) {
            let record = blob.read(number(&locator, 8, 8)?, 56)?;
            if !record.starts_with(END64) {
                return Err(bad("its 64-bit directory record is not where it should be"));
            }
            (size, start) = (number(&record, 40, 8)?, number(&record, 48, 8)?);
        }
    }
    Ok((start, size))
}

/// Every entry of the archive by name.
pub(crate) fn entries(blob: &dyn Blob) -> Result<BTreeMap<String, Stored>> {
    let (start, size) = directory(blob)?;
    let directory = blob.read(start, size)?;
    let mut entries = BTreeMap::new();
    let mut at = 0;
    while at < directory.len() {
        let record = &directory[at..];
        if !record.starts_with(CENTRAL) {
            return Err(bad("its directory is damaged"));
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
            return Err(Error::unsupported(format!("{name}: encrypted zip entries are not read")));
        }
        if method != 0 {
            return Err(Error::unsupported(format!(
                "{name}: compressed (method {method}); torch.save stores its entries"
            )));
        }
        if len != packed {
            return Err(bad(format!("{name}: {packed} bytes stored, {len} claimed")));
        }
        let local = blob.read(header, 30)?;
        if !local.starts_with(LOCAL) {
            return Err(bad(format!("{name}: no file where the directory says")));
        }
        let start = header + 30 + number(&local, 26, 2)? + number(&local, 28, 2)?;
        if start.checked_add(len).is_none_or(|end| end > blob.len()) {
            return Err(bad(format!("{name}: {len} bytes at {start}, beyond the end of the file")));
        }
        if entries.insert(name.clone(), Stored { start, len, crc32 }).is_some() {
            return Err(bad(format!("{name}: twice")));
        }
        at += 46 + name_len + extra_len + comment_len;
    }
    Ok(entries)
}

/// Replaces sizes of 0xffffffff by the 64-bit ones of the extra field.
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An archive of stored entries as the format's specification lays it out.
    pub(crate) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let (mut out, mut directory) = (Vec::new(), Vec::new());
        for (name, bytes) in files {
            let mut crc = flate2::Crc::new();
            crc.update(bytes);
            let mut common = vec![0; 8];
            common.extend(crc.sum().to_le_bytes());
            common.extend((bytes.len() as u32).to_le_bytes());
            common.extend((bytes.len() as u32).to_le_bytes());
            common.extend((name.len() as u16).to_le_bytes());
            common.extend([0, 0]);
            directory.extend(b"PK\x01\x02\x14\0\x14\0");
            directory.extend(&common);
            directory.extend([0; 10]);
            directory.extend((out.len() as u32).to_le_bytes());
            directory.extend(name.bytes());
            out.extend(b"PK\x03\x04\x14\0");
            out.extend(&common);
            out.extend(name.bytes());
            out.extend(*bytes);
        }
        let start = out.len() as u32;
        out.extend(&directory);
        out.extend(b"PK\x05\x06\0\0\0\0");
        out.extend([files.len() as u8, 0, files.len() as u8, 0]);
        out.extend((directory.len() as u32).to_le_bytes());
        out.extend(start.to_le_bytes());
        out.extend([0, 0]);
        out
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
        // CRC-32 of "hello", as any table of check values has it.
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
}
