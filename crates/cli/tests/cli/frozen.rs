//! What scripts of users rely on, and what a restructuring must not move: flags, manifests, the bytes of samples and of a
//! training. The files beside this one were written by the program before; `SKIPSTONE_FREEZE=1` writes them anew, and the
//! difference belongs into the change that makes it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use skipstone::unet::Config;

use crate::support::{read, run, skipstone, write_model};

const COMMANDS: [&str; 18] = [
    "sample",
    "encode",
    "decode",
    "reconstruct",
    "interpolate",
    "train",
    "distill",
    "evaluate",
    "likelihood",
    "calibrate",
    "convert",
    "inspect",
    "serve",
    "bench",
    "devices",
    "completions",
    "man",
    "help",
];

/// Compares `text` with the file of this name, or writes it.
#[track_caller]
fn assert_frozen(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cli/frozen").join(name);
    if std::env::var_os("SKIPSTONE_FREEZE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if kept != text {
        let line = kept.lines().zip(text.lines()).position(|(was, is)| was != is);
        let at = line.unwrap_or_else(|| kept.lines().count().min(text.lines().count()));
        panic!("{name}, line {}: was {:?}, is {:?}", at + 1, kept.lines().nth(at), text.lines().nth(at));
    }
}

/// The flags of a help text, each with the name of its value.
fn flags(help: &str) -> Vec<String> {
    // Descriptions are indented further; examples follow the options.
    let mut flags: Vec<String> = help
        .lines()
        .take_while(|line| *line != "Examples:")
        .filter_map(|line| line.strip_prefix("      ").or_else(|| line.strip_prefix("  ")))
        .filter(|line| line.starts_with("--") || line.starts_with('-') && !line.starts_with("- "))
        .map(|line| line.split("  ").next().unwrap().to_owned())
        .collect();
    flags.sort();
    flags
}

#[test]
fn every_command_has_the_flags_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for command in &COMMANDS[..15] {
        let (help, _) = run(folder.path(), &[command, "--help"], 0);
        writeln!(text, "{command}").unwrap();
        flags(&help).iter().for_each(|flag| writeln!(text, "    {flag}").unwrap());
    }
    assert_frozen("flags.txt", &text);
}

/// Runs of `sample`, by the name under which their manifests are kept.
const RUNS: [(&str, &str); 8] = [
    ("default", ""),
    ("eta", "--steps 5 --eta 0.5 --seed 3"),
    ("hat", "--steps 5 --sigma hat --spacing quadratic"),
    ("times", "--times 999,500,3 --clip keep-eps"),
    ("threshold", "--steps 4 --clip rederive-eps --threshold 0.9,1.5 --spacing trailing"),
    ("final", "--steps 4 --eta 1 --final-sigma 0.1 --first 2"),
    ("heun", "--steps 4 --solver heun"),
    ("dpm", "--steps 4 --solver dpm++2m --spacing leading"),
];

#[test]
fn manifests_are_what_they_were() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &Config::smallest(), None);
    let conditional = tempfile::tempdir().unwrap();
    let config = Config { num_class_embeds: Some(4), ..Config::smallest() };
    write_model(conditional.path(), &config, Some(3));
    let mut kept = BTreeMap::new();
    let mut take = |at: &Path, name: &str, options: &str| {
        let mut arguments = vec!["sample", "--model", "model", "-n", "2", "-o", "out/"];
        arguments.extend(options.split_whitespace());
        run(at, &arguments, 0);
        let manifest: Value = serde_json::from_slice(&read(at, "out/manifest.json")).unwrap();
        kept.insert(name.to_owned(), manifest);
        std::fs::remove_dir_all(at.join("out")).unwrap();
    };
    for (name, options) in RUNS {
        take(folder.path(), name, options);
    }
    take(conditional.path(), "class", "--steps 2 --class 1 --guidance 2");
    take(conditional.path(), "null", "--steps 2");
    take(folder.path(), "guide", "--steps 2 --guide model --guidance 2 --guidance-interval 0.1,5");
    assert_frozen("manifests.json", &format!("{:#}\n", serde_json::to_value(kept).unwrap()));
}

/// The first bytes of a file's SHA-256.
fn digest(at: &Path, name: &str) -> String {
    Sha256::digest(read(at, name)).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

const WEIGHTS: &str = "model/unet/diffusion_pytorch_model.safetensors";
const STATE: &str = "state/training.safetensors";

/// Removes `train.sum` from the recipe in a training's state, as if an older program had written it.
fn forget_sum(state: &Path) {
    let bytes = std::fs::read(state).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..8 + length]).unwrap();
    let old = header.replace(r#"sum = \"chain\"\n"#, "");
    assert!(old.len() < header.len(), "{header}");
    let old = format!("{:1$}", old.trim_end(), old.trim_end().len().next_multiple_of(8));
    let parts = [&(old.len() as u64).to_le_bytes(), old.as_bytes(), &bytes[8 + length..]];
    std::fs::write(state, parts.concat()).unwrap();
}

#[test]
fn samples_and_a_training_have_the_bytes_they_had() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_model(at, &Config::smallest(), None);
    std::fs::write(at.join("r.toml"), crate::training::RECIPE).unwrap();
    crate::training::write_images(at);
    // Each instruction set has bytes of its own; what this processor lacks stays as it was written elsewhere.
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cli/frozen/bytes.json");
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|_| "{}".to_owned());
    let mut found: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_str(&kept).unwrap();
    for isa in ["portable", "avx2", "avx512"] {
        let go = |arguments: &[&str]| {
            let output = skipstone(at, arguments).env("SKIPSTONE_ISA", isa).output().unwrap();
            output.status.success()
        };
        if !go(&["bench", "--model", "model", "--batch", "1"]) {
            continue;
        }
        let mut digests = BTreeMap::new();
        for (name, options) in RUNS {
            let mut arguments = vec!["sample", "--model", "model", "-n", "2", "-o", "out.npy"];
            arguments.extend(options.split_whitespace());
            assert!(go(&arguments), "{isa}: {name}");
            digests.insert(name.to_owned(), digest(at, "out.npy"));
        }
        for (name, arguments) in [
            ("encode", "encode --model model --images out.npy --steps 4 -o file.npy"),
            ("edict", "encode --model model --images out.npy --steps 4 --method edict -o file.npy"),
            ("interpolate", "interpolate --model model --seeds 1,2 --points 3 --steps 3 -o file.npy"),
            ("carried", "sample -n 2 --steps 2 --eta 1 -o file.npy"),
        ] {
            assert!(go(&arguments.split(' ').collect::<Vec<_>>()), "{isa}: {name}");
            digests.insert(name.to_owned(), digest(at, "file.npy"));
        }
        let train = |out: &str, more: &[&str]| {
            let all = ["train", "--data", "idx:images-idx3-ubyte", "--config", "r.toml", "--out", out];
            assert!(go(&[&all, more].concat()), "{isa}: {more:?}");
        };
        train(isa, &[]);
        digests.insert("tree".to_owned(), digest(&at.join(isa), WEIGHTS));
        digests.insert("tree-state".to_owned(), digest(&at.join(isa), STATE));
        // A run from before there was `train.sum`: it goes on as it was.
        let old = format!("old-{isa}");
        train(&old, &["--set", "train.sum=chain", "--set", "train.steps=6"]);
        forget_sum(&at.join(&old).join(STATE));
        train(&old, &["--resume"]);
        digests.insert("train".to_owned(), digest(&at.join(&old), WEIGHTS));
        digests.insert("state".to_owned(), digest(&at.join(&old), STATE));
        found.insert(isa.to_owned(), digests);
    }
    assert_frozen("bytes.json", &format!("{:#}\n", serde_json::to_value(found).unwrap()));
}
