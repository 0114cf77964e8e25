use serde_json::Value;

use crate::support::{read, run, with_model};

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
