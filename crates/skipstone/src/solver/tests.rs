use ndarray::{Array3, Array4};

use super::*;
use crate::denoiser::{Bound, Clip, Condition, Denoiser, Prediction};
use crate::noise::{Forbidden, initial_latent};
use crate::oracle::{Component, Oracle};
use crate::sampler::{Plan, sample, unobserved};
use crate::schedule::{BetaSchedule, FinalLevel, Schedule, Time};
use crate::sigma::NoiseScale;
use crate::trajectory::{Spacing, Trajectory};

fn linear() -> Schedule {
    Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap()
}

/// A schedule whose σ_ve at t = 1..=T is 30·(t/T)², so that every quantity is smooth in t/T, clean data included.
fn quadratic_in_sigma(train_steps: u32) -> Schedule {
    let a = |t: u32| {
        let sigma = 30.0 * (f64::from(t) / f64::from(train_steps)).powi(2);
        1.0 / (1.0 + sigma * sigma)
    };
    let betas: Vec<f64> = (1..=train_steps).map(|t| 1.0 - a(t) / a(t - 1)).collect();
    Schedule::from_betas(&betas).unwrap()
}

fn plan(schedule: &Schedule, steps: usize, solver: Solver) -> Plan {
    let tau = Trajectory::named(Spacing::Linear, steps, schedule.train_steps(), 0).unwrap();
    Plan::ddim(schedule, &tau).unwrap().with_solver(solver).unwrap()
}

fn run(denoiser: &dyn Denoiser, plan: &Plan, x: Array4<f32>) -> Result<Array4<f32>> {
    sample(denoiser, plan, x, &mut Forbidden, &[], &mut unobserved)?.finished()
}

fn component(weight: f64, mean: f64, variance: f64) -> Component {
    let full = |value| Array3::from_elem((1, 1, 1), value);
    Component { weight, mean: full(mean), variance: full(variance) }
}

/// Φ(z).
fn normal(z: f64) -> f64 {
    0.5 * libm::erfc(-z / std::f64::consts::SQRT_2)
}

/// Where the flow of a mixture on the line takes x̄ from σ to 0. It keeps P(x̄' < x̄), as a flow on a line must.
fn transported(components: &[Component], x_bar: f64, sigma: f64) -> f64 {
    let below = |x: f64, sigma: f64| -> f64 {
        let part = |k: &Component| {
            let deviation = (k.variance[[0, 0, 0]] + sigma * sigma).sqrt();
            k.weight * normal((x - k.mean[[0, 0, 0]]) / deviation)
        };
        components.iter().map(part).sum()
    };
    let wanted = below(x_bar, sigma);
    let (mut low, mut high) = (-50.0, 50.0);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if below(middle, 0.0) < wanted { low = middle } else { high = middle }
    }
    low
}

/// The error of S steps from a given x̄_T, for each S.
fn errors(components: &[Component], solver: Solver, x_bar: f64, steps: [u32; 2]) -> [f64; 2] {
    steps.map(|steps| {
        let schedule = quadratic_in_sigma(steps);
        let level = schedule.level(Time::new(steps)).unwrap();
        let oracle = Oracle::mixture(&schedule, components.to_vec()).unwrap();
        let x_t = (x_bar * level.signal()) as f32;
        let found =
            run(&oracle, &plan(&schedule, steps as usize, solver), Array4::from_elem((1, 1, 1, 1), x_t)).unwrap();
        let exact = transported(components, f64::from(x_t) / level.signal(), level.sigma_ve());
        (f64::from(found[[0, 0, 0, 0]]) - exact).abs()
    })
}

#[test]
fn each_solver_converges_on_a_gaussian_at_its_order() {
    let gaussian = [component(1.0, 0.3, 0.25)];
    for (solver, steps) in [
        (Solver::Ddim, [64, 128]),
        (Solver::VeEuler, [128, 256]),
        (Solver::Heun, [64, 128]),
        (Solver::AdamsBashforth2, [64, 128]),
        (Solver::AdamsBashforth3, [64, 128]),
        // Further on, f32 is coarser than its error.
        (Solver::AdamsBashforth4, [32, 64]),
        (Solver::DpmPlusPlus2M, [128, 256]),
    ] {
        let errors = errors(&gaussian, solver, 36.0, steps);
        let order = (errors[0] / errors[1]).log2();
        assert!((order - solver.order() as f64).abs() < 0.35, "{solver}: {errors:?}, order {order}");
    }
}

#[test]
fn each_solver_converges_on_a_mixture_at_its_order() {
    let mixture = [component(0.4, -0.9, 0.15), component(0.6, 0.7, 0.25)];
    for (solver, steps) in [
        (Solver::Ddim, [128, 256]),
        (Solver::VeEuler, [128, 256]),
        (Solver::Heun, [128, 256]),
        (Solver::AdamsBashforth2, [128, 256]),
        (Solver::AdamsBashforth3, [64, 128]),
        (Solver::AdamsBashforth4, [64, 128]),
        (Solver::DpmPlusPlus2M, [128, 256]),
    ] {
        let errors = errors(&mixture, solver, 12.0, steps);
        let order = (errors[0] / errors[1]).log2();
        assert!(order > solver.order() as f64 - 0.5, "{solver}: {errors:?}, order {order}");
    }
}

#[test]
fn with_as_many_calls_higher_orders_beat_ddim_on_the_papers_schedule() {
    let components = [component(0.4, -0.9, 0.15), component(0.6, 0.7, 0.25)];
    let schedule = linear();
    let oracle = Oracle::mixture(&schedule, components.to_vec()).unwrap();
    let level = schedule.level(Time::new(1000)).unwrap();
    let error = |solver: Solver, steps: usize| {
        let plan = plan(&schedule, steps, solver);
        let total: f64 = [-1.5, -0.4, 0.2, 1.1]
            .iter()
            .map(|&x_t: &f32| {
                let found = run(&oracle, &plan, Array4::from_elem((1, 1, 1, 1), x_t)).unwrap();
                let exact = transported(&components, f64::from(x_t) / level.signal(), level.sigma_ve());
                (f64::from(found[[0, 0, 0, 0]]) - exact).abs()
            })
            .sum();
        (total, plan.calls())
    };
    let (ddim, calls) = error(Solver::Ddim, 39);
    for (solver, steps) in [
        (Solver::Heun, 20),
        (Solver::AdamsBashforth2, 39),
        (Solver::AdamsBashforth3, 39),
        (Solver::AdamsBashforth4, 39),
        (Solver::DpmPlusPlus2M, 39),
    ] {
        let (found, made) = error(solver, steps);
        assert!(found < 0.7 * ddim && made == calls, "{solver}: {found} in {made} calls, ddim {ddim}");
    }
    assert!(error(Solver::VeEuler, 39).0 > ddim);
}

#[test]
fn one_step_of_each_solver_is_what_a_pencil_gives() {
    /// Predicts ε̂ = t for every element: a network that knows nothing but the time.
    struct Clock;
    impl Denoiser for Clock {
        fn shape(&self) -> [usize; 3] {
            [1, 1, 1]
        }
        fn prediction(&self) -> Prediction {
            Prediction::Epsilon
        }
        fn predict(&self, x_t: &Array4<f32>, t: &[Time], _: &[Condition]) -> Result<Array4<f32>> {
            Ok(Array4::from_elem(x_t.dim(), t[0].get() as f32))
        }
    }
    // σ_ve = 3 at t = 2 and 1 at t = 1; x̄_2 = 10, and ε̂ = 2, then 1.
    let a = [1.0, 0.5, 0.1];
    let schedule = Schedule::from_betas(&[1.0 - a[1] / a[0], 1.0 - a[2] / a[1]]).unwrap();
    for (solver, x0) in [
        // 10 − 2·2 − 1·1
        (Solver::Ddim, 5.0),
        // 10 + ½(1 − 9)/3·2 − ½·1
        (Solver::VeEuler, 10.0 - 8.0 / 3.0 - 0.5),
        // 10 − 2·1.5 − 1·1: the mean slope, then Euler
        (Solver::Heun, 6.0),
        // The line through (3, 2) and (1, 1) is ½ + σ/2; from 1 to 0 its integral is −¾.
        (Solver::AdamsBashforth2, 10.0 - 4.0 - 0.75),
        (Solver::AdamsBashforth4, 10.0 - 4.0 - 0.75),
        // First order, then x̂₀ = 6 − 1·1.
        (Solver::DpmPlusPlus2M, 5.0),
    ] {
        let x = Array4::from_elem((1, 1, 1, 1), (10.0 * 0.1f64.sqrt()) as f32);
        let found = f64::from(run(&Clock, &plan(&schedule, 2, solver), x).unwrap()[[0, 0, 0, 0]]);
        assert!((found - x0).abs() < 1e-5, "{solver}: {found} {x0}");
    }
}

#[test]
fn network_calls_are_counted_as_they_are_made() {
    /// Counts how often it is asked.
    struct Counting(Oracle, std::cell::Cell<usize>);
    impl Denoiser for Counting {
        fn shape(&self) -> [usize; 3] {
            self.0.shape()
        }
        fn prediction(&self) -> Prediction {
            self.0.prediction()
        }
        fn predict(&self, x_t: &Array4<f32>, t: &[Time], classes: &[Condition]) -> Result<Array4<f32>> {
            self.1.set(self.1.get() + 1);
            self.0.predict(x_t, t, classes)
        }
    }
    for solver in Solver::ALL {
        for steps in [1, 2, 7] {
            let oracle = Oracle::mixture(&linear(), vec![component(1.0, 0.0, 1.0)]).unwrap();
            let counting = Counting(oracle, std::cell::Cell::new(0));
            let plan = plan(&linear(), steps, solver);
            let mut seen = Vec::new();
            let mut watch = |p: &crate::sampler::Progress<'_>| {
                seen.push((counting.1.get(), plan.calls_after(p.step)));
                std::ops::ControlFlow::Continue(())
            };
            let x = initial_latent(0, 0, 2, [1, 1, 1]);
            sample(&counting, &plan, x, &mut Forbidden, &[], &mut watch).unwrap();
            assert_eq!(counting.1.get(), plan.calls(), "{solver}");
            assert_eq!(seen.len(), steps);
            assert!(seen.iter().all(|(made, counted)| made == counted), "{solver}: {seen:?}");
            let expected = if solver == Solver::Heun { 2 * steps - 1 } else { steps };
            assert_eq!(plan.calls(), expected);
        }
    }
}

#[test]
fn noise_zero_snr_and_clipping_without_effect_are_refused() {
    let tau = Trajectory::named(Spacing::Trailing, 10, 1000, 0).unwrap();
    let refusal = |schedule: &Schedule, scale: NoiseScale, clip: Clip, solver: Solver| {
        let plan = Plan::new(schedule, &tau, &scale, FinalLevel::Clean, clip).unwrap();
        plan.with_solver(solver).map(drop).map_err(|e| e.to_string())
    };
    let keep = Clip::KeepEps(Bound::Range(1.0));
    let rederive = Clip::RederiveEps(Bound::Range(1.0));
    let zero_snr = linear().with_zero_terminal_snr().unwrap();
    for solver in Solver::ALL.into_iter().filter(|solver| *solver != Solver::Ddim) {
        for scale in [NoiseScale::Eta(0.3), NoiseScale::Hat] {
            let message = refusal(&linear(), scale, Clip::Off, solver).unwrap_err();
            assert!(message.contains("eta = 0") && message.contains(&solver.to_string()), "{message}");
        }
        assert!(refusal(&zero_snr, NoiseScale::Eta(0.0), Clip::Off, solver).unwrap_err().contains("infinite"));
        refusal(&linear(), NoiseScale::Eta(0.0), rederive, solver).unwrap();
        let kept = refusal(&linear(), NoiseScale::Eta(0.0), keep, solver);
        assert_eq!(kept.is_ok(), solver == Solver::DpmPlusPlus2M, "{solver}");
    }
    refusal(&linear(), NoiseScale::Hat, keep, Solver::Ddim).unwrap();
    refusal(&zero_snr, NoiseScale::Eta(1.0), keep, Solver::Ddim).unwrap();
}

#[test]
fn names_are_parsed_and_printed_alike_and_images_do_not_depend_on_their_batch() {
    for solver in Solver::ALL {
        assert_eq!(solver.to_string().parse::<Solver>().unwrap(), solver);
        let oracle = Oracle::mixture(&linear(), vec![component(0.5, 0.4, 0.1), component(0.5, -0.4, 0.2)]).unwrap();
        let plan = plan(&linear(), 6, solver);
        let whole = run(&oracle, &plan, initial_latent(3, 0, 4, [1, 1, 1])).unwrap();
        let last = run(&oracle, &plan, initial_latent(3, 3, 1, [1, 1, 1])).unwrap();
        assert_eq!(whole[[3, 0, 0, 0]], last[[0, 0, 0, 0]], "{solver}");
    }
    assert!("euler".parse::<Solver>().unwrap_err().to_string().contains("dpm++2m"));
}
