//! Files of `torch.save`: a zip archive since torch 1.6, a sequence of pickles before.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::blob::Blob;
use super::pickle::{Pickle, Tensor, Value};
use super::tensors::{Dtype, Entry, Region, TensorFile};
use super::zip;
use crate::error::{Error, Result};

mod saved;

pub(crate) use saved::Saved;

/// A legacy file starts with a protocol 2 pickle of the number 0x1950a86a20f9469cfc6c.
const LEGACY_MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// Maximum size of the pickle in bytes; those of checkpoints have some hundred kilobytes.
const MAX_PICKLE: u64 = 64 << 20;

/// An opened file: the saved object and the positions of the storages.
pub(crate) struct TorchFile<'a> {
    blob: Box<dyn Blob + 'a>,
    pickle: Pickle,
    storages: HashMap<String, Region>,
}

/// Whether the file starts like one that [`TorchFile::open`] reads. A safetensors file whose header has a length of
/// 0x…80 also starts with the first byte of a pickle; its ninth byte is the brace that opens the header.
pub(crate) fn is_torch(blob: &dyn Blob) -> bool {
    let Ok(start) = blob.read(0, blob.len().min(9)) else { return false };
    start.starts_with(b"PK\x03\x04") || start.first() == Some(&0x80) && start.get(8) != Some(&b'{')
}

impl<'a> TorchFile<'a> {
    /// Opens a file, which error messages call `label`.
    pub fn open(blob: Box<dyn Blob + 'a>, label: &Path) -> Result<Self> {
        let opened = if blob.read(0, 4).is_ok_and(|start| start == b"PK\x03\x04") {
            open_zip(&*blob)
        } else if blob.read(0, LEGACY_MAGIC.len() as u64).is_ok_and(|start| start == LEGACY_MAGIC) {
            open_legacy(&*blob)
        } else {
            Err(Error::data("not a file of torch.save: neither a zip archive nor a legacy checkpoint"))
        };
        let (pickle, storages) = opened.map_err(|e| e.in_file(label))?;
        Ok(Self { blob, pickle, storages })
    }

    /// Whether the saved object is the state of a `torch.optim` optimiser.
    pub fn is_optimiser_state(&self) -> bool {
        let entries = self.pickle.dict(self.pickle.root).unwrap_or_default();
        ["state", "param_groups"].iter().all(|key| entries.iter().any(|(k, _)| self.pickle.str(*k) == Some(key)))
    }

    /// The tensors of the saved object by name.
    pub fn saved(&self) -> Result<Saved<'_>> {
        Saved::of(&self.pickle)
    }

    /// Checks a tensor against its storage in the file.
    pub fn entry(&self, tensor: &Tensor) -> Result<Entry> {
        let storage = self.pickle.storage(tensor.storage).ok_or_else(|| Error::data("the tensor has no storage"))?;
        let region = *self
            .storages
            .get(&storage.key)
            .ok_or_else(|| Error::data(format!("truncated: storage {:?} is missing", storage.key)))?;
        if let Some(size) = storage.dtype.size()
            && storage.numel.checked_mul(size as u64).is_none_or(|bytes| bytes > region.len)
        {
            return Err(Error::data(format!(
                "storage {:?} has {} bytes, too few for {} elements of {size} bytes",
                storage.key, region.len, storage.numel
            )));
        }
        let offset = tensor.offset.checked_add(storage.offset).ok_or_else(|| Error::data("the offset is too large"))?;
        let dtype = tensor.dtype.as_ref().unwrap_or(&storage.dtype).clone();
        Entry::new(dtype, tensor.shape.clone(), Some(tensor.strides.clone()), offset, region)
    }

    /// The file as the source of the values of `entries`.
    pub fn into_tensors(self, label: &Path, entries: BTreeMap<String, Entry>) -> TensorFile<'a> {
        TensorFile::new(label, vec![self.blob], entries)
    }
}

type Opened = (Pickle, HashMap<String, Region>);

fn open_zip(blob: &dyn Blob) -> Result<Opened> {
    let entries = zip::entries(blob)?;
    let (root, data) = entries
        .iter()
        .filter_map(|(name, &stored)| name.strip_suffix("data.pkl").map(|root| (root.to_owned(), stored)))
        .find(|(root, _)| root.is_empty() || root.ends_with('/'))
        .ok_or_else(|| Error::data("not a file of torch.save: a zip archive without data.pkl"))?;
    if let Some(order) = entries.get(&format!("{root}byteorder"))
        && blob.read(order.start, order.len.min(16))? != b"little"
    {
        return Err(Error::unsupported("byteorder: only little-endian files are supported"));
    }
    if data.len > MAX_PICKLE {
        return Err(Error::unsupported(format!("data.pkl: expected at most {MAX_PICKLE} bytes, found {}", data.len)));
    }
    let bytes = blob.read(data.start, data.len)?;
    if zip::crc32(&bytes) != data.crc32 {
        return Err(Error::data("data.pkl: damaged, the checksum does not match"));
    }
    let (pickle, _) = Pickle::parse(&bytes)?;
    let prefix = format!("{root}data/");
    let storages = entries
        .iter()
        .filter_map(|(name, s)| {
            let region = Region { blob: 0, start: s.start, len: s.len, crc32: Some(s.crc32) };
            Some((name.strip_prefix(&prefix)?.to_owned(), region))
        })
        .collect();
    Ok((pickle, storages))
}

/// Parses a legacy file: magic number, protocol version, system info, the object and the keys of the storages, then
/// each storage in that order, preceded by its number of elements.
fn open_legacy(blob: &dyn Blob) -> Result<Opened> {
    let bytes = blob.read(0, blob.len().min(MAX_PICKLE))?;
    let mut at = LEGACY_MAGIC.len();
    let mut next = || -> Result<Pickle> {
        let (pickle, used) = Pickle::parse(&bytes[at..])?;
        at += used;
        Ok(pickle)
    };
    let version = next()?;
    if version.root != Value::Int(1001) {
        return Err(Error::unsupported("legacy checkpoint: expected protocol version 1001, found another"));
    }
    next()?;
    let object = next()?;
    let keys = next()?;
    let order = keys.sequence(keys.root).ok_or_else(|| Error::data("truncated: no list of storages"))?;
    let types: HashMap<&str, &Dtype> = object.storages().map(|s| (s.key.as_str(), &s.dtype)).collect();
    let mut storages = HashMap::new();
    let mut start = at as u64;
    for &key in order {
        let key = match key {
            Value::Int(n) => n.to_string(),
            other => keys.str(other).ok_or_else(|| Error::data("a storage key is not a string"))?.to_owned(),
        };
        let dtype = *types.get(key.as_str()).ok_or_else(|| Error::data(format!("storage {key:?} is never used")))?;
        let count = blob.read(start, 8)?;
        let count = i64::from_le_bytes(count.try_into().expect("eight bytes were read"));
        start += 8;
        let size = match dtype {
            Dtype::Other(name) => other_size(name)?,
            known => known.size().unwrap_or(0) as u64,
        };
        let len = u64::try_from(count).ok().and_then(|n| n.checked_mul(size));
        let len = len.filter(|&n| start.checked_add(n).is_some_and(|end| end <= blob.len())).ok_or_else(|| {
            Error::data(format!(
                "truncated: storage {key:?} has {count} elements, but the file has {} bytes",
                blob.len()
            ))
        })?;
        storages.insert(key, Region { blob: 0, start, len, crc32: None });
        start += len;
    }
    Ok((object, storages))
}

/// Bytes per element of storages that are not weights but have to be skipped.
fn other_size(class: &str) -> Result<u64> {
    Ok(match class {
        "LongStorage" => 8,
        "IntStorage" | "QInt32Storage" => 4,
        "ShortStorage" => 2,
        "CharStorage" | "ByteStorage" | "BoolStorage" | "UntypedStorage" | "QInt8Storage" | "QUInt8Storage" => 1,
        other => return Err(Error::unsupported(format!("unsupported storage type {other:?}"))),
    })
}

#[cfg(test)]
mod tests;
