use ndarray::{Array3, Array4};

use super::*;
use crate::math::noise::{Forbidden, initial_latent};
use crate::math::schedule::{BetaSchedule, FinalLevel, Schedule, Time};
use crate::math::sigma::NoiseScale;
use crate::math::trajectory::{Spacing, Trajectory};
use crate::sampling::denoiser::{Bound, Clip, Condition, Denoiser, Prediction};
use crate::sampling::oracle::{Component, Oracle};
use crate::sampling::sampler::{Plan, sample, unobserved};

fn linear() -> Schedule {
    Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap()
}

/// A schedule with σ_ve = 30·(t/T)² at t = 1..=T, so every quantity is smooth in t/T, including at clean data.
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
    sample(denoiser, plan, x, &mut Forbidden, &[], &mut unobserved)
}

fn component(weight: f64, mean: f64, variance: f64) -> Component {
    let full = |value| Array3::from_elem((1, 1, 1), value);
    Component { weight, mean: full(mean), variance: full(variance) }
}

/// Φ(z).
fn normal(z: f64) -> f64 {
    0.5 * libm::erfc(-z / std::f64::consts::SQRT_2)
}

/// Transports x̄ along the flow of a one-dimensional mixture from σ to 0. A flow in one dimension preserves P(x̄' < x̄).
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

/// The error after S steps from x̄_T, for each S.
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
fn each_solver_converges_at_its_order_on_a_gaussian() {
    let gaussian = [component(1.0, 0.3, 0.25)];
    for (solver, steps) in [
        (Solver::DDIM, [64, 128]),
        (Solver::VE_EULER, [128, 256]),
        (Solver::HEUN, [64, 128]),
        (Solver::DPM2, [64, 128]),
        (Solver::AB2, [64, 128]),
        (Solver::AB3, [64, 128]),
        // With more steps the error drops below f32 resolution.
        (Solver::AB4, [32, 64]),
        (Solver::DPM_PLUS_PLUS_2M, [128, 256]),
        (Solver::UNIPC, [128, 256]),
        (Solver::UNIPC3, [128, 256]),
    ] {
        let errors = errors(&gaussian, solver, 36.0, steps);
        let order = (errors[0] / errors[1]).log2();
        assert!((order - solver.order() as f64).abs() < 0.5, "{solver}: {errors:?}, order {order}");
    }
}

#[test]
fn each_solver_converges_at_its_order_on_a_mixture() {
    let mixture = [component(0.4, -0.9, 0.15), component(0.6, 0.7, 0.25)];
    for (solver, steps) in [
        (Solver::DDIM, [128, 256]),
        (Solver::VE_EULER, [128, 256]),
        (Solver::HEUN, [128, 256]),
        (Solver::DPM2, [128, 256]),
        (Solver::AB2, [128, 256]),
        (Solver::AB3, [64, 128]),
        (Solver::AB4, [64, 128]),
        (Solver::DPM_PLUS_PLUS_2M, [128, 256]),
        (Solver::DPM_PLUS_PLUS_3M, [128, 256]),
    ] {
        let errors = errors(&mixture, solver, 12.0, steps);
        let order = (errors[0] / errors[1]).log2();
        assert!(order > solver.order() as f64 - 0.5, "{solver}: {errors:?}, order {order}");
    }
}

#[test]
fn higher_orders_beat_ddim_with_the_same_number_of_calls_on_the_papers_schedule() {
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
    let (ddim, calls) = error(Solver::DDIM, 39);
    for (solver, steps) in [
        (Solver::HEUN, 20),
        (Solver::DPM2, 20),
        (Solver::AB2, 39),
        (Solver::AB3, 39),
        (Solver::AB4, 39),
        (Solver::DPM_PLUS_PLUS_2M, 39),
        (Solver::DPM_PLUS_PLUS_3M, 39),
        (Solver::UNIPC, 39),
        (Solver::UNIPC3, 39),
        (Solver::DEIS2, 39),
        (Solver::DEIS, 39),
    ] {
        let (found, made) = error(solver, steps);
        assert!(found < 0.7 * ddim && made == calls, "{solver}: {found} in {made} calls, ddim {ddim}");
    }
    assert!(error(Solver::VE_EULER, 39).0 > ddim);
}

#[test]
fn two_steps_of_each_solver_match_hand_computation() {
    /// Predicts ε̂ = t for every element.
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
        (Solver::DDIM, 5.0),
        // 10 + ½(1 − 9)/3·2 − ½·1
        (Solver::VE_EULER, 10.0 - 8.0 / 3.0 - 0.5),
        // 10 − 2·1.5 − 1·1: the mean slope, then Euler
        (Solver::HEUN, 6.0),
        // The midpoint σ = √3 lies halfway in ln σ, so at t = 1.5: 10 − 2·1.5 − 1·1.
        (Solver::DPM2, 6.0),
        // The line through (3, 2) and (1, 1) is ½ + σ/2; from 1 to 0 its integral is −¾.
        (Solver::AB2, 10.0 - 4.0 - 0.75),
        (Solver::AB4, 10.0 - 4.0 - 0.75),
        // First order, then x̂₀ = 6 − 1·1.
        (Solver::DPM_PLUS_PLUS_2M, 5.0),
    ] {
        let x = Array4::from_elem((1, 1, 1, 1), (10.0 * 0.1f64.sqrt()) as f32);
        let found = f64::from(run(&Clock, &plan(&schedule, 2, solver), x).unwrap()[[0, 0, 0, 0]]);
        assert!((found - x0).abs() < 1e-5, "{solver}: {found} {x0}");
    }
}

#[test]
fn predicted_call_counts_match_the_calls_made() {
    /// Counts its calls.
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
            let mut watch = |p: &crate::sampling::sampler::Progress<'_>| {
                seen.push((counting.1.get(), plan.calls_after(p.step)));
                std::ops::ControlFlow::Continue(())
            };
            let x = initial_latent(0, 0, 2, [1, 1, 1]);
            sample(&counting, &plan, x, &mut crate::math::noise::Seeded::new(0, 0), &[], &mut watch).unwrap();
            assert_eq!(counting.1.get(), plan.calls(), "{solver}");
            assert_eq!(seen.len(), steps);
            assert!(seen.iter().all(|(made, counted)| made == counted), "{solver}: {seen:?}");
            let expected = if solver == Solver::HEUN || solver == Solver::DPM2 { 2 * steps - 1 } else { steps };
            assert_eq!(plan.calls(), expected);
        }
    }
}

#[test]
fn noise_zero_snr_and_ineffective_clipping_are_refused() {
    let tau = Trajectory::named(Spacing::Trailing, 10, 1000, 0).unwrap();
    let refusal = |schedule: &Schedule, scale: NoiseScale, clip: Clip, solver: Solver| {
        let plan = Plan::new(schedule, &tau, &scale, FinalLevel::Clean, clip).unwrap();
        plan.with_solver(solver).map(drop).map_err(|e| e.to_string())
    };
    let keep = Clip::KeepEps(Bound::Range(1.0));
    let rederive = Clip::RederiveEps(Bound::Range(1.0));
    let zero_snr = linear().with_zero_terminal_snr().unwrap();
    for solver in Solver::ALL.into_iter().filter(|solver| *solver != Solver::DDIM) {
        for scale in [NoiseScale::Eta(0.3), NoiseScale::Hat] {
            let message = refusal(&linear(), scale, Clip::Off, solver).unwrap_err();
            assert!(message.contains("eta = 0") && message.contains(&solver.to_string()), "{message}");
        }
        assert!(refusal(&zero_snr, NoiseScale::Eta(0.0), Clip::Off, solver).unwrap_err().contains("infinite"));
        refusal(&linear(), NoiseScale::Eta(0.0), rederive, solver).unwrap();
        let kept = refusal(&linear(), NoiseScale::Eta(0.0), keep, solver);
        assert_eq!(kept.is_ok(), solver.scheme().follows == Follows::Data, "{solver}");
    }
    refusal(&linear(), NoiseScale::Hat, keep, Solver::DDIM).unwrap();
    refusal(&zero_snr, NoiseScale::Eta(1.0), keep, Solver::DDIM).unwrap();
}

#[test]
fn names_round_trip_and_images_do_not_depend_on_their_batch() {
    for solver in Solver::ALL {
        assert_eq!(solver.to_string().parse::<Solver>().unwrap(), solver);
        let oracle = Oracle::mixture(&linear(), vec![component(0.5, 0.4, 0.1), component(0.5, -0.4, 0.2)]).unwrap();
        let plan = plan(&linear(), 6, solver);
        let images = |first: u64, n: usize| {
            let mut noise = crate::math::noise::Seeded::new(3, first);
            let x_t = initial_latent(3, first, n, [1, 1, 1]);
            sample(&oracle, &plan, x_t, &mut noise, &[], &mut unobserved).unwrap()
        };
        assert_eq!(images(0, 4)[[3, 0, 0, 0]], images(3, 1)[[0, 0, 0, 0]], "{solver}");
    }
    assert!("euler".parse::<Solver>().unwrap_err().to_string().contains("dpm++2m"));
}

#[test]
fn stochastic_solvers_preserve_the_marginals_of_point_data() {
    // With data at one point x̂₀ is exact, so each step is the exact reverse transition: if x_t has the mean and variance of
    // t, then x_s has mean √a_s·x₀ and variance 1 − a_s.
    let schedule = linear();
    let tau = Trajectory::named(Spacing::Quadratic, 12, 1000, 0).unwrap();
    let oracle = Oracle::points(&schedule, vec![Array3::from_elem((1, 32, 32), 0.5)]).unwrap();
    for solver in [Solver::DPM_PLUS_PLUS_2M_SDE, Solver::SA] {
        let plan = Plan::ddim(&schedule, &tau).unwrap().with_solver(solver).unwrap();
        assert!(!plan.is_deterministic());
        let (mut seen, n) = (0, 16);
        let mut observer = |progress: &crate::sampling::sampler::Progress<'_>| {
            if progress.s != Time::CLEAN {
                let level = schedule.level(progress.s).unwrap();
                let z: Vec<f64> =
                    progress.x.iter().map(|&x| (f64::from(x) - 0.5 * level.signal()) / level.noise()).collect();
                let mean = z.iter().sum::<f64>() / z.len() as f64;
                let variance = z.iter().map(|z| z * z).sum::<f64>() / z.len() as f64;
                // Five standard errors for 16,384 normal values.
                assert!(
                    mean.abs() < 0.04 && (variance - 1.0).abs() < 0.056,
                    "{solver} {}: {mean} {variance}",
                    progress.s
                );
                seen += 1;
            }
            std::ops::ControlFlow::Continue(())
        };
        let x_t = initial_latent(7, 0, n, [1, 32, 32]);
        let mut noise = crate::math::noise::Seeded::new(7, 0);
        let x = sample(&oracle, &plan, x_t, &mut noise, &[], &mut observer).unwrap();
        assert!(x.iter().all(|x| (x - 0.5).abs() < 1e-5));
        assert_eq!(seen, 11);
    }
}

#[test]
fn deis_converges_at_its_order_on_a_finer_schedule() {
    // Between trained levels the schedule is linear in ln σ, so there must be many of them within a step.
    let gaussian = [component(1.0, 0.3, 0.25)];
    for (solver, steps) in [(Solver::DEIS2, [64u32, 128]), (Solver::DEIS, [64, 128])] {
        let schedule = quadratic_in_sigma(64 * 64);
        let oracle = Oracle::mixture(&schedule, gaussian.to_vec()).unwrap();
        let level = schedule.level(Time::new(schedule.train_steps())).unwrap();
        let x_t = (36.0 * level.signal()) as f32;
        let exact = transported(&gaussian, f64::from(x_t) / level.signal(), level.sigma_ve());
        let errors = steps.map(|steps| {
            let plan = plan(&schedule, steps as usize, solver);
            let found = run(&oracle, &plan, Array4::from_elem((1, 1, 1, 1), x_t)).unwrap();
            (f64::from(found[[0, 0, 0, 0]]) - exact).abs()
        });
        let order = (errors[0] / errors[1]).log2();
        assert!((order - solver.order() as f64).abs() < 0.5, "{solver}: {errors:?}, order {order}");
    }
}

#[test]
fn midpoint_calls_use_fractional_timesteps_only_if_the_network_takes_them() {
    /// Records the timesteps of its calls. The flag says whether it takes fractional ones.
    struct Recording(bool, std::cell::RefCell<Vec<f64>>);
    impl Denoiser for Recording {
        fn shape(&self) -> [usize; 3] {
            [1, 1, 1]
        }
        fn prediction(&self) -> Prediction {
            Prediction::Epsilon
        }
        fn takes_fractional_times(&self) -> bool {
            self.0
        }
        fn predict(&self, x_t: &Array4<f32>, times: &[Time], _: &[Condition]) -> Result<Array4<f32>> {
            self.1.borrow_mut().push(times[0].get());
            Ok(Array4::zeros(x_t.dim()))
        }
    }
    let schedule = linear();
    let plan = plan(&schedule, 2, Solver::DPM2);
    let called = |fractional| {
        let recording = Recording(fractional, Default::default());
        run(&recording, &plan, Array4::zeros((1, 1, 1, 1))).unwrap();
        recording.1.into_inner()
    };
    let sigma = |t: f64| schedule.level(Time::between(t).unwrap()).unwrap().sigma_ve();
    let [first, middle, last] = called(true).try_into().unwrap();
    assert_eq!((first, last), (1000.0, 500.0));
    assert!((sigma(middle) / (sigma(1000.0) * sigma(500.0)).sqrt() - 1.0).abs() < 1e-9);
    assert!(middle.fract() != 0.0);
    assert_eq!(called(false), [1000.0, middle.round(), 500.0]);
}
