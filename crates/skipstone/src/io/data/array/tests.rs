use ndarray::{Array4, ArrayView, Dimension, array};

use super::*;
use crate::io::checkpoint::zip;
use crate::io::data::Split;
use crate::io::image::npy;

const ANY: DataOptions =
    DataOptions { size: None, channels: None, background: [255; 3], layout: None, range: None, recorded: None };

fn bytes_of<D: Dimension>(tensor: ArrayView<'_, f32, D>) -> Vec<u8> {
    let mut bytes = Vec::new();
    npy::encode(&mut bytes, tensor).unwrap();
    bytes
}

/// A file with this type, shape and these bytes of values.
fn file(descr: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((dict.len() as u16).to_le_bytes());
    bytes.extend(dict.bytes());
    bytes.extend(values);
    bytes
}

fn saved(bytes: &[u8], ending: &str, options: &DataOptions) -> Result<Dataset> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("a.{ending}"));
    std::fs::write(&path, bytes).unwrap();
    match ending {
        "npy" => read_npy(&path, options),
        _ => read_npz(&path, None, Split::Train, options),
    }
}

#[track_caller]
fn refused(bytes: &[u8], ending: &str, options: &DataOptions, says: &str) {
    let error = saved(bytes, ending, options).unwrap_err();
    assert!(error.message().contains(says) && error.path().is_some(), "{error}");
}

#[test]
fn an_array_cut_anywhere_is_an_error() {
    let bytes = bytes_of(Array4::from_shape_fn((2, 1, 2, 2), |(n, _, y, x)| (n + y + x) as f32).view());
    assert!(saved(&bytes, "npy", &ANY).is_ok());
    for end in 0..bytes.len() {
        assert!(saved(&bytes[..end], "npy", &ANY).is_err(), "cut at {end}");
    }
}

#[test]
fn headers_that_lie_or_hold_no_images_are_refused() {
    refused(&file("<f4", "(99999999, 99999, 3, 64, 64)", &[]), "npy", &ANY, "needs a file of");
    refused(&file("<f4", "(4294967296, 4294967296, 9)", &[]), "npy", &ANY, "too large");
    refused(&file("|u1", "(0, 1, 2, 2)", &[]), "npy", &ANY, "no images");
    refused(&file("|u1", "(4,)", &[0; 4]), "npy", &ANY, "expected images");
    refused(&file("|u1", "(1, 1, 1, 2, 2)", &[0; 4]), "npy", &ANY, "expected images");
    refused(&file("|b1", "(1, 2, 2)", &[0; 4]), "npy", &ANY, "unsupported type");
    refused(&file("<c8", "(1, 1, 1)", &[0; 8]), "npy", &ANY, "unsupported type");
}

#[test]
fn a_value_that_is_not_finite_is_found_by_its_image_before_and_while_training() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut images = Array4::from_shape_fn((5, 1, 2, 2), |(n, ..)| n as f32);
        images[[3, 0, 1, 0]] = bad;
        let bytes = bytes_of(images.view());
        refused(&bytes, "npy", &ANY, "image 3 has a value that is not finite");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        std::fs::write(&path, bytes).unwrap();
        // With a stated range nothing is measured.
        let data = read_npy(&path, &DataOptions { range: Some("0,5".parse().unwrap()), ..ANY }).unwrap();
        assert!(data.batch(0..3).is_ok());
        assert_eq!(data.batch(2..4).unwrap_err().kind(), Kind::NonFinite);
        assert_eq!(data.digest().unwrap_err().kind(), Kind::NonFinite);
    }
}

#[test]
fn a_usual_range_is_taken_if_the_values_fill_it_and_theirs_otherwise() {
    let range = |low: f32, high: f32| {
        let data = saved(&bytes_of(array![[[[low, high]]]].view()), "npy", &ANY).unwrap();
        data.range().unwrap().range.ends()
    };
    assert_eq!(range(0.01, 0.99), [0.0, 1.0]);
    assert_eq!(range(-1.0, 1.0), [-1.0, 1.0]);
    assert_eq!(range(3.0, 254.0), [0.0, 255.0]);
    assert_eq!(range(-0.25, 1.0), [-0.25, 1.0]);
    assert_eq!(range(-3.0, 4.5), [-3.0, 4.5]);
    assert_eq!(range(0.0, 0.5), [0.0, 0.5]);
    refused(&bytes_of(array![[[[2.0f32, 2.0]]]].view()), "npy", &ANY, "every value is 2");
}

#[test]
fn the_recorded_range_holds_for_values_of_the_same_kind() {
    let recorded = |text: &str| DataOptions { recorded: Some(text.parse().unwrap()), ..ANY };
    let floats = bytes_of(array![[[[0.0f32, 8.0]]]].view());
    let ends = |bytes: &[u8], text| saved(bytes, "npy", &recorded(text)).unwrap().range().map(|r| r.range.ends());
    assert_eq!(ends(&floats, "0,16"), Some([0.0, 16.0]));
    assert_eq!(ends(&floats, "0,16 bytes"), Some([0.0, 8.0]));
    let bytes = file("|u1", "(1, 1, 1, 2)", &[0, 1]);
    assert_eq!(ends(&bytes, "0,16"), None);
    assert_eq!(ends(&bytes, "0,1 bytes"), Some([0.0, 1.0]));
    let masks = saved(&bytes, "npy", &recorded("0,1 bytes")).unwrap();
    assert_eq!(masks.batch(0..1).unwrap(), array![[[[-1.0, 1.0]]]]);
}

#[test]
fn a_shape_that_fits_both_layouts_asks() {
    let bytes = file("|u1", "(1, 3, 2, 3)", &[0; 18]);
    let wanted = |size| DataOptions { size: Some(size), channels: Some(3), ..ANY };
    refused(&bytes, "npy", &ANY, "--layout");
    // The size decides.
    assert!(saved(&bytes, "npy", &wanted([2, 3])).unwrap().notes()[0].contains("nchw"));
    assert!(saved(&bytes, "npy", &wanted([3, 2])).unwrap().notes()[0].contains("nhwc"));
    refused(&bytes, "npy", &wanted([8, 8]), "--layout");
    let told = DataOptions { layout: Some(ArrayLayout::Nhwc), ..ANY };
    assert_eq!(saved(&bytes, "npy", &told).unwrap().shape(), [3, 3, 2]);
    // Eight channels of 8×8 pixels.
    let cube = file("|u1", "(1, 8, 8, 8)", &[0; 512]);
    refused(&cube, "npy", &DataOptions { size: Some([8, 8]), channels: Some(8), ..ANY }, "--layout");
}

#[test]
fn labels_lie_beside_an_array_and_must_be_classes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npy");
    std::fs::write(&path, file("|u1", "(2, 1, 1, 1)", &[0, 9])).unwrap();
    let labels = folder.path().join("a_labels.npy");
    let with = |bytes: &[u8]| {
        std::fs::write(&labels, bytes).unwrap();
        read_npy(&path, &ANY)
    };
    assert_eq!(with(&file("|u1", "(2,)", &[4, 0])).unwrap().labels().unwrap(), [4, 0]);
    for (bytes, says) in [
        (file("|i1", "(2,)", &[4, 0xff]), "class -1"),
        (file("|u1", "(1,)", &[4]), "expected 2 labels"),
        (file("<f4", "(2,)", &[0; 8]), "whole numbers"),
        (file("|u1", "(1, 2)", &[0; 2]), "whole numbers"),
    ] {
        let error = with(&bytes).unwrap_err();
        assert!(error.message().contains(says), "{error}");
    }
}

#[test]
fn archives_that_lie_or_are_bombs_are_refused() {
    use std::io::Write;
    let inner = file("|u1", "(1, 2, 2)", &[1, 2, 3, 4]);
    let good = zip::archive(&[("arr_0.npy", &inner)]).unwrap();
    assert_eq!(saved(&good, "npz", &ANY).unwrap().len(), 1);
    for end in 0..good.len() {
        assert!(saved(&good[..end], "npz", &ANY).is_err(), "cut at {end}");
    }
    for at in 0..good.len() {
        let mut damaged = good.clone();
        damaged[at] ^= 0xff;
        let _ = saved(&damaged, "npz", &ANY);
    }
    // Deflated: method, checksum and unpacked size are patched into the directory.
    let deflated = |content: &[u8], claimed: u32| {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(content).unwrap();
        let mut bytes = zip::archive(&[("arr_0.npy", &encoder.finish().unwrap())]).unwrap();
        let central = bytes.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
        bytes[central + 10] = 8;
        bytes[central + 16..][..4].copy_from_slice(&zip::crc32(content).to_le_bytes());
        bytes[central + 24..][..4].copy_from_slice(&claimed.to_le_bytes());
        bytes
    };
    let fits = inner.len() as u32;
    assert_eq!(saved(&deflated(&inner, fits), "npz", &ANY).unwrap().len(), 1);
    for claimed in [fits - 1, fits + 1] {
        assert!(saved(&deflated(&inner, claimed), "npz", &ANY).is_err(), "{claimed}");
    }
    // Four gigabytes of zeros in a few bytes, and the same within the ratio of deflate.
    let zeros = |n: usize, shape: &str| file("|u1", shape, &vec![0; n]);
    let lie = deflated(&zeros(1 << 20, "(4000000000, 1, 1)"), 4_000_000_064);
    refused(&lie, "npz", &ANY, "no array of images");
    let named = |bytes: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npz");
        std::fs::write(&path, bytes).unwrap();
        read_npz(&path, Some("arr_0"), Split::Train, &ANY).unwrap_err().message().to_owned()
    };
    assert!(named(&lie).contains("numpy.savez"), "{}", named(&lie));
    let bomb = deflated(&zeros(4 << 20, "(4194304, 1, 1)"), 2_000_000_000);
    assert!(named(&bomb).contains("claim to unpack"), "{}", named(&bomb));
    assert!(named(&zip::archive(&[]).unwrap()).contains("no array"));
}
