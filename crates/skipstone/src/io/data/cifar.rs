//! The binary version of CIFAR-10: records of a label byte and 3072 pixel bytes (red, green and blue 32×32 planes).

use std::path::Path;

use ndarray::Array4;

use super::{Dataset, Split};
use crate::error::{Error, Result};
use crate::io::files;

/// Bytes per record: the label and 3·32·32 values.
const RECORD: usize = 1 + 3 * 32 * 32;
/// Maximum size of a batch file (the real ones have 30,730,000 bytes).
const MAX_FILE: u64 = 1 << 30;

const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// The file names of a split.
pub(super) fn files_of(split: Split) -> &'static [&'static str] {
    match split {
        Split::Train => {
            &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"]
        }
        Split::Test => &["test_batch.bin"],
    }
}

/// Reads a split from the folder of the `.bin` files.
pub(super) fn read(folder: &Path, split: Split) -> Result<Dataset> {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for name in files_of(split) {
        let path = folder.join(name);
        let bytes = files::read(&path, MAX_FILE)?;
        if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
            let message = format!("expected whole records of {RECORD} bytes, found {} bytes", bytes.len());
            return Err(Error::data(message).in_file(path));
        }
        for (i, record) in bytes.chunks_exact(RECORD).enumerate() {
            if usize::from(record[0]) >= CLASSES.len() {
                return Err(
                    Error::data(format!("record {i}: expected a label from 0 to 9, found {}", record[0])).in_file(path)
                );
            }
            labels.push(u32::from(record[0]));
            pixels.extend_from_slice(&record[1..]);
        }
    }
    let images = Array4::from_shape_vec((labels.len(), 3, 32, 32), pixels)
        .map_err(|e| Error::data(e.to_string()).in_file(folder))?;
    Dataset::new("cifar10", images, Some(labels), CLASSES.map(str::to_owned).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(label: u8, red: u8, green: u8, blue: u8) -> Vec<u8> {
        let mut bytes = vec![label];
        for value in [red, green, blue] {
            bytes.extend([value; 1024]);
        }
        bytes
    }

    #[test]
    fn batches_follow_each_other_and_planes_are_channels() {
        let folder = tempfile::tempdir().unwrap();
        for (i, name) in files_of(Split::Train).iter().enumerate() {
            let i = i as u8;
            let bytes = [record(i, 10 + i, 20, 30), record(9 - i, 40, 50, 60 + i)].concat();
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let data = read(folder.path(), Split::Train).unwrap();
        assert_eq!((data.len(), data.shape(), data.num_classes()), (10, [3, 32, 32], Some(10)));
        assert_eq!(data.labels().unwrap(), [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]);
        let at = |i: usize, place: [usize; 3]| data.image(i).unwrap()[place];
        assert_eq!((at(4, [0, 31, 31]), at(4, [2, 0, 0]), at(9, [2, 5, 5])), (12, 30, 64));
        let missing = read(folder.path(), Split::Test).unwrap_err();
        assert!(missing.to_string().contains("test_batch.bin"), "{missing}");
    }

    #[test]
    fn partial_records_and_impossible_labels_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test_batch.bin");
        for bytes in [vec![], record(1, 2, 3, 4)[..RECORD - 1].to_vec(), record(10, 0, 0, 0)] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read(folder.path(), Split::Test).unwrap_err().path(), Some(path.as_path()));
        }
    }
}
