//! Data sets as NumPy, tarfile, Pillow and PyArrow write them, against their values by the definition.

use std::path::PathBuf;

use ndarray::{Array4, Axis, s};
use skipstone::Kind;
use skipstone::io::data::{ArrayLayout, DataOptions, DataSpec, Dataset, Pick, Split, ValueRange};
use skipstone::io::image::npy;

use crate::golden;

fn open(name: &str, split: Split, options: &DataOptions) -> skipstone::Result<Dataset> {
    let path = golden::path("data").join(name);
    path.to_str().unwrap().parse::<DataSpec>().unwrap().load(split, options)
}

fn wanting(channels: usize) -> DataOptions {
    DataOptions { size: Some([6, 4]), channels: Some(channels), ..DataOptions::default() }
}

fn expected(name: &str) -> Array4<f32> {
    npy::read(&golden::path("data").join(name)).unwrap()
}

fn batch(data: &Dataset) -> Array4<f32> {
    data.batch(0..data.len()).unwrap()
}

#[test]
fn bytes_in_either_layout_are_the_images_to_the_bit() {
    let x = expected("x_bytes.npy");
    for (name, layout) in [("bytes_nchw.npy", "nchw"), ("bytes_nhwc.npy", "nhwc"), ("packed.npz", "nhwc")] {
        for options in [wanting(3), DataOptions::default()] {
            let data = open(name, Split::Train, &options).unwrap();
            assert_eq!(batch(&data), x, "{name}");
            assert!(data.notes()[0].contains(layout), "{:?}", data.notes());
            assert_eq!((data.range(), data.bytes(), data.original_size()), (None, 0, None));
        }
    }
    let gray = open("gray.npy", Split::Test, &wanting(1)).unwrap();
    assert_eq!(batch(&gray), x.slice(s![.., ..1, .., ..]));
    // Mirrored, and as pictures.
    let data = open("bytes_nhwc.npy", Split::Train, &wanting(3)).unwrap();
    let mut mirrored = Array4::zeros((1, 3, 6, 4));
    data.fill_batch(&[Pick { index: 2, flip: true }], &mut mirrored).unwrap();
    assert_eq!(mirrored.index_axis(Axis(0), 0), x.slice(s![2, .., .., ..;-1]));
    let pictures = data.pictures(&[3, 1]).unwrap();
    assert_eq!(pictures.mapv(|byte| (f64::from(byte) / 127.5 - 1.0) as f32), x.select(Axis(0), &[3, 1]));
    assert_eq!(data.clone().take(2).len(), 2);
    assert!(data.batch(3..5).unwrap_err().message().contains("image 4 does not exist, there are 4"));
}

#[test]
fn the_digest_is_of_the_content_and_the_layout() {
    let digest = |name, options: &DataOptions| open(name, Split::Train, options).unwrap().digest().unwrap();
    let here = digest("bytes_nhwc.npy", &wanting(3));
    assert_eq!(here, digest("bytes_nhwc.npy", &wanting(3)));
    assert_ne!(here, digest("bytes_nchw.npy", &wanting(3)));
    let (a, b) = (open("bytes_nhwc.npy", Split::Train, &wanting(3)), open("bytes_nhwc.npy", Split::Test, &wanting(3)));
    assert!(a.unwrap().same_images(&b.unwrap()));
}

#[test]
fn floats_of_five_channels_get_the_range_that_was_measured_or_stated() {
    let x = expected("x_five.npy");
    for (name, tolerance) in [("five_f8.npy", 1e-6), ("five_f4_big.npy", 1e-6), ("five_f2.npy", 2e-3)] {
        let data = open(name, Split::Train, &wanting(5)).unwrap();
        let range = data.range().unwrap().range.ends();
        assert!((range[0] + 2.5).abs() < 1e-3 && (range[1] - 3.5).abs() < 1e-3, "{range:?}");
        let worst = (batch(&data) - &x).iter().fold(0f32, |worst, d| worst.max(d.abs()));
        assert!(worst < tolerance, "{name}: {worst}");
        assert!(data.notes().iter().any(|note| note.contains("-2.5")), "{:?}", data.notes());
    }
    // v = 3·(x + 1) − 2.5 with the range −2.5..3.5; the range −1..1 leaves v, which may lie outside.
    let stated = DataOptions { range: Some(ValueRange::new(-1.0, 1.0).unwrap()), ..wanting(5) };
    let plain = batch(&open("five_f8.npy", Split::Train, &stated).unwrap());
    assert!((plain - x.mapv(|x| 3.0 * (x + 1.0) - 2.5)).iter().all(|d| d.abs() < 2e-6));
    // 16-bit numbers fill their range, so it is 0..65535.
    let data = open("five_u2_big.npy", Split::Train, &wanting(5)).unwrap();
    assert_eq!(data.range().unwrap().range.ends(), [0.0, 65535.0]);
    assert!((batch(&data) - &x).iter().all(|d| d.abs() < 2e-5));
}

#[test]
fn parts_and_labels_of_an_archive_are_found_by_their_names() {
    let train = open("parts.npz", Split::Train, &wanting(1)).unwrap();
    let test = open("parts.npz", Split::Test, &wanting(1)).unwrap();
    assert_eq!((train.labels().unwrap(), test.labels().unwrap()), (&[0, 1][..], &[2, 0][..]));
    assert!(!train.same_images(&test));
    assert_eq!(batch(&test), expected("x_bytes.npy").slice(s![2.., ..1, .., ..]));
    assert_eq!(open("packed.npz", Split::Test, &wanting(3)).unwrap().labels().unwrap(), [0, 1, 2, 0]);
    assert_eq!(batch(&open("several.npz:two", Split::Train, &wanting(3)).unwrap()), expected("x_bytes.npy"));
    for (name, says) in [
        ("several.npz", "one, two; choose one with FILE.npz:NAME"),
        ("several.npz:three", "no array \"three\"; there are names, one, two"),
        ("several.npz:names", "unsupported type '<U1'"),
        ("packed.npz:arr_1", "found [4]"),
    ] {
        let error = open(name, Split::Train, &wanting(3)).unwrap_err();
        assert!(error.message().contains(says), "{error}");
        assert!(error.path().is_some_and(|path| path.extension().unwrap() == "npz"), "{error}");
    }
}

#[test]
fn arrays_that_cannot_be_read_image_by_image_say_what_to_save() {
    for (name, says) in [
        ("fortran.npy", "numpy.ascontiguousarray"),
        ("objects.npy", "never unpickled"),
        ("x_five.npy.gz", "No such file"),
    ] {
        let error = open(name, Split::Train, &wanting(5)).map_err(|e| e.to_string()).unwrap_err();
        assert!(error.contains(says) || name.ends_with("gz"), "{error}");
    }
    // Floats are not resized, and only bytes change their channels.
    for (name, channels) in [("five_f8.npy", 3), ("x_bytes.npy", 1)] {
        let error = open(name, Split::Train, &wanting(channels)).unwrap_err();
        assert!(error.message().contains("only 8-bit images with 1 or 3 channels are resized"), "{error}");
    }
    let small = DataOptions { size: Some([3, 2]), ..wanting(1) };
    let data = open("bytes_nhwc.npy", Split::Train, &small).unwrap();
    assert_eq!((data.shape(), data.original_size()), ([1, 3, 2], Some("3x6x4")));
    let other = DataOptions { layout: Some(ArrayLayout::Nchw), ..DataOptions::default() };
    assert_eq!(open("bytes_nhwc.npy", Split::Train, &other).unwrap().shape(), [6, 4, 3]);
}

#[test]
fn archives_of_all_three_formats_hold_the_images_and_their_classes() {
    for name in ["ustar.tar", "gnu.tar", "pax.tar"] {
        let data = open(name, Split::Train, &wanting(3)).unwrap();
        assert_eq!(batch(&data), expected("x_bytes.npy"), "{name}");
        assert_eq!(data.labels().unwrap(), [0, 1, 2, 0]);
    }
    assert!(open("ustar.tar", Split::Train, &DataOptions::default()).unwrap_err().message().contains("need a size"));
    assert_eq!(open("ustar.tar", Split::Train, &wanting(5)).unwrap_err().kind(), Kind::Unsupported);
}

#[test]
fn shards_are_one_data_set_and_a_folder_of_them_has_parts() {
    let folder = tempfile::tempdir().unwrap();
    for (i, name) in ["ustar", "gnu", "pax"].iter().enumerate() {
        let name = golden::path("data").join(format!("{name}.tar"));
        std::fs::copy(&name, folder.path().join(format!("train-{i:03}.tar"))).unwrap();
    }
    let all = folder.path().join("train-{000..002}.tar").display().to_string().parse::<DataSpec>().unwrap();
    let data = all.load(Split::Train, &wanting(3)).unwrap();
    assert_eq!((data.len(), data.labels().unwrap().len()), (12, 12));
    assert_eq!(data.batch(4..8).unwrap(), expected("x_bytes.npy"));
    let whole = DataSpec::Folder(folder.path().into());
    assert_eq!(whole.load(Split::Test, &wanting(3)).unwrap().len(), 12);
    std::fs::rename(folder.path().join("train-002.tar"), folder.path().join("test-000.tar")).unwrap();
    let count = |split| whole.load(split, &wanting(3)).unwrap().len();
    assert_eq!((count(Split::Train), count(Split::Test)), (8, 4));
    assert_eq!(all.load(Split::Train, &wanting(3)).unwrap_err().kind(), Kind::NotFound);
    for wrong in ["a-{3..1}.tar", "a-{x..y}.tar", "a-{0..99999999}.tar"] {
        let error = DataSpec::Tar(PathBuf::from(wrong)).load(Split::Train, &wanting(3)).unwrap_err();
        assert!(error.message().contains("expected {FIRST..LAST}"), "{error}");
    }
}

#[cfg(feature = "parquet")]
#[test]
fn tables_hold_the_images_their_classes_and_the_names_of_these() {
    for name in ["snappy.parquet", "plain.parquet"] {
        let data = open(name, Split::Train, &wanting(3)).unwrap();
        assert_eq!(batch(&data), expected("x_bytes.npy"), "{name}");
        assert_eq!(data.labels().unwrap(), [0, 1, 2, 0]);
        assert_eq!(data.class_names(), ["a", "b", "c"]);
    }
    let error = open("zstd.parquet", Split::Train, &wanting(3)).unwrap_err();
    assert!(error.message().to_lowercase().contains("zstd"), "{error}");
}

#[cfg(feature = "parquet")]
#[test]
fn a_damaged_table_is_an_error_and_no_panic() {
    let whole = golden::bytes("data/snappy.parquet");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let load = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        DataSpec::Parquet(path.clone()).load(Split::Train, &wanting(3))
    };
    assert!(load(&whole).is_ok());
    for end in (0..whole.len()).step_by(23) {
        assert!(load(&whole[..end]).is_err(), "cut at {end}");
    }
    for at in (0..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        if let Ok(data) = load(&damaged) {
            let _ = data.batch(0..data.len());
        }
    }
}
