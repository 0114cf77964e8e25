use ndarray::{Array3, Array5, Axis};

use super::*;
use crate::error::Kind;
use crate::math::noise::{Forbidden, Given, Seeded, initial_latent};
use crate::math::schedule::{BetaSchedule, FinalLevel, Schedule};
use crate::math::sigma::NoiseScale;
use crate::math::trajectory::{Spacing, Trajectory};
use crate::sampling::denoiser::{Bound, Clip, Prediction};
use crate::sampling::oracle::{Component, Oracle};

const MEAN: f64 = 0.3;
const VARIANCE: f64 = 0.25;

fn linear() -> Schedule {
    Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap()
}

fn gaussian(shape: (usize, usize, usize)) -> Oracle {
    Oracle::gaussian(&linear(), Array3::from_elem(shape, MEAN), Array3::from_elem(shape, VARIANCE)).unwrap()
}

fn plan(calls: usize, scale: NoiseScale) -> Plan {
    let tau = Trajectory::named(Spacing::Linear, calls, 1000, 0).unwrap();
    Plan::new(&linear(), &tau, &scale, FinalLevel::Clean, Clip::Off).unwrap()
}

fn run(denoiser: &dyn Denoiser, plan: &Plan, x: Array4<f32>, noise: &mut dyn NoiseSource) -> Result<Array4<f32>> {
    sample(denoiser, plan, x, noise, &[], &mut unobserved)
}

/// a_t of the linear schedule, computed as a plain product.
fn alpha_bar(t: u32) -> f64 {
    (0..t).map(|i| 1.0 - (1e-4 + (0.02 - 1e-4) * f64::from(i) / 999.0)).product()
}

#[test]
fn ddim_without_noise_converges_to_the_exact_flow_at_first_order() {
    let x_t = 1.2f32;
    // The flow of a Gaussian conserves (x − √a·μ)/√(a·v + 1 − a).
    let a = alpha_bar(1000);
    let exact = MEAN + VARIANCE.sqrt() * (f64::from(x_t) - a.sqrt() * MEAN) / (a * VARIANCE + 1.0 - a).sqrt();
    let error = |calls| {
        let x = Array4::from_elem((1, 1, 1, 1), x_t);
        let found = run(&gaussian((1, 1, 1)), &plan(calls, NoiseScale::Eta(0.0)), x, &mut Forbidden).unwrap();
        (f64::from(found[[0, 0, 0, 0]]) - exact).abs()
    };
    let errors = [error(10), error(20), error(40), error(80)];
    for pair in errors.windows(2) {
        let order = (pair[0] / pair[1]).log2();
        assert!((0.75..1.35).contains(&order), "{errors:?}");
    }
}

/// Mean and variance of the generated data, from the recursion x_s = √a_s·μ + gain·(x_t − √a_t·μ) + noise.
fn moments(calls: u32, eta: f64, hat: bool) -> (f64, f64) {
    let (mut mean, mut variance) = (0.0, 1.0);
    for i in (1..=calls).rev() {
        let (t, s) = (1000 * i / calls, 1000 * (i - 1) / calls);
        let (a_t, a_s) = (alpha_bar(t), alpha_bar(s));
        let sigma2 = eta * eta * (1.0 - a_s) / (1.0 - a_t) * (1.0 - a_t / a_s);
        let total = a_t * VARIANCE + 1.0 - a_t;
        let of_x0 = a_t.sqrt() * VARIANCE / total;
        let of_eps = (1.0 - a_t).sqrt() / total;
        let gain = a_s.sqrt() * of_x0 + (1.0 - a_s - sigma2).max(0.0).sqrt() * of_eps;
        let fresh = match (hat, s) {
            (_, 0) => 0.0,
            (true, _) => 1.0 - a_t / a_s,
            (false, _) => sigma2,
        };
        mean = a_s.sqrt() * MEAN + gain * (mean - a_t.sqrt() * MEAN);
        variance = gain * gain * variance + fresh;
    }
    (mean, variance)
}

#[test]
fn generated_moments_follow_the_closed_form_for_ddim_half_ddpm_and_sigma_hat() {
    let oracle = gaussian((1, 200, 200));
    let cases = [
        (NoiseScale::Eta(0.0), 0.0, false),
        (NoiseScale::Eta(0.5), 0.5, false),
        (NoiseScale::Eta(1.0), 1.0, false),
        (NoiseScale::Hat, 1.0, true),
    ];
    for (scale, eta, hat) in cases {
        let x = run(&oracle, &plan(10, scale.clone()), initial_latent(1, 0, 1, [1, 200, 200]), &mut Seeded::new(1, 0));
        let x = x.unwrap().mapv(f64::from);
        let (mean, variance) = moments(10, eta, hat);
        // 40,000 elements: standard errors of 0.5 % of σ and 0.7 % of σ².
        assert!((x.mean().unwrap() - mean).abs() < 0.02 * variance.sqrt(), "{scale}");
        assert!((x.var(0.0) / variance - 1.0).abs() < 0.03, "{scale}: {} {variance}", x.var(0.0));
    }
    // The cases differ by more than the tolerance: η scales the standard deviation.
    assert!(moments(10, 1.0, true).1 > 1.05 * moments(10, 1.0, false).1);
}

#[test]
fn neither_eta_zero_nor_the_last_step_draws_noise() {
    let x = initial_latent(0, 0, 1, [1, 2, 2]);
    assert!(run(&gaussian((1, 2, 2)), &plan(10, NoiseScale::Eta(0.0)), x.clone(), &mut Forbidden).is_ok());
    assert!(run(&gaussian((1, 2, 2)), &plan(10, NoiseScale::Eta(0.1)), x.clone(), &mut Forbidden).is_err());
    for scale in [NoiseScale::Eta(1.0), NoiseScale::Hat] {
        assert!(run(&gaussian((1, 2, 2)), &plan(1, scale.clone()), x.clone(), &mut Forbidden).is_ok());
        // Nine rows of noise are enough for ten steps.
        let mut nine = Given::new(Array5::zeros((9, 1, 1, 2, 2)));
        assert!(run(&gaussian((1, 2, 2)), &plan(10, scale.clone()), x.clone(), &mut nine).is_ok());
        let mut eight = Given::new(Array5::zeros((8, 1, 1, 2, 2)));
        assert!(run(&gaussian((1, 2, 2)), &plan(10, scale), x.clone(), &mut eight).is_err());
    }
}

#[test]
fn a_batch_is_its_images_one_by_one_to_the_bit() {
    let component = |mean: f64| Component {
        weight: 1.0,
        mean: Array3::from_elem((2, 3, 3), mean),
        variance: Array3::from_elem((2, 3, 3), 0.01),
    };
    let oracle = Oracle::mixture(&linear(), vec![component(0.5), component(-0.5)]).unwrap();
    for scale in [NoiseScale::Eta(0.0), NoiseScale::Eta(1.0), NoiseScale::Hat] {
        let plan = plan(7, scale);
        let whole = run(&oracle, &plan, initial_latent(9, 3, 5, [2, 3, 3]), &mut Seeded::new(9, 3)).unwrap();
        for i in 0..5 {
            let first = 3 + i as u64;
            let one = run(&oracle, &plan, initial_latent(9, first, 1, [2, 3, 3]), &mut Seeded::new(9, first)).unwrap();
            assert_eq!(one.index_axis(Axis(0), 0), whole.index_axis(Axis(0), i));
        }
        // Resuming at the third image does not repeat the first two.
        assert_ne!(whole.index_axis(Axis(0), 0), whole.index_axis(Axis(0), 2));
    }
}

#[test]
fn samples_of_a_finite_set_land_on_its_points() {
    let points = [-0.8, 0.1, 0.9].map(|value| Array3::from_elem((1, 2, 2), value));
    let oracle = Oracle::points(&linear(), points.to_vec()).unwrap();
    let x = run(&oracle, &plan(50, NoiseScale::Eta(0.0)), initial_latent(0, 0, 20, [1, 2, 2]), &mut Forbidden).unwrap();
    let mut found = [0; 3];
    for image in x.outer_iter() {
        let k = [-0.8f32, 0.1, 0.9].iter().position(|p| image.iter().all(|x| (x - p).abs() < 1e-3));
        found[k.expect("a sample between the points")] += 1;
    }
    assert!(found.iter().filter(|&&count| count > 0).count() >= 2, "{found:?}");
}

#[test]
fn epsilon_is_refused_at_zero_snr_where_velocity_generates() {
    let schedule = linear().with_zero_terminal_snr().unwrap();
    let tau = Trajectory::named(Spacing::Trailing, 50, 1000, 0).unwrap();
    let plan = Plan::new(&schedule, &tau, &NoiseScale::Eta(0.0), FinalLevel::Clean, Clip::Off).unwrap();
    let oracle = Oracle::points(&schedule, vec![Array3::from_elem((1, 1, 1), 0.4)]).unwrap();
    let x = Array4::from_elem((1, 1, 1, 1), 1.0);
    assert!(run(&oracle, &plan, x.clone(), &mut Forbidden).unwrap_err().to_string().contains("v-prediction"));
    for prediction in [Prediction::Velocity, Prediction::Sample] {
        let found = run(&oracle.clone().predicting(prediction), &plan, x.clone(), &mut Forbidden).unwrap();
        assert!((found[[0, 0, 0, 0]] - 0.4).abs() < 1e-5);
    }
}

/// Predicts one value for every element: this one below t = 500, else 0.5.
struct Constant(f32);

impl Denoiser for Constant {
    fn shape(&self) -> [usize; 3] {
        [1, 1, 1]
    }

    fn prediction(&self) -> Prediction {
        Prediction::Epsilon
    }

    fn predict(&self, x_t: &Array4<f32>, t: &[Time], _: &[Condition]) -> Result<Array4<f32>> {
        Ok(Array4::from_elem(x_t.dim(), if t[0].get() < 500.0 { self.0 } else { 0.5 }))
    }
}

#[test]
fn two_steps_match_hand_computation() {
    // x_s = √a_s·(x_t − √(1−a_t)·ε̂)/√a_t + √(1−a_s)·ε̂, then x̂₀ itself.
    let tau = Trajectory::explicit(&[799, 299], 1000).unwrap();
    let plan = Plan::ddim(&linear(), &tau).unwrap();
    let found = run(&Constant(-0.25), &plan, Array4::from_elem((1, 1, 1, 1), 0.7), &mut Forbidden).unwrap();
    let (a_t, a_s) = (alpha_bar(800), alpha_bar(300));
    let x_s = a_s.sqrt() * (0.7 - (1.0 - a_t).sqrt() * 0.5) / a_t.sqrt() + (1.0 - a_s).sqrt() * 0.5;
    let x0 = (x_s + (1.0 - a_s).sqrt() * 0.25) / a_s.sqrt();
    assert!((f64::from(found[[0, 0, 0, 0]]) - x0).abs() < 1e-5 * x0.abs());
}

#[test]
fn the_last_step_lands_on_the_chosen_final_level() {
    let tau = Trajectory::explicit(&[100], 1000).unwrap();
    let x = Array4::from_elem((1, 1, 1, 1), 0.7);
    let at = |level| {
        let plan = Plan::new(&linear(), &tau, &NoiseScale::Eta(1.0), level, Clip::Off).unwrap();
        f64::from(run(&Constant(0.5), &plan, x.clone(), &mut Forbidden).unwrap()[[0, 0, 0, 0]])
    };
    let a = alpha_bar(101);
    let x0 = (0.7 - (1.0 - a).sqrt() * 0.5) / a.sqrt();
    assert!((at(FinalLevel::Clean) - x0).abs() < 1e-6);
    assert!((at(FinalLevel::FirstTrained) - ((1.0 - 1e-4f64).sqrt() * x0 + 0.01 * 0.5)).abs() < 1e-6);
}

#[test]
fn non_finite_values_stop_the_run_and_the_error_names_the_step() {
    let x = || Array4::from_elem((1, 1, 1, 1), 0.7);
    let plan = plan(4, NoiseScale::Eta(0.0));
    let error = run(&Constant(f32::NAN), &plan, x(), &mut Forbidden).unwrap_err();
    assert_eq!(error.kind(), Kind::NonFinite);
    // Times 1000, 750, 500, 250.
    assert!(error.to_string().contains("step 4 of 4") && error.to_string().contains("t = 250"), "{error}");
    assert_eq!(run(&Constant(f32::INFINITY), &plan, x(), &mut Forbidden).unwrap_err().kind(), Kind::NonFinite);
    let error = run(&Constant(0.0), &plan, x() * f32::NAN, &mut Forbidden).unwrap_err();
    assert_eq!(error.kind(), Kind::NonFinite);
}

#[test]
fn wrong_shapes_and_class_counts_are_refused() {
    let plan = plan(4, NoiseScale::Eta(0.0));
    assert!(run(&Constant(0.0), &plan, Array4::zeros((1, 1, 1, 2)), &mut Forbidden).is_err());
    assert!(run(&Constant(0.0), &plan, Array4::zeros((0, 1, 1, 1)), &mut Forbidden).is_err());
    let x = Array4::zeros((2, 1, 1, 1));
    let error =
        sample(&Constant(0.0), &plan, x, &mut Forbidden, &Condition::classes(&[1]), &mut unobserved).unwrap_err();
    assert!(error.to_string().contains("expected one per image, 2, found 1"), "{error}");
}

#[test]
fn the_observer_sees_every_step_and_can_stop_the_run() {
    let plan = plan(4, NoiseScale::Eta(0.0));
    let x = || Array4::zeros((1, 1, 1, 1));
    let mut seen = Vec::new();
    let mut watch = |p: &Progress<'_>| {
        seen.push((p.step, p.steps, p.t.whole().unwrap(), p.s.whole().unwrap()));
        ControlFlow::Continue(())
    };
    sample(&Constant(0.1), &plan, x(), &mut Forbidden, &[], &mut watch).unwrap();
    assert_eq!(seen, [(1, 4, 1000, 750), (2, 4, 750, 500), (3, 4, 500, 250), (4, 4, 250, 0)]);
    let mut stop = |p: &Progress<'_>| if p.step == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let error = sample(&Constant(0.1), &plan, x(), &mut Forbidden, &[], &mut stop).unwrap_err();
    assert!(error.is_stopped());
    // There is nothing left to stop at the last step.
    let mut late = |p: &Progress<'_>| if p.step == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    sample(&Constant(0.1), &plan, x(), &mut Forbidden, &[], &mut late).unwrap();
}

#[test]
fn ddpm_with_clipping_rederives_the_noise_and_stays_in_range() {
    let tau = Trajectory::named(Spacing::Linear, 20, 1000, 0).unwrap();
    let clip = Clip::RederiveEps(Bound::Range(1.0));
    let plan = Plan::new(&linear(), &tau, &NoiseScale::Eta(1.0), FinalLevel::Clean, clip).unwrap();
    let x = run(&gaussian((1, 20, 20)), &plan, initial_latent(0, 0, 1, [1, 20, 20]), &mut Seeded::new(0, 0)).unwrap();
    assert!(x.iter().all(|x| x.abs() <= 1.0));
}

fn restarted(calls: usize, restart: [u32; 3]) -> Result<Plan> {
    plan(calls, NoiseScale::Eta(0.0)).with_restart(restart.try_into()?)
}

#[test]
fn a_restart_repeats_the_steps_between_the_nearest_timesteps() {
    // τ is 1000, 900, …, 100; indices are one less.
    let landings = |restart: [u32; 3]| -> Vec<(f64, f64)> {
        restarted(10, restart).unwrap().steps().iter().map(|step| (step.t.get(), step.s.get())).collect()
    };
    let pairs =
        |times: &[u32]| -> Vec<(f64, f64)> { times.iter().map(|&t| (f64::from(t), f64::from(t) - 100.0)).collect() };
    let once = pairs(&[1000, 900, 800, 700, 600, 500, 400, 300, 500, 400, 300, 200, 100]);
    assert_eq!(landings([199, 499, 1]), once);
    assert_eq!(landings([230, 470, 1]), once);
    assert_eq!(landings([0, 149, 2]), pairs(&[1000, 900, 800, 700, 600, 500, 400, 300, 200, 200, 200, 100]));
    assert!(!restarted(10, [199, 499, 1]).unwrap().is_deterministic());
    assert_eq!(restarted(10, [199, 499, 2]).unwrap().calls(), 16);
    for (wrong, reason) in [
        ([499, 499, 1], "a lower and a higher"),
        ([0, 499, 0], "1 to 1000 repetitions"),
        ([0, 499, 1001], "1 to 1000 repetitions"),
        ([480, 520, 1], "no step between the timesteps 480 and 520"),
    ] {
        assert!(restarted(10, wrong).unwrap_err().message().contains(reason), "{wrong:?}");
    }
    let noisy = plan(10, NoiseScale::Eta(1.0)).with_restart([0, 499, 1].try_into().unwrap()).unwrap_err();
    assert!(noisy.message().contains("needs a run without noise"), "{noisy}");
}

#[test]
fn a_restart_keeps_the_marginals_of_point_data() {
    // x̂₀ is exact, so each step keeps (x − √a·x₀)/√(1 − a), and the return to more noise makes it fresh in part.
    let (schedule, plan) = (linear(), restarted(10, [299, 699, 3]).unwrap());
    let oracle = Oracle::points(&schedule, vec![Array3::from_elem((1, 64, 64), 0.5)]).unwrap();
    let mut seen = Vec::new();
    let mut observer = |progress: &Progress<'_>| {
        if progress.s != Time::CLEAN {
            let level = schedule.level(progress.s).unwrap();
            let z = progress.x.mapv(|x| (f64::from(x) - 0.5 * level.signal()) / level.noise());
            let (mean, square) = (z.mean().unwrap(), z.mapv(|z| z * z).mean().unwrap());
            // Five standard errors for 16,384 normal values.
            assert!(mean.abs() < 0.04 && (square - 1.0).abs() < 0.056, "{}: {mean} {square}", progress.s);
            seen.push((progress.s.get(), z));
        }
        ControlFlow::Continue(())
    };
    sample(&oracle, &plan, initial_latent(7, 0, 4, [1, 64, 64]), &mut Seeded::new(7, 0), &[], &mut observer).unwrap();
    assert_eq!(seen.len(), 10 + 3 * 4 - 1);
    // The correlation across one return from s to t is √(a_t/a_s·(1 − a_s)/(1 − a_t)).
    let at_300: Vec<&Array4<f64>> = seen.iter().filter(|(s, _)| *s == 300.0).map(|(_, z)| z).collect();
    assert_eq!(at_300.len(), 4);
    let (a_s, a_t) = (alpha_bar(300), alpha_bar(700));
    let expected = (a_t / a_s * (1.0 - a_s) / (1.0 - a_t)).sqrt();
    for pair in at_300.windows(2) {
        let found = (pair[0] * pair[1]).mean().unwrap();
        assert!((found - expected).abs() < 0.04, "{found} {expected}");
    }
}
