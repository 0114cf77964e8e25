//! Data sets in `.npz` archives.

use std::io::BufReader;
use std::path::Path;

use super::{Stored, dataset, stem};
use crate::error::{Error, Kind, Result};
use crate::io::checkpoint::zip::Archive;
use crate::io::data::{DataOptions, Dataset, Split};
use crate::io::image::npy::Header;

/// Names of images, with their labels, of archives that have a training and a test part: Keras's and MedMNIST's.
const PARTS: [(Split, &str, &str); 4] = [
    (Split::Train, "x_train", "y_train"),
    (Split::Test, "x_test", "y_test"),
    (Split::Train, "train_images", "train_labels"),
    (Split::Test, "test_images", "test_labels"),
];
/// Names of images, with their labels, of archives without parts. `arr_0` is what numpy.savez and guided-diffusion write.
const WHOLE: [(&str, &str); 6] =
    [("arr_0", "arr_1"), ("images", "labels"), ("image", "label"), ("data", "labels"), ("x", "y"), ("X", "y")];

/// The data set in the array called `key`, or in the array that holds the split's images.
///
/// # Errors
/// The file is missing or has another format, no array or several could be meant, or the array is no array of images.
pub(in crate::io::data) fn read_npz(
    path: &Path,
    key: Option<&str>,
    split: Split,
    options: &DataOptions,
) -> Result<Dataset> {
    let read = || {
        let archive = Archive::open(path)?;
        let key = match key {
            Some(key) => key.to_owned(),
            None => images(&archive, split)?,
        };
        let known = PARTS.iter().map(|&(_, images, labels)| (images, labels)).chain(WHOLE);
        let labels = known.filter(|(images, _)| *images == key).map(|(_, labels)| labels).find(|l| has(&archive, l));
        let labels = labels.map(|name| open(&archive, name)?.labels().map_err(|e| named(e, name))).transpose();
        let array = open(&archive, &key)?;
        let place = format!("{}:{key}", path.display());
        let name = format!("{}:{key}", stem(path));
        dataset(array, name, place, labels?, options).map_err(|e| named(e, &key))
    };
    read().map_err(|e| e.in_file(path))
}

fn named(error: Error, name: &str) -> Error {
    Error::new(error.kind(), format!("{name}: {}", error.message()))
}

fn entry(name: &str) -> String {
    format!("{name}.npy")
}

fn has(archive: &Archive, name: &str) -> bool {
    archive.names().any(|found| found == entry(name))
}

fn open(archive: &Archive, name: &str) -> Result<Stored> {
    match archive.open_entry(&entry(name)).and_then(|blob| blob.map(Stored::open).transpose()) {
        Ok(Some(array)) => Ok(array),
        Ok(None) => {
            let names: Vec<&str> = archive.names().filter_map(|found| found.strip_suffix(".npy")).collect();
            Err(Error::new(Kind::NotFound, format!("no array \"{name}\"; there are {}", names.join(", "))))
        }
        Err(error) => Err(named(error, name)),
    }
}

/// The name of the array with the images of a split.
fn images(archive: &Archive, split: Split) -> Result<String> {
    if let Some((_, name, _)) = PARTS.iter().find(|(part, name, _)| *part == split && has(archive, name)) {
        return Ok((*name).to_owned());
    }
    let mut found = Vec::new();
    for name in archive.names().filter_map(|name| name.strip_suffix(".npy")) {
        let Some((stream, length)) = archive.peek(&entry(name))? else { continue };
        // Arrays of other types may lie beside the images.
        if let Ok(header) = Header::read(&mut BufReader::new(stream), length)
            && matches!(header.shape.len(), 3 | 4)
        {
            found.push(name);
        }
    }
    match found[..] {
        [only] => return Ok(only.to_owned()),
        [] => return Err(Error::data("the archive has no array of images, with 3 or 4 dimensions")),
        _ => {}
    }
    let usual = WHOLE.iter().find(|(name, _)| found.contains(name));
    usual.map(|(name, _)| (*name).to_owned()).ok_or_else(|| {
        let names = found.join(", ");
        Error::argument(format!("several arrays could be the images: {names}; choose one with FILE.npz:NAME"))
    })
}
