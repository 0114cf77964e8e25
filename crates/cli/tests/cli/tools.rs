use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use skipstone::io::checkpoint::{FloatType, LoadOptions, ModelFiles, Weights, load, save};
use skipstone::io::files;
use skipstone::unet::Config;

use crate::support::{names, read, run, with_model, write_scaled_model};

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";
const RAW: &str = "unet/diffusion_pytorch_model.raw.safetensors";

/// `convert` with these arguments, and the same as a dry run, which must both end with this code and message.
#[track_caller]
fn refused(folder: &Path, arguments: &str, code: i32, message: &str) {
    for more in ["", " --dry-run"] {
        let words: Vec<&str> = ["convert"].into_iter().chain(arguments.split_whitespace()).collect();
        let words: Vec<&str> = words.into_iter().chain(more.split_whitespace()).collect();
        let (_, error) = run(folder, &words, code);
        assert!(error.contains(message), "{words:?}: {error}");
    }
}

/// Writes `folder/both`, the weights of `folder/model` as the average of others.
fn with_raw(folder: &Path) {
    let model = load(&folder.join("model"), &LoadOptions::default()).unwrap();
    let mut raw = model.parameters.clone();
    raw.data_mut().iter_mut().for_each(|value| *value += 0.25);
    let files = ModelFiles {
        config: &model.config,
        weights: &model.parameters,
        kind: Weights::Ema,
        raw: Some(&raw),
        scheduler: &model.scheduler,
        null_class: None,
        provenance: &BTreeMap::new(),
        float_type: FloatType::F32,
    };
    save(&folder.join("both"), &files).unwrap();
}

#[test]
fn converting_keeps_the_network_and_half_keeps_it_nearly() {
    let folder = with_model();
    let at = folder.path();
    let hash = |model: &str| -> Value {
        let (stdout, _) = run(at, &["inspect", "--model", model, "--json"], 0);
        serde_json::from_str::<Value>(&stdout).unwrap()["hash"].clone()
    };
    let (stdout, said) = run(at, &["convert", "--from", "model", "--to", "copy"], 0);
    assert_eq!(stdout, "copy\n");
    assert!(said.contains("weights  ema"), "{said}");
    assert_eq!(hash("copy"), hash("model"));
    let file = "unet/diffusion_pytorch_model.safetensors";
    assert_eq!(read(&at.join("copy"), file), read(&at.join("model"), file));
    run(at, &["convert", "--from", "model", "--to", "half", "--half"], 0);
    assert_ne!(hash("half"), hash("model"));
    assert!(read(&at.join("half"), file).len() < read(&at.join("model"), file).len());
    let (_, error) = run(at, &["convert", "--from", "absent", "--to", "x"], 1);
    assert!(error.contains("absent"), "{error}");
    run(at, &["convert", "--from", "model", "--to", "x", "--weights", "raw"], 1);
    let (_, error) = run(at, &["convert", "--from", "model", "--to", "x", "--flags", "lsun_cat"], 2);
    assert!(error.contains("no checkpoint of guided-diffusion"), "{error}");
    let (_, error) = run(at, &["convert", "--from", "model", "--to", "x", "--flags", "--image_sizes 64"], 2);
    assert!(error.contains("--image_sizes (nearest: --image_size)"), "{error}");
    run(at, &["convert", "--from", "model", "--to", "cosine", "--schedule", "squaredcos_cap_v2"], 0);
    let (stdout, _) = run(at, &["inspect", "--model", "cosine"], 0);
    assert!(stdout.contains("squaredcos_cap_v2"), "{stdout}");
    assert!(!at.join("x").exists());
}

#[test]
fn converting_does_not_replace_what_it_reads() {
    let folder = with_model();
    let at = folder.path();
    with_raw(at);
    let both = at.join("both");
    let before = [WEIGHTS, RAW].map(|name| read(&both, name));
    for (from, to, more) in [
        ("both", "both", "--weights raw"),
        ("both", "./model/../both/", "--half"),
        ("both/unet", "both", ""),
        ("both/unet/diffusion_pytorch_model.raw.safetensors", "both", ""),
        ("both/unet/diffusion_pytorch_model.safetensors", "both", "--half"),
    ] {
        let arguments = format!("--from {from} --to {to} {more}");
        refused(at, &arguments, 2, "is an input of this command; choose another name");
    }
    std::fs::copy(both.join(WEIGHTS), at.join("net.onnx")).unwrap();
    refused(at, "--from net.onnx --to ./net.onnx", 2, "is an input of this command; choose another name");
    assert!(before == [WEIGHTS, RAW].map(|name| read(&both, name)));
}

#[test]
fn converting_replaces_the_same_weights_and_no_others() {
    let folder = with_model();
    let at = folder.path();
    with_raw(at);
    let other = tempfile::tempdir().unwrap();
    write_scaled_model(other.path(), &Config::smallest(), None, 0.3);
    std::fs::rename(other.path().join("model"), at.join("other")).unwrap();
    let lost = "the folder has other weights, which would be lost; remove the folder or choose another";
    let weights =
        || [("other", WEIGHTS), ("both", WEIGHTS), ("both", RAW)].map(|(model, name)| read(&at.join(model), name));
    let before = weights();
    refused(at, "--from model --to other", 2, lost);
    refused(at, "--to other", 2, "another architecture");
    // The average is the same, but the other weights would go.
    refused(at, "--from model --to both", 2, lost);
    assert!(before == weights());
    for flags in ["copy", "half --half", "copy --schedule squaredcos_cap_v2"] {
        let words: Vec<&str> = ["convert", "--from", "both", "--to"].into_iter().chain(flags.split(' ')).collect();
        for _ in 0..2 {
            run(at, &words, 0);
        }
    }
    refused(at, "--from both --to half", 2, lost);
    refused(at, "--from both --to copy --half", 2, lost);
    // A training that writes to the folder around a model is about to replace it.
    let training = files::lock(at).unwrap();
    refused(at, "--from both --to copy", 1, "another process is writing to this folder");
    drop(training);
    run(at, &["convert", "--from", "both", "--to", "copy"], 0);
    // A model that cannot be read may be somebody's all the same.
    let bytes = read(&at.join("copy"), WEIGHTS);
    std::fs::write(at.join("copy").join(WEIGHTS), &bytes[..bytes.len() / 2]).unwrap();
    refused(at, "--from both --to copy", 2, "cannot be read");
}

#[test]
fn a_model_is_converted_to_a_folder_or_an_onnx_file() {
    let folder = with_model();
    let at = folder.path();
    std::fs::write(at.join("ok.png"), "a file").unwrap();
    std::fs::write(at.join("prec.onnx"), "somebody's notes").unwrap();
    let before = names(at);
    for (to, code, message) in [
        ("-", 2, "--to -: only sample writes to stdout"),
        ("model.safetensors", 2, "--to model.safetensors: expected a folder, or NAME.onnx"),
        ("a.ckpt", 2, "expected a folder, or NAME.onnx"),
        ("NET.ONNX", 2, "expected a folder, or NAME.onnx"),
        ("ok.png", 1, "ok.png: a file is in the way of this folder"),
        ("ok.png/below", 1, "a file is in the way of this folder"),
        ("prec.onnx", 2, "prec.onnx: the file is not an ONNX file that this program wrote; remove it or choose"),
    ] {
        refused(at, &format!("--from model --to {to}"), code, message);
    }
    assert_eq!(names(at), before);
    assert_eq!(read(at, "prec.onnx"), b"somebody's notes");
    for to in ["v1.0", "a.ckpt/", "net.onnx", "net.onnx"] {
        run(at, &["convert", "--from", "model", "--to", to], 0);
    }
    assert!(at.join("a.ckpt").join(WEIGHTS).exists());
}

#[test]
fn the_table_of_a_run_is_that_of_the_paper() {
    let folder = with_model();
    let (stdout, _) =
        run(folder.path(), &["inspect", "--model", "model", "--json", "--times", "999,499", "--eta", "1"], 0);
    let value: Value = serde_json::from_str(&stdout).unwrap();
    // a_t of the linear schedule by its definition.
    let a = |t: u32| (0..t).map(|i| 1.0 - (1e-4 + (0.02 - 1e-4) * f64::from(i) / 999.0)).product::<f64>();
    let (a_t, a_s) = (a(1000), a(500));
    let sigma = ((1.0 - a_s) / (1.0 - a_t) * (1.0 - a_t / a_s)).sqrt();
    let row = &value["table"][0];
    for (name, expected) in [("a_t", a_t), ("a_s", a_s), ("sigma", sigma), ("x0", a_s.sqrt()), ("z", sigma)] {
        assert!((row[name].as_f64().unwrap() - expected).abs() < 1e-9, "{name}: {row}");
    }
    assert_eq!((row["t"].as_u64(), row["s"].as_u64()), (Some(999), Some(499)));
    assert_eq!(value["table"][1]["s"], Value::Null);
    assert_eq!(value["schedule"]["T"], 1000);
}

#[test]
fn completions_know_the_commands() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (stdout, _) = run(folder.path(), &["completions", shell], 0);
        assert!(stdout.contains("sample") && stdout.contains("trajectory"), "{shell}");
    }
    run(folder.path(), &["completions", "tcsh"], 2);
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &["man", "pages/man1"], 0);
    let page = |name: &str| std::fs::read_to_string(folder.path().join("pages/man1").join(name)).unwrap();
    assert!(page("skipstone.1").contains("sample") && page("skipstone.1").starts_with(".ie"));
    let sample = page("skipstone-sample.1");
    for part in [".TH skipstone-sample 1", "Generate images", "\\-\\-trajectory", "Examples:"] {
        assert!(sample.contains(part), "{part}");
    }
    assert!(!folder.path().join("pages/man1/skipstone-help.1").exists());
}

#[test]
fn help_shows_examples() {
    let folder = tempfile::tempdir().unwrap();
    for command in [
        "sample",
        "encode",
        "decode",
        "reconstruct",
        "interpolate",
        "train",
        "likelihood",
        "calibrate",
        "convert",
        "inspect",
        "completions",
        "man",
    ] {
        let (stdout, _) = run(folder.path(), &[command, "--help"], 0);
        assert!(stdout.contains("Examples:"), "{command}");
    }
    run(folder.path(), &[], 2);
    run(folder.path(), &["evaluate"], 2);
}
