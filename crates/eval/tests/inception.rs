//! The Inception network exported by tools/features/export_inception.py against pytorch-fid's own features. Opt-in: the
//! file is 90 MB, and Python makes it.
#![cfg(feature = "onnx")]

use std::path::PathBuf;

use ndarray::{Array4, Ix2};
use skipstone::io::image::npy;
use skipstone_eval::{FeatureSpec, features};

#[test]
fn inception_gives_what_pytorch_fid_gives() {
    let Some(folder) = std::env::var_os("SKIPSTONE_INCEPTION").map(PathBuf::from) else {
        eprintln!("skipped: SKIPSTONE_INCEPTION names no folder made by tools/features/export_inception.py");
        return;
    };
    let spec: FeatureSpec = format!("{}:pool3", folder.join("inception.onnx").display()).parse().unwrap();
    let network = spec.open(&[]).unwrap();
    let expected = npy::read::<Ix2>(&folder.join("expected.npy")).unwrap();
    assert_eq!(network.dimensions(), expected.ncols());
    let mut worst = 0.0f64;
    for (i, expected) in expected.outer_iter().enumerate() {
        let picture = ::image::open(folder.join(format!("{i}.png"))).unwrap().to_rgb8();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let value = |(_, c, y, x): (usize, usize, usize, usize)| {
            (f64::from(picture.get_pixel(x as u32, y as u32)[c]) / 127.5 - 1.0) as f32
        };
        let found = features(&*network, Array4::from_shape_fn((1, 3, height, width), value).view()).unwrap();
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let off = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied());
        eprintln!("picture {i}, {width}×{height}: relative difference {off:.1e}");
        worst = worst.max(off);
    }
    assert!(worst < 1e-5, "{worst:e}");
}
