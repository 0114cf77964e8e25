//! NumPy's `.npy` files: raw float32 tensors, never clamped.
//!
//! Format: `\x93NUMPY`, two version bytes, the length of the header (u16 in version 1, u32 in 2 and 3), a Python dict
//! literal with `descr`, `fortran_order` and `shape`, then the values.

mod header;

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use ndarray::{Array, ArrayView, Dimension, IxDyn, ShapeBuilder};

use crate::error::{Error, Kind, Result};
use crate::io::files;
use header::fill;
pub(crate) use header::{Element, Header};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Values read at a time.
const CHUNK: usize = 1 << 14;

/// Reads a tensor with the rank of `D` (`Ix4` for images and latents, `Ix5` for the noise of a whole run).
///
/// Reads float32, float64 (rounded) and float16 (widened) in either byte order.
///
/// # Errors
/// The file is missing, has another format, type or rank, its length contradicts its header, or a value is not finite.
pub fn read<D: Dimension>(path: &Path) -> Result<Array<f32, D>> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
    decode(BufReader::new(file), length).map_err(|e| e.in_file(path))
}

/// Whether the file at `path` holds floating-point numbers, from its header.
///
/// # Errors
/// The file is missing or has another format or type.
pub fn holds_floats(path: &Path) -> Result<bool> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
    let header = Header::read(&mut BufReader::new(file), length).map_err(|e| e.in_file(path))?;
    Ok(header.element.is_float())
}

/// Writes a tensor as little-endian float32 in C order, atomically.
///
/// # Errors
/// As [`files::write_atomically`].
pub fn write<D: Dimension>(path: &Path, tensor: ArrayView<'_, f32, D>) -> Result<()> {
    files::write_atomically(path, |out| encode(out, tensor).map_err(|e| Error::io(path, e)))
}

/// The beginning of a `.npy` file of this type and shape, in C order; the values follow.
pub(crate) fn header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
    // Python writes a tuple of one element with a comma.
    let shape = dims.join(", ") + if dims.len() == 1 { "," } else { "" };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    // Values start at a multiple of 64 bytes; the header ends with a newline.
    let padding = 63 - (MAGIC.len() + 4 + header.len()) % 64;
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    [&MAGIC[..], &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes()].concat()
}

/// Writes `tensor` to `out` as a `.npy` file, little-endian and in C order.
///
/// # Errors
/// Those of `out`.
pub fn encode<A: Value, D: Dimension>(mut out: impl Write, tensor: ArrayView<'_, A, D>) -> std::io::Result<()> {
    out.write_all(&header(A::DESCR, tensor.shape()))?;
    let mut bytes = Vec::with_capacity(8 * CHUNK);
    for &value in tensor.iter() {
        value.push_to(&mut bytes);
        if bytes.len() >= 4 * CHUNK {
            out.write_all(&bytes)?;
            bytes.clear();
        }
    }
    out.write_all(&bytes)
}

/// Reads a tensor from a stream of `length` bytes.
///
/// # Errors
/// As [`read`].
pub fn decode<A: Value, D: Dimension>(mut stream: impl Read, length: u64) -> Result<Array<A, D>> {
    let Header { element, fortran, shape, count, .. } = Header::read(&mut stream, length)?;
    if !element.is_float() {
        let remedy = "expected float32 ('<f4'); save it with array.astype('float32')";
        return Err(Error::unsupported(format!("unsupported type '{element}': {remedy}")));
    }
    if let Some(rank) = D::NDIM.filter(|&rank| rank != shape.len()) {
        return Err(Error::data(format!("expected {rank} dimensions, found {}: {shape:?}", shape.len())));
    }
    let values = read_values(&mut stream, element, count)?;
    let dynamic = IxDyn(&shape).set_f(fortran);
    Array::from_shape_vec(dynamic, values)
        .map(|a| if fortran { a.as_standard_layout().into_owned() } else { a })
        .and_then(Array::into_dimensionality::<D>)
        .map_err(|e| Error::data(format!("shape {shape:?}: {e}")))
}

/// Reads `count` values.
fn read_values<A: Value>(stream: &mut impl Read, element: Element, count: usize) -> Result<Vec<A>> {
    let size = element.size();
    let mut values = Vec::with_capacity(count);
    let mut bytes = vec![0; CHUNK.min(count) * size];
    while values.len() < count {
        let chunk = &mut bytes[..CHUNK.min(count - values.len()) * size];
        fill(stream, chunk)?;
        let first = values.len();
        element.each(chunk, |value| values.push(A::from_f64(value)));
        if let Some(place) = (first..values.len()).find(|&place| !values[place].finite()) {
            return Err(Error::new(
                Kind::NonFinite,
                format!("value {place} of {count}: expected a finite number, found {}", values[place]),
            ));
        }
    }
    Ok(values)
}

/// The element types of tensors in memory: f32 and f64.
pub trait Value: Copy + std::fmt::Display {
    /// NumPy's type description.
    const DESCR: &'static str;

    /// Converts from f64, rounding to nearest.
    fn from_f64(value: f64) -> Self;

    /// Whether the value is neither NaN nor infinite.
    fn finite(self) -> bool;

    /// Appends the value's little-endian bytes.
    fn push_to(self, bytes: &mut Vec<u8>);
}

macro_rules! value {
    ($float:ident, $descr:literal) => {
        impl Value for $float {
            const DESCR: &'static str = $descr;

            fn from_f64(value: f64) -> Self {
                value as Self
            }

            fn finite(self) -> bool {
                self.is_finite()
            }

            fn push_to(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
        }
    };
}

value!(f32, "<f4");
value!(f64, "<f8");

#[cfg(test)]
mod tests {
    use ndarray::{Array4, Array5, Ix1, Ix2, Ix4, Ix5, array};
    use proptest::prelude::*;

    use super::*;

    fn bytes_of<D: Dimension>(tensor: &Array<f32, D>) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&mut bytes, tensor.view()).unwrap();
        bytes
    }

    fn decoded<D: Dimension>(bytes: &[u8]) -> Result<Array<f32, D>> {
        decode(bytes, bytes.len() as u64)
    }

    /// A version 1 file with this dict and these values.
    fn file(dict: &str, values: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((dict.len() as u16).to_le_bytes());
        bytes.extend(dict.bytes());
        bytes.extend(values);
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn tensors_come_back_to_the_bit(n in 0usize..4, c in 1usize..4, h in 1usize..6, w in 1usize..6, first in -1e30f32..1e30) {
            let tensor = Array4::from_shape_fn((n, c, h, w), |(n, c, y, x)| first * (1 + n + 3 * c + 5 * y + 7 * x) as f32);
            prop_assert_eq!(decoded::<Ix4>(&bytes_of(&tensor)).unwrap(), tensor);
        }
    }

    #[test]
    fn the_bytes_are_those_numpy_writes() {
        // numpy 2: np.save of np.array([[1, -2]], dtype='<f4'), 136 bytes.
        let mut expected =
            b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }".to_vec();
        expected.resize(127, b' ');
        expected.extend(b"\n\x00\x00\x80\x3f\x00\x00\x00\xc0");
        assert_eq!(bytes_of(&array![[1.0f32, -2.0]]), expected);
        assert!(String::from_utf8_lossy(&bytes_of(&array![1.0f32])).contains("'shape': (1,), }"));
    }

    #[test]
    fn five_dimensions_and_views_in_another_order_are_written_in_c_order() {
        let noise = Array5::from_shape_fn((2, 3, 1, 2, 2), |(s, n, _, y, x)| (1000 * s + 100 * n + 10 * y + x) as f32);
        assert_eq!(decoded::<Ix5>(&bytes_of(&noise)).unwrap(), noise);
        let turned = array![[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]].reversed_axes();
        assert_eq!(decoded::<Ix2>(&bytes_of(&turned)).unwrap(), array![[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]);
    }

    #[test]
    fn fortran_order_and_other_floats_are_converted() {
        let values: Vec<u8> = [1.0f64, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|v| v.to_be_bytes()).collect();
        let bytes = file("{'descr': '>f8', 'fortran_order': True, 'shape': (2, 3)}", &values);
        let read = decoded::<Ix2>(&bytes).unwrap();
        assert_eq!(read, array![[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]);
        assert!(read.is_standard_layout());
        // 0x3c00 is 1, 0xc000 is −2 in half precision.
        let half = file("{\"shape\": (2,), \"descr\": \"<f2\", \"fortran_order\": False,}\n", &[0, 0x3c, 0, 0xc0]);
        assert_eq!(decoded::<Ix1>(&half).unwrap(), array![1.0, -2.0]);
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error() {
        let bytes = bytes_of(&Array4::<f32>::ones((2, 1, 2, 2)));
        for end in 0..bytes.len() {
            assert_eq!(decoded::<Ix4>(&bytes[..end]).unwrap_err().kind(), crate::Kind::InvalidData, "cut at {end}");
        }
        assert!(decoded::<Ix4>(&[bytes, vec![0]].concat()).is_err());
    }

    #[test]
    fn headers_that_lie_cost_an_error_not_memory() {
        for shape in ["(4294967296, 4294967296, 1, 1)", "(1000000, 1000000, 1, 1)", "(99999999999999999999, 1, 1, 1)"] {
            let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}");
            assert_eq!(decoded::<Ix4>(&file(&dict, &[0; 4])).unwrap_err().kind(), crate::Kind::InvalidData);
        }
    }

    #[test]
    fn other_ranks_types_and_values_are_refused_by_name() {
        let error = decoded::<Ix4>(&bytes_of(&array![1.0f32])).unwrap_err();
        assert!(error.message().contains("expected 4 dimensions, found 1"), "{error}");
        let ints = file("{'descr': '<i8', 'fortran_order': False, 'shape': (1,)}", &[0; 8]);
        let error = decoded::<Ix1>(&ints).unwrap_err();
        assert!(error.message().contains("'<i8'") && error.message().contains("astype"), "{error}");
        for bad in [f32::NAN, f32::NEG_INFINITY] {
            assert_eq!(decoded::<Ix1>(&bytes_of(&array![1.0, bad])).unwrap_err().kind(), crate::Kind::NonFinite);
        }
        // The largest float32 is finite, but a float64 may be too large for float32.
        assert_eq!(decoded::<Ix1>(&bytes_of(&array![f32::MAX])).unwrap(), array![f32::MAX]);
        let huge = file("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}", &1e300f64.to_le_bytes());
        assert_eq!(decoded::<Ix1>(&huge).unwrap_err().kind(), crate::Kind::NonFinite);
        for dict in
            ["", "{", "{}", "{'descr'}", "{'descr': '<f4'}", "{'\u{e9}': 1}", "{'shape': (-1,)}", "[]", "{'descr': ''}"]
        {
            assert!(decoded::<Ix1>(&file(dict, &[])).is_err(), "{dict}");
        }
    }

    #[test]
    fn files_are_named_in_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x_T.npy");
        assert_eq!(read::<Ix4>(&path).unwrap_err().kind(), crate::Kind::NotFound);
        let tensor = Array4::from_elem((1, 1, 2, 3), 40.5);
        write(&path, tensor.view()).unwrap();
        assert_eq!(read::<Ix4>(&path).unwrap(), tensor);
        assert_eq!(read::<Ix5>(&path).unwrap_err().path(), Some(path.as_path()));
    }
}
