//! Data sets in NumPy arrays: `.npy` files and the entries of `.npz` archives, read image by image where they lie.

mod npz;
mod shape;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};

pub(super) use npz::read_npz;
pub use shape::ArrayLayout;
use shape::Placed;

use super::fit::{Fit, Pixels};
use super::source::Source;
use super::{DataOptions, Dataset};
use crate::error::{Error, Kind, Result};
use crate::io::checkpoint::blob::{self, Blob, Stream};
use crate::io::image::npy::{Element, Header};
use crate::io::image::{from_byte, is_picture};

/// Bytes read at a time while a file is measured.
const CHUNK: usize = 1 << 20;
/// Ranges that people use. One of them is taken if the values fill it to within this share at both ends.
const RANGES: [[f64; 2]; 4] = [[0.0, 1.0], [-1.0, 1.0], [0.0, 255.0], [0.0, 65535.0]];
const SHARE: f64 = 0.02;

/// The values of data that become −1 and 1, such as `0,1`.
///
/// ```
/// use skipstone::io::data::ValueRange;
/// let range: ValueRange = "-3,4.5".parse().unwrap();
/// assert_eq!(range.ends(), [-3.0, 4.5]);
/// assert_eq!(range.to_string(), "-3,4.5");
/// assert!("1,0".parse::<ValueRange>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueRange([f64; 2]);

impl ValueRange {
    /// The range from `low` to `high`.
    ///
    /// # Errors
    /// An end is not finite, or `low` is not below `high`.
    pub fn new(low: f64, high: f64) -> Result<Self> {
        if low < high && (high - low).is_finite() {
            return Ok(Self([low, high]));
        }
        Err(Error::argument(format!("range {low},{high}: expected two finite numbers, the lower one first")))
    }

    /// Its lower and upper end.
    pub fn ends(self) -> [f64; 2] {
        self.0
    }

    /// The network value of a value: x = 2(v − low)/(high − low) − 1, not clamped.
    pub fn network_value(self, value: f64) -> f32 {
        let [low, high] = self.0;
        ((value - low) / ((high - low) / 2.0) - 1.0) as f32
    }
}

impl FromStr for ValueRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let ends = text.split_once(',').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
        let (low, high) =
            ends.ok_or_else(|| Error::argument(format!("range \"{text}\": expected LOW,HIGH, for example 0,1")))?;
        Self::new(low, high)
    }
}

impl fmt::Display for ValueRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.0[0], self.0[1])
    }
}

/// The range of the array that a model was trained on, as recorded in its provenance.
///
/// ```
/// use skipstone::io::data::RecordedRange;
/// let range: RecordedRange = "0,1 bytes".parse().unwrap();
/// assert!(range.bytes);
/// assert_eq!("-3,3".parse::<RecordedRange>().unwrap().to_string(), "-3,3");
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecordedRange {
    /// The values that became −1 and 1.
    pub range: ValueRange,
    /// Whether the array held bytes. The range of bytes says nothing about floats, and the reverse.
    pub bytes: bool,
}

impl RecordedRange {
    /// The key in a model's provenance.
    pub const KEY: &str = "data_range";
}

impl FromStr for RecordedRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let of_bytes = text.strip_suffix(" bytes");
        Ok(Self { range: of_bytes.unwrap_or(text).parse()?, bytes: of_bytes.is_some() })
    }
}

impl fmt::Display for RecordedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.range, if self.bytes { " bytes" } else { "" })
    }
}

/// The data set in a `.npy` file. Labels are read from `NAME_labels.npy` beside it, if there is such a file.
///
/// # Errors
/// The file is missing or has another format, or [`dataset`] fails.
pub(super) fn read_npy(path: &Path, options: &DataOptions) -> Result<Dataset> {
    let read = || {
        let array = Stored::open(blob::open(path)?.into())?;
        let labels = path.with_file_name(format!("{}_labels.npy", stem(path)));
        let labels = match labels.is_file() {
            true => Some(
                blob::open(&labels)
                    .map(Arc::from)
                    .and_then(|b| Stored::open(b)?.labels())
                    .map_err(|e| e.in_file(labels))?,
            ),
            false => None,
        };
        dataset(array, stem(path), path.display().to_string(), labels, options)
    };
    read().map_err(|e| e.in_file(path))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// An array in a file.
pub(super) struct Stored {
    blob: Arc<dyn Blob>,
    header: Header,
}

impl Stored {
    /// Reads the header.
    fn open(blob: Arc<dyn Blob>) -> Result<Self> {
        let header = Header::read(&mut std::io::BufReader::new(Stream::new(&*blob)), blob.len())?;
        Ok(Self { blob, header })
    }

    /// The values as class numbers; the array is `[n]` or `[n, 1]` of whole numbers.
    fn labels(&self) -> Result<Vec<u32>> {
        let Header { element, shape, count, start, .. } = &self.header;
        if element.is_float() || !matches!(shape[..], [_] | [_, 1]) {
            return Err(Error::data(format!("labels: expected whole numbers [n], found {element} {shape:?}")));
        }
        let bytes = self.blob.read(*start, (count * element.size()) as u64)?;
        let mut labels = Vec::with_capacity(*count);
        let mut wrong = None;
        element.each(&bytes, |value| match value {
            0.0..4294967295.0 => labels.push(value as u32),
            _ => wrong = wrong.or(Some((labels.len(), value))),
        });
        match wrong {
            None => Ok(labels),
            Some((i, value)) => Err(Error::data(format!("labels: image {i} has class {value}"))),
        }
    }
}

/// The data set in an array.
///
/// # Errors
/// The array is no array of images, or not of the wanted shape; its layout or range cannot be told.
fn dataset(
    array: Stored,
    name: String,
    place: String,
    labels: Option<Vec<u32>>,
    options: &DataOptions,
) -> Result<Dataset> {
    let header = &array.header;
    if header.fortran {
        let message = "the array is in Fortran order, where the values of an image are scattered over the file; save \
                       numpy.ascontiguousarray(array)";
        return Err(Error::unsupported(message));
    }
    let Placed { layout, n, shape, note } = Placed::of(&header.shape, options)?;
    let [c, h, w] = shape;
    let [height, width] = options.size.unwrap_or([h, w]);
    let wanted = [options.channels.unwrap_or(c), height, width];
    let fit = if wanted == shape {
        None
    } else if header.element.is_byte() && is_picture(c) {
        let fit = Fit { size: [height, width], channels: wanted[0], background: options.background };
        fit.validate()?;
        Some(fit)
    } else {
        return Err(Error::data(format!(
            "images of {shape:?}, expected {wanted:?}; only 8-bit images with 1 or 3 channels are resized"
        )));
    };
    let mut source = ArraySource {
        n,
        stored: shape,
        shape: wanted,
        layout,
        fit,
        element: header.element,
        start: header.start,
        blob: array.blob,
        range: ValueRange([0.0, 255.0]),
        place,
        scan: OnceLock::new(),
    };
    let mut notes: Vec<String> = note.into_iter().collect();
    let bytes = header.element.is_byte();
    if let Some(range) = options.range {
        source.range = range;
    } else if let Some(recorded) = options.recorded.filter(|recorded| recorded.bytes == bytes) {
        source.range = recorded.range;
        notes.push(format!("values {} are taken as −1 to 1, as recorded in the model", recorded.range));
    } else if !bytes {
        let scan = source.scan()?;
        let (range, measured) = scan.range()?;
        source.range = range;
        let [low, high] = scan.ends;
        notes.push(format!(
            "values {low} to {high}{}; --range LOW,HIGH decides",
            match measured {
                true => " are taken as −1 to 1".to_owned(),
                false => format!(": {range} is taken as −1 to 1"),
            }
        ));
    }
    let plain = bytes && source.range.0 == [0.0, 255.0];
    let range = (!plain).then_some(RecordedRange { range: source.range, bytes });
    let data = Dataset::streamed(name, Arc::new(source), labels, Vec::new())?.with_range(range);
    Ok(notes.into_iter().fold(data.resized_from([shape]), Dataset::with_note))
}

/// Images in an array on disk.
struct ArraySource {
    blob: Arc<dyn Blob>,
    element: Element,
    /// Position of the first value in bytes.
    start: u64,
    n: usize,
    layout: ArrayLayout,
    /// `[channels, height, width]` in the file.
    stored: [usize; 3],
    /// The same after resizing.
    shape: [usize; 3],
    fit: Option<Fit>,
    range: ValueRange,
    place: String,
    scan: OnceLock<Scan>,
}

/// What one pass over the file finds.
#[derive(Clone, Copy, Debug)]
struct Scan {
    digest: [u8; 32],
    ends: [f64; 2],
}

impl Scan {
    /// The range of the values, and whether it is exactly theirs.
    fn range(&self) -> Result<(ValueRange, bool)> {
        let [low, high] = self.ends;
        let fills = |[a, b]: &[f64; 2]| {
            let slack = SHARE * (b - a);
            (*a..=a + slack).contains(&low) && (b - slack..=*b).contains(&high)
        };
        if let Some(&usual) = RANGES.iter().find(|range| fills(range)) {
            return Ok((ValueRange(usual), usual == self.ends));
        }
        if low >= high {
            return Err(Error::data(format!("every value is {low}; state the range with --range LOW,HIGH")));
        }
        Ok((ValueRange::new(low, high)?, true))
    }
}

impl fmt::Debug for ArraySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArraySource").field("place", &self.place).field("n", &self.n).finish_non_exhaustive()
    }
}

impl ArraySource {
    fn values_per_image(&self) -> usize {
        self.stored.iter().product()
    }

    fn not_finite(&self, index: usize) -> Error {
        Error::new(Kind::NonFinite, format!("image {index} has a value that is not finite"))
    }

    /// Reads the whole file once.
    fn scan(&self) -> Result<Scan> {
        if let Some(scan) = self.scan.get() {
            return Ok(*scan);
        }
        let mut hash = Sha256::new();
        hash.update(format!("{} {} {:?} {:?}", self.element, self.n, self.stored, self.layout));
        let per_image = self.values_per_image();
        let total = (self.n * per_image * self.element.size()) as u64;
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        let mut bytes = vec![0; CHUNK.min(total as usize)];
        let mut at = 0;
        while at < total {
            let chunk = (total - at).min(CHUNK as u64) as usize;
            let bytes = &mut bytes[..chunk];
            self.blob.read_into(self.start + at, bytes)?;
            hash.update(&*bytes);
            if !self.element.is_byte() {
                let (mut place, mut bad) = (0, None);
                self.element.each(bytes, |value| {
                    if !value.is_finite() {
                        bad = bad.or(Some(place));
                    }
                    place += 1;
                    low = low.min(value);
                    high = high.max(value);
                });
                if let Some(place) = bad {
                    return Err(self.not_finite((at as usize / self.element.size() + place) / per_image));
                }
            }
            at += chunk as u64;
        }
        let scan = Scan { digest: hash.finalize().into(), ends: [low, high] };
        Ok(*self.scan.get_or_init(|| scan))
    }

    /// The network value of a byte.
    fn byte_value(&self) -> impl Fn(u8) -> f32 + use<> {
        let range = self.range;
        let plain = range.0 == [0.0, 255.0];
        move |byte| if plain { from_byte(byte) } else { range.network_value(f64::from(byte)) }
    }
}

impl Source for ArraySource {
    fn len(&self) -> usize {
        self.n
    }

    fn shape(&self) -> [usize; 3] {
        self.shape
    }

    fn read(&self, index: usize, out: &mut [f32]) -> Result<()> {
        let count = self.values_per_image();
        let size = count * self.element.size();
        let bytes = self.blob.read(self.start + (index * size) as u64, size as u64)?;
        let [c, h, w] = self.stored;
        let plane = h * w;
        if let Some(fit) = &self.fit {
            let data = match self.layout {
                ArrayLayout::Nhwc => bytes,
                ArrayLayout::Nchw => (0..count).map(|i| bytes[i % c * plane + i / c]).collect(),
            };
            let mut planes = vec![0; out.len()];
            Pixels { width: w, height: h, channels: c, data }.fit_into(fit, &mut planes)?;
            let value = self.byte_value();
            out.iter_mut().zip(planes).for_each(|(x, byte)| *x = value(byte));
            return Ok(());
        }
        let mut finite = true;
        let mut place = 0;
        let mut put = |value: f32| {
            let at = match self.layout {
                ArrayLayout::Nchw => place,
                ArrayLayout::Nhwc => place % c * plane + place / c,
            };
            out[at] = value;
            place += 1;
        };
        if self.element.is_byte() {
            let values: [f32; 256] = std::array::from_fn(|byte| self.byte_value()(byte as u8));
            bytes.iter().for_each(|&byte| put(values[usize::from(byte)]));
        } else {
            self.element.each(&bytes, |value| {
                let value = self.range.network_value(value);
                finite &= value.is_finite();
                put(value);
            });
        }
        if finite { Ok(()) } else { Err(self.not_finite(index)) }
    }

    fn digest(&self) -> Result<[u8; 32]> {
        self.scan().map(|scan| scan.digest)
    }

    fn place(&self) -> &str {
        &self.place
    }
}
