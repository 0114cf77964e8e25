//! Schedules, spacings and single steps against values from NumPy and diffusers (golden/README.md).

use serde_json::Value;
use skipstone::math::schedule::{BetaSchedule, FinalLevel, Schedule, Time};
use skipstone::math::sigma::{NoiseScale, sigma, table};
use skipstone::math::trajectory::{Spacing, Trajectory};

use crate::golden;

/// Asserts |found − expected| ≤ relative·|expected| + absolute.
#[track_caller]
fn assert_near(found: f64, expected: f64, relative: f64, absolute: f64, what: &str) {
    let error = (found - expected).abs();
    assert!(error <= relative * expected.abs() + absolute, "{what}: expected {expected:e}, found {found:e}");
}

fn schedule_of(case: &Value) -> Schedule {
    let name = case["schedule"].as_str().unwrap();
    let schedule = match case.get("trained_betas") {
        Some(betas) => Schedule::from_betas(&golden::numbers(betas)).unwrap(),
        None => Schedule::new(
            &name.parse::<BetaSchedule>().unwrap(),
            case["beta_start"].as_f64().unwrap_or(1e-4),
            case["beta_end"].as_f64().unwrap_or(0.02),
            case["num_train_timesteps"].as_u64().unwrap_or(1000) as u32,
        )
        .unwrap(),
    };
    if case["rescale_betas_zero_snr"].as_bool().unwrap_or(false) {
        schedule.with_zero_terminal_snr().unwrap()
    } else {
        schedule
    }
}

fn label(case: &Value) -> String {
    format!(
        "{} T {}{}",
        case["schedule"].as_str().unwrap(),
        case["num_train_timesteps"],
        if case["rescale_betas_zero_snr"] == true { " zero snr" } else { "" }
    )
}

#[test]
fn schedules_equal_the_published_formulas_to_eleven_digits() {
    let cases = golden::cases("schedules.json");
    assert!(cases.len() > 30);
    for case in &cases {
        let (what, schedule) = (label(case), schedule_of(case));
        let (beta, alpha_bar) = (golden::numbers(&case["beta"]), golden::numbers(&case["alpha_bar"]));
        let one_minus = golden::numbers(&case["one_minus_alpha_bar"]);
        for (i, index) in case["index"].as_array().unwrap().iter().enumerate() {
            let index = index.as_u64().unwrap() as u32;
            let level = schedule.level(Time::from_index(index)).unwrap();
            let what = format!("{what} index {index}");
            // For the cosine schedule, β is 1 − quotient, accurate to an ulp of 1 rather than of β.
            assert_near(schedule.betas()[index as usize], beta[i], 1e-11, 1e-15, &format!("{what} β"));
            assert_near(level.alpha_bar, alpha_bar[i], 1e-11, 1e-15, &format!("{what} a"));
            assert_near(level.one_minus, one_minus[i], 1e-11, 1e-15, &format!("{what} 1 − a"));
        }
        let train_steps = schedule.train_steps();
        assert_eq!(u64::from(train_steps), case["num_train_timesteps"].as_u64().unwrap(), "{what}");
        assert_near(schedule.betas().iter().sum(), case["sum_beta"].as_f64().unwrap(), 1e-11, 0.0, &what);
        let sum = (1..=train_steps).map(|t| schedule.level(Time::new(t)).unwrap().alpha_bar).sum();
        assert_near(sum, case["sum_alpha_bar"].as_f64().unwrap(), 1e-11, 0.0, &what);
    }
}

#[test]
fn schedules_equal_diffusers_as_far_as_its_f32_goes() {
    let mut seen = 0;
    for case in golden::cases("schedules.json") {
        let Some(theirs) = case.get("diffusers") else { continue };
        seen += 1;
        let (what, schedule) = (label(&case), schedule_of(&case));
        let (beta, alpha_bar) = (golden::numbers(&theirs["beta"]), golden::numbers(&theirs["alpha_bar"]));
        for (i, index) in case["index"].as_array().unwrap().iter().enumerate() {
            let index = index.as_u64().unwrap() as u32;
            let level = schedule.level(Time::from_index(index)).unwrap();
            let what = format!("{what} index {index}");
            assert_near(schedule.betas()[index as usize], beta[i], 3e-3, 2e-7, &format!("{what} β"));
            assert_near(level.alpha_bar, alpha_bar[i], 2e-4, 2e-7, &format!("{what} a"));
        }
    }
    assert!(seen > 25, "only {seen} schedules of diffusers");
}

#[test]
fn every_spacing_of_every_step_count_equals_its_source() {
    let cases = golden::cases("timesteps.json");
    assert_eq!(cases.len(), 24);
    for case in &cases {
        let name = case["spacing"].as_str().unwrap();
        let (spacing, offset) = match name.split_once('-') {
            Some(("leading", offset)) => (Spacing::Leading, offset.parse().unwrap()),
            _ => (name.parse::<Spacing>().unwrap(), 0),
        };
        let train_steps = case["num_train_timesteps"].as_u64().unwrap() as u32;
        for steps in 1..=train_steps as usize {
            let what = format!("{name}, T = {train_steps}, S = {steps}");
            let found = Trajectory::named(spacing, steps, train_steps, offset);
            let Some(length) = case["length"][steps - 1].as_u64() else {
                assert!(found.is_err(), "{what}: an index beyond T − 1 was accepted");
                continue;
            };
            let found = found.unwrap_or_else(|error| panic!("{what}: {error}"));
            let indices: Vec<u64> =
                found.times().iter().map(|t| u64::from(t.index().unwrap().whole().unwrap())).collect();
            if let Some(expected) = case["times"].get(steps.to_string()) {
                let expected: Vec<u64> = expected.as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
                assert_eq!(indices, expected, "{what}");
            }
            assert_eq!(indices.len() as u64, length, "{what}: calls");
            let checksum: u64 = indices.iter().zip(1..).map(|(time, i)| time * i).sum();
            assert_eq!(Some(checksum), case["checksum"][steps - 1].as_u64(), "{what}: checksum of {indices:?}");
        }
    }
}

/// x̂₀ and ε̂ from a network's output, by definition in f64.
fn views(prediction: &str, output: f64, x_t: f64, signal: f64, noise: f64) -> (f64, f64) {
    match prediction {
        "epsilon" => ((x_t - noise * output) / signal, output),
        "sample" => (output, (x_t - signal * output) / noise),
        "v_prediction" => (signal * x_t - noise * output, signal * output + noise * x_t),
        other => panic!("unknown prediction {other}"),
    }
}

/// Clips x̂₀ of each image as the case requires.
fn clamp(case: &Value, x0: &mut [f64]) {
    let clip = case["clip"].as_str().unwrap();
    if let Some(threshold) = case.get("threshold") {
        let (ratio, max) = (threshold[0].as_f64().unwrap(), threshold[1].as_f64().unwrap());
        let size = x0.len() / 2;
        for image in x0.chunks_mut(size) {
            let mut sorted: Vec<f64> = image.iter().map(|v| v.abs()).collect();
            sorted.sort_by(f64::total_cmp);
            let place = ratio * (size - 1) as f64;
            let below = place.floor() as usize;
            let quantile =
                sorted[below] + (place - place.floor()) * (sorted[(below + 1).min(size - 1)] - sorted[below]);
            let s = quantile.clamp(1.0, max);
            image.iter_mut().for_each(|v| *v = v.clamp(-s, s) / s);
        }
    } else if clip != "off" {
        let range = case["clip_range"].as_f64().unwrap_or(1.0);
        x0.iter_mut().for_each(|v| *v = v.clamp(-range, range));
    }
}

#[test]
fn coefficients_of_a_step_reproduce_diffusers_steps_in_f64() {
    let tensors = golden::tensors("steps.safetensors");
    let cases = golden::cases("steps.json");
    assert!(cases.len() > 100);
    for case in &cases {
        let what = case["name"].as_str().unwrap();
        let schedule = schedule_of(case);
        let t = Time::from_index(case["t"].as_u64().unwrap() as u32);
        let s = case["s"].as_u64().map_or(Time::CLEAN, |s| Time::from_index(s as u32));
        let final_level = if case["set_alpha_to_one"] == false { FinalLevel::FirstTrained } else { FinalLevel::Clean };
        let times = if s == Time::CLEAN { vec![t] } else { vec![t, s] };
        let trajectory = Trajectory::from_times(times, 1000).unwrap();
        let scale = match case["eta"].as_f64() {
            // diffusers injects noise at a[0] too, where skipstone stops; σ itself can still be compared.
            Some(eta) if s == Time::CLEAN && final_level == FinalLevel::FirstTrained => {
                let to = schedule.final_level(final_level);
                NoiseScale::Vector(vec![sigma(eta, schedule.level(t).unwrap(), to)])
            }
            Some(eta) => NoiseScale::Eta(eta),
            None => NoiseScale::Hat,
        };
        let step = table(&schedule, &trajectory, &scale, final_level).unwrap()[0];

        let row = case["row"].as_u64().unwrap() as usize;
        let [x_t, output, z, x_s, x0] =
            ["x_t", "model_output", "z", "x_s", "x0"].map(|key| tensors[key].row(row).values);
        let (signal, noise) = (step.from.signal(), step.from.noise());
        let prediction = case["prediction"].as_str().unwrap();
        let (mut found_x0, mut eps): (Vec<f64>, Vec<f64>) =
            x_t.iter().zip(&output).map(|(&x, &out)| views(prediction, out, x, signal, noise)).unzip();
        clamp(case, &mut found_x0);
        if case["clip"] == "rederive-eps" {
            eps = x_t.iter().zip(&found_x0).map(|(x, x0)| (x - signal * x0) / noise).collect();
        }
        let c = step.coefficients;
        let found = (0..x_t.len()).map(|i| c.x0 * found_x0[i] + c.eps * eps[i] + c.z * z[i]);
        let difference = golden::relative(found, &x_s);
        assert!(difference < 1e-10, "{what}: relative difference {difference:e}");
        let difference = golden::relative(found_x0.iter().copied(), &x0);
        assert!(difference < 1e-6, "{what}: x̂₀: relative difference {difference:e}");
    }
}
