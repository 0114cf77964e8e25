//! The command on a graphics processor; any will do, lavapipe included.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use skipstone::unet::Config;

use crate::support::{names, read, run, signal, skipstone, with_model, write_model};
use crate::training::{RECIPE, write_images};

/// Whether there is a device; says so if not.
fn device() -> bool {
    let there = skipstone::engine::devices().len() > 1;
    assert!(there || std::env::var_os("SKIPSTONE_NEED_GPU").is_none(), "no graphics driver");
    if !there {
        eprintln!("skipped: no graphics driver (apt-get install mesa-vulkan-drivers)");
    }
    there
}

/// The values of a .npy file of f32.
fn values(folder: &Path, name: &str) -> Vec<f32> {
    let bytes = read(folder, name);
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[header..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn devices_are_listed_and_missing_ones_are_refused() {
    if !device() {
        return;
    }
    let folder = with_model();
    let (out, _) = run(folder.path(), &["devices"], 0);
    assert!(out.lines().any(|line| line.starts_with("cpu ")) && out.contains("gpu") | out.contains("vulkan"), "{out}");
    let (json, _) = run(folder.path(), &["devices", "--json"], 0);
    let second: serde_json::Value = serde_json::from_str(json.lines().nth(1).unwrap()).unwrap();
    let device = second["device"].as_str().unwrap();
    run(
        folder.path(),
        &["sample", "--model", "model", "--device", device, "-n", "1", "--steps", "2", "-o", "x.npy"],
        0,
    );
    let sample = ["sample", "--model", "model", "--device", "gpu:77", "-n", "1", "-o", "y.npy"];
    let (_, error) = run(folder.path(), &sample, 1);
    assert!(error.contains("device gpu:77") && error.contains("skipstone devices"), "{error}");
    let output = skipstone(folder.path(), &["sample", "--model", "model", "-n", "1", "-o", "y.npy"])
        .env("SKIPSTONE_DEVICE", "gpu:78")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("gpu:78"), "the environment variable is ignored");
    assert!(!folder.path().join("y.npy").exists());
}

#[test]
fn the_built_in_model_ends_where_it_ends_on_the_cpu() {
    if !device() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for device in ["cpu", "gpu"] {
        run(at, &["sample", "-n", "1", "--steps", "20", "--device", device, "-o", &format!("{device}.npy")], 0);
    }
    let (cpu, gpu) = (values(at, "cpu.npy"), values(at, "gpu.npy"));
    let largest = cpu.iter().zip(&gpu).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("largest difference after 20 steps: {largest:e}");
    assert!(cpu.len() == 28 * 28 && largest <= 1e-3, "{largest:e}");
}

#[test]
fn batches_shards_and_another_process_on_the_device_change_no_byte() {
    if !device() {
        return;
    }
    let folder = with_model();
    let at = folder.path();
    let arguments = |first: &str, n: &str, batch: &str, to: &str| {
        let all = ["sample", "--model", "model", "--device", "gpu", "--steps", "5", "--eta", "1"];
        let more = ["--first", first, "-n", n, "--batch", batch, "-o", to];
        all.iter().chain(&more).map(|a| a.to_string()).collect::<Vec<_>>()
    };
    let start = |arguments: Vec<String>| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        skipstone(at, &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let runs = [("0", "7", "7", "a.npy"), ("0", "7", "3", "b.npy"), ("0", "4", "1", "c.npy"), ("4", "3", "2", "d.npy")];
    // All at once.
    let mut children = runs.map(|(first, n, batch, to)| start(arguments(first, n, batch, to)));
    assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
    let [a, b, c, d] = ["a.npy", "b.npy", "c.npy", "d.npy"].map(|name| values(at, name));
    assert!(a == b, "the batch changes a byte");
    assert!(a == [c, d].concat(), "a shard changes a byte");
}

#[test]
fn too_little_memory_halves_the_batch_and_changes_no_byte() {
    if !device() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_model(at, &Config { sample_size: [32, 32], ..Config::default() }, None);
    let sample = |to: &str, mib: Option<&str>| {
        let arguments =
            ["sample", "--model", "model", "--device", "gpu", "-n", "8", "--batch", "8", "--steps", "1", "-o", to];
        let mut command = skipstone(at, &arguments);
        mib.map(|mib| command.env("SKIPSTONE_GPU_MEMORY", mib));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let weights = std::fs::metadata(at.join("model/unet/diffusion_pytorch_model.safetensors")).unwrap().len() >> 20;
    assert_eq!(sample("a.npy", None).0, Some(0));
    let (code, said) = sample("b.npy", Some(&(weights + 6).to_string()));
    assert!(code == Some(0) && said.contains("too little memory for 8 images at once"), "{said}");
    assert!(read(at, "a.npy") == read(at, "b.npy"));
    let (code, said) = sample("c.npy", Some("1"));
    assert!(code == Some(1) && said.contains("too little memory") && said.contains("--device cpu"), "{said}");
    assert!(!at.join("c.npy").exists());
    let training = ["bench", "--model", "model", "--device", "gpu", "--train", "--batch", "1", "--calls", "1"];
    let output = skipstone(at, &training).env("SKIPSTONE_GPU_MEMORY", "1").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("a smaller train.shard"), "{said}");
}

#[test]
fn an_interrupted_run_is_completed_by_the_same_command() {
    if !device() {
        return;
    }
    let folder = with_model();
    let at = folder.path();
    let with = |name| {
        let all = ["sample", "--model", "model", "--device", "gpu", "-n", "16", "--steps", "20", "--batch", "2", "-o"];
        all.into_iter().chain([name]).collect::<Vec<_>>()
    };
    run(at, &with("whole/"), 0);
    let child = skipstone(at, &with("stopped/")).stderr(Stdio::piped()).spawn().unwrap();
    while !at.join("stopped/000001.png").exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    signal("INT", child.id());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!([Some(0), Some(130)].contains(&output.status.code()), "{said}");
    run(at, &with("stopped/"), 0);
    for file in names(&at.join("whole")) {
        assert_eq!(read(&at.join("stopped"), &file), read(&at.join("whole"), &file), "{file}");
    }
}

#[test]
fn a_training_stops_on_one_device_and_goes_on_on_the_other() {
    if !device() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("r.toml"), RECIPE).unwrap();
    write_images(at);
    let train = |out: &str, device: &str, more: &[&str]| {
        let all = ["train", "--data", "idx:images-idx3-ubyte", "--config", "r.toml", "--out", out, "--device", device];
        run(at, &all.iter().chain(more).copied().collect::<Vec<_>>(), 0)
    };
    train("cpu", "cpu", &[]);
    train("gpu", "gpu", &[]);
    train("moved", "gpu", &["--set", "train.steps=6"]);
    train("moved", "cpu", &["--resume"]);
    let weights = |run: &str| {
        let bytes = read(&at.join(run), "model/unet/diffusion_pytorch_model.raw.safetensors");
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[header..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>()
    };
    let expected = weights("cpu");
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    for run in ["gpu", "moved"] {
        let difference = norm(&mut weights(run).iter().zip(&expected).map(|(a, b)| a - b));
        let size = norm(&mut expected.iter().copied());
        assert!(difference <= 1e-3 * size, "{run}: {difference:e} of {size:e}");
    }
}

/// Rewrites an entry of a safetensors file's metadata.
fn rewrite(path: &Path, from: &str, to: &str) {
    let bytes = std::fs::read(path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..end]).unwrap();
    assert!(header.contains(from), "no {from} in {header}");
    let mut header = header.trim_end().replace(from, to);
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(path, [&length, header.as_bytes(), &bytes[end..]].concat()).unwrap();
}

/// The lines of a training's log.
fn log(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_training_in_half_precision_follows_f32_resumes_exactly_and_survives_overflow() {
    if !device() || !skipstone::engine::devices()[1].precisions.contains(&"f16") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("r.toml"), RECIPE).unwrap();
    write_images(at);
    let on = |device: &str, out: &str, more: &[&str], code: i32| {
        let all = ["train", "--data", "idx:images-idx3-ubyte", "--config", "r.toml", "--out", out, "--device", device];
        run(at, &all.iter().chain(more).copied().collect::<Vec<_>>(), code).1
    };
    let train = |out: &str, more: &[&str], code: i32| on("gpu", out, more, code);
    const HALF: [&str; 2] = ["--set", "train.precision=f16"];
    let (short, resume) = (["--set", "train.steps=6"], ["--resume"]);
    train("exact", &[], 0);
    train("half", &HALF, 0);
    for (exact, half) in log(&at.join("exact")).iter().zip(log(&at.join("half"))) {
        let [exact, half] = [exact, &half].map(|line| line["loss"].as_f64().unwrap());
        assert!(exact != half && (exact - half).abs() < 2e-3 * exact, "{half}, {exact} in f32");
    }
    train("stopped", &[HALF, short].concat(), 0);
    std::fs::create_dir_all(at.join("overflow/state")).unwrap();
    for file in ["log.jsonl", "state/training.safetensors"] {
        std::fs::copy(at.join("stopped").join(file), at.join("overflow").join(file)).unwrap();
    }
    train("stopped", &[&HALF[..], &resume].concat(), 0);
    for file in ["state/training.safetensors", "model/unet/diffusion_pytorch_model.safetensors"] {
        assert!(read(&at.join("half"), file) == read(&at.join("stopped"), file), "{file} differs after resumption");
    }
    // A scale at which the first gradient overflows.
    rewrite(&at.join("overflow/state/training.safetensors"), "65536 6", "4294967296 6");
    let said = train("overflow", &[&HALF[..], &resume].concat(), 0);
    let lines = log(&at.join("overflow"));
    let found = lines.iter().find(|line| line["overflows"].is_u64()).unwrap_or_else(|| panic!("{lines:?}"));
    let (overflows, scale) = (found["overflows"].as_i64().unwrap(), found["loss_scale"].as_f64().unwrap());
    assert!(found["step"] == 7 && overflows > 0 && scale * 2f64.powi(overflows as i32) == 4_294_967_296.0, "{found}");
    assert!(said.contains("step 7: the gradient overflowed"), "{said}");
    let last = |run: &str| log(&at.join(run)).last().unwrap()["loss"].as_f64().unwrap();
    assert!((last("overflow") - last("half")).abs() < 2e-3 * last("half"), "the skipped updates were made");
    // The rest of a run may be in another precision; the processor does not have this one.
    train("half", &["--resume", "--set", "train.steps=13"], 0);
    assert!(log(&at.join("half")).last().unwrap().get("loss_scale").is_none());
    train("half", &[&HALF[..], &["--resume", "--set", "train.steps=14"]].concat(), 0);
    assert_eq!(log(&at.join("half")).last().unwrap()["loss_scale"], 65536.0);
    let said = on("cpu", "cpu", &HALF, 1);
    assert!(said.contains("precision f16: training on the processor needs f32"), "{said}");
}

#[test]
fn a_measurement_names_the_device() {
    if !device() {
        return;
    }
    let folder = with_model();
    let bench = ["bench", "--model", "model", "--device", "gpu", "--batch", "2", "--calls", "2"];
    let (out, _) = run(folder.path(), &[&bench[..], &["--json"]].concat(), 0);
    let line: serde_json::Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert!(line["device"] == "gpu" && line["ms_per_call"].as_f64().unwrap() > 0.0, "{line}");
    for more in [&["--profile"][..], &["--train"]] {
        run(folder.path(), &[&bench[..], more].concat(), 0);
    }
}

#[test]
fn tiles_are_measured_when_asked_kept_in_a_file_and_change_no_byte() {
    if !device() {
        return;
    }
    let folder = with_model();
    let at = folder.path();
    let sample = |to: &str, tune: Option<&str>| {
        let arguments = ["sample", "--model", "model", "--device", "gpu", "-n", "2", "--steps", "2", "-o", to];
        let mut command = skipstone(at, &arguments);
        command.env("XDG_CACHE_HOME", at.join("cache"));
        tune.map(|tune| command.env("SKIPSTONE_GPU_TUNE", tune));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let file = at.join("cache/skipstone/gpu-tiles.json");
    assert_eq!(sample("a.npy", None).0, Some(0));
    assert!(!file.exists(), "measured without being asked");

    let (code, said) = sample("b.npy", Some("on"));
    assert!(code == Some(0) && said.contains("gpu-tiles.json"), "{said}");
    let kept = std::fs::read(&file).unwrap();
    let tiles: serde_json::Value = serde_json::from_slice(&kept).unwrap();
    let products = tiles.as_object().unwrap().values().next().unwrap().as_object().unwrap();
    assert!(products.keys().any(|name| name.starts_with("convolution")), "{tiles}");

    // Now they are known, and nothing is measured again.
    let (code, said) = sample("c.npy", Some("on"));
    assert!(code == Some(0) && !said.contains("measuring"), "{said}");
    assert!(std::fs::read(&file).unwrap() == kept);

    std::fs::write(&file, &kept[..kept.len() / 2]).unwrap();
    let (code, said) = sample("d.npy", None);
    assert!(code == Some(0) && said.contains("gpu-tiles.json") && said.contains("delete the file"), "{said}");
    let (code, said) = sample("e.npy", Some("off"));
    assert!(code == Some(0) && !said.contains("gpu-tiles.json"), "{said}");

    // A file is in the way of the folder.
    std::fs::remove_dir_all(at.join("cache")).unwrap();
    std::fs::write(at.join("cache"), "").unwrap();
    let (code, said) = sample("f.npy", Some("on"));
    assert!(code == Some(0) && said.contains("in the way") && said.contains("for this run only"), "{said}");
    for name in ["b.npy", "c.npy", "d.npy", "e.npy", "f.npy"] {
        assert!(read(at, name) == read(at, "a.npy"), "{name}");
    }
    let (code, said) = sample("g.npy", Some("yes"));
    assert!(code == Some(2) && said.contains("SKIPSTONE_GPU_TUNE") && said.contains("on or off"), "{said}");
}
