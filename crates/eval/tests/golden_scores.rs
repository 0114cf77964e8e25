//! Scores against NumPy, SciPy and ONNX Runtime (golden/README.md).

#[path = "../../skipstone/tests/library/golden/mod.rs"]
mod golden;

use ndarray::Array2;
use serde_json::Value;
use skipstone_eval::{Gaussian, Statistics, frechet, kid_full, precision_recall};

use golden::{cases, numbers, path};

fn rows(value: &Value) -> Array2<f32> {
    let rows: Vec<Vec<f64>> = value.as_array().unwrap().iter().map(numbers).collect();
    let (n, d) = (rows.len(), rows[0].len());
    Array2::from_shape_vec((n, d), rows.concat().into_iter().map(|v| v as f32).collect()).unwrap()
}

fn statistics(x: &Array2<f32>) -> Statistics {
    let mut statistics = Statistics::new("golden", x.ncols());
    statistics.add(x.view()).unwrap();
    statistics
}

#[test]
fn distances_of_sets_are_those_of_the_definitions() {
    let cases = cases("scores.json");
    assert_eq!(cases.len(), 3);
    for case in &cases {
        let (x, y) = (rows(&case["x"]), rows(&case["y"]));
        let close = |what: &str, found: f64, relative: f64| {
            let expected = case[what].as_f64().unwrap();
            assert!(
                (found - expected).abs() < relative * expected.abs(),
                "{}: {what}: {found} for {expected}",
                case["name"]
            );
        };
        // Decimals rounded to f32 on our side; and where the product is singular, its square root keeps half the digits.
        let singular = x.nrows().min(y.nrows()) <= x.ncols();
        close("frechet", frechet(&statistics(&x), &statistics(&y)).unwrap(), if singular { 1e-5 } else { 1e-6 });
        let kid = kid_full(x.view(), y.view()).unwrap();
        close("mmd2", kid.value, 1e-5);
        close("standard_error", kid.standard_error, 1e-5);
        for k in [1, 3] {
            let found = precision_recall(x.view(), y.view(), k).unwrap();
            let expected = |what: &str| case[what][k.to_string()].as_f64().unwrap();
            assert_eq!(
                (found.precision, found.recall),
                (expected("precision"), expected("recall")),
                "{}",
                case["name"]
            );
        }
    }
}

#[test]
fn the_file_of_pytorch_fid_is_read_and_does_not_say_whose_it_is() {
    let file = path("scores.npz");
    let cases = cases("scores.json");
    let own = statistics(&rows(&cases[0]["x"])).gaussian().unwrap();
    let found = Gaussian::read(&file, "golden").unwrap();
    let off = (&found.covariance - &own.covariance)
        .iter()
        .chain(&(&found.mean - &own.mean))
        .fold(0.0f64, |m, v| m.max(v.abs()));
    assert!(off < 1e-6, "{off:e}");
    assert!(own.frechet(&found).unwrap() < 1e-9);
    let error = Statistics::read(&file).unwrap_err();
    assert!(error.message().contains("the number of images and the feature network are unknown"), "{error}");
}

#[cfg(feature = "onnx")]
#[test]
fn onnx_networks_give_what_onnx_runtime_gives() {
    use ndarray::Array4;
    use skipstone_eval::{FeatureSpec, features};

    let file = golden::json("scores.json");
    let networks = file["networks"].as_array().unwrap();
    assert_eq!(networks.len(), 4);
    for case in networks {
        let text = |key: &str| case[key].as_str().unwrap();
        let spec = format!("{}:{}", path(&format!("{}.onnx", text("network"))).display(), text("output"));
        let network = spec.parse::<FeatureSpec>().unwrap().open(&[]).unwrap();
        // [n][c][h][w] of bytes, to network values.
        let list = |value: &Value| value.as_array().unwrap().clone();
        let images = list(&case["images"]);
        let (c, h) = (list(&images[0]).len(), list(&images[0][0]).len());
        let flat: Vec<f64> = images.iter().flat_map(list).flat_map(|c| list(&c)).flat_map(|r| numbers(&r)).collect();
        let shape = (images.len(), c, h, flat.len() / (images.len() * c * h));
        let values = flat.iter().map(|byte| (byte / 127.5 - 1.0) as f32).collect();
        let images = Array4::from_shape_vec(shape, values).unwrap();
        let found = features(&*network, images.view()).unwrap();
        let expected = rows(&case["features"]);
        assert_eq!(found.dim(), (images.dim().0, network.dimensions()));
        let scale = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!(scale > 0.1);
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 2e-6 * scale, "{spec}: {found} for {expected}");
        }
    }
}

#[cfg(feature = "onnx")]
#[test]
fn onnx_files_that_cannot_serve_say_why() {
    use skipstone::Kind;
    use skipstone_eval::{FeatureNetwork, OnnxFeatures};

    let fixed = path("scores_fixed.onnx");
    let network = OnnxFeatures::open(&fixed, "flat").unwrap();
    assert_eq!(network.dimensions(), 30);
    assert!(network.name().starts_with("scores_fixed:flat (onnx ") && network.name().len() == 33, "{}", network.name());
    let error = network.features(ndarray::Array4::zeros((1, 3, 6, 5)).view()).unwrap_err();
    assert!(error.message().contains("expected images of 1 channels, found 3"), "{error}");
    let error = OnnxFeatures::open(&fixed, "pool3").unwrap_err();
    assert_eq!((error.kind(), error.path()), (Kind::NotFound, Some(fixed.as_path())));
    assert!(error.message().contains("no value \"pool3\" in the network; its outputs are hidden, scores"), "{error}");
    // A map of features is no vector.
    let error = OnnxFeatures::open(&path("scores_free.onnx"), "conv").unwrap_err();
    assert!(error.message().contains("[1, 4, 64, 64]"), "{error}");
    assert_eq!(OnnxFeatures::open(&path("absent.onnx"), "x").unwrap_err().kind(), Kind::NotFound);
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.onnx");
    let bytes = std::fs::read(&fixed).unwrap();
    for end in [0, 1, 10, bytes.len() / 4, bytes.len() / 2] {
        std::fs::write(&broken, &bytes[..end]).unwrap();
        assert!(OnnxFeatures::open(&broken, "hidden").is_err(), "cut at {end}");
    }
}
