//! Single steps in f32, from network output to x_s, against diffusers' schedulers (golden/README.md).

use serde_json::Value;
use skipstone::math::schedule::{BetaSchedule, FinalLevel, Schedule, Time};
use skipstone::math::sigma::{NoiseScale, sigma, table};
use skipstone::math::trajectory::Trajectory;
use skipstone::sampling::denoiser::{Bound, Clip, DynamicThreshold, Prediction, views};
use skipstone::sampling::sampler::step;

use crate::golden;

fn clip_of(case: &Value) -> Clip {
    let bound = match case.get("threshold") {
        Some(t) => Bound::Dynamic(DynamicThreshold { ratio: t[0].as_f64().unwrap(), max: t[1].as_f64().unwrap() }),
        None => Bound::Range(case["clip_range"].as_f64().unwrap_or(1.0)),
    };
    match case["clip"].as_str().unwrap() {
        "off" => Clip::Off,
        "keep-eps" => Clip::KeepEps(bound),
        "rederive-eps" => Clip::RederiveEps(bound),
        other => panic!("unknown clip {other}"),
    }
}

fn prediction_of(case: &Value) -> Prediction {
    match case["prediction"].as_str().unwrap() {
        "epsilon" => Prediction::Epsilon,
        "sample" => Prediction::Sample,
        "v_prediction" => Prediction::Velocity,
        other => panic!("unknown prediction {other}"),
    }
}

#[test]
fn every_parameterization_clip_and_eta_steps_like_diffusers() {
    let tensors = golden::tensors("steps.safetensors");
    for case in &golden::cases("steps.json") {
        let what = case["name"].as_str().unwrap();
        let family: BetaSchedule = case["schedule"].as_str().unwrap().parse().unwrap();
        let mut schedule = Schedule::new(&family, 1e-4, 0.02, 1000).unwrap();
        if case["rescale_betas_zero_snr"] == true {
            schedule = schedule.with_zero_terminal_snr().unwrap();
        }
        let mut times = vec![Time::from_index(case["t"].as_u64().unwrap() as u32)];
        times.extend(case["s"].as_u64().map(|s| Time::from_index(s as u32)));
        let final_level = if case["set_alpha_to_one"] == false { FinalLevel::FirstTrained } else { FinalLevel::Clean };
        let scale = match case["eta"].as_f64() {
            // diffusers injects noise at a[0] too, where skipstone stops; the same σ can be requested by value.
            Some(eta) if times.len() == 1 && final_level == FinalLevel::FirstTrained => {
                let to = schedule.final_level(final_level);
                NoiseScale::Vector(vec![sigma(eta, schedule.level(times[0]).unwrap(), to)])
            }
            Some(eta) => NoiseScale::Eta(eta),
            None => NoiseScale::Hat,
        };
        let trajectory = Trajectory::from_times(times, 1000).unwrap();
        let at = table(&schedule, &trajectory, &scale, final_level).unwrap()[0];

        let row = case["row"].as_u64().unwrap() as usize;
        let [x_t, output, z] = ["x_t", "model_output", "z"].map(|key| tensors[key].row(row).images());
        let denoised = views(prediction_of(case), &x_t, &output, at.from, clip_of(case)).unwrap();
        let x_s = step(&denoised, at.coefficients, Some(&z));
        for (name, found) in [("x0", &denoised.x0), ("x_s", &x_s)] {
            let expected = tensors[name].row(row).values;
            let difference = golden::relative(found.iter().map(|&v| f64::from(v)), &expected);
            assert!(difference < 1e-6, "{what}: {name}: relative difference {difference:e}");
        }
    }
}
