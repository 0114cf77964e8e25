//! Complete runs of solvers, and the spacings by noise level, against diffusers' schedulers and definitions with the same
//! closed-form denoiser (golden/README.md).

use std::collections::BTreeSet;

use ndarray::{Array3, Array4, Array5};
use serde_json::Value;
use skipstone::math::noise::{Forbidden, Given};
use skipstone::math::schedule::{BetaSchedule, FinalLevel, Schedule, Time};
use skipstone::math::sigma::NoiseScale;
use skipstone::math::trajectory::{Spacing, Trajectory};
use skipstone::sampling::denoiser::Clip;
use skipstone::sampling::oracle::{Component, Oracle};
use skipstone::sampling::sampler::{Plan, Restart, sample, unobserved};
use skipstone::sampling::solver::Solver;

use crate::golden::{cases, json, numbers, relative};

const FILE: &str = "solvers_diffusers.json";

fn schedule() -> Schedule {
    Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap()
}

/// The indices in the file as times.
fn times(value: &Value) -> Vec<Time> {
    numbers(value).into_iter().map(|index| Time::between(index + 1.0).unwrap()).collect()
}

/// Runs every case of a file and compares the end. Returns the solvers.
fn runs_end_where_they_should(name: &str) -> BTreeSet<String> {
    let (file, schedule) = (json(name), schedule());
    let shape: Vec<usize> = numbers(&file["shape"]).into_iter().map(|n| n as usize).collect();
    let [n, c, h, w] = shape[..] else { panic!("{shape:?}") };
    let floats = |value: &Value| -> Vec<f32> { numbers(value).into_iter().map(|v| v as f32).collect() };
    let latents = Array4::from_shape_vec((n, c, h, w), floats(&file["latents"])).unwrap();
    let values = |name: &str, k: usize| Array3::from_shape_vec((c, h, w), numbers(&file["mixture"][name][k])).unwrap();
    let components: Vec<Component> = numbers(&file["mixture"]["weight"])
        .into_iter()
        .enumerate()
        .map(|(k, weight)| Component { weight, mean: values("mean", k), variance: values("variance", k) })
        .collect();
    let oracle = Oracle::mixture(&schedule, components).unwrap();

    let run = |case: &Value| {
        let solver: Solver = case["solver"].as_str().unwrap().parse().unwrap();
        let tau = Trajectory::from_times(times(&case["times"]), 1000).unwrap();
        let end = if case["final"] == "first" { FinalLevel::FirstTrained } else { FinalLevel::Clean };
        let plan = Plan::new(&schedule, &tau, &NoiseScale::Eta(0.0), end, Clip::Off).unwrap();
        let mut plan = plan.with_solver(solver).unwrap();
        if let Ok(restart) = serde_json::from_value::<Restart>(case["restart"].clone()) {
            plan = plan.with_restart(restart).unwrap();
        }
        assert_eq!(plan.calls() as u64, case["calls"].as_u64().unwrap(), "{solver}");
        let found = match case["noise"].as_array() {
            None => sample(&oracle, &plan, latents.clone(), &mut Forbidden, &[], &mut unobserved),
            Some(noise) => {
                let z: Vec<f32> = noise.iter().flat_map(floats).collect();
                let mut z = Given::new(Array5::from_shape_vec((noise.len(), n, c, h, w), z).unwrap());
                sample(&oracle, &plan, latents.clone(), &mut z, &[], &mut unobserved)
            }
        };
        let found = found.unwrap();
        let off = relative(found.iter().map(|&v| f64::from(v)), &numbers(&case["x0"]));
        // The expected runs are in f64 throughout, skipstone rounds each latent to f32.
        assert!(off < 5e-6, "{solver} on {}: off by {off:.1e}", case["grid"]);
        solver.to_string()
    };
    cases(name).iter().map(run).collect()
}

#[test]
fn dpm2_and_the_stochastic_solver_end_where_diffusers_does() {
    assert_eq!(Vec::from_iter(runs_end_where_they_should(FILE)), ["dpm++2m-sde", "dpm2"]);
}

#[test]
fn multistep_solvers_end_where_diffusers_and_definitions_do() {
    let solvers = runs_end_where_they_should("multistep.json");
    assert_eq!(Vec::from_iter(solvers), ["ddim", "deis", "deis2", "dpm++3m", "heun", "sa", "unipc", "unipc3"]);
}

#[test]
fn spacings_by_noise_level_are_those_of_diffusers() {
    let (file, schedule) = (json(FILE), schedule());
    let spacings = file["spacings"].as_array().unwrap();
    assert_eq!(spacings.len(), 6);
    for case in spacings {
        let spacing: Spacing = case["spacing"].as_str().unwrap().parse().unwrap();
        let steps = case["steps"].as_u64().unwrap() as usize;
        let tau = Trajectory::spaced(&schedule, spacing, steps, 0).unwrap();
        let (sigmas, wanted) = (numbers(&case["sigmas"]), times(&case["times"]));
        assert_eq!(tau.calls(), steps);
        for ((found, wanted), sigma) in tau.times().iter().zip(&wanted).zip(sigmas) {
            assert!((found.get() - wanted.get()).abs() < 1e-8, "{spacing} {steps}: {found} {wanted}");
            let level = schedule.level(*found).unwrap();
            assert!((level.sigma_ve() / sigma - 1.0).abs() < 1e-11, "{spacing} {steps}: {} {sigma}", level.sigma_ve());
        }
    }
}
