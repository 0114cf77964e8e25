use std::path::Path;

use ndarray::Array4;
use serde_json::Value;
use skipstone::io::image::{npy, read_png};

use crate::support::{names, read, run, with_model};

/// An IDX file of `n` images of 8×8, and its name as a data set.
fn write_data(folder: &Path, n: u8) -> String {
    let pixel = |i: usize| ((i * 7919) % 256) as u8;
    let header = [0, 0, 8, 3, 0, 0, 0, n, 0, 0, 0, 8, 0, 0, 0, 8];
    let bytes: Vec<u8> = header.into_iter().chain((0..64 * usize::from(n)).map(pixel)).collect();
    std::fs::write(folder.join("images"), bytes).unwrap();
    "idx:images".to_owned()
}

#[track_caller]
fn skip(folder: &Path, arguments: &str, code: i32) -> (String, String) {
    run(folder, &arguments.split_whitespace().collect::<Vec<_>>(), code)
}

#[track_caller]
fn json(folder: &Path, arguments: &str) -> Value {
    serde_json::from_str(&skip(folder, arguments, 0).0).unwrap()
}

#[test]
fn solvers_count_their_calls_and_ddim_leaves_everything_as_it_was() {
    let folder = with_model();
    let at = folder.path();
    for (solver, calls) in
        [("ddim", 5), ("ve-euler", 5), ("heun", 9), ("ab2", 5), ("ab3", 5), ("ab4", 5), ("dpm++2m", 5)]
    {
        let options = format!("--model model -n 2 --steps 5 --solver {solver}");
        let cost = json(at, &format!("sample {options} --dry-run --json -o {solver}.npy"));
        assert_eq!((cost["steps"].as_u64(), cost["calls"].as_u64()), (Some(5), Some(calls)), "{solver}");
        let made = json(at, &format!("sample {options} --json -o {solver}.npy"));
        assert_eq!((made["steps"].as_u64(), made["calls"].as_u64()), (Some(5), Some(calls)), "{solver}");
        skip(at, &format!("sample {options} --batch 1 --threads 1 -o {solver}-again.npy"), 0);
        assert_eq!(read(at, &format!("{solver}.npy")), read(at, &format!("{solver}-again.npy")), "{solver}");
        assert_eq!(read(at, &format!("{solver}.npy")) == read(at, "ddim.npy"), solver == "ddim", "{solver}");
    }
    let rows = json(at, "sample --model model -n 2 --steps 3,5 --solver heun --dry-run --json");
    assert_eq!((rows["steps"].to_string(), rows["calls"].as_u64()), ("[3,5]".to_owned(), Some(5 + 9)));
    skip(at, "sample --model model -n 2 --steps 5 -o plain.npy", 0);
    assert_eq!(read(at, "plain.npy"), read(at, "ddim.npy"));
    skip(at, "sample --model model -n 1 --steps 3 -o f/", 0);
    assert!(!String::from_utf8(read(at, "f/manifest.json")).unwrap().contains("solver"));
    let (_, error) = skip(at, "sample --model model -n 1 --steps 3 --solver heun -o f/", 2);
    assert!(error.contains("solver = unset, now it is \"heun\""), "{error}");
    let (_, said) = skip(at, "sample --model model -n 1 --steps 3 --solver heun -o g/", 0);
    assert!(said.contains("3 steps of heun, 5 network calls"), "{said}");
    let manifest: Value = serde_json::from_slice(&read(at, "g/manifest.json")).unwrap();
    assert_eq!(manifest["solver"], "heun");
    for (arguments, message) in [
        ("--solver heun --final-sigma 0.1", "needs eta = 0"),
        ("--solver heun --eta 0.5", "solver heun: follows the deterministic process, so it needs eta = 0"),
        ("--solver ab3 --sigma hat", "needs eta = 0"),
        ("--solver ab2 --clip keep-eps", "choose clip off or rederive-eps"),
        ("--solver euler", "expected one of ddim, ve-euler, heun"),
    ] {
        let (_, error) = skip(at, &format!("sample --model model -n 1 {arguments} -o no.npy"), 2);
        assert!(error.contains(message), "{arguments}: {error}");
    }
}

#[test]
fn a_calibration_is_made_once_and_serves_variances_and_times() {
    let folder = with_model();
    let at = folder.path();
    let data = write_data(at, 3);
    for wanted in ["--sigma analytic", "--spacing optimal"] {
        let (_, error) = skip(at, &format!("sample --model model -n 1 --steps 4 {wanted} -o no.npy"), 1);
        assert!(error.contains("skipstone calibrate --model DIR --data DATASET"), "{error}");
    }
    let calibrate = format!("calibrate --model model --data {data} -n 2");
    let cost = json(at, &format!("{calibrate} --dry-run --json"));
    assert_eq!((cost["calls"].as_u64(), cost["n"].as_u64()), (Some(1000), Some(2)));
    assert!(!at.join("model/calibration.json").exists());
    let (stdout, _) = skip(at, &calibrate, 0);
    assert_eq!(stdout.trim(), Path::new("model").join("calibration.json").display().to_string());
    let bytes = read(at, "model/calibration.json");
    skip(at, &format!("{calibrate} --threads 1 -o again.json"), 0);
    assert_eq!(read(at, "again.json"), bytes);

    skip(at, "sample --model model -n 2 --steps 4 --sigma analytic --spacing optimal -o f/", 0);
    let manifest: Value = serde_json::from_slice(&read(at, "f/manifest.json")).unwrap();
    assert_eq!((&manifest["sigma"], &manifest["spacing"]), (&"analytic".into(), &"optimal".into()));
    assert_eq!((manifest["eta"].as_f64(), manifest["calibration"].as_str().map(str::len)), (Some(1.0), Some(64)));
    let times = manifest["times"].as_array().unwrap();
    assert_eq!((times.len(), times[0].as_u64()), (4, Some(999)));
    let table =
        |arguments: &str| json(at, &format!("inspect --model model --json --steps 4 {arguments}"))["table"].clone();
    let (chosen, analytic) = (table("--eta 1"), table("--sigma analytic"));
    let z = |table: &Value, i: usize| table[i]["z"].as_f64().unwrap();
    // What the prediction misses comes on top of the process' own variance, whatever that is.
    assert!((0..3).all(|i| z(&analytic, i) > z(&chosen, i)), "{analytic}");
    assert_eq!((z(&analytic, 3), &analytic[1]["sigma"]), (0.0, &chosen[1]["sigma"]));
    let beneath_zero = table("--sigma analytic --eta 0");
    assert!((0..3).all(|i| z(&beneath_zero, i) > 0.0 && beneath_zero[i]["sigma"] == 0.0), "{beneath_zero}");

    skip(at, &format!("calibrate --model model --data {data} -n 0 -o x.json"), 2);
    // Timesteps fitted to the path need another pass.
    let (_, error) = skip(at, "sample --model model -n 2 --steps 4 --spacing fitted -o no.npy", 1);
    assert!(error.contains("skipstone calibrate --model DIR --data DATASET --fitted 32"), "{error}");
    let fit = format!("{calibrate} --fitted 2");
    let cost = json(at, &format!("{fit} --dry-run --json"));
    assert_eq!((cost["latents"].as_u64(), cost["path_calls"].as_u64()), (Some(2), Some(395)));
    skip(at, &fit, 0);
    skip(at, &format!("{fit} --threads 1 -o again.json"), 0);
    assert_eq!(read(at, "model/calibration.json"), read(at, "again.json"));
    skip(at, "sample --model model -n 2 --steps 4 --spacing fitted -o fit/", 0);
    let manifest: Value = serde_json::from_slice(&read(at, "fit/manifest.json")).unwrap();
    assert_eq!((manifest["spacing"].as_str(), manifest["times"].as_array().map(Vec::len)), (Some("fitted"), Some(4)));
    assert_eq!(manifest["times"][0], 999);
    let (_, error) = skip(at, "sample --model model -n 2 --steps 100 --spacing fitted -o no.npy", 2);
    assert!(error.contains("steps: expected 1 to 78 with spacing fitted"), "{error}");
    let (_, error) = skip(at, "sample --model model -n 1 --sigma hat --eta 1 -o no.npy", 2);
    assert!(error.contains("eta: cannot be combined with sigma hat"), "{error}");
    // Numbers of another network are refused, and damaged ones too.
    let text = String::from_utf8(bytes.clone()).unwrap();
    let hash = serde_json::from_str::<Value>(&text).unwrap()["model"].as_str().unwrap().to_owned();
    std::fs::write(at.join("model/calibration.json"), text.replace(&hash, &"0".repeat(64))).unwrap();
    let (_, error) = skip(at, "sample --model model -n 1 --steps 4 --sigma analytic -o no.npy", 1);
    assert!(error.contains("calibration belongs to model 0000000000000000"), "{error}");
    skip(at, "sample --model model -n 1 --steps 4 -o plain.npy", 0);
    for (damaged, what) in [("", "the file is empty"), ("{", "not JSON, truncated")] {
        std::fs::write(at.join("model/calibration.json"), damaged).unwrap();
        let (_, said) = skip(at, "sample --model model -n 1 --steps 4 -o again.npy", 0);
        assert!(said.starts_with("warning: ") && said.contains("calibration.json: not a calibration: "), "{said}");
        assert!(said.contains(what) && said.contains("skipstone calibrate --model DIR --data DATASET"), "{said}");
        assert_eq!(read(at, "again.npy"), read(at, "plain.npy"));
        let (_, error) = skip(at, "sample --model model -n 1 --steps 4 --sigma analytic -o no.npy", 1);
        assert!(error.contains("error: sigma analytic needs the model's calibration"), "{error}");
    }
    // The remedy works.
    skip(at, &calibrate, 0);
    assert_eq!(read(at, "model/calibration.json"), bytes);

    let (_, error) = skip(at, &format!("calibrate --data {data}"), 2);
    assert!(error.contains("built-in model already has a calibration"), "{error}");
}

#[test]
fn the_bound_is_the_sum_of_its_terms_and_is_kept_with_a_plot() {
    let folder = with_model();
    let at = folder.path();
    let data = write_data(at, 5);
    let likelihood = format!("likelihood --model model --data {data} --steps 4");
    let found = json(at, &format!("{likelihood} --json"));
    let bits = found["bits_per_dim"].as_f64().unwrap();
    let terms = found["terms"].as_array().unwrap();
    let sum: f64 = terms.iter().map(|term| term["bits"].as_f64().unwrap()).sum();
    assert!((sum + found["prior_bits"].as_f64().unwrap() - bits).abs() < 1e-9 * bits.abs());
    assert_eq!((terms.len(), found["n"].as_u64(), terms[3]["s"].as_u64()), (4, Some(5), None));
    assert_eq!(found["options"]["eta"], 1.0);
    assert!(found["standard_error"].as_f64().unwrap() > 0.0);
    // Neither threads nor the number of other images change an image's part.
    assert_eq!(json(at, &format!("{likelihood} --threads 1 --json")), found);
    let (stdout, _) = skip(at, &format!("{likelihood} -o report"), 0);
    assert!(stdout.contains(&format!("at most     {bits:.4} ±")) && stdout.ends_with("report\n"), "{stdout}");
    assert_eq!(names(&at.join("report")), ["likelihood.json", "terms.csv", "terms.png"]);
    assert_eq!(String::from_utf8(read(at, "report/terms.csv")).unwrap().lines().count(), 5);
    assert!(read_png(&at.join("report/terms.png")).unwrap().picture.width() > 500);
    let hat = json(at, &format!("{likelihood} --sigma hat --json"));
    assert_ne!(hat["bits_per_dim"], found["bits_per_dim"]);
    let other = json(at, &format!("{likelihood} --eta 0.5 --sigma-1 0.05 -n 2 --json"));
    assert_eq!((other["sigma_1"].as_f64(), other["n"].as_u64()), (Some(0.05), Some(2)));
    let cost = json(at, &format!("{likelihood} --dry-run --json"));
    assert_eq!((cost["calls"].as_u64(), &cost["output"]), (Some(4), &Value::Null));
    for (arguments, code, message) in [
        ("--eta 0", 2, "needs sigma > 0"),
        ("--sigma-1 0", 2, "sigma_1: the decoder needs a finite number above 0, found 0"),
        ("--sigma-1 -1", 2, "above 0, found -1"),
        ("--sigma-1 1e-200", 1, "choose another sigma_1"),
        ("--eta 1e-200", 1, "choose another eta"),
        ("-n 0", 2, "at least 1 image"),
        ("--method ode --eta 1", 2, "leave --eta"),
        ("--method ode --clip keep-eps", 2, "leave --clip"),
        ("--method ode --sigma-1 0.1", 2, "leave --sigma-1 out"),
        ("--method ode --probes 0", 2, "probes"),
    ] {
        let (_, error) = skip(at, &format!("{likelihood} {arguments}"), code);
        assert!(error.contains(message), "{arguments}: {error}");
    }
}

#[test]
fn the_likelihood_of_the_flow_reports_its_estimator_apart() {
    let folder = with_model();
    let at = folder.path();
    let data = write_data(at, 4);
    let likelihood = format!("likelihood --model model --data {data} --steps 3 --method ode");
    let one = json(at, &format!("{likelihood} --json"));
    assert_eq!((&one["probe_error"], one["calls"].as_u64()), (&Value::Null, Some(6)));
    // ⌊1000·i²/9⌋ − 1: quadratic unless another spacing is asked for.
    assert_eq!(one["times"], serde_json::json!([999, 443, 110]));
    let two = json(at, &format!("{likelihood} --probes 2 --probe gaussian --threads 1 --json"));
    assert!(two["probe_error"].as_f64().unwrap() > 0.0);
    assert_eq!(json(at, &format!("{likelihood} --probes 2 --probe gaussian --threads 2 --json")), two);
    let (stdout, _) = skip(at, &format!("{likelihood} -o report"), 0);
    let bits = one["bits_per_dim"].as_f64().unwrap();
    assert!(stdout.contains(&format!("about       {bits:.4} ±")), "{stdout}");
    let table = String::from_utf8(read(at, "report/images.csv")).unwrap();
    let images: Vec<f64> = table.lines().skip(1).map(|line| line.split_once(',').unwrap().1.parse().unwrap()).collect();
    assert!((images.iter().sum::<f64>() / 4.0 - bits).abs() < 1e-9);
}

#[test]
fn the_carried_model_brings_its_calibration() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    skip(at, "sample -n 2 --steps 5 --sigma analytic --spacing optimal -o x.npy", 0);
    let x: Array4<f32> = npy::read(&at.join("x.npy")).unwrap();
    assert_eq!(x.shape(), [2, 1, 28, 28]);
    // Images, and with them the noise of a sampler whose variances the calibration gave.
    for eta in ["", " --eta 0"] {
        let flags = format!("encode --images x.npy --steps 4 --sigma analytic{eta} --noise-out z.npy -o x_T.npy");
        let (_, said) = skip(at, &flags, 0);
        let command = said.lines().find_map(|line| line.strip_prefix("decode with: skipstone ")).unwrap();
        assert!(command.contains("--sigma analytic --eta"), "{command}");
        skip(at, &format!("{command} -o back.npy"), 0);
        let back: Array4<f32> = npy::read(&at.join("back.npy")).unwrap();
        let furthest = back.iter().zip(&x).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(furthest < 1e-5, "{command}: {furthest}");
    }
    let times = json(at, "inspect --steps 10 --spacing optimal --json")["run"]["times"].clone();
    let times: Vec<usize> = times.as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as usize + 1).collect();
    assert_eq!((times.len(), times[0]), (10, 1000));
    // No single time could be exchanged for a better one, by the costs as their definition has them.
    let cost = costs();
    let total = |times: &[usize]| -> f64 {
        times.windows(2).map(|pair| cost(pair[0], pair[1])).sum::<f64>() + cost(times[times.len() - 1], 0)
    };
    let least = total(&times);
    for i in 1..10 {
        let below = if i < 9 { times[i + 1] } else { 0 };
        for other in below + 1..times[i - 1] {
            let mut changed = times.clone();
            changed[i] = other;
            assert!(total(&changed) >= least - 1e-12, "{changed:?} instead of {times:?}");
        }
    }
}

/// What the carried model's calibration says a step t → s costs at η = 1, nats per dimension; s = 0 is the decoder.
fn costs() -> impl Fn(usize, usize) -> f64 {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/weights/calibration.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let list = |name: &str| -> Vec<f64> {
        file[name].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
    };
    let (errors, decoder) = (list("x0_errors"), list("decoder_nats"));
    // The linear schedule that the model was trained with.
    let mut alpha_bar = vec![1.0];
    for t in 0..1000 {
        alpha_bar.push(alpha_bar[t] * (1.0 - (1e-4 + (0.02 - 1e-4) * t as f64 / 999.0)));
    }
    move |t, s| {
        if s == 0 {
            return decoder[t - 1];
        }
        let (a_t, a_s) = (alpha_bar[t], alpha_bar[s]);
        let variance = (1.0 - a_s) / (1.0 - a_t) * (1.0 - a_t / a_s);
        let of_x0 = a_s.sqrt() - ((1.0 - a_s - variance) * a_t / (1.0 - a_t)).sqrt();
        of_x0 * of_x0 * errors[t - 1] / (2.0 * variance)
    }
}
