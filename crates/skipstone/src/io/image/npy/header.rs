//! The header of a `.npy` file: element type, order and shape.

use std::fmt;
use std::io::Read;

use half::f16;

use crate::error::{Error, Kind, Result};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Maximum header length. NumPy writes 118 bytes; only many dimensions need more.
const MAX_HEADER: usize = 1 << 16;

/// The element type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    number: Number,
    big_endian: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F16,
    F32,
    F64,
}

impl Element {
    /// Parses NumPy's type description: byte order and width, as in `<f4`.
    fn parse(descr: &str) -> Result<Self> {
        let (order, kind) = descr.split_at_checked(1).unwrap_or(("", ""));
        let number = match kind {
            "u1" => Number::U8,
            "u2" => Number::U16,
            "u4" => Number::U32,
            "u8" => Number::U64,
            "i1" => Number::I8,
            "i2" => Number::I16,
            "i4" => Number::I32,
            "i8" => Number::I64,
            "f2" => Number::F16,
            "f4" => Number::F32,
            "f8" => Number::F64,
            "O" => {
                let message = "an array of Python objects, which is never unpickled; save an array of numbers";
                return Err(Error::unsupported(message));
            }
            _ => {
                let remedy = "expected float32 ('<f4'); save it with array.astype('float32')";
                return Err(Error::unsupported(format!("unsupported type '{descr}': {remedy}")));
            }
        };
        match order {
            "<" | ">" => Ok(Self { number, big_endian: order == ">" }),
            "=" => Ok(Self { number, big_endian: cfg!(target_endian = "big") }),
            "|" if matches!(number, Number::U8 | Number::I8) => Ok(Self { number, big_endian: false }),
            _ => Err(Error::data(format!("unknown byte order in type '{descr}'"))),
        }
    }

    /// Bytes per value.
    pub(crate) fn size(self) -> usize {
        match self.number {
            Number::U8 | Number::I8 => 1,
            Number::U16 | Number::I16 | Number::F16 => 2,
            Number::U32 | Number::I32 | Number::F32 => 4,
            Number::U64 | Number::I64 | Number::F64 => 8,
        }
    }

    /// Whether the values are unsigned bytes.
    pub(crate) fn is_byte(self) -> bool {
        self.number == Number::U8
    }

    /// Whether the values are floating-point numbers.
    pub(crate) fn is_float(self) -> bool {
        matches!(self.number, Number::F16 | Number::F32 | Number::F64)
    }

    /// Calls `see` with each value of `bytes`, whose length is a multiple of [`size`](Self::size).
    pub(crate) fn each(self, bytes: &[u8], mut see: impl FnMut(f64)) {
        // The type is resolved outside the loop: data sets of many gigabytes pass through here.
        macro_rules! values {
            ($number:ty) => {
                values!($number, |value| value as f64)
            };
            ($number:ty, $convert:expr) => {{
                let convert: fn($number) -> f64 = $convert;
                let parts = bytes.chunks_exact(size_of::<$number>());
                if self.big_endian {
                    parts.for_each(|raw| see(convert(<$number>::from_be_bytes(raw.try_into().expect("its size")))));
                } else {
                    parts.for_each(|raw| see(convert(<$number>::from_le_bytes(raw.try_into().expect("its size")))));
                }
            }};
        }
        match self.number {
            Number::U8 => values!(u8),
            Number::U16 => values!(u16),
            Number::U32 => values!(u32),
            Number::U64 => values!(u64),
            Number::I8 => values!(i8),
            Number::I16 => values!(i16),
            Number::I32 => values!(i32),
            Number::I64 => values!(i64),
            Number::F16 => values!(f16, |value| value.to_f64()),
            Number::F32 => values!(f32),
            Number::F64 => values!(f64),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = match (self.size(), self.big_endian) {
            (1, _) => '|',
            (_, true) => '>',
            (_, false) => '<',
        };
        let kind = match self.number {
            Number::U8 | Number::U16 | Number::U32 | Number::U64 => 'u',
            Number::I8 | Number::I16 | Number::I32 | Number::I64 => 'i',
            Number::F16 | Number::F32 | Number::F64 => 'f',
        };
        write!(f, "{order}{kind}{}", self.size())
    }
}

/// A header whose shape agrees with the length of the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub element: Element,
    pub fortran: bool,
    pub shape: Vec<usize>,
    /// Number of values.
    pub count: usize,
    /// Position of the first value in bytes.
    pub start: u64,
}

impl Header {
    /// Reads the header from the start of a file of `length` bytes.
    ///
    /// # Errors
    /// The file is truncated, has another format or type, or its length contradicts its shape.
    pub(crate) fn read(stream: &mut impl Read, length: u64) -> Result<Self> {
        let mut start = [0; 8];
        fill(stream, &mut start)?;
        if &start[..6] != MAGIC {
            return Err(Error::data("not a .npy file: it does not start with \\x93NUMPY"));
        }
        let (header_length, before) = match start[6] {
            1 => {
                let mut bytes = [0; 2];
                fill(stream, &mut bytes)?;
                (usize::from(u16::from_le_bytes(bytes)), 10)
            }
            2 | 3 => {
                let mut bytes = [0; 4];
                fill(stream, &mut bytes)?;
                (u32::from_le_bytes(bytes) as usize, 12)
            }
            version => {
                return Err(Error::unsupported(format!("unsupported .npy version {version}: expected 1, 2 or 3")));
            }
        };
        if header_length > MAX_HEADER {
            return Err(Error::data(format!("header: expected at most {MAX_HEADER} bytes, found {header_length}")));
        }
        let mut header = vec![0; header_length];
        fill(stream, &mut header)?;
        let header = str::from_utf8(&header).map_err(|_| Error::data("header: not UTF-8 text"))?;
        let (element, fortran, shape) = parse(header)?;
        let start = before + header_length;
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let expected = count.and_then(|n| n.checked_mul(element.size())).and_then(|n| n.checked_add(start));
        // Checked before allocating: a header may claim more than memory holds.
        let (Some(count), Some(expected)) = (count, expected) else {
            return Err(Error::data(format!("shape {shape:?} is too large")));
        };
        if expected as u64 != length {
            return Err(Error::data(format!("shape {shape:?} needs a file of {expected} bytes, found {length}")));
        }
        Ok(Self { element, fortran, shape, count, start: start as u64 })
    }
}

/// Element type, Fortran order and shape from the dict literal.
fn parse(text: &str) -> Result<(Element, bool, Vec<usize>)> {
    let broken = || Error::data(format!("header: expected a dict as written by NumPy, found {:?}", text.trim_end()));
    let mut rest = text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or_else(broken)?.trim();
    let (mut kind, mut fortran, mut shape) = (None, None, None);
    while !rest.is_empty() {
        let (key, after) = quoted(rest).ok_or_else(broken)?;
        let value = after.trim_start().strip_prefix(':').ok_or_else(broken)?.trim_start();
        rest = match key {
            "descr" => {
                // A structured type is a list rather than a string.
                let (descr, after) = quoted(value)
                    .ok_or_else(|| Error::unsupported("unsupported record type: expected float32 ('<f4')"))?;
                kind = Some(Element::parse(descr)?);
                after
            }
            "fortran_order" => {
                let (flag, after) = match (value.strip_prefix("True"), value.strip_prefix("False")) {
                    (Some(after), _) => (true, after),
                    (_, Some(after)) => (false, after),
                    _ => return Err(broken()),
                };
                fortran = Some(flag);
                after
            }
            "shape" => {
                let (inside, after) = value.strip_prefix('(').and_then(|v| v.split_once(')')).ok_or_else(broken)?;
                let dims = inside.split(',').map(str::trim).filter(|d| !d.is_empty());
                shape = Some(dims.map(|d| d.parse().map_err(|_| broken())).collect::<Result<Vec<usize>>>()?);
                after
            }
            _ => return Err(broken()),
        };
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    match (kind, fortran, shape) {
        (Some(kind), Some(fortran), Some(shape)) => Ok((kind, fortran, shape)),
        _ => Err(broken()),
    }
}

/// Splits off a string in single or double quotes.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// Fills `bytes`, or reports a truncated file.
pub(super) fn fill(stream: &mut impl Read, bytes: &mut [u8]) -> Result<()> {
    stream.read_exact(bytes).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::data("truncated: not a complete .npy file"),
        _ => Error::new(Kind::Io, e.to_string()).caused_by(e),
    })
}
