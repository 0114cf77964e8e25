//! Where models come from, and at what size they run.

use std::path::Path;

use ndarray::Array4;
use skipstone::io::image::npy;
use skipstone::unet::Config;

use crate::support::{read, run, skipstone, with_model, write_model};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The tiny model as the hub's client caches it: files are links to blobs.
#[cfg(unix)]
fn cached(at: &Path) {
    let folder = at.join("hub/models--someone--tiny");
    let snapshot = folder.join("snapshots").join(COMMIT);
    for (i, name) in [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
        "model_index.json",
        "skipstone.json",
    ]
    .iter()
    .enumerate()
    {
        let (link, blob) = (snapshot.join(name), folder.join("blobs").join(i.to_string()));
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::fs::create_dir_all(blob.parent().unwrap()).unwrap();
        std::fs::rename(at.join("model").join(name), &blob).unwrap();
        std::os::unix::fs::symlink(blob, link).unwrap();
    }
    std::fs::create_dir_all(folder.join("refs")).unwrap();
    std::fs::write(folder.join("refs/main"), COMMIT).unwrap();
    std::fs::remove_dir_all(at.join("model")).unwrap();
}

#[cfg(unix)]
#[test]
fn a_model_in_the_hugging_face_cache_is_found_by_its_name() {
    let folder = with_model();
    let at = folder.path();
    run(at, &["sample", "--model", "model", "-n", "1", "--steps", "2", "-o", "expected.npy"], 0);
    cached(at);
    let hub = at.join("hub");
    let with_hub = |arguments: &[&str]| skipstone(at, arguments).env("HF_HUB_CACHE", &hub).output().unwrap();
    for name in ["someone/tiny", "someone/tiny@main", &format!("someone/tiny@{COMMIT}")] {
        let output = with_hub(&["sample", "--model", name, "-n", "1", "--steps", "2", "-o", "found.npy"]);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(read(at, "found.npy"), read(at, "expected.npy"), "{name}");
    }
    // Other commands take the same names.
    let output = with_hub(&["convert", "--from", "someone/tiny", "--to", "copy"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = with_hub(&["inspect", "--model", "someone/tiny"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // What is not there has the command that brings it.
    for (name, command) in [
        ("someone/other", "hf download someone/other\n"),
        ("someone/tiny@v2", "hf download someone/tiny --revision v2\n"),
    ] {
        let output = with_hub(&["inspect", "--model", name]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.ends_with(command), "{name}: {said}");
    }
    // A folder of that name wins.
    write_model(at, &Config { block_out_channels: vec![16], ..Config::smallest() }, None);
    std::fs::create_dir(at.join("someone")).unwrap();
    std::fs::rename(at.join("model"), at.join("someone/tiny")).unwrap();
    let output = with_hub(&["inspect", "--model", "someone/tiny"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("16 channels"));
}

#[test]
fn a_network_makes_and_reads_images_of_another_size_and_says_what_it_costs() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_model(
        at,
        &Config {
            down_blocks: [Config::smallest().down_blocks, Config::smallest().down_blocks].concat(),
            up_blocks: [Config::smallest().up_blocks, Config::smallest().up_blocks].concat(),
            block_out_channels: vec![8, 8],
            ..Config::smallest()
        },
        None,
    );
    let model = ["--model", "model"];
    let (_, said) =
        run(at, &[&["sample"][..], &model, &["-n", "2", "--steps", "2", "--size", "12x16", "-o", "x.npy"]].concat(), 0);
    assert!(said.contains("images of 12×16, but the network has learnt 8×8") && said.contains("2.99 times"), "{said}");
    let x: Array4<f32> = npy::read(&at.join("x.npy")).unwrap();
    assert_eq!(x.dim(), (2, 1, 12, 16));
    let (_, said) = run(
        at,
        &[&["encode"][..], &model, &["--images", "x.npy", "--steps", "3", "--size", "12x16", "-o", "z.npy"]].concat(),
        0,
    );
    // The command for the way back contains the size.
    assert!(said.contains("--size 12x16"), "{said}");
    assert_eq!(npy::read::<ndarray::Ix4>(&at.join("z.npy")).unwrap().dim(), (2, 1, 12, 16));
    run(
        at,
        &[&["decode"][..], &model, &["--latents", "z.npy", "--steps", "3", "--size", "12x16", "-o", "y.npy"]].concat(),
        0,
    );
    let (_, said) = run(at, &[&["sample"][..], &model, &["--size", "9", "-o", "x.npy"]].concat(), 2);
    assert_eq!(said, "error: --size: 2 levels need a size divisible by 2 (2^(levels − 1)), found 9\n");
    // The learnt size is no news.
    let (_, said) =
        run(at, &[&["sample"][..], &model, &["--steps", "2", "-n", "1", "--size", "8", "-o", "x.npy"]].concat(), 0);
    assert!(!said.contains("has learnt"), "{said}");
}

#[test]
fn a_config_without_a_size_asks_for_one() {
    let folder = with_model();
    let at = folder.path();
    let path = at.join("model/unet/config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["sample_size"] = serde_json::Value::Null;
    std::fs::write(&path, config.to_string()).unwrap();
    let (_, said) = run(at, &["sample", "--model", "model", "-n", "1", "--steps", "2", "-o", "x.npy"], 1);
    assert!(said.contains("set it with --size N or --size HxW"), "{said}");
    run(at, &["sample", "--model", "model", "-n", "1", "--steps", "2", "--size", "10x8", "-o", "x.npy"], 0);
    assert_eq!(npy::read::<ndarray::Ix4>(&at.join("x.npy")).unwrap().dim(), (1, 1, 10, 8));
}

#[test]
fn a_wrong_choice_for_the_built_in_model_names_its_flag() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (arguments, message) in [
        (["--size", "29"], "error: --size: 3 levels need a size divisible by 4 (2^(levels − 1)), found 29\n"),
        (["--size", "16384"], "error: --size: one image needs 280 GiB of activations, more than the limit of 16 GiB\n"),
        (
            ["--weights", "raw"],
            "error: --weights raw: the built-in model has its moving average only; leave --weights out\n",
        ),
    ] {
        let (_, said) = run(at, &[&["inspect"][..], &arguments].concat(), 2);
        assert_eq!(said, message);
    }
    // It is converted without raw weights.
    run(at, &["convert", "--to", "copy", "--dry-run"], 0);
}

#[test]
fn a_network_finds_its_scheduler_and_says_what_it_takes_without_one() {
    let folder = with_model();
    let at = folder.path();
    let scheduler = at.join("model/scheduler/scheduler_config.json");
    let text = std::fs::read_to_string(&scheduler).unwrap().replace("\"epsilon\"", "\"v_prediction\"");
    std::fs::write(&scheduler, &text).unwrap();
    let models = ["model", "model/unet", "model/unet/diffusion_pytorch_model.safetensors"];
    for model in models {
        let (stdout, said) = run(at, &["inspect", "--model", model, "--json"], 0);
        assert!(stdout.contains("v_prediction") && said.is_empty(), "{model}: {said}");
    }
    // Skipstone itself always writes one.
    std::fs::rename(&scheduler, at.join("s.json")).unwrap();
    for model in models {
        let (_, said) = run(at, &["inspect", "--model", model], 1);
        assert!(said.contains("scheduler_config.json: missing, although skipstone writes it"), "{model}: {said}");
        let (stdout, said) = run(at, &["inspect", "--model", model, "--scheduler", "s.json", "--json"], 0);
        assert!(stdout.contains("v_prediction") && said.is_empty(), "{model}: {said}");
    }
    std::fs::remove_file(at.join("model/skipstone.json")).unwrap();
    for model in models {
        let (stdout, said) = run(at, &["inspect", "--model", model, "--json"], 0);
        assert!(stdout.contains("epsilon"), "{model}: {stdout}");
        assert!(said.starts_with("warning: ") && said.lines().count() == 1, "{model}: {said}");
        let taken = "missing; taking prediction epsilon and the linear schedule, 0.0001 to 0.02 in 1000 steps";
        assert!(said.contains(taken) && said.contains("--scheduler FILE"), "{model}: {said}");
    }
}

#[test]
fn a_file_that_is_no_scheduler_is_refused_by_its_name() {
    let folder = with_model();
    let at = folder.path();
    let inspect = |code| run(at, &["inspect", "--model", "model", "--scheduler", "s.json", "--json"], code);
    for (text, message) in [
        ("", "error: s.json: the file is empty; expected JSON\n"),
        ("{", "error: s.json: not JSON, truncated: EOF while parsing an object at line 1 column 1\n"),
        ("{}", "error: s.json: not a scheduler's config"),
        ("{\"prediction_typo\": \"v_prediction\"}", "error: s.json: not a scheduler's config"),
        (
            "{\"beta_end\": 2}",
            "error: s.json: beta_schedule linear, beta_start 0.0001, beta_end 2: betas[500]: expected",
        ),
    ] {
        std::fs::write(at.join("s.json"), text).unwrap();
        let (_, said) = inspect(1);
        assert!(said.starts_with(message), "{text}: {said}");
    }
    for other in ["model/skipstone.json", "model/model_index.json", "model/unet/config.json"] {
        std::fs::copy(at.join(other), at.join("s.json")).unwrap();
        assert!(inspect(1).1.contains("s.json: not a scheduler's config"), "{other}");
    }
    std::fs::write(
        at.join("s.json"),
        "{\"_class_name\": \"PNDMScheduler\", \"skip_prk_steps\": true, \"beta_end\": 0.015}",
    )
    .unwrap();
    assert!(inspect(0).0.contains("0.015"));
}

#[test]
fn what_is_no_model_leads_to_one() {
    let folder = with_model();
    let at = folder.path();
    std::fs::create_dir(at.join("run1")).unwrap();
    std::fs::rename(at.join("model"), at.join("run1/model")).unwrap();
    std::fs::write(at.join("notes.md"), "notes on a model").unwrap();
    for (model, message) in [
        ("run1", "the model in it is run1/model\n"),
        ("notes.md", "expected a diffusers folder, a .safetensors, .ckpt, .pth, .pt or .onnx file"),
    ] {
        let (_, said) = run(at, &["inspect", "--model", model], 1);
        assert!(said.replace('\\', "/").contains(message), "{said}");
    }
    let (_, said) =
        run(at, &["sample", "--model", "run1/model", "--guide", "run1", "--guidance", "2", "-o", "x.npy"], 1);
    assert!(said.starts_with("error: --guide run1: run1: not a diffusers folder"), "{said}");
}
