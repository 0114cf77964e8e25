use skipstone::unet::Config;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::support::{names, read, run, signal, skipstone, write_scaled_model};

pub const RECIPE: &str = "\
[model]
sample_size = [8, 8]
block_out_channels = [8]
attention = [false]
mid_attention = false
norm_num_groups = 4
[train]
steps = 12
batch = 4
shard = 2
log_every = 4
checkpoint_every = 3
preview_every = 0
[optimizer]
warmup = 2
";

const MODEL: &str = "model/unet/diffusion_pytorch_model.safetensors";
pub const STATE: &str = "state/training.safetensors";

/// A folder with a recipe and a data set of 20 images.
fn bench() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("r.toml"), RECIPE).unwrap();
    write_images(folder.path());
    folder
}

/// Writes a data set of 20 images of 8×8 pixels.
pub fn write_images(folder: &Path) {
    let mut idx = vec![0, 0, 8, 3, 0, 0, 0, 20, 0, 0, 0, 8, 0, 0, 0, 8];
    idx.extend((0..20 * 64).map(|i: u32| (i * i % 251) as u8));
    std::fs::write(folder.join("images-idx3-ubyte"), idx).unwrap();
}

fn arguments<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["train", "--data", "idx:images-idx3-ubyte", "--config", "r.toml", "--out", out];
    all.extend(more);
    all
}

/// Compares what two runs have learnt, and what they would continue from.
#[track_caller]
pub fn assert_same(at: &Path, a: &str, b: &str) {
    for file in [MODEL, STATE, "model/unet/diffusion_pytorch_model.raw.safetensors"] {
        assert!(read(&at.join(a), file) == read(&at.join(b), file), "{a} and {b} differ in {file}");
    }
}

#[test]
fn threads_change_nothing_and_a_finished_run_resumes_to_success() {
    let folder = bench();
    let at = folder.path();
    let (stdout, said) = run(at, &arguments("one", &["--threads", "1"]), 0);
    assert_eq!(stdout, "one/model\n");
    assert!(said.contains("skipstone sample --model one/model") && said.contains("loss.png"), "{said}");
    let (stdout, _) = run(at, &arguments("two", &["--threads", "2", "--resume", "--json"]), 0);
    let steps: Vec<_> = stdout
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(line["loss"].is_f64() && line["images_per_s"].is_f64(), "{line}");
            line["step"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(steps, [4, 8, 12]);
    assert_same(at, "one", "two");
    let (_, said) = run(at, &arguments("one", &["--resume"]), 0);
    assert!(said.contains("already finished"), "{said}");
    assert_same(at, "one", "two");
    // A reader of the progress that goes away leaves a training that is not finished, and it says so.
    let mut child = skipstone(at, &arguments("three", &["--json"])).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    run(at, &arguments("three", &["--resume"]), 0);
    assert_same(at, "one", "three");
    // A dry run refuses what the run would.
    for dry in [&[][..], &["--dry-run"]] {
        let (_, error) = run(at, &arguments("one", dry), 2);
        assert!(error.contains("--resume"), "{error}");
        let (_, error) = run(at, &arguments("one", &[&["--resume", "--seed", "5"], dry].concat()), 2);
        assert!(error.contains("train.seed"), "{error}");
    }
    // The recipe stays that of what was trained.
    let recipe = read(at, "one/recipe.toml");
    let (_, error) = run(at, &arguments("one", &["--resume", "--set", "train.steps=5"]), 2);
    assert!(error.contains("5 steps") && error.contains("made 12"), "{error}");
    assert!(recipe == read(at, "one/recipe.toml"));
    // The same images under another name are the same data.
    std::fs::rename(at.join("images-idx3-ubyte"), at.join("renamed-idx3-ubyte")).unwrap();
    let renamed = ["train", "--data", "idx:renamed-idx3-ubyte", "--config", "r.toml", "--out", "one", "--resume"];
    run(at, &renamed, 0);
    assert_same(at, "one", "two");
    run(at, &["sample", "--model", "one/model", "-n", "2", "--steps", "2"], 0);
}

#[test]
fn kept_models_are_those_of_shorter_trainings_and_change_nothing() {
    let folder = bench();
    let at = folder.path();
    run(at, &arguments("plain", &[]), 0);
    run(at, &arguments("kept", &["--keep", "5,9"]), 0);
    assert_same(at, "plain", "kept");
    assert_eq!(names(&at.join("kept/kept")), ["step-0000005", "step-0000009"]);
    run(at, &arguments("short", &["--set", "train.steps=5"]), 0);
    let tensors = |model: &str| {
        let bytes = read(&at.join(model), "unet/diffusion_pytorch_model.safetensors");
        skipstone::io::checkpoint::read_tensors(&bytes).unwrap().tensors
    };
    assert!(tensors("kept/kept/step-0000005") == tensors("short/model"));
    let (_, error) = run(at, &arguments("no", &["--keep", "0"]), 2);
    assert!(error.contains("--keep"), "{error}");
    // The early model guides the final one.
    let guided = ["sample", "--model", "kept/model", "--guide", "kept/kept/step-0000005", "--guidance", "2"];
    run(at, &[&guided[..], &["-n", "2", "--steps", "2", "-o", "x.npy"]].concat(), 0);
}

/// Starts the command and kills it `wait` after the file or folder `begun` is there.
pub fn kill_after(at: &Path, arguments: &[&str], begun: &Path, wait: Duration) {
    let mut child = skipstone(at, arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !begun.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(wait);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_killed_training_continues_to_the_same_bytes() {
    let folder = bench();
    let at = folder.path();
    let long = ["--set", "train.steps=60"];
    run(at, &arguments("whole", &long), 0);
    for wait in [1u64, 7] {
        let out = format!("killed{wait}");
        kill_after(at, &arguments(&out, &long), &at.join(&out).join(STATE), Duration::from_millis(17 * wait));
        run(at, &arguments(&out, &[long[0], long[1], "--resume"]), 0);
        assert_same(at, "whole", &out);
    }
}

#[test]
fn ctrl_c_saves_says_how_to_continue_and_exits_130() {
    let folder = bench();
    let at = folder.path();
    let long = ["--set", "train.steps=100000"];
    let child = skipstone(at, &arguments("run", &long)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while !at.join("run/log.jsonl").exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    // Launchers such as timeout send two at once.
    signal("INT", child.id());
    signal("INT", child.id());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    let saved = said.lines().find(|line| line.contains("saved at step ")).unwrap();
    assert!(saved.contains("continue with: ") && saved.ends_with("--resume"), "{saved}");
    let step: u64 = saved.split_whitespace().nth(3).unwrap().trim_end_matches(';').parse().unwrap();
    let more = (step + 3).to_string();
    let set = format!("train.steps={more}");
    let (_, said) = run(at, &arguments("run", &["--set", &set, "--resume"]), 0);
    assert!(said.contains(&format!("resuming after step {step} of {more}")), "{said}");
    run(at, &arguments("whole", &["--set", &set]), 0);
    assert!(read(&at.join("whole"), MODEL) == read(&at.join("run"), MODEL));
}

#[test]
fn a_run_goes_on_in_another_precision_and_says_so() {
    let folder = bench();
    let at = folder.path();
    // Wide enough for matrix units.
    let bf16 = ["--set", "train.precision=bf16", "--set", "model.block_out_channels=[16]"];
    let f32 = ["--set", "model.block_out_channels=[16]"];
    let short = ["--set", "train.steps=6"];
    if !skipstone::engine::devices()[0].precisions.contains(&"bf16") {
        let (_, said) = run(at, &arguments("none", &bf16), 1);
        assert!(said.contains("precision bf16: there are no matrix units"), "{said}");
        return;
    }
    run(at, &arguments("whole", &bf16), 0);
    run(at, &arguments("stopped", &[&bf16[..], &short].concat()), 0);
    let (_, said) = run(at, &arguments("stopped", &[&bf16[..], &["--resume", "--threads", "1"]].concat()), 0);
    assert!(!said.contains("train.precision"), "{said}");
    assert_same(at, "whole", "stopped");
    run(at, &arguments("changed", &[&bf16[..], &short].concat()), 0);
    let (_, said) = run(at, &arguments("changed", &[&f32[..], &["--resume"]].concat()), 0);
    assert!(said.contains("train.precision was \"bf16\"") && said.contains("computed in \"f32\""), "{said}");
    assert!(read(&at.join("changed"), MODEL) != read(&at.join("whole"), MODEL));
}

#[test]
fn a_diverging_training_stops_with_advice() {
    let folder = bench();
    // Finite weights whose first output is infinite.
    write_scaled_model(folder.path(), &Config::smallest(), None, 3e38);
    let more = ["--init", "model"];
    let (_, error) = run(folder.path(), &arguments("run", &more), 1);
    assert!(error.contains("not finite") && error.contains("lower optimizer.lr"), "{error}");
    run(folder.path(), &["inspect", "--model", "run/model"], 0);
}

#[test]
fn mistakes_in_recipe_and_data_are_named() {
    let folder = bench();
    let at = folder.path();
    let before = names(at);
    let (_, error) = run(at, &arguments("run", &["--set", "train.stepz=3"]), 2);
    assert!(error.contains("did you mean train.steps") && !error.contains("r.toml"), "{error}");
    std::fs::write(at.join("r.toml"), "[train]\nbatsch = 3").unwrap();
    let (_, error) = run(at, &arguments("run", &[]), 2);
    assert!(error.contains("r.toml") && error.contains("train.batch"), "{error}");
    std::fs::write(at.join("r.toml"), RECIPE).unwrap();
    let (_, error) = run(at, &["train", "--data", "absent", "--config", "r.toml", "--out", "run"], 1);
    assert!(error.contains("absent"), "{error}");
    let (_, error) = run(at, &["train", "--data", "absent", "--config", "no.toml", "--out", "run"], 1);
    assert!(error.contains("no.toml"), "{error}");
    assert_eq!(names(at), before);
}

#[test]
fn a_dry_run_measures_and_writes_nothing() {
    let folder = bench();
    let before = names(folder.path());
    let (stdout, _) = run(folder.path(), &arguments("run", &["--dry-run", "--json"]), 0);
    let cost: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((cost["steps"].as_u64(), cost["batch"].as_u64()), (Some(12), Some(4)));
    assert!(cost["seconds_per_step"].as_f64().unwrap() > 0.0);
    assert_eq!(names(folder.path()), before);
}
