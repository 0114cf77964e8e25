//! Complete runs of ten steps with network and sampler, against diffusers (golden/README.md).

use std::collections::HashMap;

use ndarray::Array5;
use skipstone::math::noise::Given;
use skipstone::math::schedule::{BetaSchedule, FinalLevel, Schedule, Time};
use skipstone::math::sigma::NoiseScale;
use skipstone::math::trajectory::Trajectory;
use skipstone::sampling::denoiser::{Bound, Clip, Prediction};
use skipstone::sampling::sampler::{Plan, sample, unobserved};

use crate::golden;
use crate::golden::unets::{NAMES, Network};

#[test]
fn ten_steps_of_every_parameterization_end_where_diffusers_ends() {
    let file = golden::json("samples.json");
    let tensors = golden::tensors("samples.safetensors");
    let schedule = Schedule::new(
        &file["schedule"].as_str().unwrap().parse::<BetaSchedule>().unwrap(),
        file["beta_start"].as_f64().unwrap(),
        file["beta_end"].as_f64().unwrap(),
        file["num_train_timesteps"].as_u64().unwrap() as u32,
    )
    .unwrap();
    let mut networks: HashMap<&str, Network> = HashMap::new();
    let cases = golden::cases("samples.json");
    assert!(cases.len() >= 12);
    for case in &cases {
        let what = case["tensor"].as_str().unwrap();
        let model = case["model"].as_str().unwrap().strip_prefix("unet_").unwrap();
        let model = NAMES.into_iter().find(|name| *name == model).unwrap();
        let network = networks.entry(model).or_insert_with(|| Network::read(model));
        let unet = network.unet(match case["prediction"].as_str().unwrap() {
            "epsilon" => Prediction::Epsilon,
            "sample" => Prediction::Sample,
            "v_prediction" => Prediction::Velocity,
            other => panic!("unknown prediction {other}"),
        });
        let clip = match case["clip"].as_str().unwrap() {
            "off" => Clip::Off,
            "keep-eps" => Clip::KeepEps(Bound::Range(1.0)),
            other => panic!("unknown clip {other}"),
        };
        let times = golden::numbers(&case["times"]).into_iter().map(|t| Time::from_index(t as u32)).collect();
        let trajectory = Trajectory::from_times(times, schedule.train_steps()).unwrap();
        let scale = NoiseScale::Eta(case["eta"].as_f64().unwrap());
        let plan = Plan::new(&schedule, &trajectory, &scale, FinalLevel::Clean, clip).unwrap();
        let noise = &tensors[case["noise"].as_str().unwrap()];
        let shape: [usize; 5] = noise.shape.clone().try_into().unwrap();
        let mut noise = Given::new(Array5::from_shape_vec(shape, noise.f32()).unwrap());
        let latents = tensors[case["latents"].as_str().unwrap()].images();
        let found = sample(&unet, &plan, latents, &mut noise, &[], &mut unobserved).unwrap();

        let difference = golden::relative(found.iter().map(|&v| f64::from(v)), &tensors[what].values);
        // The error of f32 depends on the case: a clip propagates a small difference only where x̂₀ is inside the
        // bound.
        let tolerance = 20.0 * case["f32_deviation"].as_f64().unwrap() + 2e-6;
        println!("{what}: {difference:.1e} of {tolerance:.1e}");
        assert!(difference < tolerance, "{what}: relative difference {difference:e}, allowed {tolerance:e}");
    }
}
