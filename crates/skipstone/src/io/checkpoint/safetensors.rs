//! The safetensors format: eight bytes of length, a JSON header, the bytes of the tensors.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use half::f16;

use super::blob::Blob;
use super::tensors::{Dtype, Entry, Region, TensorFile};
use crate::error::{Error, Kind, Result};

/// Maximum header size in bytes; a network of a million tensors needs less.
const MAX_HEADER: u64 = 100_000_000;

/// The number format of a weight file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FloatType {
    /// Single precision.
    #[default]
    F32,
    /// Rounded to half precision, for half the size.
    F16,
}

/// A named tensor in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// The key in the file.
    pub name: String,
    /// The shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements, row-major.
    pub values: Vec<f32>,
}

/// The result of [`read_tensors`]: tensors in the order of the file, and the file's text metadata.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorSet {
    /// The tensors.
    pub tensors: Vec<NamedTensor>,
    /// The text metadata.
    pub metadata: BTreeMap<String, String>,
}

impl TensorSet {
    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&NamedTensor> {
        self.tensors.iter().find(|t| t.name == name)
    }
}

/// Whether a file may be one of these, whole or damaged: it has their ending, or the brace that opens their header.
pub(super) fn is_likely(blob: &dyn Blob, path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors")
        || blob.read(8, 1).is_ok_and(|byte| byte == b"{")
}

fn header(blob: &dyn Blob) -> Result<(u64, safetensors::tensor::Metadata)> {
    let length = blob.read(0, 8).map_err(|_| Error::data("truncated: no safetensors header"))?;
    let length = u64::from_le_bytes(length.try_into().expect("eight bytes were read"));
    if length > MAX_HEADER || length > blob.len() - 8 {
        return Err(Error::data(format!(
            "not a safetensors file, or truncated: its header claims {length} bytes, the file has {}",
            blob.len()
        )));
    }
    // Deserialisation checks that the tensors follow each other without gap or overlap, and that the length of each is
    // its shape times the element size.
    let meta: safetensors::tensor::Metadata = serde_json::from_slice(&blob.read(8, length)?)
        .map_err(|e| Error::data(format!("bad safetensors header: {e}")).caused_by(e))?;
    let (start, held) = (8 + length, meta.data_len() as u64);
    if start.checked_add(held) != Some(blob.len()) {
        return Err(Error::data(format!(
            "truncated or damaged: the tensors need {held} bytes, the file has {}",
            blob.len() - start
        )));
    }
    Ok((start, meta))
}

fn entry(info: &safetensors::tensor::TensorInfo, start: u64) -> Result<Entry> {
    let dtype = match info.dtype {
        safetensors::Dtype::F64 => Dtype::F64,
        safetensors::Dtype::F32 => Dtype::F32,
        safetensors::Dtype::F16 => Dtype::F16,
        safetensors::Dtype::BF16 => Dtype::Bf16,
        other => Dtype::Other(format!("{other:?}")),
    };
    let (from, to) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
    let region = Region { blob: 0, start: start + from, len: to - from, crc32: None };
    Entry::new(dtype, info.shape.clone(), None, 0, region)
}

/// Opens a safetensors file, which error messages call `label`.
pub(crate) fn open<'a>(blob: Box<dyn Blob + 'a>, label: &Path) -> Result<TensorFile<'a>> {
    let (start, meta) = header(&*blob).map_err(|e| e.in_file(label))?;
    let mut entries = BTreeMap::new();
    for (name, info) in meta.tensors() {
        let entry = entry(info, start).map_err(|e| e.within(&name).in_file(label))?;
        entries.insert(name, entry);
    }
    Ok(TensorFile::new(label, vec![blob], entries))
}

/// Writes tensors `(name, shape, elements)` in the given order, with text metadata. The output depends on nothing else.
///
/// # Errors
/// A shape does not fit its elements, a name occurs twice, a value is too large for half precision, or a write fails.
pub fn write_tensors<'t>(
    tensors: impl Iterator<Item = (&'t str, &'t [usize], &'t [f32])> + Clone,
    metadata: &BTreeMap<String, String>,
    float_type: FloatType,
    out: &mut dyn Write,
) -> Result<()> {
    let (dtype, size) = match float_type {
        FloatType::F32 => ("F32", 4),
        FloatType::F16 => ("F16", 2),
    };
    let json = |value: &str| serde_json::Value::from(value).to_string();
    let mut header = format!("{{\"__metadata__\":{}", serde_json::json!(metadata));
    let mut names = std::collections::HashSet::new();
    let mut offset = 0usize;
    for (name, shape, values) in tensors.clone() {
        if shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != Some(values.len()) {
            return Err(Error::data(format!("{name}: {} elements do not fit shape {shape:?}", values.len())));
        }
        if name == "__metadata__" || !names.insert(name) {
            return Err(Error::data(format!("{name}: the name is already used")));
        }
        let end = offset + size * values.len();
        header.push_str(&format!(
            ",{}:{{\"dtype\":\"{dtype}\",\"shape\":{},\"data_offsets\":[{offset},{end}]}}",
            json(name),
            serde_json::json!(shape)
        ));
        offset = end;
    }
    header.push('}');
    // Aligns the numbers for readers that map the file into memory.
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let write = |out: &mut dyn Write, bytes: &[u8]| {
        out.write_all(bytes).map_err(|e| Error::new(Kind::Io, e.to_string()).caused_by(e))
    };
    write(out, &(header.len() as u64).to_le_bytes())?;
    write(out, header.as_bytes())?;
    let mut bytes = Vec::new();
    for (name, _, values) in tensors {
        for chunk in values.chunks(1 << 16) {
            bytes.clear();
            match float_type {
                FloatType::F32 => bytes.extend(chunk.iter().flat_map(|v| v.to_le_bytes())),
                FloatType::F16 => {
                    for &v in chunk {
                        let half = f16::from_f32(v);
                        if v.is_finite() && !half.is_finite() {
                            return Err(Error::unsupported(format!("{name}: {v} is too large for half precision")));
                        }
                        bytes.extend(half.to_le_bytes());
                    }
                }
            }
            write(out, &bytes)?;
        }
    }
    Ok(())
}

/// Reads a safetensors file of floating-point tensors from its bytes.
///
/// ```
/// use skipstone::io::checkpoint::{read_tensors, write_tensors, FloatType};
/// let mut bytes = Vec::new();
/// let tensors = [("m", &[2][..], &[0.5, -1.0][..])];
/// write_tensors(tensors.into_iter(), &Default::default(), FloatType::F32, &mut bytes).unwrap();
/// assert_eq!(read_tensors(&bytes).unwrap().get("m").unwrap().values, [0.5, -1.0]);
/// ```
///
/// # Errors
/// The bytes are not a complete safetensors file, or a tensor has integers.
pub fn read_tensors(bytes: &[u8]) -> Result<TensorSet> {
    let (start, meta) = header(&bytes)?;
    let mut tensors = Vec::new();
    let infos = meta.tensors();
    for name in meta.offset_keys() {
        let info = infos[&name];
        let entry = entry(info, start).map_err(|e| e.within(&name))?;
        if let Dtype::Other(dtype) = &entry.dtype {
            return Err(Error::unsupported(format!(
                "{name}: unsupported dtype {dtype}: expected f64, f32, f16 or bf16"
            )));
        }
        let from = start as usize + info.data_offsets.0;
        let values = entry.dtype.decode(&bytes[from..start as usize + info.data_offsets.1]);
        tensors.push(NamedTensor { name, shape: entry.shape, values });
    }
    let metadata = meta.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    Ok(TensorSet { tensors, metadata })
}

/// The text metadata of a file, without reading its tensors.
///
/// # Errors
/// As [`read_tensors`], or the file cannot be read.
pub(crate) fn read_metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    let blob = super::blob::open(path)?;
    let (_, meta) = header(&*blob).map_err(|e| e.in_file(path))?;
    Ok(meta.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(float_type: FloatType) -> Vec<u8> {
        let tensors: [(&str, &[usize], &[f32]); 3] =
            [("b", &[2, 2], &[1.0, 2.0, -3.5, 0.0]), ("a\"é", &[], &[7.0]), ("none", &[0, 3], &[])];
        let metadata = BTreeMap::from([("step".to_owned(), "12".to_owned()), ("x".to_owned(), "{\"k\":1}".to_owned())]);
        let mut bytes = Vec::new();
        write_tensors(tensors.into_iter(), &metadata, float_type, &mut bytes).unwrap();
        bytes
    }

    fn raw(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn tensors_and_text_survive_a_round_trip_in_both_precisions() {
        for float_type in [FloatType::F32, FloatType::F16] {
            let set = read_tensors(&sample(float_type)).unwrap();
            assert_eq!(set.tensors.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().len(), 3);
            // All values are exact in half precision.
            assert_eq!(set.get("b").unwrap().values, [1.0, 2.0, -3.5, 0.0]);
            assert_eq!(set.get("b").unwrap().shape, [2, 2]);
            assert_eq!(set.get("a\"é").unwrap().values, [7.0]);
            assert_eq!(set.get("a\"é").unwrap().shape, [0usize; 0]);
            assert_eq!(set.get("none").unwrap().shape, [0, 3]);
            assert_eq!(set.metadata["x"], "{\"k\":1}");
        }
    }

    #[test]
    fn the_reference_implementation_reads_what_we_write() {
        let bytes = sample(FloatType::F32);
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let b = file.tensor("b").unwrap();
        assert_eq!((b.dtype(), b.shape()), (safetensors::Dtype::F32, &[2, 2][..]));
        assert_eq!(&b.data()[8..12], &(-3.5f32).to_le_bytes());
        // The first tensor of the list is the first in the file.
        assert_eq!(b.data().as_ptr() as usize % 4, bytes.as_ptr() as usize % 4);
    }

    #[test]
    fn a_value_too_large_for_half_precision_is_an_error() {
        let tensors: [(&str, &[usize], &[f32]); 1] = [("w", &[1], &[70000.0])];
        let e = write_tensors(tensors.into_iter(), &BTreeMap::new(), FloatType::F16, &mut Vec::new()).unwrap_err();
        assert_eq!(e.message(), "w: 70000 is too large for half precision");
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error() {
        let bytes = sample(FloatType::F32);
        for end in 0..bytes.len() {
            assert!(read_tensors(&bytes[..end]).is_err(), "cut at {end}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(read_tensors(&longer).is_err());
    }

    #[test]
    fn any_damaged_byte_is_an_error_or_other_numbers_but_never_a_panic() {
        let bytes = sample(FloatType::F32);
        for at in 0..bytes.len() {
            for flip in [0xff, 0x01, 0x80] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                let _ = read_tensors(&damaged);
            }
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        let info = |shape: &str, from: u64, to: u64| {
            format!("{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[{from},{to}]}}")
        };
        let one = |shape: &str, from, to| format!("{{\"w\":{}}}", info(shape, from, to));
        assert!(read_tensors(&raw(&one("[2]", 0, 8), 8)).is_ok());
        for (header, data) in [
            (one("[2]", 0, 8), 7),                      // fewer bytes than claimed
            (one("[2]", 8, 0), 8),                      // ends before it begins
            (one("[2]", 0, 4), 4),                      // shape and length disagree
            (one("[18446744073709551615,2]", 0, 8), 8), // the product overflows
            (one("[-2]", 0, 8), 8),                     // a negative dimension
            (one("[2]", 0, u64::MAX), 8),               // far out of range
            (one("[1e3]", 0, 4000), 4000),              // not an integer
            (format!("{{\"a\":{},\"b\":{}}}", info("[2]", 0, 8), info("[2]", 4, 12)), 12), // overlapping
            (format!("{{\"a\":{},\"b\":{}}}", info("[2]", 0, 8), info("[2]", 12, 20)), 20), // a gap
            ("{\"w\":{\"dtype\":\"F99\",\"shape\":[],\"data_offsets\":[0,0]}}".into(), 0),
            ("[".repeat(100_000), 0), // deep nesting
            (String::new(), 0),
        ] {
            assert!(read_tensors(&raw(&header, data)).is_err(), "{:.80}", header);
        }
        for length in [u64::MAX, 1 << 40, MAX_HEADER + 1, 17] {
            let bytes = [&length.to_le_bytes()[..], &[b' '; 16]].concat();
            assert!(read_tensors(&bytes).is_err(), "a header of {length} bytes");
        }
    }

    #[test]
    fn integers_are_refused_by_name() {
        let header = "{\"steps\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}";
        let e = read_tensors(&raw(header, 8)).unwrap_err();
        assert_eq!(e.message(), "steps: unsupported dtype I64: expected f64, f32, f16 or bf16");
    }
}
