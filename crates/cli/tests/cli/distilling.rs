//! `skipstone distill` from outside.

use std::time::Duration;

use skipstone::unet::Config;

use crate::support::{names, read, run, write_model};
use crate::training::{STATE, assert_same, kill_after, write_images};

/// A folder with a model and images of its size.
fn bench() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &Config { in_channels: 1, out_channels: 1, ..Config::smallest() }, None);
    write_images(folder.path());
    folder
}

fn arguments<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let data = "idx:images-idx3-ubyte";
    let mut all = vec!["distill", "--teacher", "model", "--data", data, "--out", out, "--steps", "2", "--from", "4"];
    for set in ["train.steps=4", "train.batch=4", "train.shard=2", "train.preview_every=0", "optimizer.warmup=1"] {
        all.extend(["--set", set]);
    }
    all.extend(more);
    all
}

#[test]
fn a_student_samples_in_its_own_number_of_steps() {
    let folder = bench();
    let at = folder.path();
    let (stdout, said) = run(at, &arguments("run", &[]), 0);
    assert_eq!(stdout, "run/model\n");
    for line in ["round 1 of 2: 4 steps of the teacher, converted", "round 2 of 2: 4 steps of the teacher in 2"] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(names(&at.join("run/students")), ["steps-4"]);
    // By itself, and in as many steps as anyone asks for.
    let sample = |model: &str, out: &str, more: &[&str]| {
        let all = [&["sample", "--model", model, "-n", "2", "-o", out][..], more].concat();
        run(at, &all, 0);
        read(at, out)
    };
    let own = sample("run/model", "own.npy", &[]);
    assert!(own == sample("run/model", "two.npy", &["--steps", "2"]));
    assert!(own == sample("run/model", "trailing.npy", &["--spacing", "trailing"]));
    assert!(own != sample("run/model", "four.npy", &["--steps", "4"]));
    let flags = [
        ("--steps", "2"),
        ("--steps", "4"),
        ("--steps", "1"),
        ("--spacing", "quadratic"),
        ("--eta", "1"),
        ("--solver", "ab2"),
    ];
    for (i, (flag, value)) in flags.into_iter().enumerate() {
        let warned = i > 0;
        let (_, said) = run(at, &["sample", "--model", "run/model", "-n", "1", flag, value, "-o", "x.png"], 0);
        assert_eq!(said.contains("was distilled for 2 steps"), warned, "{said}");
    }
    let (_, said) = run(at, &["sample", "--model", "run/model", "-n", "1", "--restart", "499,999,1", "-o", "x.png"], 0);
    assert!(said.contains("of a restart; leave them out"), "{said}");
    // Of a list, the runs that it has not learnt are named.
    let (_, said) = run(at, &["sample", "--model", "run/model", "-n", "1", "--steps", "2,3", "-o", "list.png"], 0);
    assert!(said.contains("note: --steps 3: the model was distilled for 2 steps"), "{said}");
    assert!(!said.contains("--steps 2:"), "{said}");
    assert!(sample("run/students/steps-4", "a.npy", &[]) == sample("run/students/steps-4", "b.npy", &["--steps", "4"]));
    let (_, said) = run(at, &arguments("run", &["--resume"]), 0);
    assert!(said.contains("distillation is already finished: 8 of 8 steps"), "{said}");
}

#[test]
fn a_student_teaches_from_its_own_steps_only() {
    let folder = bench();
    let at = folder.path();
    run(at, &arguments("run", &[]), 0);
    let of = |steps: &'static str, from: &'static [&'static str]| {
        let all =
            ["distill", "--teacher", "run/model", "--data", "idx:images-idx3-ubyte", "--out", "next", "--steps", steps];
        let set = [
            "--set",
            "train.steps=1",
            "--set",
            "train.batch=2",
            "--set",
            "train.preview_every=0",
            "--set",
            "optimizer.warmup=0",
        ];
        [&all[..], &set, from].concat()
    };
    let (_, error) = run(at, &of("1", &["--from", "4"]), 2);
    assert!(error.contains("distill.from: the teacher was distilled for 2 steps and cannot make 4"), "{error}");
    let (_, error) = run(at, &of("2", &[]), 2);
    assert!(error.contains("distill.steps: the teacher was distilled for 2 steps, and halving"), "{error}");
    let (_, said) = run(at, &of("1", &[]), 0);
    assert!(said.contains("round 1 of 1: 2 steps of the teacher in 1"), "{said}");
}

#[test]
fn a_run_overwrites_no_model_that_is_not_its_own() {
    let folder = bench();
    let at = folder.path();
    run(at, &["convert", "--from", "model", "--to", "mine/model"], 0);
    let weights = || read(at, "mine/model/unet/diffusion_pytorch_model.safetensors");
    let before = weights();
    for more in [&[][..], &["--resume"]] {
        let (_, error) = run(at, &arguments("mine", more), 2);
        assert!(error.contains("holds a model without the state of its training"), "{error}");
    }
    assert!(weights() == before);
}

#[test]
fn what_a_killed_process_left_is_removed() {
    let folder = bench();
    let at = folder.path();
    run(at, &arguments("run", &[]), 0);
    let left = [
        "run/model/unet/.w.1.skipstone-partial",
        "run/students/steps-4/.w.skipstone-partial",
        "run/.model.7-0.skipstone-partial/w",
    ];
    for path in left {
        let path = at.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "half").unwrap();
    }
    run(at, &arguments("run", &["--resume"]), 0);
    for path in left {
        assert!(!at.join(path).exists(), "{path}");
    }
    assert!(!at.join("run/.model.7-0.skipstone-partial").exists());
}

#[test]
fn a_killed_distillation_continues_to_the_same_bytes_from_either_round() {
    let folder = bench();
    let at = folder.path();
    let long = ["--set", "train.steps=40", "--set", "train.checkpoint_every=3"];
    run(at, &arguments("whole", &long), 0);
    for round in [1, 2] {
        let out = format!("killed{round}");
        let begun = at.join(&out).join(if round == 1 { STATE } else { "students/steps-4" });
        kill_after(at, &arguments(&out, &long), &begun, Duration::from_millis(17));
        run(at, &arguments(&out, &[&long[..], &["--resume"]].concat()), 0);
        assert_same(at, "whole", &out);
        let student = "students/steps-4/unet/diffusion_pytorch_model.safetensors";
        assert!(read(&at.join("whole"), student) == read(&at.join(&out), student), "round {round}");
    }
}

#[test]
fn a_dry_run_measures_a_distillation_and_writes_nothing() {
    let folder = bench();
    let before = names(folder.path());
    let (stdout, _) = run(folder.path(), &arguments("run", &["--dry-run", "--json"]), 0);
    let cost: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((cost["steps"].as_u64(), cost["batch"].as_u64()), (Some(8), Some(4)));
    // Forward and backward, and one call of the teacher in the round that converts, two in the round that halves.
    let config = Config { in_channels: 1, out_channels: 1, ..Config::smallest() };
    let gflop = 4.0 * (3.0 + 1.5) * skipstone::unet::flops(&config).unwrap() as f64 / 1e9;
    assert!((cost["gflop_per_step"].as_f64().unwrap() / gflop - 1.0).abs() < 1e-9, "{cost} {gflop}");
    assert_eq!(names(folder.path()), before);
}

#[test]
fn mistakes_of_a_distillation_are_named() {
    let folder = bench();
    let at = folder.path();
    let mut odd = arguments("run", &[]);
    let from = odd.iter().position(|argument| *argument == "--from").unwrap();
    odd[from + 1] = "6";
    let (_, error) = run(at, &odd, 2);
    assert!(error.contains("distill.from: halving 6 steps does not lead to 2; choose 4, 8, 16"), "{error}");
    for (set, message) in [
        ("data.classes=true", "data.classes: the teacher is unconditional"),
        ("data.class_dropout=0.2", "data.class_dropout: the teacher has no null class"),
    ] {
        let (_, error) = run(at, &arguments("run", &["--set", set]), 2);
        assert!(error.contains(message), "{error}");
    }
    std::fs::write(at.join("r.toml"), "[model]\nchannels = 1").unwrap();
    let (_, error) = run(at, &arguments("run", &["--config", "r.toml"]), 2);
    assert!(error.contains("r.toml") && error.contains("remove [model]"), "{error}");
    assert!(!at.join("run").exists());
}

#[cfg(feature = "onnx")]
#[test]
fn an_onnx_network_cannot_teach() {
    let folder = bench();
    let at = folder.path();
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/values/onnx_shuffle.onnx");
    std::fs::copy(golden, at.join("net.onnx")).unwrap();
    let mut arguments = arguments("run", &[]);
    arguments[2] = "net.onnx";
    let (_, error) = run(at, &arguments, 1);
    assert!(error.contains("has no gradient") || error.contains("images are"), "{error}");
}
