use std::ops::Range;
use std::path::Path;

use super::*;
use crate::io::checkpoint::{LoadOptions, load_embedded};
use crate::io::data::{DataOptions, DataSpec, Split};
use crate::io::image::to_byte;
use crate::sampling::generate::Settings;
use crate::sampling::options::Request;
use ndarray::{Array4, Axis, Slice};

/// Options of a run of the carried model, and seven images of its shape.
fn run() -> (Settings, Manifest, Array4<f32>) {
    let model = load_embedded(skipstone_model::FILES, &LoadOptions::default()).unwrap();
    let (settings, _) = Settings::resolve(&model, &Request::default()).unwrap();
    let manifest = Manifest::new(&settings, 3, 7);
    let images =
        Array4::from_shape_fn((7, 1, 28, 28), |(n, _, y, x)| ((n * 31 + y * 5 + x) % 256) as f32 / 127.5 - 1.0);
    (settings, manifest, images)
}

/// Writes an archive in a folder, from what is there on.
fn complete(path: &Path) -> Result<u64> {
    let (settings, manifest, images) = run();
    let rows = |missing: &Range<u64>| images.slice_axis(Axis(0), Slice::from(missing.start as usize - 3..)).to_owned();
    if path.extension().is_some_and(|e| e == "tar") {
        let mut file = TarFile::open(path, &settings, &manifest, [1, 28, 28])?;
        let missing = file.missing();
        file.write_all(missing.clone(), &rows(&missing))?;
        file.finish()?;
        return Ok(missing.end - missing.start);
    }
    let mut file = NpzFile::open(path, &manifest, [1, 28, 28])?;
    let missing = file.missing();
    if !missing.is_empty() {
        file.write_all(missing.clone(), &rows(&missing))?;
    }
    file.finish()?;
    Ok(missing.end - missing.start)
}

#[test]
fn a_tar_cut_at_any_byte_continues_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole.tar");
    assert_eq!(complete(&whole).unwrap(), 7);
    let bytes = std::fs::read(&whole).unwrap();
    assert_eq!(complete(&whole).unwrap(), 0, "nothing is missing");
    let cut = dir.path().join("cut.tar");
    // Around every block boundary, and in between.
    for length in (0..bytes.len()).step_by(101).chain((0..bytes.len()).step_by(512)).chain([1, 513, bytes.len() - 1]) {
        std::fs::write(&cut, &bytes[..length]).unwrap();
        complete(&cut).unwrap_or_else(|e| panic!("{length}: {e}"));
        assert!(std::fs::read(&cut).unwrap() == bytes, "cut at {length} of {}", bytes.len());
    }
    // An image that is there, but not as it was written.
    let mut torn = bytes.clone();
    let middle = bytes.len() / 2;
    torn[middle..middle + 600].fill(0);
    std::fs::write(&cut, &torn).unwrap();
    assert!(complete(&cut).unwrap() > 0);
    assert!(std::fs::read(&cut).unwrap() == bytes);
    let options = DataOptions { size: Some([28, 28]), channels: Some(1), ..DataOptions::default() };
    let data = DataSpec::Tar(whole).load(Split::Train, &options).unwrap();
    assert_eq!((data.len(), data.shape()), (7, [1, 28, 28]));
    assert_eq!(data.batch(0..7).unwrap().mapv(to_byte), run().2.mapv(to_byte));
}

#[test]
fn an_npz_cut_at_any_byte_continues_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.npz");
    let partial = dir.path().join(".x.npz.partial");
    let (_, manifest, images) = run();
    let mut file = NpzFile::open(&path, &manifest, [1, 28, 28]).unwrap();
    file.write_all(3..10, &images).unwrap();
    let bytes = std::fs::read(&partial).unwrap();
    file.finish().unwrap();
    assert!(!partial.exists());
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(complete(&path).unwrap(), 0);
    for length in (0..bytes.len()).step_by(97) {
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&partial, &bytes[..length]).unwrap();
        complete(&path).unwrap_or_else(|e| panic!("{length}: {e}"));
        assert!(std::fs::read(&path).unwrap() == whole, "cut at {length}");
    }
    let data = DataSpec::Npz(path, None).load(Split::Train, &DataOptions::default()).unwrap();
    assert_eq!((data.len(), data.shape()), (7, [1, 28, 28]));
    assert_eq!(data.batch(0..7).unwrap().mapv(to_byte), images.mapv(to_byte));
}

#[test]
fn files_of_other_runs_and_of_others_are_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["x.tar", "x.npz"] {
        let path = dir.path().join(name);
        std::fs::write(&path, vec![7; 5000]).unwrap();
        assert!(complete(&path).is_err(), "{name}");
        assert_eq!(std::fs::read(&path).unwrap(), vec![7; 5000]);
        std::fs::remove_file(&path).unwrap();
        complete(&path).unwrap();
        let (settings, manifest, _) = run();
        for (wanted, says) in [
            (Manifest { n: 9, ..manifest.clone() }, "7 images from 3 on"),
            (
                Manifest { options: [("seed".to_owned(), serde_json::json!(5))].into_iter().collect(), ..manifest },
                "now it is",
            ),
        ] {
            let error = match name {
                "x.tar" => TarFile::open(&path, &settings, &wanted, [1, 28, 28]).unwrap_err(),
                _ => NpzFile::open(&path, &wanted, [1, 28, 28]).unwrap_err(),
            };
            assert!(error.message().contains(says), "{name}: {error}");
            assert!(error.message().ends_with("choose another name"), "{name}: {error}");
        }
    }
}

#[test]
fn two_writers_of_one_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, manifest, _) = run();
    let path = dir.path().join("x.tar");
    let _held = TarFile::open(&path, &settings, &manifest, [1, 28, 28]).unwrap();
    let error = TarFile::open(&path, &settings, &manifest, [1, 28, 28]).unwrap_err();
    assert!(error.message().contains("another process"), "{error}");
    // Nobody has given the name of the file where an archive is until it is complete.
    let path = dir.path().join("x.npz");
    let _held = NpzFile::open(&path, &manifest, [1, 28, 28]).unwrap();
    let error = NpzFile::open(&path, &manifest, [1, 28, 28]).unwrap_err();
    assert!(error.message().contains("another process") && error.path() == Some(&*path), "{error}");
}

#[test]
fn a_folder_in_place_of_an_archive_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["x.tar", "x.npz"] {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        let error = complete(&path).unwrap_err();
        assert!(error.message().contains("is no regular file") && error.path() == Some(&*path), "{error}");
    }
}
