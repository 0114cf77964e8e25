//! Tensors of a checkpoint by name, independent of the file format. Each is a strided view of a range of bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};

use super::blob::Blob;
use super::zip;
use crate::error::{Error, Result};
use crate::unet::{Layout, Parameters};

/// The type of a checkpoint's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE double precision, rounded to f32 when read.
    F64,
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Types that are not weights: integers, booleans, 8-bit floats. They are listed but never read.
    Other(String),
}

impl Dtype {
    /// Bytes per element; `None` for types that are not read.
    pub(crate) fn size(&self) -> Option<usize> {
        match self {
            Self::F64 => Some(8),
            Self::F32 => Some(4),
            Self::F16 | Self::Bf16 => Some(2),
            Self::Other(_) => None,
        }
    }

    /// Decodes little-endian bytes to f32.
    pub(crate) fn decode(&self, bytes: &[u8]) -> Vec<f32> {
        fn each<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.as_chunks::<N>().0.iter().map(|&c| f(c)).collect()
        }
        match self {
            Self::F64 => each(bytes, |c| f64::from_le_bytes(c) as f32),
            Self::F32 => each(bytes, f32::from_le_bytes),
            Self::F16 => each(bytes, |c| f16::from_le_bytes(c).to_f32()),
            Self::Bf16 => each(bytes, |c| bf16::from_le_bytes(c).to_f32()),
            Self::Other(_) => Vec::new(),
        }
    }
}

/// How many times a tensor's bytes its storage may have for the storage's checksum to be checked.
const WORTH_CHECKING: u64 = 4;

/// A range of bytes and its checksum according to the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checksum {
    pub start: u64,
    pub len: u64,
    pub crc32: u32,
}

/// Shape, type and position of a tensor. [`Entry::new`] checks that the tensor lies inside its storage.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// The order of the elements; `None` means contiguous and row-major.
    view: Option<View>,
    blob: usize,
    start: u64,
    /// Bytes from the start of the first element to the end of the last.
    span: u64,
    checksum: Option<Checksum>,
}

/// A strided walk through the elements. Its shape may have other dimensions than the tensor, but as many elements.
#[derive(Clone, Debug)]
struct View {
    shape: Vec<usize>,
    /// In elements.
    strides: Vec<usize>,
}

/// A tensor's storage: `len` bytes from `start` of blob number `blob`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub blob: usize,
    pub start: u64,
    pub len: u64,
    pub crc32: Option<u32>,
}

impl Entry {
    /// A view of `region` that starts `offset` elements in. `strides` are in elements; `None` means contiguous.
    pub fn new(
        dtype: Dtype,
        shape: Vec<usize>,
        strides: Option<Vec<usize>>,
        offset: u64,
        region: Region,
    ) -> Result<Self> {
        let too_large = || Error::data(format!("shape {shape:?} is too large for its storage of {} bytes", region.len));
        let numel = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64)).ok_or_else(too_large)?;
        let contiguous = row_major(&shape);
        let strides = strides.filter(|s| {
            // The stride of a dimension of size 1 is never used; torch writes arbitrary values there.
            s.iter().zip(&contiguous).zip(&shape).any(|((a, b), &d)| d > 1 && a != b)
        });
        let elements = match &strides {
            _ if numel == 0 => 0,
            None => numel,
            Some(strides) => shape
                .iter()
                .zip(strides)
                .try_fold(1u64, |n, (&d, &s)| n.checked_add((d as u64 - 1).checked_mul(s as u64)?))
                .ok_or_else(too_large)?,
        };
        // Types that are never read need no bytes.
        let size = dtype.size().unwrap_or(0) as u64;
        let first = offset.checked_mul(size).ok_or_else(too_large)?;
        let span = elements.checked_mul(size).ok_or_else(too_large)?;
        if first.checked_add(span).is_none_or(|end| end > region.len) {
            return Err(too_large());
        }
        // An expanded view (stride 0) repeats elements, so the file's size does not bound its size.
        if size > 0 && numel.checked_mul(size).is_none_or(|bytes| bytes > region.len) {
            return Err(too_large());
        }
        let checksum = region.crc32.map(|crc32| Checksum { start: region.start, len: region.len, crc32 });
        let view = strides.map(|strides| View { shape: shape.clone(), strides });
        Ok(Self { dtype, shape, view, blob: region.blob, start: region.start + first, span, checksum })
    }

    /// The same elements, in the same order, with another shape of equal size.
    pub fn reshaped(mut self, shape: Vec<usize>) -> Result<Self> {
        let numel = |shape: &[usize]| shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if numel(&self.shape) != numel(&shape) {
            return Err(Error::data(format!("cannot reshape {:?} to {shape:?}", self.shape)));
        }
        self.shape = shape;
        Ok(self)
    }

    /// Some rows of a tensor whose rows come in `groups` groups of `parts` parts each: those of part `part` of every
    /// group, in order.
    ///
    /// # Errors
    /// The number of rows is not a positive multiple of groups·parts.
    pub fn part_of_rows(&self, groups: usize, parts: usize, part: usize) -> Result<Self> {
        let rows = self.shape.first().copied().unwrap_or(0);
        let whole = self.view.as_ref().is_none_or(|view| view.shape == self.shape) && !self.shape.contains(&0);
        let per_part = groups.checked_mul(parts).filter(|&n| n > 0 && rows > 0 && rows % n == 0).map(|n| rows / n);
        let (Some(per_part), true) = (per_part, whole) else {
            return Err(Error::data(format!("cannot split {:?} into {groups} groups of {parts} parts", self.shape)));
        };
        let strides = self.view.as_ref().map_or_else(|| row_major(&self.shape), |view| view.strides.clone());
        let mut entry = self.clone();
        entry.shape[0] = groups * per_part;
        let shape = [&[groups, per_part], &self.shape[1..]].concat();
        let skipped = part * per_part * strides[0];
        let strides = [&[parts * per_part * strides[0]], &strides[..]].concat();
        let size = self.dtype.size().unwrap_or(0) as u64;
        entry.start += skipped as u64 * size;
        let last: usize = shape.iter().zip(&strides).map(|(&d, &stride)| d.saturating_sub(1) * stride).sum();
        entry.span = (last as u64 + 1) * size;
        entry.view = Some(View { shape, strides });
        Ok(entry)
    }
}

/// Row-major strides. Saturating, because a shape with a zero may have arbitrarily large other dimensions.
fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = usize::saturating_mul(strides[i], shape[i].max(1));
    }
    strides
}

/// The named tensors of a checkpoint file or of its shards.
pub(crate) struct TensorFile<'a> {
    /// The file's path in error messages.
    pub label: PathBuf,
    blobs: Vec<Box<dyn Blob + 'a>>,
    entries: BTreeMap<String, Entry>,
}

impl<'a> TensorFile<'a> {
    pub fn new(label: &Path, blobs: Vec<Box<dyn Blob + 'a>>, entries: BTreeMap<String, Entry>) -> Self {
        Self { label: label.to_path_buf(), blobs, entries }
    }

    /// All tensors by name.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// The same tensors with the names (and shapes) returned by `rename`.
    pub fn renamed(self, rename: impl Fn(&str, Entry) -> Result<(String, Entry)>) -> Result<Self> {
        self.replaced(|name, entry| Ok(vec![rename(name, entry)?]))
    }

    /// The tensors that `replace` returns for each.
    pub fn replaced(mut self, replace: impl Fn(&str, Entry) -> Result<Vec<(String, Entry)>>) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for (name, entry) in std::mem::take(&mut self.entries) {
            for (to, entry) in replace(&name, entry).map_err(|e| e.within(&name).in_file(&self.label))? {
                if entries.insert(to.clone(), entry).is_some() {
                    return Err(Error::data(format!("{name}: there is already a tensor for {to}")).in_file(&self.label));
                }
            }
        }
        self.entries = entries;
        Ok(self)
    }

    /// The tensors called `from`, under the names `to`, of the pairs `(from, to)`.
    pub fn subset(mut self, pairs: impl Iterator<Item = (String, String)>) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for (from, to) in pairs {
            let Some(entry) = self.entries.remove(&from) else { continue };
            if entries.insert(to.clone(), entry).is_some() {
                return Err(Error::data(format!("{from}: there is already a tensor for {to}")).in_file(&self.label));
            }
        }
        self.entries = entries;
        Ok(self)
    }

    /// Adds the tensors of another shard.
    pub fn merge(&mut self, other: TensorFile<'a>) -> Result<()> {
        let shift = self.blobs.len();
        self.blobs.extend(other.blobs);
        for (name, mut entry) in other.entries {
            entry.blob += shift;
            if self.entries.insert(name.clone(), entry).is_some() {
                return Err(Error::data(format!("{name}: the tensor occurs in two shards")).in_file(other.label));
            }
        }
        Ok(())
    }

    /// Reads the values of `entry`, row-major, into `out`, whose length must match.
    fn read_into(&self, name: &str, entry: &Entry, out: &mut [f32]) -> Result<()> {
        let plain = entry.dtype == Dtype::F32 && entry.view.is_none() && entry.checksum.is_none();
        if plain && cfg!(target_endian = "little") {
            // The most common case by far, without an intermediate copy.
            let fail = |e: Error| e.within(name).in_file(&self.label);
            return self.blobs[entry.blob].read_into(entry.start, bytemuck::cast_slice_mut(out)).map_err(fail);
        }
        out.copy_from_slice(&self.values(name, entry)?);
        Ok(())
    }

    /// The values of `entry`, row-major.
    pub fn values(&self, name: &str, entry: &Entry) -> Result<Vec<f32>> {
        let fail = |e: Error| e.within(name).in_file(&self.label);
        let Some(size) = entry.dtype.size() else {
            let Dtype::Other(dtype) = &entry.dtype else { unreachable!("only other types have no size") };
            return Err(fail(Error::unsupported(format!("unsupported dtype {dtype}: expected f64, f32, f16 or bf16"))));
        };
        let blob = &self.blobs[entry.blob];
        // The checksum is that of the whole storage. A storage much larger than the tensor holds other tensors too, and
        // reading it for each of them would take too long.
        let bytes = match entry.checksum.filter(|sum| sum.len <= WORTH_CHECKING.saturating_mul(entry.span)) {
            Some(sum) => {
                let mut bytes = blob.read(sum.start, sum.len).map_err(fail)?;
                if zip::crc32(&bytes) != sum.crc32 {
                    return Err(fail(Error::data("damaged: the checksum does not match")));
                }
                let before = (entry.start - sum.start) as usize;
                bytes.truncate(before + entry.span as usize);
                bytes.drain(..before);
                bytes
            }
            None => blob.read(entry.start, entry.span).map_err(fail)?,
        };
        let Some(View { shape, strides }) = &entry.view else { return Ok(entry.dtype.decode(&bytes)) };
        let numel: usize = shape.iter().product();
        let mut gathered = Vec::with_capacity(numel * size);
        let mut index = vec![0usize; shape.len()];
        for _ in 0..numel {
            let at = size * index.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>();
            gathered.extend_from_slice(&bytes[at..at + size]);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Ok(entry.dtype.decode(&gathered))
    }

    /// The parameters of `layout`. The file must have each exactly once and nothing else.
    ///
    /// # Errors
    /// As [`misfit::check`](super::misfit::check), or names a weight that is not finite.
    pub fn parameters(&self, layout: &Arc<Layout>) -> Result<Parameters> {
        super::misfit::check(layout, &self.entries).map_err(|e| e.in_file(&self.label))?;
        // Tensors may share storage, so matching shapes alone do not bound the total size.
        let stored: u64 = self.blobs.iter().map(|b| b.len()).sum();
        if (layout.len() as u64).saturating_mul(2) > stored {
            return Err(
                Error::data(format!("{stored} bytes cannot hold {} parameters", layout.len())).in_file(&self.label)
            );
        }
        let mut data = vec![0.0; layout.len()];
        for spec in layout.specs() {
            let Some(entry) = self.entries.get(&spec.name) else { unreachable!("{} was found above", spec.name) };
            let values = &mut data[spec.range()];
            self.read_into(&spec.name, entry, values)?;
            // Checking all values without branches vectorises; the position is needed only in the error.
            let finite = values.iter().fold(true, |finite, v| finite & v.is_finite());
            if !finite && let Some(i) = values.iter().position(|v| !v.is_finite()) {
                return Err(Error::new(
                    crate::Kind::NonFinite,
                    format!("{}: element {i} is {}; weights must be finite", spec.name, values[i]),
                )
                .in_file(&self.label));
            }
        }
        Parameters::new(layout.clone(), data).map_err(|e| e.in_file(&self.label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(len: u64) -> Region {
        Region { blob: 0, start: 0, len, crc32: None }
    }

    fn file(bytes: &[u8], entries: Vec<(&str, Entry)>) -> TensorFile<'static> {
        let bytes: &'static [u8] = Vec::leak(bytes.to_vec());
        let entries = entries.into_iter().map(|(n, e)| (n.to_owned(), e)).collect();
        TensorFile::new(Path::new("weights"), vec![Box::new(bytes)], entries)
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn every_accepted_type_becomes_f32() {
        // 1.5 is 3FF8… (f64), 3FC00000 (f32), 3E00 (f16), 3FC0 (bf16).
        assert_eq!(Dtype::F64.decode(&0x3FF8_0000_0000_0000u64.to_le_bytes()), [1.5]);
        assert_eq!(Dtype::F32.decode(&0x3FC0_0000u32.to_le_bytes()), [1.5]);
        assert_eq!(Dtype::F16.decode(&0x3E00u16.to_le_bytes()), [1.5]);
        assert_eq!(Dtype::Bf16.decode(&0x3FC0u16.to_le_bytes()), [1.5]);
    }

    #[test]
    fn a_transposed_view_is_gathered_in_row_order() {
        let bytes = floats(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let entry = Entry::new(Dtype::F32, vec![3, 2], Some(vec![1, 3]), 0, region(24)).unwrap();
        let file = file(&bytes, vec![("w", entry.clone())]);
        assert_eq!(file.values("w", &entry).unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }

    #[test]
    fn a_view_beyond_its_storage_or_larger_than_it_is_refused() {
        let new = |shape: &[usize], strides: Option<Vec<usize>>, offset| {
            Entry::new(Dtype::F32, shape.to_vec(), strides, offset, region(24)).map(|_| ())
        };
        new(&[6], None, 0).unwrap();
        new(&[6], None, 1).unwrap_err();
        new(&[7], None, 0).unwrap_err();
        new(&[2, 2], Some(vec![5, 1]), 0).unwrap_err();
        new(&[1 << 40], Some(vec![0]), 0).unwrap_err();
        new(&[usize::MAX, usize::MAX], None, 0).unwrap_err();
        new(&[2], Some(vec![usize::MAX]), 0).unwrap_err();
        new(&[1], None, u64::MAX).unwrap_err();
    }

    #[test]
    fn a_weight_that_is_not_finite_is_refused_by_name() {
        let mut layout = Layout::default();
        layout.push("a".into(), vec![2]).unwrap();
        let bytes = floats(&[1.0, f32::NAN]);
        let entry = Entry::new(Dtype::F32, vec![2], None, 0, region(8)).unwrap();
        let e = file(&bytes, vec![("a", entry)]).parameters(&Arc::new(layout)).unwrap_err();
        assert_eq!(e.kind(), crate::Kind::NonFinite);
        assert_eq!(e.to_string(), "weights: a: element 1 is NaN; weights must be finite");
    }

    #[test]
    fn tensors_that_share_a_small_storage_cannot_ask_for_a_large_network() {
        let mut layout = Layout::default();
        let mut entries = Vec::new();
        for i in 0..100 {
            layout.push(format!("w{i}"), vec![6]).unwrap();
            entries.push((format!("w{i}"), Entry::new(Dtype::F32, vec![6], None, 0, region(24)).unwrap()));
        }
        let blob: Box<dyn Blob> = Box::new(&[0u8; 24] as &[u8]);
        let file = TensorFile::new(Path::new("w"), vec![blob], entries.into_iter().collect());
        let e = file.parameters(&Arc::new(layout)).unwrap_err();
        assert_eq!(e.to_string(), "w: 24 bytes cannot hold 600 parameters");
    }
}
