//! Images of equal shape, with or without classes.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use ndarray::{Array3, Array4, Axis, Slice};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::array::RecordedRange;
use super::source::Source;
use crate::error::{Error, Result};
use crate::io::hex::hex;
use crate::io::image::{from_byte, to_byte};

/// An image of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pick {
    /// Index of the image in the data set.
    pub index: usize,
    /// Whether the image is mirrored left to right.
    pub flip: bool,
}

/// Images of equal shape: in memory with one byte per value, or read from their file whenever they are needed.
///
/// ```
/// use skipstone::io::data::{Dataset, Pick};
/// let images = ndarray::array![[[[0u8, 255]]]];
/// let data = Dataset::new("two pixels", images, None, Vec::new()).unwrap();
/// let mut batch = ndarray::Array4::zeros((1, 1, 1, 2));
/// data.fill_batch(&[Pick { index: 0, flip: true }], &mut batch).unwrap();
/// assert_eq!(batch, ndarray::array![[[[1.0f32, -1.0]]]]);
/// ```
#[derive(Clone, Debug)]
pub struct Dataset {
    name: String,
    images: Images,
    labels: Option<Vec<u32>>,
    class_names: Vec<String>,
    resized_from: Option<String>,
    range: Option<RecordedRange>,
    notes: Vec<String>,
}

/// Where the images are.
#[derive(Clone, Debug)]
enum Images {
    Memory(Array4<u8>),
    /// The first `n` images of a source.
    Source {
        source: Arc<dyn Source>,
        n: usize,
    },
}

impl Dataset {
    /// A data set of `images`, `[n, channels, height, width]`, with a class for each image or for none.
    /// `class_names` may be empty if only class numbers are known.
    ///
    /// # Errors
    /// There is no image or an empty one, the number of labels is not n, or a label exceeds the class names.
    pub fn new(
        name: impl Into<String>,
        images: Array4<u8>,
        labels: Option<Vec<u32>>,
        class_names: Vec<String>,
    ) -> Result<Self> {
        let name = name.into();
        if images.is_empty() {
            return Err(Error::data(format!("data set {name}: no images, shape {:?}", images.shape())));
        }
        // Rows are copied as slices.
        let images = images.as_standard_layout().into_owned();
        Self::of(name, Images::Memory(images), labels, class_names)
    }

    /// A data set whose images are read when they are needed.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(super) fn streamed(
        name: impl Into<String>,
        source: Arc<dyn Source>,
        labels: Option<Vec<u32>>,
        class_names: Vec<String>,
    ) -> Result<Self> {
        let (name, n) = (name.into(), source.len());
        if n == 0 || source.shape().contains(&0) {
            return Err(Error::data(format!("data set {name}: no images, {n} of shape {:?}", source.shape())));
        }
        Self::of(name, Images::Source { source, n }, labels, class_names)
    }

    /// The images of several data sets of one shape, in order, without classes.
    ///
    /// # Errors
    /// There is no part, or shapes or ranges differ.
    pub(super) fn joined(name: impl Into<String>, parts: Vec<Self>) -> Result<Self> {
        let name = name.into();
        let shape = parts.first().map(Self::shape).unwrap_or_default();
        if let Some(other) = parts.iter().find(|part| part.shape() != shape) {
            let (first, other) = (&parts[0], (other.name(), other.shape()));
            return Err(Error::data(format!(
                "data set {name}: images of {} are {shape:?}, those of {} are {:?}",
                first.name(),
                other.0,
                other.1
            )));
        }
        // Each part would be scaled by its own range.
        if let Some(other) = parts.iter().find(|part| part.range != parts[0].range) {
            let said = |part: &Self| part.range.map_or("none".to_owned(), |range| range.to_string());
            return Err(Error::data(format!(
                "data set {name}: the values of {} have the range {}, those of {} have {}; state one range for all with \
                 --range LOW,HIGH",
                parts[0].name(),
                said(&parts[0]),
                other.name(),
                said(other)
            )));
        }
        let (range, notes) = parts.first().map(|part| (part.range, part.notes.clone())).unwrap_or_default();
        let mut end = 0;
        let ends = parts.iter().map(|part| {
            end += part.len();
            end
        });
        let place = parts.iter().map(|part| part.name()).collect::<Vec<_>>().join(", ");
        let joined = Joined { ends: ends.collect(), place: format!("{name}: {place}"), parts };
        let mut data = Self::streamed(name, Arc::new(joined), None, Vec::new())?.with_range(range);
        data.notes = notes;
        Ok(data)
    }

    fn of(name: String, images: Images, labels: Option<Vec<u32>>, class_names: Vec<String>) -> Result<Self> {
        let data = Self { name, images, labels, class_names, resized_from: None, range: None, notes: Vec::new() };
        let name = &data.name;
        if let Some(labels) = &data.labels {
            let n = data.len();
            if labels.len() != n {
                return Err(Error::data(format!("data set {name}: expected {n} labels, found {}", labels.len())));
            }
            let classes = data.class_names.len();
            if let Some((i, label)) = labels.iter().enumerate().find(|&(_, &l)| classes > 0 && l as usize >= classes) {
                return Err(Error::data(format!(
                    "data set {name}: image {i} has label {label}, but there are {classes} classes"
                )));
            }
        }
        Ok(data)
    }

    /// Records the values of an array that became −1 and 1.
    #[must_use]
    pub(super) fn with_range(mut self, range: Option<RecordedRange>) -> Self {
        self.range = range;
        self
    }

    /// Adds a sentence on what was decided while the data were opened.
    #[must_use]
    pub(super) fn with_note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Records that the images were cropped and resized from `shapes`, `[channels, height, width]`, unless all of these
    /// equal the data set's shape.
    #[must_use]
    pub(super) fn resized_from(mut self, shapes: impl IntoIterator<Item = [usize; 3]>) -> Self {
        let shapes: BTreeSet<[usize; 3]> = shapes.into_iter().collect();
        self.resized_from = match shapes.first() {
            Some(&[c, h, w]) if shapes.len() == 1 => ([c, h, w] != self.shape()).then(|| format!("{c}x{h}x{w}")),
            _ => (!shapes.is_empty()).then(|| "various sizes".to_owned()),
        };
        self
    }

    /// The name of the data set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        match &self.images {
            Images::Memory(images) => images.len_of(Axis(0)),
            Images::Source { n, .. } => *n,
        }
    }

    /// Whether there are no images; always false for a data set built by [`new`](Self::new).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `[channels, height, width]` of every image.
    pub fn shape(&self) -> [usize; 3] {
        match &self.images {
            Images::Memory(images) => {
                let (_, c, h, w) = images.dim();
                [c, h, w]
            }
            Images::Source { source, .. } => source.shape(),
        }
    }

    /// The original size of the images, such as `3x32x32` or `various sizes`, if they were cropped or resized.
    pub fn original_size(&self) -> Option<&str> {
        self.resized_from.as_deref()
    }

    /// The values of an array that became −1 and 1. `None` if these are 0 and 255 of bytes.
    pub fn range(&self) -> Option<RecordedRange> {
        self.range
    }

    /// What was decided while the data were opened, in sentences for the user: the layout of an array, its range.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Memory that the images take, in bytes. Images that are read when they are needed take none.
    pub fn bytes(&self) -> usize {
        match &self.images {
            Images::Memory(images) => images.len(),
            Images::Source { .. } => 0,
        }
    }

    /// The beginning of the SHA-256 of images and labels, in hexadecimal. Images in a file are read once from start to end.
    ///
    /// # Errors
    /// The file cannot be read, or a value is not finite.
    pub fn digest(&self) -> Result<String> {
        let mut hash = Sha256::new();
        match &self.images {
            Images::Memory(images) => hash.update(images.as_slice().unwrap_or_default()),
            Images::Source { source, .. } => hash.update(source.digest()?),
        }
        hash.update(self.labels().unwrap_or_default().iter().flat_map(|l| l.to_le_bytes()).collect::<Vec<_>>());
        Ok(hex(&hash.finalize()[..8]))
    }

    /// Whether both data sets are known to have the same images in the same order.
    pub fn same_images(&self, other: &Self) -> bool {
        match (&self.images, &other.images) {
            (Images::Memory(a), Images::Memory(b)) => a == b,
            (Images::Source { source: a, n }, Images::Source { source: b, n: m }) => n == m && a.place() == b.place(),
            _ => false,
        }
    }

    /// Image `i` as a picture, `[channels, height, width]`: network values −1..1 as bytes, clamped.
    ///
    /// # Errors
    /// There is no such image, or its file cannot be read.
    pub fn image(&self, i: usize) -> Result<Array3<u8>> {
        Ok(self.pictures(&[i])?.index_axis_move(Axis(0), 0))
    }

    /// The images with these indices as pictures, `[n, channels, height, width]`.
    ///
    /// # Errors
    /// As [`image`](Self::image).
    pub fn pictures(&self, indices: &[usize]) -> Result<Array4<u8>> {
        self.check(indices.iter().copied())?;
        match &self.images {
            Images::Memory(images) => Ok(images.select(Axis(0), indices)),
            Images::Source { source, .. } => {
                let [c, h, w] = source.shape();
                let mut pictures = Array4::zeros((indices.len(), c, h, w));
                let rows = pictures.as_slice_mut().expect("just made").par_chunks_exact_mut(c * h * w);
                first_error(rows.zip(indices), |(row, &index)| {
                    let mut values = vec![0.0; row.len()];
                    source.read(index, &mut values)?;
                    row.iter_mut().zip(values).for_each(|(byte, value)| *byte = to_byte(value));
                    Ok(())
                })?;
                Ok(pictures)
            }
        }
    }

    /// The class of each image, if known.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// The names of the classes; empty if only their numbers are known.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Number of classes: that of the class names, or else the largest label plus one. `None` without labels.
    pub fn num_classes(&self) -> Option<usize> {
        let labels = self.labels.as_ref()?;
        let seen = labels.iter().max().map_or(0, |&max| max as usize + 1);
        Some(if self.class_names.is_empty() { seen } else { self.class_names.len() })
    }

    /// The first `n` images, or all if there are fewer.
    #[must_use]
    pub fn take(mut self, n: usize) -> Self {
        let n = n.clamp(1, self.len());
        match &mut self.images {
            Images::Memory(images) => *images = images.slice_axis(Axis(0), Slice::from(..n)).to_owned(),
            Images::Source { n: count, .. } => *count = n,
        }
        if let Some(labels) = &mut self.labels {
            labels.truncate(n);
        }
        self
    }

    /// Fills `out`, `[picks.len(), channels, height, width]`, with the picked images as network values in −1..1.
    ///
    /// # Errors
    /// `out` has another shape, or an index is out of range.
    pub fn fill_batch(&self, picks: &[Pick], out: &mut Array4<f32>) -> Result<()> {
        let [c, h, w] = self.shape();
        if out.dim() != (picks.len(), c, h, w) {
            return Err(Error::argument(format!(
                "batch of data set {}: expected shape {:?}, found {:?}",
                self.name,
                [picks.len(), c, h, w],
                out.shape()
            )));
        }
        self.check(picks.iter().map(|pick| pick.index))?;
        match &self.images {
            Images::Memory(images) => {
                let values: [f32; 256] = std::array::from_fn(|byte| from_byte(byte as u8));
                for (pick, mut image) in picks.iter().zip(out.outer_iter_mut()) {
                    let mut bytes = images.index_axis(Axis(0), pick.index);
                    if pick.flip {
                        bytes.invert_axis(Axis(2));
                    }
                    image.zip_mut_with(&bytes, |x, &byte| *x = values[usize::from(byte)]);
                }
                Ok(())
            }
            Images::Source { source, .. } => {
                let wrong = || Error::argument("a batch must have the standard layout");
                let rows = out.as_slice_mut().ok_or_else(wrong)?.par_chunks_exact_mut(c * h * w);
                first_error(rows.zip(picks), |(row, pick)| {
                    source.read(pick.index, row)?;
                    if pick.flip {
                        row.chunks_exact_mut(w).for_each(<[f32]>::reverse);
                    }
                    Ok(())
                })
            }
        }
    }

    /// Checks that there are images with these indices.
    fn check(&self, mut indices: impl Iterator<Item = usize>) -> Result<()> {
        match indices.find(|&index| index >= self.len()) {
            None => Ok(()),
            Some(index) => {
                let (name, n) = (&self.name, self.len());
                Err(Error::argument(format!("data set {name}: image {index} does not exist, there are {n}")))
            }
        }
    }

    /// The images `range` as network values, not mirrored.
    ///
    /// # Errors
    /// The range exceeds the last image.
    pub fn batch(&self, range: Range<usize>) -> Result<Array4<f32>> {
        let [c, h, w] = self.shape();
        let picks: Vec<_> = range.map(|index| Pick { index, flip: false }).collect();
        let mut out = Array4::zeros((picks.len(), c, h, w));
        self.fill_batch(&picks, &mut out)?;
        Ok(out)
    }
}

/// Works in parallel and returns the error of the first item that failed.
fn first_error<T>(
    items: impl IndexedParallelIterator<Item = T>,
    work: impl Fn(T) -> Result<()> + Send + Sync,
) -> Result<()> {
    items.map(work).find_map_first(Result::err).map_or(Ok(()), Err)
}

/// Several data sets as one source.
#[derive(Debug)]
struct Joined {
    parts: Vec<Dataset>,
    /// The number of images up to the end of each part.
    ends: Vec<usize>,
    place: String,
}

impl Source for Joined {
    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    fn shape(&self) -> [usize; 3] {
        self.parts.first().map(Dataset::shape).unwrap_or_default()
    }

    fn read(&self, index: usize, out: &mut [f32]) -> Result<()> {
        let at = self.ends.partition_point(|&end| end <= index);
        let index = index - at.checked_sub(1).map_or(0, |before| self.ends[before]);
        match &self.parts[at].images {
            Images::Source { source, .. } => source.read(index, out),
            Images::Memory(images) => {
                let image = images.index_axis(Axis(0), index);
                out.iter_mut().zip(image.iter()).for_each(|(out, &byte)| *out = from_byte(byte));
                Ok(())
            }
        }
    }

    fn digest(&self) -> Result<[u8; 32]> {
        let mut hash = Sha256::new();
        for part in &self.parts {
            hash.update(part.digest()?);
        }
        Ok(hash.finalize().into())
    }

    fn place(&self) -> &str {
        &self.place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    /// Two RGB images of 1×3 pixels; value = 100·image + 10·channel + column.
    fn small() -> Dataset {
        let images = Array4::from_shape_fn((2, 3, 1, 3), |(n, c, _, x)| (100 * n + 10 * c + x) as u8);
        Dataset::new("small", images, Some(vec![4, 7]), Vec::new()).unwrap()
    }

    #[test]
    fn what_images_were_resized_from_is_said_where_it_was_another_shape() {
        let data = || Dataset::new("gray", Array4::zeros((2, 1, 4, 4)), None, Vec::new()).unwrap();
        assert_eq!(data().original_size(), None);
        assert_eq!(data().resized_from([[1, 4, 4]; 2]).original_size(), None);
        assert_eq!(data().resized_from([[3, 32, 48]; 2]).original_size(), Some("3x32x48"));
        assert_eq!(data().resized_from([[1, 4, 4], [1, 5, 4]]).original_size(), Some("various sizes"));
    }

    #[test]
    fn a_batch_holds_the_picked_images_in_order_and_mirrors_columns_only() {
        let mut batch = Array4::zeros((3, 3, 1, 3));
        let picks = [(1, false), (0, true), (1, true)].map(|(index, flip)| Pick { index, flip });
        small().fill_batch(&picks, &mut batch).unwrap();
        let bytes = batch.mapv(|x| ((x + 1.0) * 127.5).round() as u8);
        let row = |n, c| [0, 1, 2].map(|x| bytes[[n, c, 0, x]]);
        assert_eq!((row(0, 2), row(1, 1), row(2, 0)), ([120, 121, 122], [12, 11, 10], [102, 101, 100]));
    }

    #[test]
    fn bytes_map_onto_minus_one_to_one() {
        let values: Vec<f32> = (0..=255).map(from_byte).collect();
        assert_eq!((values[0], values[255]), (-1.0, 1.0));
        assert!((values[128] - 0.003_921_569).abs() < 1e-8); // 1/255
        assert!(values.is_sorted());
    }

    #[test]
    fn wrong_shapes_labels_and_indices_are_errors() {
        let mut wrong = Array4::zeros((1, 3, 1, 4));
        let pick = [Pick { index: 0, flip: false }];
        assert_eq!(small().fill_batch(&pick, &mut wrong).unwrap_err().kind(), Kind::InvalidArgument);
        assert!(small().batch(1..3).unwrap_err().message().contains("image 2 does not exist, there are 2"));
        let one = || Array4::zeros((1, 1, 1, 1));
        assert!(Dataset::new("d", one(), Some(vec![0, 1]), vec![]).is_err());
        assert!(Dataset::new("d", one(), Some(vec![2]), vec!["a".into(), "b".into()]).is_err());
        assert!(Dataset::new("d", Array4::zeros((0, 1, 2, 2)), None, vec![]).is_err());
    }

    #[test]
    fn classes_are_counted_from_labels_without_names() {
        assert_eq!(small().num_classes(), Some(8));
        assert_eq!(small().take(1).labels(), Some(&[4][..]));
        assert_eq!(small().take(9).len(), 2);
    }
}
