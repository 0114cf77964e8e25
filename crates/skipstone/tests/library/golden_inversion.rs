//! Inversion of images to latents and back, against diffusers and the papers' equations in NumPy (golden/README.md).

use ndarray::{Array3, Array4};
use skipstone::math::schedule::{BetaSchedule, Schedule};
use skipstone::math::trajectory::Trajectory;
use skipstone::sampling::denoiser::Prediction;
use skipstone::sampling::inversion::{Bdia, Edict, Latents, Method, decode, encode, unobserved};
use skipstone::sampling::oracle::{Component, Oracle};
use skipstone::sampling::sampler::Plan;

use crate::golden;
use crate::golden::unets::{NAMES, Network};

fn plan(schedule: &Schedule, times: &serde_json::Value) -> Plan {
    let times: Vec<u32> = golden::numbers(times).into_iter().map(|t| t as u32).collect();
    Plan::ddim(schedule, &Trajectory::explicit(&times, schedule.train_steps()).unwrap()).unwrap()
}

fn schedule() -> Schedule {
    let file = golden::json("inversion.json");
    Schedule::new(
        &file["schedule"].as_str().unwrap().parse::<BetaSchedule>().unwrap(),
        file["beta_start"].as_f64().unwrap(),
        file["beta_end"].as_f64().unwrap(),
        file["num_train_timesteps"].as_u64().unwrap() as u32,
    )
    .unwrap()
}

#[test]
fn encoding_and_decoding_end_where_the_inverse_scheduler_of_diffusers_ends() {
    let tensors = golden::tensors("inversion.safetensors");
    for case in golden::cases("inversion.json") {
        let model = case["model"].as_str().unwrap().strip_prefix("unet_").unwrap();
        let network = Network::read(NAMES.into_iter().find(|name| *name == model).unwrap());
        let unet = network.unet(match case["prediction"].as_str().unwrap() {
            "epsilon" => Prediction::Epsilon,
            "v_prediction" => Prediction::Velocity,
            other => panic!("unknown prediction {other}"),
        });
        let plan = plan(&schedule(), &case["times"]);
        let x0 = tensors[&format!("{model}/x0")].images();
        let up = encode(&unet, &plan, &x0, &Method::Ddim, &[], &mut unobserved).unwrap();
        let down = decode(&unet, &plan, &up.latents, &Method::Ddim, &[], &mut unobserved).unwrap();
        let Latents::One(x_t) = &up.latents else { panic!("pairs") };
        let tolerance = 20.0 * case["f32_deviation"].as_f64().unwrap() + 2e-6;
        for (name, found) in [("x_t", x_t), ("back", &down.images)] {
            let expected = &tensors[&format!("{model}/{name}")].values;
            let difference = golden::relative(found.iter().map(|&v| f64::from(v)), expected);
            println!("{model} {name}: {difference:.1e} of {tolerance:.1e}");
            assert!(difference < tolerance, "{model} {name}: {difference:e}, allowed {tolerance:e}");
        }
    }
}

#[test]
fn bdia_and_edict_are_those_of_their_papers() {
    let clusters = &golden::json("inversion.json")["clusters"];
    let tensors = golden::tensors("inversion.safetensors");
    let centre = golden::numbers(&clusters["centre"]);
    let variance = Array3::from_elem((1, 2, 2), clusters["variance"].as_f64().unwrap());
    let part = |sign: f64| {
        let mean = Array3::from_shape_vec((1, 2, 2), centre.iter().map(|v| sign * v).collect()).unwrap();
        Component { weight: 1.0, mean, variance: variance.clone() }
    };
    let oracle = Oracle::mixture(&schedule(), vec![part(1.0), part(-1.0)]).unwrap();
    let plan = plan(&schedule(), &clusters["times"]);
    let x0 = Array4::from_shape_vec((3, 1, 2, 2), tensors["clusters/x0"].f32()).unwrap();
    let pairs = clusters["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 4);
    for pair in pairs {
        let value = pair["value"].as_f64().unwrap();
        let method = match pair["method"].as_str().unwrap() {
            "bdia" => Method::Bdia(Bdia { gamma: value }),
            "edict" => Method::Edict(Edict { mix: value }),
            other => panic!("unknown method {other}"),
        };
        let up = encode(&oracle, &plan, &x0, &method, &[], &mut unobserved).unwrap();
        let Latents::Pair(found) = up.latents else { panic!("{method}: one latent") };
        let expected = &tensors[pair["tensor"].as_str().unwrap()].values;
        let difference = golden::relative(found[0].iter().chain(found[1].iter()).copied(), expected);
        println!("{method}: {difference:.1e}");
        // The oracle returns f32: an error of 6e-8, amplified over six steps.
        assert!(difference < 3e-6, "{method}: {difference:e}");
    }
}
