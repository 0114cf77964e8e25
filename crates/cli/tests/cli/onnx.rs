//! ONNX networks through the command, and models as ONNX files.

use std::path::{Path, PathBuf};

use ndarray::{Array4, Ix4};
use serde_json::Value;
use sha2::{Digest, Sha256};
use skipstone::io::hex::hex;
use skipstone::io::image::npy;
use skipstone::unet::Config;

use crate::support::{read, run, with_model, write_model};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/values").join(name)
}

/// A folder with `net.onnx`, and x and the ten steps of DDIM from it by PyTorch (`golden/families/onnx_networks.py`).
fn with_network() -> (tempfile::TempDir, Array4<f32>, Array4<f32>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden("onnx_shuffle.onnx"), folder.path().join("net.onnx")).unwrap();
    let tensors = skipstone::io::checkpoint::read_tensors(&std::fs::read(golden("onnx.safetensors")).unwrap()).unwrap();
    let images =
        |name: &str| Array4::from_shape_vec((2, 3, 16, 16), tensors.get(name).unwrap().values.clone()).unwrap();
    let (x, y) = (images("shuffle/x"), images("shuffle/ddim10"));
    npy::write(&folder.path().join("x.npy"), x.view()).unwrap();
    (folder, x, y)
}

fn distance(found: &Array4<f32>, expected: &Array4<f32>) -> f64 {
    let square = |x: &Array4<f32>| x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
    (square(&(found - expected)) / square(expected)).sqrt()
}

#[test]
fn ten_steps_with_a_network_of_another_architecture_are_those_of_pytorch() {
    let (folder, _, expected) = with_network();
    let at = folder.path();
    let times = "999,899,799,699,599,499,399,299,199,99";
    let sample = ["sample", "--model", "net.onnx", "--latents", "x.npy", "--times", times, "-o", "y.npy"];
    let (_, said) = run(at, &sample, 0);
    assert!(said.contains("warning: net.onnx: no scheduler_config.json"), "{said}");
    assert!(said.contains("taking prediction epsilon and the linear schedule"), "{said}");
    assert!(distance(&npy::read::<Ix4>(&at.join("y.npy")).unwrap(), &expected) < 1e-4);
    // The schedule of a file, and names that are said.
    run(at, &["convert", "--to", "built-in"], 0);
    let scheduler = std::fs::read_to_string(at.join("built-in/scheduler/scheduler_config.json")).unwrap();
    std::fs::write(at.join("scheduler.json"), scheduler.replace("v_prediction", "epsilon")).unwrap();
    let names = "sample=sample,timestep=timestep,output=epsilon";
    let more = ["--scheduler", "scheduler.json", "--onnx", names, "--clip", "off", "-o", "z.npy"];
    let (_, said) = run(at, &[&sample[..7], &more[..]].concat(), 0);
    assert!(!said.contains("warning:"), "{said}");
    assert_eq!(read(at, "z.npy"), read(at, "y.npy"));
}

#[test]
fn every_command_without_a_gradient_takes_an_onnx_network() {
    let (folder, ..) = with_network();
    let at = folder.path();
    std::fs::create_dir(at.join("photos")).unwrap();
    let model = ["--model", "net.onnx"];
    let with = |command: &[&'static str]| -> (String, String) {
        let (name, rest) = command.split_first().unwrap();
        run(at, &[&[*name][..], &model, rest].concat(), 0)
    };
    let (stdout, _) = with(&["inspect", "--json"]);
    let about: Value = serde_json::from_str(&stdout).unwrap();
    let bytes = read(at, "net.onnx");
    assert_eq!(about["hash"], hex(&Sha256::digest(&bytes)));
    assert_eq!(about["gflop_per_image"], Value::Null);
    let (stdout, _) = with(&["inspect", "--steps", "2"]);
    assert!(stdout.contains("network     an ONNX network"), "{stdout}");
    with(&["sample", "-n", "2", "--steps", "2", "--eta", "1", "-o", "photos/"]);
    let manifest: Value = serde_json::from_slice(&read(at, "photos/manifest.json")).unwrap();
    assert_eq!(manifest["model"], about["hash"]);
    let (stdout, _) = with(&["sample", "--dry-run"]);
    assert!(stdout.contains("work        an unknown number of operations"), "{stdout}");
    with(&["encode", "--images", "photos/000000.png", "--steps", "3", "-o", "latent.npy"]);
    with(&["decode", "--latents", "latent.npy", "--steps", "3", "-o", "back.npy"]);
    with(&["reconstruct", "--images", "photos/", "--steps", "2,3"]);
    with(&["interpolate", "--seeds", "1,2", "--points", "3", "--steps", "2", "-o", "line.png"]);
    with(&[
        "sample",
        "-n",
        "1",
        "--steps",
        "3",
        "--inpaint",
        "photos/000000.png",
        "--mask",
        "photos/000001.png",
        "-o",
        "in.png",
    ]);
    with(&["likelihood", "--data", "photos", "-n", "1", "--steps", "2"]);
    with(&["bench", "--batch", "1", "--calls", "2"]);
    // Whatever the threads and the batch.
    with(&["sample", "-n", "3", "--steps", "2", "--threads", "1", "-o", "a.npy"]);
    with(&["sample", "-n", "3", "--steps", "2", "--threads", "3", "--batch", "2", "-o", "b.npy"]);
    assert_eq!(read(at, "a.npy"), read(at, "b.npy"));

    for (command, code, message) in [
        (&["likelihood", "--method", "ode", "--data", "photos"][..], 1, "has no gradient"),
        (&["bench", "--train"], 1, "has no gradient"),
        (&["sample", "--precision", "f16"], 2, "computes in f32"),
        (&["sample", "--weights", "ema"], 2, "one set of weights"),
        (&["sample", "--onnx", "sample=x"], 2, "the graph's inputs are sample (float [?, 3, 16, 16])"),
        (&["sample", "--class", "1"], 2, "the model is unconditional"),
        (&["sample", "--scheduler", "absent.json"], 1, "absent.json"),
        (&["convert", "--to", "folder"], 1, "an ONNX network is no U-Net"),
        (&["convert", "--to", "copy.onnx"], 1, "already an ONNX network"),
    ] {
        let (name, rest) = command.split_first().unwrap();
        let (_, said) = run(at, &[&[*name][..], &model, rest].concat(), code);
        assert!(said.contains(message), "{command:?}: {said}");
    }
    let (_, said) = run(at, &["sample", "--onnx", "sample=x"], 2);
    assert!(said.contains("not an ONNX file"), "{said}");
    std::fs::write(at.join("broken.onnx"), &bytes[..bytes.len() / 2]).unwrap();
    let (_, said) = run(at, &["sample", "--model", "broken.onnx"], 1);
    assert!(said.contains("broken.onnx: not an ONNX file, or damaged"), "{said}");
}

#[test]
fn a_model_samples_the_same_images_as_an_onnx_file() {
    let folder = with_model();
    let at = folder.path();
    let (stdout, _) = run(at, &["convert", "--model", "model", "--to", "net.onnx"], 0);
    assert_eq!(stdout, "net.onnx\n");
    let sampled = |model: &str, more: &[&str]| -> Array4<f32> {
        let command = ["sample", "--model", model, "-n", "3", "--steps", "4", "--eta", "1", "-o", "out.npy"];
        let (_, said) = run(at, &[&command, more].concat(), 0);
        assert!(!said.contains("warning:"), "{said}");
        npy::read(&at.join("out.npy")).unwrap()
    };
    assert!(distance(&sampled("net.onnx", &[]), &sampled("model", &[])) < 1e-5);
    // With classes and guidance, whose null class is in the file.
    std::fs::remove_dir_all(at.join("model")).unwrap();
    write_model(at, &Config { num_class_embeds: Some(4), ..Config::smallest() }, Some(3));
    run(at, &["convert", "--from", "model", "--to", "net.onnx"], 0);
    let guided = ["--class", "1", "--guidance", "2"];
    assert!(distance(&sampled("net.onnx", &guided), &sampled("model", &guided)) < 1e-5);
    run(at, &["convert", "--from", "model", "--to", "half.onnx", "--half"], 2);
    run(at, &["convert", "--from", "model", "--to", "dry.onnx", "--dry-run"], 0);
    assert!(!at.join("dry.onnx").exists());
}
