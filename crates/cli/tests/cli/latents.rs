use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;

use ndarray::{Array4, Array5, Axis, Slice};
use serde_json::Value;
use skipstone::io::image::{Picture, npy, read_png, write_png};
use skipstone::unet::Config;

use crate::support::{names, read, run, signal, skipstone, with_model, write_model};

/// A command on `model` with these arguments, expecting this exit code.
#[track_caller]
fn on_model(folder: &Path, command: &str, arguments: &str, code: i32) -> (String, String) {
    let mut all = vec![command, "--model", "model"];
    all.extend(arguments.split_whitespace());
    run(folder, &all, code)
}

fn tensor(folder: &Path, name: &str) -> Array4<f32> {
    npy::read(&folder.join(name)).unwrap()
}

/// Three images in `x.npy`.
fn with_images() -> (tempfile::TempDir, Array4<f32>) {
    let folder = with_model();
    let value = |i: usize| ((i * 7919) % 201) as f32 / 100.0 - 1.0;
    let x = Array4::from_shape_vec((3, 1, 8, 8), (0..192).map(value).collect()).unwrap();
    npy::write(&folder.path().join("x.npy"), x.view()).unwrap();
    (folder, x)
}

fn furthest(a: &Array4<f32>, b: &Array4<f32>) -> f32 {
    assert_eq!(a.shape(), b.shape());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_method_decodes_what_it_has_encoded() {
    let (folder, x) = with_images();
    let at = folder.path();
    for (method, calls, allowed) in
        [("ddim", 18, 1.0), ("fixed-point", 999, 1e-3), ("bdia", 18, 1e-4), ("edict", 36, 1e-4)]
    {
        // Below index 500 even this network, which knows nothing of images, lets errors grow fourfold only.
        let times = "--times 499,400,300,200,100,0";
        let flags = format!("--images x.npy {times} --method {method} --json -o x_T.npy");
        let (stdout, _) = on_model(at, "encode", &flags, 0);
        let said = &lines(&stdout)[0];
        assert_eq!((said["method"].as_str(), said["steps"].as_u64()), (Some(method), Some(6)), "{said}");
        assert!(said["evaluations"].as_u64().unwrap() <= calls, "{said}");
        on_model(at, "decode", &format!("--latents x_T.npy {times} --method {method} -o back.npy"), 0);
        let error = furthest(&tensor(at, "back.npy"), &x);
        // The files are f32: 6e-8 of a latent of ten.
        assert!(error < allowed, "{method}: {error}");
    }
    let pairs: Array5<f32> = npy::read(&at.join("x_T.npy")).unwrap();
    assert_eq!(pairs.shape(), [2, 3, 1, 8, 8]);
    let (_, error) = on_model(at, "sample", "--latents x_T.npy --steps 6 -o y.npy", 1);
    assert!(error.contains("x_T.npy") && error.contains("dimensions"), "{error}");
}

#[test]
fn the_command_that_encode_prints_brings_the_images_back() {
    let (folder, x) = with_images();
    let at = folder.path();
    for flags in ["--method bdia --gamma 0.9 --steps 5 --spacing trailing", "--method fixed-point --times 400,150,10"] {
        let (stdout, said) = on_model(at, "encode", &format!("--images x.npy {flags} -o x_T.npy"), 0);
        assert_eq!(stdout, "x_T.npy\n");
        let command = said.lines().find_map(|line| line.strip_prefix("decode with: skipstone ")).unwrap();
        let mut words: Vec<&str> = command.split(' ').collect();
        words.extend(["-o", "back.npy"]);
        run(at, &words, 0);
        assert!(furthest(&tensor(at, "back.npy"), &x) < 1e-3, "{flags}");
        if flags.contains("bdia") {
            let (_, error) = on_model(at, "decode", "--latents x_T.npy --steps 5 -o no.npy", 2);
            assert!(error.contains("pairs of latents") && error.contains("add the --method"), "{error}");
        }
    }
}

#[test]
fn plain_latents_are_what_sample_starts_from_and_do_not_depend_on_the_batch() {
    let (folder, _) = with_images();
    let at = folder.path();
    on_model(at, "encode", "--images x.npy --steps 4 -o a.npy", 0);
    on_model(at, "encode", "--images x.npy --steps 4 --batch 1 --threads 1 -o b.npy", 0);
    assert_eq!(read(at, "a.npy"), read(at, "b.npy"));
    on_model(at, "encode", "--images x.npy -n 2 --steps 4 -o two.npy", 0);
    assert_eq!(tensor(at, "a.npy").slice_axis(Axis(0), Slice::from(..2)), tensor(at, "two.npy"));
    on_model(at, "decode", "--latents a.npy --steps 4 -o d.npy", 0);
    on_model(at, "sample", "--latents a.npy --steps 4 -o s.npy", 0);
    assert_eq!(read(at, "d.npy"), read(at, "s.npy"));
    on_model(at, "decode", "--latents a.npy --steps 4 -o d.png", 0);
    let png = read_png(&at.join("d.png")).unwrap();
    assert!(png.text.iter().any(|(key, text)| key == "method" && text == "ddim"), "{:?}", png.text);
}

#[test]
fn reconstruct_prints_the_table_and_draws_it() {
    let (folder, _) = with_images();
    let at = folder.path();
    let (stdout, _) = on_model(at, "reconstruct", "--images x.npy --steps 5,20,80 --json", 0);
    let table = lines(&stdout);
    let mse: Vec<f64> = table.iter().map(|line| line["mse"].as_f64().unwrap()).collect();
    assert_eq!(table.iter().map(|line| line["steps"].as_u64().unwrap()).collect::<Vec<_>>(), [5, 20, 80]);
    assert!(mse[0] > mse[2] && mse[2] > 0.0, "{mse:?}");
    let (stdout, _) = on_model(at, "reconstruct", "--images x.npy --steps 5,20 -o out", 0);
    assert!(stdout.lines().last() == Some("out") && stdout.contains(&format!("{:.2e}", mse[0])), "{stdout}");
    assert_eq!(names(&at.join("out")), ["error.png", "images.png", "table.csv"]);
    let picture = read_png(&at.join("out/images.png")).unwrap().picture;
    // Originals and two rows for each of two S; three images of 8 pixels, magnified 8 times.
    assert_eq!((picture.width(), picture.height()), (8 * 32, 8 * 52));
    assert_eq!(String::from_utf8(read(&at.join("out"), "table.csv")).unwrap().lines().count(), 3);
    let (stdout, _) = on_model(at, "reconstruct", "--images x.npy --steps 10 --method edict --json", 0);
    assert!(lines(&stdout)[0]["mse"].as_f64().unwrap() < 1e-13, "{stdout}");
    let (stdout, _) = on_model(at, "reconstruct", "--images x.npy --dry-run --json", 0);
    let most: u64 = [10, 20, 50, 100, 200, 500, 1000].iter().sum();
    assert_eq!(lines(&stdout)[0]["evaluations"].as_u64(), Some(3 * 2 * most));
}

#[test]
fn an_interrupted_table_keeps_its_finished_lines() {
    let (folder, _) = with_images();
    let at = folder.path();
    // Two steps are done at once, a thousand over and over take minutes.
    let steps = format!("2,5{}", ",1000".repeat(200));
    let arguments = ["reconstruct", "--model", "model", "--images", "x.npy", "--steps", &steps, "-o", "out"];
    let mut child = skipstone(at, &arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    // The heading and two lines.
    for _ in 0..3 {
        lines.read_line(&mut said).unwrap();
    }
    signal("INT", child.id());
    lines.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    let table = String::from_utf8(read(&at.join("out"), "table.csv")).unwrap();
    let first: Vec<&str> = table.lines().skip(1).map(|line| line.split(',').nth(1).unwrap()).take(2).collect();
    assert_eq!(first, ["2", "5"], "{table}");
    assert!(names(&at.join("out")).contains(&"images.png".to_owned()));
}

#[test]
fn what_does_not_converge_is_said() {
    let (folder, _) = with_images();
    let flags = "--images x.npy --steps 3 --method fixed-point --iterations 1 --tolerance 1e-9 --json -o x_T.npy";
    let (stdout, said) = on_model(folder.path(), "encode", flags, 0);
    assert!(said.contains("3 of 3 image(s) did not converge in 1 iterations"), "{said}");
    let line = &lines(&stdout)[0];
    assert_eq!(line["unconverged"].as_u64(), Some(9), "{line}");
    assert_eq!(line["convergence"][0]["s"], Value::Null);
}

#[test]
fn a_stochastic_sampler_repeats_an_image_from_its_noise() {
    let (folder, x) = with_images();
    let at = folder.path();
    for extra in ["", "--draw independent --batch 1", "--final-sigma 0.5"] {
        let flags = format!("--images x.npy --steps 5 --eta 0.7 --noise-out z.npy -o x_T.npy {extra}");
        let (stdout, said) = on_model(at, "encode", &flags, 0);
        assert_eq!(stdout, "z.npy\nx_T.npy\n");
        let noise: Array5<f32> = npy::read(&at.join("z.npy")).unwrap();
        assert_eq!(noise.shape(), [5, 3, 1, 8, 8]);
        let command = said.lines().find_map(|line| line.strip_prefix("decode with: skipstone ")).unwrap();
        let mut words: Vec<&str> = command.split(' ').collect();
        words.extend(["-o", "back.npy"]);
        run(at, &words, 0);
        assert!(furthest(&tensor(at, "back.npy"), &x) < 1e-5, "{extra}");
    }
    on_model(at, "encode", "--images x.npy --steps 5 --eta 0.7 --noise-out a.npy -o a_T.npy", 0);
    on_model(at, "encode", "--images x.npy --steps 5 --eta 0.7 --batch 2 --noise-out b.npy -o b_T.npy", 0);
    assert_eq!(read(at, "a.npy"), read(at, "b.npy"));
}

#[test]
fn a_line_begins_and_ends_with_the_images_of_its_seeds() {
    let (folder, _) = with_images();
    let at = folder.path();
    let (stdout, _) = on_model(at, "interpolate", "--seeds 3,4 --points 5 --steps 4 -o line.npy", 0);
    assert_eq!(stdout, "line.npy\n");
    let line = tensor(at, "line.npy");
    assert_eq!(line.shape(), [5, 1, 8, 8]);
    for (place, seed) in [(0, 3), (4, 4)] {
        on_model(at, "sample", &format!("-n 1 --seed {seed} --steps 4 -o end.npy"), 0);
        assert_eq!(line.slice_axis(Axis(0), Slice::from(place..place + 1)), tensor(at, "end.npy"));
    }
    on_model(at, "interpolate", "--seeds 3,4,5,6 --points 3 --steps 4 -o square.png", 0);
    let picture = read_png(&at.join("square.png")).unwrap().picture;
    assert_eq!((picture.width(), picture.height()), (8 * 32, 8 * 32));
    on_model(at, "interpolate", "--seeds 3,4 --points 4 --steps 4 -o line.png", 0);
    let picture = read_png(&at.join("line.png")).unwrap().picture;
    assert_eq!((picture.width(), picture.height()), (8 * 42, 8 * 12));
    on_model(at, "interpolate", "--seeds 3,4 --points 4 --steps 4 -o frames/", 0);
    assert_eq!(names(&at.join("frames")).len(), 5);
}

#[test]
fn a_line_between_two_pictures_ends_near_them() {
    let (folder, x) = with_images();
    let at = folder.path();
    for i in 0..2 {
        let picture = Picture::from_image(x.index_axis(Axis(0), i)).unwrap();
        write_png(&at.join(format!("{i}.png")), &picture, &[]).unwrap();
    }
    let flags = "--images 0.png,1.png --points 3 --times 400,200,10 --method fixed-point -o line.npy";
    on_model(at, "interpolate", flags, 0);
    let line = tensor(at, "line.npy");
    for (place, i) in [(0, 0), (2, 1)] {
        let original = read_png(&at.join(format!("{i}.png"))).unwrap().picture.to_image().insert_axis(Axis(0));
        let end = line.slice_axis(Axis(0), Slice::from(place..place + 1)).to_owned();
        assert!(furthest(&end, &original) < 1e-3);
    }
}

#[test]
fn rows_of_the_carried_model_are_compared_in_features_as_well() {
    let (folder, _) = with_images();
    let at = folder.path();
    let (stdout, _) = run(at, &["sample", "-n", "4", "--steps", "2,8,32", "--json", "-o", "rows.png"], 0);
    let rows = lines(&stdout);
    let apart: Vec<f64> = rows.iter().map(|row| row["feature_distance"].as_f64().unwrap()).collect();
    assert!(apart[0] > apart[1] && apart[1] > 0.0 && apart[2] == 0.0, "{apart:?}");
    assert!(rows[0]["features"].as_str().unwrap().starts_with("fashion-cnn-128d ("), "{rows:?}");
    // Images of another size are refused before they are made.
    let (_, stderr) = on_model(at, "sample", "-n 2 --steps 2,5 --features fashion-cnn -o other.png", 2);
    assert!(stderr.contains("28") && !at.join("other.png").exists(), "{stderr}");
    let (_, stderr) = on_model(at, "sample", "-n 2 --steps 2 --features fashion-cnn -o other.png", 2);
    assert!(stderr.contains("--steps 10,20,50"), "{stderr}");
}

#[test]
fn a_list_of_steps_makes_rows_of_the_same_latents() {
    let (folder, _) = with_images();
    let at = folder.path();
    let (stdout, _) = on_model(at, "sample", "-n 3 --steps 2,5,50 --json -o rows.png", 0);
    let rows = lines(&stdout);
    let coarse: Vec<f64> = rows.iter().map(|row| row["coarse_rms"].as_f64().unwrap()).collect();
    assert_eq!(rows.iter().map(|row| row["calls"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 5, 50]);
    assert!(coarse[0] > coarse[1] && coarse[1] > 0.0 && coarse[2] == 0.0, "{coarse:?}");
    let picture = read_png(&at.join("rows.png")).unwrap().picture;
    assert_eq!((picture.width(), picture.height()), (8 * 32, 8 * 32));
    // A row is the run with that S: the first one fills the upper third.
    on_model(at, "sample", "-n 3 --steps 2 -o one.npy", 0);
    let one =
        skipstone::io::image::grid(&tensor(at, "one.npy"), 3, &skipstone::io::image::Layout::magnified(8, 8)).unwrap();
    let bytes = 8 * 32 * 8 * 10;
    assert_eq!(picture.data()[..bytes], one.data()[..bytes]);
    for (flags, message) in [
        ("--steps 2,5 -o rows.npy", "does not end in .png"),
        ("--steps 2,5 -o rows/", "does not end in .png"),
        ("--steps 2,5 --trajectory t.png", "cannot be used with --trajectory"),
        ("--steps 2,0", "at least 1"),
    ] {
        let (_, error) = on_model(at, "sample", flags, 2);
        assert!(error.contains(message), "{flags}: {error}");
    }
    let (_, error) = on_model(at, "inspect", "--steps 2,5", 2);
    assert!(error.contains("found a list"), "{error}");
}

#[test]
fn a_filled_picture_keeps_its_known_part_and_is_reproducible() {
    let (folder, x) = with_images();
    let at = folder.path();
    let picture = Picture::from_image(x.index_axis(Axis(0), 0)).unwrap();
    write_png(&at.join("x.png"), &picture, &[]).unwrap();
    let mask: Vec<u8> = (0..64).map(|i| if i % 8 < 4 { 255 } else { 0 }).collect();
    write_png(&at.join("mask.png"), &Picture::new(8, 8, 1, mask).unwrap(), &[]).unwrap();
    let fill = |flags: &str| {
        on_model(at, "sample", &format!("--inpaint x.png --mask mask.png --steps 8 --eta 1 -o f.npy {flags}"), 0);
        tensor(at, "f.npy")
    };
    let four = fill("-n 4 --resamples 3 --jump 2");
    let known = picture.to_image();
    for image in four.outer_iter() {
        let part = Slice::from(4..);
        assert_eq!(image.slice_axis(Axis(2), part), known.slice_axis(Axis(2), part));
        assert_ne!(image.slice_axis(Axis(2), Slice::from(..4)), known.slice_axis(Axis(2), Slice::from(..4)));
    }
    let last = fill("-n 1 --first 3 --resamples 3 --jump 2 --batch 1 --threads 1");
    assert_eq!(four.slice_axis(Axis(0), Slice::from(3..)), last);
    assert_ne!(fill("-n 4 --resamples 1"), four);

    on_model(at, "sample", "--inpaint x.png --mask mask.png -n 2 --steps 4 -o folder/", 0);
    let manifest: Value = serde_json::from_slice(&read(at, "folder/manifest.json")).unwrap();
    assert_eq!((manifest["inpaint"]["resamples"].as_u64(), manifest["inpaint"]["jump"].as_u64()), (Some(5), Some(5)));
    let (_, error) = on_model(at, "sample", "-n 2 --steps 4 -o folder/", 2);
    assert!(error.contains("inpaint"), "{error}");
    let (stdout, _) =
        on_model(at, "sample", "--inpaint x.png --mask mask.png --steps 11 --resamples 2 --dry-run --json", 0);
    // Jumps of 5 where 1 and 6 steps remain.
    assert_eq!(lines(&stdout)[0]["calls"].as_u64(), Some(21));
    assert_eq!(lines(&stdout)[0]["steps"].as_u64(), Some(11));
    let rows = "--inpaint x.png --mask mask.png --steps 4,11 --resamples 2 --dry-run --json";
    assert_eq!(lines(&on_model(at, "sample", rows, 0).0)[0]["calls"].as_u64(), Some(4 + 21));
    for (flags, message) in [
        ("--inpaint x.png", "--mask"),
        ("--resamples 3", "--inpaint"),
        ("--inpaint x.png --mask mask.png --jump 0", "at least 1"),
        ("--inpaint x.png --mask mask.png --solver heun", "choose solver ddim"),
    ] {
        assert!(on_model(at, "sample", flags, 2).1.contains(message), "{flags}");
    }
    for (name, width, value, code, message) in [
        ("none.png", 8, 0, 2, "selects nothing to fill"),
        ("dark.png", 8, 127, 2, "selects nothing to fill"),
        ("light.png", 8, 128, 0, ""),
        ("wide.png", 16, 255, 1, "wide.png: 16 × 8 pixels, but the image to fill has 8 × 8"),
    ] {
        let picture = Picture::new(width, 8, 1, vec![value; 8 * width]).unwrap();
        write_png(&at.join(name), &picture, &[]).unwrap();
        let flags = format!("--inpaint x.png --mask {name} -n 1 --steps 2 -o g.npy");
        let (_, error) = on_model(at, "sample", &flags, code);
        assert!(error.contains(message), "{name}: {error}");
    }
}

#[test]
fn wrong_usage_of_latents_is_exit_code_2() {
    let (folder, _) = with_images();
    let at = folder.path();
    let before = names(at);
    for (command, arguments, message) in [
        ("encode", "--images x.npy -o x.png", "ends in .npy"),
        ("encode", "--images x.npy -o x.jpg", "ends in .npy"),
        ("encode", "--images x.npy -o -", "-: expected a name that ends in .npy"),
        ("decode", "--latents x.npy -o -", "-o -: only sample writes to stdout"),
        ("interpolate", "--seeds 1,2 -o -", "-o -: only sample writes to stdout"),
        ("reconstruct", "--images x.npy -o -", "-o -: only sample writes to stdout"),
        ("likelihood", "--data x.npy -o -", "-o -: only sample writes to stdout"),
        ("evaluate", "--data x.npy -o -", "-o -: only sample writes to stdout"),
        ("calibrate", "--data x.npy -o -", "-o -: only sample writes to stdout"),
        ("encode", "--images x.npy --eta 0.5 -o y.npy", "--noise-out"),
        ("encode", "--images x.npy --noise-out z.npy -o y.npy", "without --eta"),
        ("encode", "--images x.npy --eta 1 --method bdia --noise-out z.npy -o y.npy", "leave it out"),
        ("encode", "--images x.npy --method bdia --mix 0.9 -o y.npy", "--mix: cannot be used with --method bdia"),
        ("encode", "--images x.npy --method bdia --steps 1 -o y.npy", "at least 2"),
        ("encode", "--images x.npy --method edict --clip keep-eps -o y.npy", "clip off"),
        ("encode", "--images x.npy --steps 5,6 -o y.npy", "found a list"),
        ("encode", "--images x.npy -n 0 -o y.npy", "at least 1"),
        ("decode", "--latents x.npy --method edict --mix 0.2 -o y.jpg", ".png"),
        ("reconstruct", "--images x.npy --steps 5 --eta 1", "draws noise"),
        ("interpolate", "--seeds 1,2,3", "two ends"),
        ("interpolate", "--seeds 1,2 --points 1", "--points"),
        ("interpolate", "--seeds 1,2 --method fixed-point", "leave it out"),
        ("interpolate", "--seeds 1,2 --images a.png,b.png", "cannot be used with"),
        ("interpolate", "", "required"),
    ] {
        let (_, error) = on_model(at, command, arguments, 2);
        assert!(error.contains(message), "{command} {arguments}: {error}");
        assert_eq!(names(at), before, "{command} {arguments}");
    }
    let wrong = Array4::<f32>::zeros((2, 1, 4, 4));
    npy::write(&at.join("w.npy"), wrong.view()).unwrap();
    let (_, error) = on_model(at, "encode", "--images w.npy -o y.npy", 1);
    assert!(error.contains("w.npy: expected images") && error.contains("[1, 8, 8], found [2, 1, 4, 4]"), "{error}");
    let wrong = Array5::<f32>::zeros((2, 1, 1, 4, 4));
    npy::write(&at.join("p.npy"), wrong.view()).unwrap();
    let three = Array5::<f32>::zeros((3, 1, 1, 8, 8));
    npy::write(&at.join("three.npy"), three.view()).unwrap();
    for (flags, message) in [
        ("--latents x.npy --method bdia -o y.npy", "x.npy: expected 5 dimensions"),
        ("--latents w.npy -o y.npy", "w.npy: expected latents"),
        ("--latents p.npy --method bdia -o y.npy", "p.npy: expected pairs"),
        ("--latents three.npy --method edict -o y.npy", "three.npy: expected pairs of latents [2, n"),
    ] {
        let (_, error) = on_model(at, "decode", flags, 1);
        assert!(error.contains(message), "{flags}: {error}");
    }
    // What cannot be inverted is said before anything is made.
    let (stdout, error) = on_model(at, "reconstruct", "--images x.npy --steps 5,1 --method bdia -o out", 2);
    assert!(stdout.is_empty() && error.contains("at least 2") && !at.join("out").exists(), "{stdout}{error}");
    let (_, error) = on_model(at, "decode", "--latents x.npy --eta 0.5 --dry-run", 2);
    assert!(error.contains("draws noise"), "{error}");
}

#[test]
fn no_output_takes_the_place_of_an_input_or_of_another_output() {
    let (folder, x) = with_images();
    let at = folder.path();
    for i in 0..2 {
        let picture = Picture::from_image(x.index_axis(Axis(0), i)).unwrap();
        write_png(&at.join(format!("{i}.png")), &picture, &[]).unwrap();
    }
    let before: Vec<_> = ["x.npy", "0.png", "1.png"].map(|name| read(at, name)).into();
    let inside = at.join("x.npy").display().to_string();
    for (command, flags, message) in [
        ("encode", "--images x.npy --steps 3 -o x.npy", "x.npy: is an input"),
        ("encode", &format!("--images x.npy --steps 3 -o {inside}"), "is an input"),
        ("encode", "--images x.npy --steps 3 --eta 1 --noise-out y.npy -o y.npy", "y.npy: is another output"),
        ("encode", "--images x.npy --steps 3 --eta 1 --noise-out ./y.npy -o y.npy", "is another output"),
        ("decode", "--latents x.npy --steps 3 -o x.npy", "x.npy: is an input"),
        ("interpolate", "--images 0.png,1.png --steps 3 -o 1.png", "1.png: is an input"),
        ("sample", "-n 1 --steps 3 --inpaint 0.png --mask 1.png -o 0.png", "0.png: is an input"),
        ("calibrate", "--data x.npy -n 1 -o x.npy", "x.npy: is an input"),
        ("calibrate", "--data x.npy -n 1 --dry-run -o ./x.npy", "is an input"),
        ("calibrate", "--data idx:x.npy -n 1 -o x.npy", "is an input"),
    ] {
        let (_, error) = on_model(at, command, flags, 2);
        assert!(error.contains(message), "{command} {flags}: {error}");
    }
    assert_eq!(before, ["x.npy", "0.png", "1.png"].map(|name| read(at, name)));
    assert!(!at.join("y.npy").exists());
}

#[test]
fn no_results_are_put_among_the_images_that_they_are_of() {
    let (folder, x) = with_images();
    let at = folder.path();
    std::fs::create_dir(at.join("ph")).unwrap();
    for i in 0..2 {
        let picture = Picture::from_image(x.index_axis(Axis(0), i)).unwrap();
        write_png(&at.join(format!("ph/{i}.png")), &picture, &[]).unwrap();
    }
    std::fs::write(at.join("ok.png"), "a file").unwrap();
    for (command, out) in [
        ("reconstruct --steps 2 --images", "ph"),
        ("reconstruct --steps 2 --images", "ph/a/b"),
        ("reconstruct --steps 2 --dry-run --images", "model/../ph/"),
        ("likelihood --steps 2 --data", "ph"),
        ("likelihood --steps 2 --data", "./ph/out"),
        ("evaluate --steps 2 -n 2 --data", "ph/out"),
    ] {
        let (command, flags) = command.split_once(' ').unwrap();
        let (_, error) = on_model(at, command, &format!("{flags} ph -o {out}"), 2);
        let wanted = format!("{out}: the folder of images ph is an input of this command");
        assert!(error.contains(&wanted), "{command} -o {out}: {error}");
        let (_, error) = on_model(at, command, &format!("{flags} ph -o ok.png"), 1);
        assert!(error.contains("ok.png: a file is in the way of this folder"), "{command}: {error}");
    }
    assert_eq!(names(&at.join("ph")), ["0.png", "1.png"]);
    // A folder beside it whose name begins the same is another.
    on_model(at, "reconstruct", "--steps 2 --images ph -o ph2", 0);
    on_model(at, "likelihood", "--steps 2 -n 1 --data ph -o ph3", 0);
}

#[test]
fn the_way_back_names_class_clipping_and_threshold() {
    let (folder, _) = with_images();
    let at = folder.path();
    std::fs::remove_dir_all(at.join("model")).unwrap();
    write_model(at, &Config { num_class_embeds: Some(3), ..Config::smallest() }, Some(2));
    for flags in [
        "--class 1",
        "--class 0 --guidance 2.5",
        "--clip keep-eps",
        "--clip rederive-eps --threshold 0.9,1.5",
        "--class 1 --guidance 3 --eta 0.5 --noise-out z.npy --clip keep-eps",
    ] {
        let (_, said) = on_model(at, "encode", &format!("--images x.npy --steps 4 {flags} -o x_T.npy"), 0);
        let command = said.lines().find_map(|line| line.strip_prefix("decode with: skipstone ")).unwrap();
        for word in flags.split_whitespace().filter(|word| *word != "--noise-out") {
            assert!(command.split(' ').any(|other| other == word), "{word} of {flags}: {command}");
        }
        let words: Vec<&str> = command.split(' ').chain(["-o", "back.npy"]).collect();
        run(at, &words, 0);
        if flags.contains("--eta") {
            assert!(furthest(&tensor(at, "back.npy"), &tensor(at, "x.npy")) < 1e-4);
        }
    }
    // Points of one line are of one class.
    std::fs::remove_dir_all(at.join("model")).unwrap();
    write_model(at, &Config { num_class_embeds: Some(3), ..Config::smallest() }, None);
    let (_, error) = on_model(at, "interpolate", "--seeds 1,2 --points 3 --steps 2 -o l.npy", 2);
    assert!(error.contains("--class: the model has 3 classes"), "{error}");
    on_model(at, "interpolate", "--seeds 1,2 --points 3 --steps 2 --class 1 -o l.npy", 0);
    on_model(at, "sample", "-n 1 --seed 2 --steps 2 --class 1 -o e.npy", 0);
    assert_eq!(tensor(at, "l.npy").slice_axis(Axis(0), Slice::from(2..)), tensor(at, "e.npy"));
}
