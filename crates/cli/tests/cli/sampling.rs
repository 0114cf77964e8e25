use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use ndarray::{Array4, Array5, ArrayView1, Axis, Slice};
use serde_json::{Value, json};
use skipstone::Pipeline;
use skipstone::io::image::{npy, read_png};
use skipstone::sampling::options::{FIELDS, Preset, Request, SAMPLE};
use skipstone::unet::Config;

use crate::support::{names, read, run, signal, skipstone, with_model, write_model, write_scaled_model};

/// `sample --model model` with these arguments, expecting success.
#[track_caller]
fn sample(folder: &Path, arguments: &str) -> (String, String) {
    expect(folder, arguments, 0)
}

#[track_caller]
fn expect(folder: &Path, arguments: &str, code: i32) -> (String, String) {
    let mut all = vec!["sample", "--model", "model"];
    all.extend(arguments.split_whitespace());
    run(folder, &all, code)
}

#[test]
fn images_do_not_depend_on_batch_threads_or_shard() {
    let folder = with_model();
    let at = folder.path();
    sample(at, "-n 8 --steps 4 --eta 1 -o a.npy");
    sample(at, "-n 8 --steps 4 --eta 1 -o b.npy --batch 3 --threads 1");
    sample(at, "-n 8 --steps 4 --eta 1 -o c.npy --batch 1 --threads 2");
    assert_eq!(read(at, "a.npy"), read(at, "b.npy"));
    assert_eq!(read(at, "a.npy"), read(at, "c.npy"));
    sample(at, "-n 4 --steps 4 --eta 1 -o low.npy");
    sample(at, "-n 4 --first 4 --steps 4 --eta 1 -o high.npy");
    let whole: Array4<f32> = npy::read(&at.join("a.npy")).unwrap();
    let [low, high]: [Array4<f32>; 2] = ["low.npy", "high.npy"].map(|name| npy::read(&at.join(name)).unwrap());
    assert_eq!(whole.slice_axis(Axis(0), Slice::from(..4)), low);
    assert_eq!(whole.slice_axis(Axis(0), Slice::from(4..)), high);
    assert_ne!(low, high);
    sample(at, "-n 8 --steps 4 --eta 1 --seed 1 -o d.npy");
    assert_ne!(read(at, "a.npy"), read(at, "d.npy"));
}

#[test]
fn a_grid_carries_its_options_and_is_named_last_on_stdout() {
    let folder = with_model();
    let (stdout, _) = sample(folder.path(), "-n 5 --steps 3 --seed 7");
    assert_eq!(stdout, "samples.png\n");
    let png = read_png(&folder.path().join("samples.png")).unwrap();
    // Three columns, two rows, images of 8 pixels magnified 8 times, gutters of 2.
    assert_eq!((png.picture.width(), png.picture.height()), (8 * 32, 8 * 22));
    for (key, text) in [("seed", "7"), ("steps", "3"), ("n", "5"), ("eta", "0.0"), ("times", "[999,665,332]")] {
        assert!(png.text.contains(&(key.into(), text.into())), "{key}: {:?}", png.text);
    }
}

#[test]
fn the_library_s_pipeline_writes_the_same_files() {
    let folder = with_model();
    let at = folder.path();
    sample(at, "-n 5 --steps 4 --eta 1 --seed 7 -o command.png");
    sample(at, "-n 5 --steps 4 --eta 1 --seed 7 -o command.npy");
    sample(at, "-n 5 --steps 4 --eta 1 --seed 7 -o command/");
    let images = Pipeline::load(at.join("model")).unwrap().steps(4).eta(1.0).seed(7).sample(5).unwrap();
    images.save_grid(at.join("library.png")).unwrap();
    images.save_npy(at.join("library.npy")).unwrap();
    images.save_folder(at.join("library")).unwrap();
    assert_eq!(read(at, "command.png"), read(at, "library.png"));
    assert_eq!(read(at, "command.npy"), read(at, "library.npy"));
    assert_eq!(names(&at.join("command")), names(&at.join("library")));
    for name in names(&at.join("command")) {
        assert_eq!(read(&at.join("command"), &name), read(&at.join("library"), &name), "{name}");
    }
}

#[test]
fn a_folder_is_continued_without_repeating_or_losing_an_image() {
    let folder = with_model();
    let at = folder.path();
    sample(at, "-n 6 --steps 3 -o whole/");
    let (_, said) = sample(at, "-n 4 --steps 3 -o part/");
    assert!(said.contains("4 image(s) made"), "{said}");
    std::fs::remove_file(at.join("part/000001.png")).unwrap();
    // Half a file, as no crash of ours but a copy that broke off would leave it.
    let bytes = read(at, "part/000002.png");
    std::fs::write(at.join("part/000002.png"), &bytes[..bytes.len() / 2]).unwrap();
    std::fs::write(at.join("part/.000003.png.x.skipstone-partial"), "half").unwrap();
    let (_, said) = sample(at, "-n 6 --steps 3 -o part");
    assert!(said.contains("4 image(s) made (2 already existed)"), "{said}");
    assert_eq!(names(&at.join("part")), names(&at.join("whole")));
    for name in names(&at.join("whole")) {
        assert_eq!(read(&at.join("part"), &name), read(&at.join("whole"), &name), "{name}");
    }
    // While somebody writes there, nobody else does.
    let lock = skipstone::io::files::lock(&at.join("part")).unwrap();
    let (_, error) = expect(at, "-n 8 --steps 3 -o part/", 1);
    assert!(error.contains("part/: another process is writing to this folder"), "{error}");
    assert_eq!(names(&at.join("part")), names(&at.join("whole")));
    drop(lock);
    let manifest: serde_json::Value = serde_json::from_slice(&read(at, "whole/manifest.json")).unwrap();
    assert_eq!((manifest["n"].as_u64(), manifest["first"].as_u64()), (Some(6), Some(0)));
    assert_eq!(manifest["times"], serde_json::json!([999, 665, 332]));
    let (_, error) = expect(at, "-n 6 --steps 3 --seed 1 -o part/", 2);
    assert!(error.contains("seed = 0, now it is 1"), "{error}");
    let (_, error) = expect(at, "-n 6 --first 9 --steps 3 -o part/", 2);
    assert!(error.contains("gap"), "{error}");
}

#[test]
fn a_killed_and_an_interrupted_run_are_completed_by_the_same_command() {
    let folder = with_model();
    let at = folder.path();
    let arguments = ["sample", "--model", "model", "-n", "40", "--steps", "60", "--batch", "2", "-o"];
    let with = |name| arguments.iter().copied().chain([name]).collect::<Vec<_>>();
    run(at, &with("whole/"), 0);
    for (name, sent) in [("killed/", "KILL"), ("stopped/", "INT")] {
        let child = skipstone(at, &with(name)).stderr(std::process::Stdio::piped()).spawn().unwrap();
        while !at.join(name).join("000001.png").exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        signal(sent, child.id());
        let output = child.wait_with_output().unwrap();
        if sent == "INT" && output.status.code() != Some(0) {
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(130), "{said}");
            assert!(said.contains("continue with: "), "{said}");
        }
        run(at, &with(name), 0);
        assert_eq!(names(&at.join(name)), names(&at.join("whole")));
        for file in names(&at.join("whole")) {
            assert_eq!(read(&at.join(name), &file), read(&at.join("whole"), &file), "{file}");
        }
    }
}

#[test]
fn an_interrupted_archive_says_that_its_images_are_kept() {
    let folder = with_model();
    let at = folder.path();
    let arguments = ["sample", "--model", "model", "-n", "40", "--steps", "60", "--batch", "2", "-o", "k.npz"];
    let child = skipstone(at, &arguments).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let length = || std::fs::metadata(at.join(".k.npz.partial")).map_or(0, |found| found.len());
    let mut first = 0;
    // Its manifest comes first, then its images.
    while !at.join("k.npz").exists() && (first == 0 || length() <= first) {
        first = if first == 0 { length() } else { first };
        std::thread::sleep(Duration::from_millis(2));
    }
    signal("INT", child.id());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() != Some(0) {
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.contains("of 40 images are kept for k.npz; continue with: "), "{said}");
        assert!(!at.join("k.npz").exists());
    }
    run(at, &arguments, 0);
    assert!(at.join("k.npz").exists() && !at.join(".k.npz.partial").exists());
}

#[test]
fn an_archive_of_other_options_is_called_a_file() {
    let folder = with_model();
    let at = folder.path();
    for name in ["k.f.npz", "k.tar"] {
        sample(at, &format!("-n 2 --steps 5 -o {name}"));
        let (_, error) = expect(at, &format!("-n 2 --steps 4 -o {name}"), 2);
        assert!(error.contains(&format!("{name}: its images were made with ")), "{error}");
        assert!(error.contains("or choose another name") && !error.contains("folder"), "{error}");
    }
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_the_step_to_end() {
    let folder = tempfile::tempdir().unwrap();
    // A step of so many images takes seconds.
    let arguments = ["sample", "-n", "1024", "--batch", "1024", "--steps", "50", "--threads", "1", "-o", "x.npy"];
    let mut child = skipstone(folder.path(), &arguments)
        .env("RUST_LOG", "info")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("model loaded") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it ended early");
    }
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..2 {
        signal("INT", child.id());
        std::thread::sleep(Duration::from_millis(400));
    }
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    // The first one's message comes after the step, which was not waited for.
    assert!(!rest.contains("interrupted"), "{rest}");
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn latents_and_noise_from_files_decide_everything() {
    let folder = with_model();
    let at = folder.path();
    let value = |i: usize| ((i * 7919) % 201) as f32 / 100.0 - 1.0;
    let fill = |n: usize| (0..n).map(value).collect::<Vec<_>>();
    let latents = Array4::from_shape_vec((3, 1, 8, 8), fill(192)).unwrap();
    let noise = Array5::from_shape_vec((4, 3, 1, 8, 8), fill(768)).unwrap();
    npy::write(&at.join("x.npy"), latents.view()).unwrap();
    npy::write(&at.join("z.npy"), noise.view()).unwrap();
    sample(at, "--latents x.npy --noise z.npy --steps 4 --eta 1 -o a.npy");
    sample(at, "--latents x.npy --noise z.npy --steps 4 --eta 1 --seed 5 --first 9 --batch 2 -o b.npy");
    assert_eq!(read(at, "a.npy"), read(at, "b.npy"));
    let row: Array4<f32> = npy::read(&at.join("a.npy")).unwrap();
    npy::write(&at.join("x1.npy"), latents.slice_axis(Axis(0), Slice::from(2..))).unwrap();
    npy::write(&at.join("z1.npy"), noise.slice_axis(Axis(1), Slice::from(2..))).unwrap();
    sample(at, "--latents x1.npy --noise z1.npy --steps 4 --eta 1 -o c.npy");
    assert_eq!(row.slice_axis(Axis(0), Slice::from(2..)), npy::read::<ndarray::Ix4>(&at.join("c.npy")).unwrap());

    let (_, error) = expect(at, "--latents x.npy -n 4 -o d.npy", 2);
    assert!(error.contains("--latents has 3 rows"), "{error}");
    let (_, error) = expect(at, "--latents x.npy --noise z.npy --steps 5 --eta 1 -o d.npy", 2);
    assert!(error.contains("expected [5, 3, 1, 8, 8]"), "{error}");
    let wrong = Array4::<f32>::zeros((2, 1, 4, 4));
    npy::write(&at.join("w.npy"), wrong.view()).unwrap();
    let (_, error) = expect(at, "--latents w.npy -o d.npy", 1);
    assert!(error.contains("w.npy: expected latents") && error.contains("[1, 8, 8], found [2, 1, 4, 4]"), "{error}");
    for flags in ["--latents x.npy -o x.npy", "--latents x.npy --noise z.npy --steps 4 --eta 1 -o ./z.npy"] {
        let (_, error) = expect(at, flags, 2);
        assert!(error.contains("is an input of this command"), "{error}");
    }
    let (_, error) = expect(at, "-n 2 --steps 4 --trajectory t.png -o t.png", 2);
    assert!(error.contains("another output of this command"), "{error}");
    let nan = Array4::from_elem((2, 1, 8, 8), f32::NAN);
    npy::write(&at.join("nan.npy"), nan.view()).unwrap();
    let (_, error) = expect(at, "--latents nan.npy -o d.npy", 1);
    assert!(error.contains("nan.npy") && error.contains("NaN"), "{error}");
    assert!(!at.join("d.npy").exists());
}

#[test]
fn wrong_usage_is_exit_code_2_and_says_what_was_expected() {
    let folder = with_model();
    let at = folder.path();
    std::fs::write(at.join("s.txt"), "0.1\nx\n").unwrap();
    let before = names(at);
    for (arguments, message) in [
        ("--steps 0", "steps: expected at least 1, found 0"),
        ("--steps 1001", "at most the model's 1000 trained timesteps"),
        ("--eta -0.5", "eta: expected a finite number of at least 0"),
        ("--eta 1e6", "above its bound"),
        ("--times 3,9", "must strictly decrease"),
        ("--times 1000,9", "index 1000 is out of range"),
        ("--threshold 0.9,1.5", "clip keep-eps or rederive-eps"),
        ("--sigmas s.txt", "line 2: expected a number"),
        ("--class 1", "unconditional"),
        ("--guidance 2", "unconditional"),
        ("-n 0", "at least 1 image"),
        ("-n 100000000000 -o many/", "at most 100000000 images in one run"),
        ("-n 100000000 -o x.npy", "too many for one tensor"),
        ("-n 1000000", "too many for one grid"),
        ("-o x.jpg", "ends in .png"),
        ("-o x.jpg", ".npz (an array of bytes), .tar (a webdataset archive) or / (a folder of images), or - ("),
        ("-o x.png --trajectory -", "ends in .png"),
        ("--device cuda", "expected cpu, gpu, vulkan"),
        ("--threads 0", "--threads"),
        ("--eta 1 --sigma hat", "eta: cannot be combined with sigma hat"),
        ("--batch 0", "--batch"),
        ("--trajectory t.npy", "ends in .png"),
    ] {
        let (stdout, error) = expect(at, arguments, 2);
        assert!(error.contains(message), "{arguments}: {error}");
        assert_eq!((stdout.as_str(), names(at)), ("", before.clone()), "{arguments}");
    }
}

#[test]
fn failures_are_exit_code_1_name_the_file_and_leave_nothing() {
    let folder = with_model();
    let at = folder.path();
    let before = names(at);
    let (_, error) = expect(at, "--steps 2 -o absent/x.png", 1);
    assert!(error.contains("absent"), "{error}");
    assert_eq!(names(at), before);
    std::fs::write(at.join("in-the-way"), "a file").unwrap();
    for name in ["in-the-way/", "in-the-way/ --dry-run"] {
        let (_, error) = expect(at, &format!("--steps 2 -o {name}"), 1);
        assert!(error.contains("in-the-way/: a file is in the way"), "{error}");
    }
    let weights = at.join("model/unet/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 100]).unwrap();
    let before = names(at);
    let (_, error) = expect(at, "--steps 2 -o x.png", 1);
    assert!(error.contains("diffusion_pytorch_model.safetensors"), "{error}");
    assert_eq!(names(at), before);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_and_a_closed_pipe_is_success() {
    let folder = with_model();
    let at = folder.path();
    std::os::unix::fs::symlink("/dev/full", at.join("full.png")).unwrap();
    let (_, error) = expect(at, "-n 2 --steps 2 -o full.png", 1);
    assert!(error.contains("no space left"), "{error}");
    // What is no file is not to be removed.
    for device in ["/dev/null", "/dev/full"] {
        let (_, error) = expect(at, &format!("-n 2 --steps 2 -o {device}"), 1);
        assert!(error.contains(&format!("{device}: is no folder and no regular file; choose another name")), "{error}");
    }
    for name in ["full.tar", "full.npz"] {
        std::os::unix::fs::symlink("/dev/full", at.join(name)).unwrap();
        let (_, error) = expect(at, &format!("-n 2 --steps 2 -o {name}"), 1);
        assert!(error.contains(&format!("{name}: is no regular file; choose another name")), "{error}");
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let status = skipstone(at, &["inspect", "--model", "model"]).stdout(full).output().unwrap().status;
    assert_eq!(status.code(), Some(1));
    let mut child = skipstone(at, &["completions", "bash"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_film_strip_shows_every_image_at_every_chosen_step() {
    let folder = with_model();
    let at = folder.path();
    let (_, said) = sample(at, "-n 3 --steps 4 --batch 2 --trajectory strip.png -o f/");
    assert!(said.contains("[1, 2, 3, 4]"), "{said}");
    let whole = read(at, "strip.png");
    let picture = read_png(&at.join("strip.png")).unwrap().picture;
    assert_eq!((picture.width(), picture.height()), (8 * 42, 8 * 32));
    sample(at, "-n 3 --steps 4 --batch 1 --trajectory strip.png -o f/");
    assert_eq!(read(at, "strip.png"), whole);
}

#[test]
fn classes_and_guidance_follow_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let config = Config { num_class_embeds: Some(3), ..Config::smallest() };
    write_model(at, &config, None);
    sample(at, "-n 3 --steps 2 -o all.npy");
    sample(at, "-n 1 --first 2 --class 2 --steps 2 -o two.npy");
    let all: Array4<f32> = npy::read(&at.join("all.npy")).unwrap();
    // Without a null class, image 2 has class 2.
    assert_eq!(all.slice_axis(Axis(0), Slice::from(2..)), npy::read::<ndarray::Ix4>(&at.join("two.npy")).unwrap());
    assert!(expect(at, "--class 3", 2).1.contains("expected 0 to 2"));
    assert!(expect(at, "--class 1 --guidance 2", 2).1.contains("null class"));
    std::fs::remove_dir_all(at.join("model")).unwrap();
    write_model(at, &config, Some(2));
    sample(at, "-n 1 --steps 2 -o null.npy");
    sample(at, "-n 1 --steps 2 --class 0 --guidance 0 -o zero.npy");
    assert_eq!(read(at, "null.npy"), read(at, "zero.npy"));
    assert!(expect(at, "--guidance 2", 2).1.contains("needs a class"));
}

#[test]
fn a_guide_is_another_model_whatever_its_path() {
    let folder = with_model();
    let at = folder.path();
    let other = tempfile::tempdir().unwrap();
    write_scaled_model(other.path(), &Config::smallest(), None, 0.03);
    std::fs::rename(other.path().join("model"), at.join("weak one")).unwrap();
    let guided = |arguments: &str, code: i32| {
        let mut all = vec!["sample", "--model", "model", "--guide", "weak one"];
        all.extend(arguments.split_whitespace());
        run(at, &all, code)
    };
    guided("-n 2 --steps 3 --guidance 2 -o a.npy", 0);
    guided("-n 2 --steps 3 --guidance 1 -o one.npy", 0);
    sample(at, "-n 2 --steps 3 -o plain.npy");
    let [a, one, plain]: [Array4<f32>; 3] =
        ["a.npy", "one.npy", "plain.npy"].map(|name| npy::read(&at.join(name)).unwrap());
    assert!((&one - &plain).iter().all(|d| d.abs() < 1e-5));
    assert!((&a - &plain).iter().any(|d| d.abs() > 1e-3));
    // A folder is continued by the same guide at another path, not by another guide.
    guided("-n 2 --steps 3 --guidance 2 -o out/", 0);
    std::fs::rename(at.join("weak one"), at.join("weak")).unwrap();
    sample(at, "-n 4 --steps 3 --guidance 2 -o out/ --guide weak");
    let manifest = String::from_utf8(read(at, "out/manifest.json")).unwrap();
    assert!(manifest.contains("guide_process") && !manifest.contains("weak"), "{manifest}");
    let (_, error) = expect(at, "-n 5 --steps 3 --guidance 2 -o out/ --guide model", 2);
    assert!(error.contains("guide = "), "{error}");
    assert!(expect(at, "--guide weak", 2).1.contains("guide: needs guidance"));
    assert!(expect(at, "--guide absent --guidance 2", 1).1.contains("--guide absent"));
    // The command that decodes has the guide, too.
    let encode =
        ["encode", "--model", "model", "--guide", "weak", "--guidance", "2", "--images", "out", "--steps", "3"];
    let (_, said) = run(at, &[&encode[..], &["-o", "x_T.npy"]].concat(), 0);
    assert!(said.contains("--guidance 2 --guide weak"), "{said}");
    let (evaluations, _) = sample(at, "-n 2 --steps 3 --guidance 2 --guide weak --dry-run --json");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&evaluations).unwrap()["calls"], 6);
}

#[test]
fn the_models_own_spacing_holds_unless_a_flag_says_otherwise() {
    let folder = with_model();
    let at = folder.path();
    let path = at.join("model/scheduler/scheduler_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["timestep_spacing"] = "leading".into();
    config["clip_sample"] = true.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let options = |arguments: &str| -> serde_json::Value {
        let _ = std::fs::remove_dir_all(at.join("f"));
        sample(at, arguments);
        serde_json::from_slice(&read(at, "f/manifest.json")).unwrap()
    };
    let theirs = options("-n 1 --steps 2 -o f/");
    assert_eq!((&theirs["times"], &theirs["clip"]), (&serde_json::json!([500, 0]), &serde_json::json!("keep-eps")));
    let ours = options("-n 1 --steps 2 --spacing linear --clip off -o f/");
    assert_eq!((&ours["times"], &ours["clip"]), (&serde_json::json!([999, 499]), &serde_json::json!("off")));
}

#[test]
fn a_dry_run_tells_the_cost_and_writes_nothing() {
    let folder = with_model();
    let at = folder.path();
    let (stdout, _) = sample(at, "-n 10 --steps 1000 --spacing official-uniform --dry-run --json -o f/");
    let cost: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(cost["calls"], 1000);
    assert!(cost["gflop"].as_f64().unwrap() > 0.0);
    assert_eq!(names(at), ["model"]);
    // Two steps of Heun are three calls, and each call is timed as one, also where a step makes two.
    let (stdout, _) = sample(at, "-n 10 --batch 5 --steps 2 --solver heun --dry-run --json");
    let cost: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let (call, all) = (cost["seconds_per_call"].as_f64().unwrap(), cost["seconds"].as_f64().unwrap());
    assert!(call > 0.0 && (all / (call * 3.0 * 2.0) - 1.0).abs() < 1e-9, "{cost}");
}

#[test]
fn without_a_model_the_carried_one_makes_pictures_of_the_data_sets_kind() {
    let folder = tempfile::tempdir().unwrap();
    let (stdout, _) = run(folder.path(), &["sample", "-n", "8", "--steps", "10"], 0);
    assert_eq!(stdout, "samples.png\n");
    run(folder.path(), &["sample", "-n", "8", "--steps", "10", "-o", "x.npy"], 0);
    let x: Array4<f32> = npy::read(&folder.path().join("x.npy")).unwrap();
    assert_eq!(x.shape(), [8, 1, 28, 28]);
    // The 60,000 training images are 0.286 bright on average, 0.023 in their two leftmost columns and 0.558 in rows 8 to
    // 19 of columns 10 to 17. Noise, a gray field or an exploded sample is not.
    let bright = |y, x_range| brightness(&x, y, x_range);
    assert!((0.1..0.5).contains(&bright(0..28, 0..28)), "{}", bright(0..28, 0..28));
    assert!(bright(0..28, 0..2) < 0.12 && bright(8..20, 10..18) > 0.35);
    assert_near_range(&x);
}

/// The mean of these rows and columns of all images, values in [0, 1].
fn brightness(x: &Array4<f32>, rows: Range<usize>, columns: Range<usize>) -> f32 {
    let part = x.slice_axis(Axis(2), Slice::from(rows)).slice_axis(Axis(3), Slice::from(columns)).to_owned();
    part.iter().map(|v| (v.clamp(-1.0, 1.0) + 1.0) / 2.0).sum::<f32>() / part.len() as f32
}

#[track_caller]
fn assert_near_range(x: &Array4<f32>) {
    let outside = x.iter().filter(|v| v.abs() > 1.5).count();
    assert!(outside * 100 < x.len(), "{outside} of {} values far outside the data's range", x.len());
}

#[test]
fn the_emoji_model_makes_coloured_things_on_white() {
    let folder = tempfile::tempdir().unwrap();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/emoji-32/weights");
    run(folder.path(), &["sample", "--model", model, "-n", "8", "--steps", "10", "-o", "x.npy"], 0);
    let x: Array4<f32> = npy::read(&folder.path().join("x.npy")).unwrap();
    assert_eq!(x.shape(), [8, 3, 32, 32]);
    // The 1,694 training images are 0.989 bright in their corners and 0.655 in the middle; the brightest colour of a
    // pixel is 0.224 above its darkest, on average.
    let corners = [0..4, 28..32].map(|rows| [0..4, 28..32].map(|columns| brightness(&x, rows.clone(), columns)));
    assert!(corners.iter().flatten().sum::<f32>() / 4.0 > 0.9, "{corners:?}");
    assert!((0.4..0.85).contains(&brightness(&x, 8..24, 8..24)), "{}", brightness(&x, 8..24, 8..24));
    let range = |pixel: ArrayView1<'_, f32>| {
        let (low, high) = pixel.iter().fold((1.0f32, -1.0f32), |(low, high), v| (low.min(*v), high.max(*v)));
        (high.min(1.0) - low.max(-1.0)) / 2.0
    };
    let colour = x.lanes(Axis(1)).into_iter().map(range).sum::<f32>() / (8 * 32 * 32) as f32;
    assert!((0.1..0.4).contains(&colour), "{colour}");
    assert_near_range(&x);
}

#[test]
fn the_student_makes_in_four_calls_what_its_teacher_makes_in_fifty() {
    let folder = tempfile::tempdir().unwrap();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/clothes-4/weights");
    let (report, _) = run(folder.path(), &["sample", "--model", model, "-n", "8", "--json", "-o", "student.npy"], 0);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["steps"], &report["calls"]), (&json!(4), &json!(4)));
    run(folder.path(), &["sample", "-n", "8", "--steps", "50", "--spacing", "trailing", "-o", "teacher.npy"], 0);
    let read = |name| -> Array4<f32> { npy::read(&folder.path().join(name)).unwrap() };
    let (student, teacher) = (read("student.npy"), read("teacher.npy"));
    assert_near_range(&student);
    let apart = |i: usize, j: usize| {
        let (a, b) = (student.index_axis(Axis(0), i), teacher.index_axis(Axis(0), j));
        a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
    };
    for i in 0..8 {
        let nearest = (0..8).min_by(|&j, &k| apart(i, j).total_cmp(&apart(i, k))).unwrap();
        assert_eq!(nearest, i, "the image of latent {i} is another one");
    }
}

#[test]
fn half_precision_makes_nearly_the_same_images_says_so_and_is_not_mixed_with_others() {
    let folder = with_model();
    let at = folder.path();
    sample(at, "-n 4 --steps 5 -o single.npy");
    for isa in ["", "avx2", "portable"] {
        // The model's weights are random: a chain of steps doubles what a call loses, more or less.
        let mut command = skipstone(
            at,
            &["sample", "--model", "model", "-n", "4", "--steps", "5", "--precision", "f16", "-o", "half.npy"],
        );
        if !isa.is_empty() {
            command.env("SKIPSTONE_ISA", isa);
        }
        let output = command.output().unwrap();
        if !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("this processor has") {
            continue;
        }
        assert!(output.status.success(), "{isa}: {}", String::from_utf8_lossy(&output.stderr));
        let [single, half]: [Array4<f32>; 2] =
            ["single.npy", "half.npy"].map(|name| npy::read(&at.join(name)).unwrap());
        let norm = |x: &Array4<f32>| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let difference = norm(&(&single - &half)) / norm(&single);
        let said = String::from_utf8_lossy(&output.stderr);
        if isa.is_empty() && !skipstone::engine::devices()[0].precisions.contains(&"f16") {
            assert!(difference == 0.0 && said.contains("computes in f32"), "{difference:e}: {said}");
        } else {
            assert!((1e-7..3e-2).contains(&difference), "{isa}: {difference:e}: {said}");
        }
    }
    sample(at, "-n 2 --steps 5 --precision f16 -o folder/");
    let manifest = String::from_utf8(read(at, "folder/manifest.json")).unwrap();
    assert!(manifest.contains(r#""precision": "f16""#), "{manifest}");
    let (_, said) = expect(at, "-n 2 --steps 5 -o folder/", 2);
    assert!(said.contains(r#"precision = "f16", now it is unset"#), "{said}");
    let (_, said) = expect(at, "--precision f8", 2);
    assert!(said.contains("expected f32, f16 or bf16"), "{said}");
    let (_, said) = run(at, &["bench", "--model", "model", "--train", "--precision", "f16"], 2);
    assert!(said.contains("training is in f32 or bf16"), "{said}");
}

#[test]
fn every_option_of_the_library_is_a_flag_and_stands_in_the_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_model(at, &Config { num_class_embeds: Some(4), ..Config::smallest() }, Some(3));
    let (help, _) = run(at, &["sample", "--help"], 0);
    let mut seen = std::collections::BTreeSet::new();
    for options in [
        "--steps 3 --eta 0.5 --final-sigma 0.1 --spacing quadratic --seed 4 --precision f16",
        "--times 900,30 --clip keep-eps --threshold 0.9,1.5 --class 1 --guidance 2 --guidance-interval 0.3,5",
        "--steps 2 --sigma hat",
        "--times 900,30 --sigma 0.05,0",
        "--steps 2 --solver heun",
        "--steps 3 --restart 200,700,1",
    ] {
        sample(at, &format!("-n 1 {options} -o f/"));
        let manifest: serde_json::Value = serde_json::from_slice(&read(at, "f/manifest.json")).unwrap();
        std::fs::remove_dir_all(at.join("f")).unwrap();
        let words: Vec<&str> = options.split(' ').collect();
        for pair in words.chunks(2) {
            let name = pair[0].trim_start_matches('-').replace('-', "_");
            let mut stated = serde_json::Map::from_iter([(name.clone(), manifest[&name].clone())]);
            let flags = Request::take(&mut stated, SAMPLE).unwrap().to_flags(SAMPLE);
            assert_eq!(flags, format!(" {} {}", pair[0], pair[1]));
            seen.insert(name);
        }
    }
    // A guide is a path here; the manifest identifies it by its hash.
    sample(at, "-n 1 --steps 2 --class 1 --guidance 2 --guide model -o f/");
    let manifest: serde_json::Value = serde_json::from_slice(&read(at, "f/manifest.json")).unwrap();
    assert_eq!(manifest["guide"], manifest["model"]);
    seen.insert("guide".to_owned());
    // A preset is said on stderr, and the manifest holds what it stands for.
    std::fs::remove_dir_all(at.join("f")).unwrap();
    let (_, said) = expect(at, "-n 1 --preset fast -o f/", 0);
    let manifest: serde_json::Value = serde_json::from_slice(&read(at, "f/manifest.json")).unwrap();
    assert_eq!((&manifest["preset"], &manifest["solver"]), (&Value::Null, &json!("deis")));
    let (steps, spacing) = (Preset::Fast.steps(), Preset::Fast.spacing());
    assert_eq!(manifest["steps"], json!(steps));
    let meaning = format!("preset fast: --steps {steps} --spacing {spacing} --solver deis, {steps} network calls");
    assert!(said.contains(&meaning), "{said}");
    seen.insert("preset".to_owned());
    for field in &FIELDS {
        let about = &field.about;
        assert!(seen.contains(about.name), "{}: add it to a run above", about.name);
        assert!(help.contains(&format!("--{} <{}>", about.flag(), about.value)), "{}: {help}", about.name);
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words(&help).contains(&words(about.help)), "{}: {help}", about.name);
    }
}
