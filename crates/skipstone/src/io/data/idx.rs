//! IDX files, gzipped or not: the format of MNIST and its successors.
//!
//! The header is 0, 0, the type (8: unsigned bytes) and the number of dimensions, then each dimension as a big-endian
//! u32. The values follow, last dimension fastest.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use ndarray::Array4;

use crate::error::{Error, Result};

/// Maximum compression ratio of deflate. A header that claims more than the file can hold is wrong.
const MAX_DEFLATE_RATIO: u64 = 1032;

/// The images of an IDX file. `[n, height, width]` gets one channel; `[n, channels, height, width]` stays as is.
///
/// # Errors
/// The file is missing, has another format, its values are not bytes, or its length contradicts its header.
pub fn read_images(path: &Path) -> Result<Array4<u8>> {
    let (dims, values) = read(path)?;
    let shape = match dims[..] {
        [n, h, w] => [n, 1, h, w],
        [n, c, h, w] => [n, c, h, w],
        _ => {
            return Err(
                Error::data(format!("expected images of 3 or 4 dimensions, found {}", dims.len())).in_file(path)
            );
        }
    };
    if values.is_empty() {
        return Err(Error::data(format!("the file has no images: shape {shape:?}")).in_file(path));
    }
    Array4::from_shape_vec(shape, values).map_err(|e| Error::data(format!("shape {shape:?}: {e}")).in_file(path))
}

/// The labels of an IDX file with one dimension.
///
/// # Errors
/// As [`read_images`].
pub fn read_labels(path: &Path) -> Result<Vec<u32>> {
    let (dims, values) = read(path)?;
    if dims.len() != 1 {
        return Err(Error::data(format!("expected labels in 1 dimension, found {}", dims.len())).in_file(path));
    }
    Ok(values.into_iter().map(u32::from).collect())
}

/// Dimensions and values of a file.
fn read(path: &Path) -> Result<(Vec<usize>, Vec<u8>)> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
    let mut file = BufReader::new(file);
    let mut start = [0; 2];
    let zipped = match file.read_exact(&mut start) {
        Ok(()) => start == [0x1f, 0x8b],
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => false,
        Err(e) => return Err(Error::io(path, e)),
    };
    let whole = start.chain(file);
    if zipped {
        parse(MultiGzDecoder::new(whole), length.saturating_mul(MAX_DEFLATE_RATIO))
    } else {
        parse(whole, length)
    }
    .map_err(|e| e.in_file(path))
}

/// Parses an IDX stream that cannot hold more than `capacity` bytes.
fn parse(mut stream: impl Read, capacity: u64) -> Result<(Vec<usize>, Vec<u8>)> {
    let mut magic = [0; 4];
    stream.read_exact(&mut magic).map_err(|e| cut(e, "the header"))?;
    let [0, 0, kind, dimensions] = magic else {
        return Err(Error::data(format!(
            "not an IDX file: expected it to start with [00, 00, 08, 01 to 04], found {magic:02x?}"
        )));
    };
    if kind != 0x08 {
        return Err(Error::unsupported(format!("unsupported IDX type 0x{kind:02x}: expected unsigned bytes (0x08)")));
    }
    if !(1..=4).contains(&dimensions) {
        return Err(Error::data(format!("expected 1 to 4 dimensions, found {dimensions}")));
    }
    let mut dims = Vec::with_capacity(4);
    let mut declared = 1u64;
    for _ in 0..dimensions {
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).map_err(|e| cut(e, "the dimensions"))?;
        let dim = u32::from_be_bytes(bytes);
        dims.push(dim as usize);
        declared = declared.saturating_mul(u64::from(dim));
    }
    if declared > capacity {
        return Err(Error::data(format!("the header claims {dims:?} = {declared} bytes, more than the file can hold")));
    }
    // Grows as bytes arrive, so a wrong header costs no memory.
    let mut values = Vec::new();
    stream.by_ref().take(declared).read_to_end(&mut values).map_err(|e| cut(e, "the values"))?;
    if (values.len() as u64) < declared {
        return Err(Error::data(format!("truncated: expected {dims:?} = {declared} bytes, found {}", values.len())));
    }
    // Reading to the end also makes gzip verify its checksum.
    match stream.read(&mut [0]).map_err(|e| cut(e, "the end"))? {
        0 => Ok((dims, values)),
        _ => Err(Error::data(format!("the file continues after the {declared} bytes of {dims:?}"))),
    }
}

/// The error of a stream that ended or failed while `part` was read.
fn cut(e: io::Error, part: &str) -> Error {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => Error::data(format!("truncated in {part}")),
        _ => Error::data(format!("unreadable in {part}: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;
    use crate::error::Kind;

    fn idx(dims: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, dims.len() as u8];
        bytes.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
        bytes.extend(values);
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn images_of(bytes: &[u8]) -> Result<Array4<u8>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        read_images(file.path())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_was_written_is_read_back(n in 1u32..4, h in 1u32..5, w in 1u32..5, first: u8, zipped: bool) {
            let values: Vec<u8> = (0..n * h * w).map(|i| first.wrapping_add(i as u8)).collect();
            let bytes = idx(&[n, h, w], &values);
            let images = images_of(&if zipped { gzip(&bytes) } else { bytes }).unwrap();
            prop_assert_eq!(images.dim(), (n as usize, 1, h as usize, w as usize));
            prop_assert_eq!(images.into_raw_vec_and_offset().0, values);
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error() {
        let whole = idx(&[2, 3, 2], &[7; 12]);
        for bytes in [whole.clone(), gzip(&whole)] {
            assert!(images_of(&bytes).is_ok());
            for end in 0..bytes.len() {
                assert_eq!(images_of(&bytes[..end]).unwrap_err().kind(), Kind::InvalidData, "cut at {end}");
            }
        }
    }

    #[test]
    fn headers_that_lie_cost_an_error_not_memory() {
        let huge = idx(&[u32::MAX, u32::MAX, u32::MAX], &[1]);
        assert!(images_of(&huge).unwrap_err().message().contains("more than the file can hold"));
        assert!(images_of(&gzip(&huge)).unwrap_err().message().contains("more than the file can hold"));
        // A decompression bomb: far more data than declared.
        let bomb = gzip(&idx(&[1, 1, 1], &vec![0; 10 << 20]));
        assert!(images_of(&bomb).unwrap_err().message().contains("continues after the 1 bytes"));
        assert!(images_of(&idx(&[1, 1, 1], &[1, 2])).unwrap_err().message().contains("continues after"));
    }

    #[test]
    fn other_formats_are_named_for_what_they_are_not() {
        assert!(images_of(b"\x89PNG\r\n\x1a\n").unwrap_err().message().contains("not an IDX file"));
        assert_eq!(images_of(&[0, 0, 0x0d, 3, 0, 0]).unwrap_err().kind(), Kind::Unsupported);
        assert!(images_of(&idx(&[3], &[1, 2, 3])).unwrap_err().message().contains("3 or 4 dimensions"));
        assert!(images_of(&idx(&[0, 2, 2], &[])).unwrap_err().message().contains("no images"));
        assert_eq!(read_images(Path::new("/nonexistent.idx")).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_damaged_gzip_is_found_by_its_checksum() {
        let mut bytes = gzip(&idx(&[1, 2, 2], &[1, 2, 3, 4]));
        let checksum = bytes.len() - 8;
        bytes[checksum] ^= 1;
        assert!(images_of(&bytes).is_err());
    }
}
