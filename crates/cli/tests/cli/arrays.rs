//! Data sets of others: arrays, archives and tables, in every command that reads data.

use std::path::{Path, PathBuf};

use ndarray::Array4;
use serde_json::Value;
use skipstone::io::image::{npy, read_png};

use crate::support::{read, run};

const RECIPE: &str = "\
[model]
sample_size = [6, 4]
channels = 5
block_out_channels = [8]
attention = [false]
mid_attention = false
norm_num_groups = 4
[train]
steps = 2
batch = 2
preview_every = 2
preview_images = 2
preview_steps = 2
";

/// The path of a data set that another program wrote.
fn golden(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../golden/values/data");
    folder.join(name).to_str().unwrap().to_owned()
}

/// A folder with a model of five channels in `run/model`; what training said.
fn trained() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("r.toml"), RECIPE).unwrap();
    let data = golden("five_f8.npy");
    let (_, said) = run(folder.path(), &["train", "--data", &data, "--config", "r.toml", "--out", "run"], 0);
    (folder, said)
}

fn images(at: &Path, name: &str) -> Array4<f32> {
    npy::read(&at.join(name)).unwrap()
}

#[test]
fn five_channels_train_sample_and_are_measured() {
    let (folder, said) = trained();
    let at = folder.path();
    for part in ["read as nchw", "values -2.5 to 3.5", "first 3 of 5 channels", "-o samples.npy"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let preview = read_png(&at.join("run/previews/step-0000002.png")).unwrap();
    assert_eq!(preview.picture.channels(), 3);
    assert!(preview.text.contains(&("channels".to_owned(), "first 3 of 5".to_owned())), "{:?}", preview.text);
    let card: Value = serde_json::from_slice(&read(at, "run/model/skipstone.json")).unwrap();
    assert_eq!(card["provenance"]["data_range"], "-2.5,3.5");

    run(at, &["sample", "--model", "run/model", "-n", "2", "--steps", "2", "-o", "x.npy"], 0);
    assert_eq!(images(at, "x.npy").dim(), (2, 5, 6, 4));
    let five = golden("five_f4_big.npy");
    for command in ["likelihood", "calibrate"] {
        let (_, said) = run(at, &[command, "--model", "run/model", "--data", &five, "-n", "1"], 0);
        assert!(said.contains("as recorded in the model"), "{said}");
    }
    let features = format!("{}:means", golden("means_of_five.onnx"));
    let common = ["evaluate", "--model", "run/model", "--data", &five, "--steps", "2", "-n", "4", "--repeats", "off"];
    let (stdout, _) = run(at, &[&common[..], &["--features", &features, "--json", "-o", "scores"]].concat(), 0);
    let row: Value = serde_json::from_str(stdout.lines().next().unwrap()).unwrap();
    assert!(row["frechet"].as_f64().is_some_and(f64::is_finite), "{row}");
    let report = String::from_utf8(read(at, "scores/report.html")).unwrap();
    assert!(report.contains("the first 3 of 5 channels"));
    // The samples that were kept are those that are scored again.
    let (again, _) = run(at, &[&common[..], &["--features", &features, "--json", "-o", "scores"]].concat(), 0);
    let again: Value = serde_json::from_str(again.lines().next().unwrap()).unwrap();
    assert_eq!(row["frechet"], again["frechet"]);
}

#[test]
fn floats_given_as_images_are_network_values_unless_a_range_is_stated() {
    let (folder, _) = trained();
    let at = folder.path();
    let five = golden("five_f8.npy");
    let encode = |data: &str, more: &[&str], out: &str| {
        let all = ["encode", "--model", "run/model", "--images", data, "--steps", "1", "-o", out];
        run(at, &[&all[..], more].concat(), 0).1
    };
    let said = encode(&five, &[], "raw.npy");
    assert!(said.contains("raw network values") && said.contains("--range -2.5,3.5"), "{said}");
    encode(&five, &["--range", "-2.5,3.5"], "data.npy");
    encode(&golden("x_five.npy"), &[], "x.npy");
    let (raw, data, x) = (images(at, "raw.npy"), images(at, "data.npy"), images(at, "x.npy"));
    let far = |a: &Array4<f32>, b: &Array4<f32>| (a - b).iter().fold(0f32, |far, d| far.max(d.abs()));
    // At the last timestep √a is 0.006, so differences of the images are that small.
    let (data, raw) = (far(&data, &x), far(&raw, &x));
    assert!(data < 1e-5 && raw > 3e-3, "{data} {raw}");
}

#[test]
fn archives_and_tables_train_to_the_bytes_of_the_array_with_their_images() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("r.toml"), RECIPE.replace("channels = 5", "channels = 3")).unwrap();
    let train = |name: &str| {
        let classes = if name.ends_with("npy") { "data.classes=false" } else { "data.flip=false" };
        run(at, &["train", "--data", &golden(name), "--config", "r.toml", "--out", name, "--set", classes], 0);
        read(&at.join(name), "model/unet/diffusion_pytorch_model.safetensors")
    };
    let expected = train("bytes_nchw.npy");
    let names = [
        "bytes_nhwc.npy",
        "packed.npz",
        "pax.tar",
        #[cfg(feature = "parquet")]
        "snappy.parquet",
    ];
    for name in names {
        assert!(train(name) == expected, "{name}");
    }
    let steps = ["--steps", "2", "-n", "2"];
    let model = "pax.tar/model";
    for images in ["gnu.tar", "bytes_nhwc.npy", "packed.npz"] {
        let images = golden(images);
        let (table, _) =
            run(at, &[&["reconstruct", "--model", model, "--images", &images, "--json"], &steps[..]].concat(), 0);
        let row: Value = serde_json::from_str(&table).unwrap();
        assert_eq!(row["n"], 2);
    }
}

#[test]
fn wrong_arrays_and_flags_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("r.toml"), RECIPE).unwrap();
    let train = |data: &str, more: &[&str], code| {
        let all = ["train", "--data", data, "--config", "r.toml", "--out", "run"];
        run(at, &[&all[..], more].concat(), code).1
    };
    assert!(train("absent.npy", &[], 1).contains("absent.npy"));
    assert!(train(&golden("fortran.npy"), &[], 1).contains("ascontiguousarray"));
    assert!(train(&golden("five_f8.npy"), &["--range", "1"], 2).contains("LOW,HIGH"));
    assert!(train(&golden("five_f8.npy"), &["--layout", "chw"], 2).contains("nchw or nhwc"));
    assert!(train(&golden("five_f8.npy"), &["--layout", "nhwc"], 1).contains("[4, 5, 6]"));
    assert!(train(&golden("ustar.tar"), &[], 1).contains("use an array"));
    assert!(!at.join("run").exists());
}
