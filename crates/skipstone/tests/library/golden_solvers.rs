//! Complete solver runs against k-diffusion with the same closed-form denoiser and grid (golden/README.md).

use ndarray::{Array3, Array4};
use skipstone::math::noise::Forbidden;
use skipstone::math::schedule::{BetaSchedule, Schedule};
use skipstone::math::trajectory::Trajectory;
use skipstone::sampling::oracle::{Component, Oracle};
use skipstone::sampling::sampler::{Plan, sample, unobserved};
use skipstone::sampling::solver::Solver;

use crate::golden::{cases, json, numbers, relative};

#[test]
fn every_solver_ends_where_k_diffusions_does() {
    let file = json("solvers.json");
    let schedule = Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap();
    let shape: Vec<usize> = numbers(&file["shape"]).into_iter().map(|n| n as usize).collect();
    let latents = numbers(&file["latents"]).into_iter().map(|v| v as f32).collect();
    let latents = Array4::from_shape_vec((shape[0], shape[1], shape[2], shape[3]), latents).unwrap();
    let mixture = &file["mixture"];
    let values = |name: &str, k: usize| {
        Array3::from_shape_vec((shape[1], shape[2], shape[3]), numbers(&mixture[name][k])).unwrap()
    };
    let components = numbers(&mixture["weight"]).into_iter().enumerate();
    let components: Vec<Component> = components
        .map(|(k, weight)| Component { weight, mean: values("mean", k), variance: values("variance", k) })
        .collect();
    let oracle = Oracle::mixture(&schedule, components).unwrap();

    let cases = cases("solvers.json");
    assert_eq!(cases.len(), 18);
    for case in &cases {
        let solver: Solver = case["solver"].as_str().unwrap().parse().unwrap();
        let times: Vec<u32> = numbers(&case["times"]).into_iter().map(|t| t as u32).collect();
        let tau = Trajectory::explicit(&times, 1000).unwrap();
        let plan = Plan::ddim(&schedule, &tau).unwrap().with_solver(solver).unwrap();
        assert_eq!(plan.calls() as u64, case["calls"].as_u64().unwrap(), "{solver}");
        let found = sample(&oracle, &plan, latents.clone(), &mut Forbidden, &[], &mut unobserved).unwrap();
        // k-diffusion runs in f64 throughout, skipstone rounds each latent to f32.
        let off = relative(found.iter().map(|&v| f64::from(v)), &numbers(&case["x0"]));
        assert!(off < 5e-6, "{solver} on {}: off by {off:.1e}", case["grid"]);
    }
}
