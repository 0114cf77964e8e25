use ndarray::{Array3, Array4, Axis};
use proptest::prelude::*;

use super::*;
use crate::math::noise::{Given, Purpose, Seeded, initial_latent};
use crate::math::schedule::{BetaSchedule, FinalLevel, Schedule};
use crate::math::sigma::NoiseScale;
use crate::math::trajectory::{Spacing, Trajectory};
use crate::sampling::denoiser::Prediction;
use crate::sampling::oracle::{Component, Oracle};

const MEAN: f64 = 0.2;
const VARIANCE: f64 = 0.3;

fn schedule() -> Schedule {
    Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap()
}

fn plan(steps: usize, eta: f64) -> Plan {
    let tau = Trajectory::named(Spacing::Linear, steps, 1000, 0).unwrap();
    Plan::new(&schedule(), &tau, &NoiseScale::Eta(eta), FinalLevel::Clean, Clip::Off).unwrap()
}

fn gaussian() -> Oracle {
    let fill = |v| Array3::from_elem((1, 3, 3), v);
    Oracle::gaussian(&schedule(), fill(MEAN), fill(VARIANCE)).unwrap()
}

/// Two clusters, which make ε̂ strongly nonlinear.
fn clusters() -> Oracle {
    let part = |v: f64| Component {
        weight: 1.0,
        mean: Array3::from_shape_fn((1, 3, 3), |(_, y, x)| v * (1.0 + 0.2 * (y as f64 - x as f64))),
        variance: Array3::from_elem((1, 3, 3), 0.05),
    };
    Oracle::mixture(&schedule(), vec![part(0.5), part(-0.5)]).unwrap()
}

fn images(n: usize) -> Array4<f32> {
    initial_latent(11, 0, n, [1, 3, 3]).mapv(|v| 0.3 * v + 0.4)
}

fn rms(a: &Array4<f32>, b: &Array4<f32>) -> f64 {
    let square: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    (square / a.len() as f64).sqrt()
}

fn encoded(oracle: &Oracle, plan: &Plan, x0: &Array4<f32>, method: Method) -> Encoded {
    encode(oracle, plan, x0, &method, &[], &mut unobserved).unwrap()
}

fn round_trip(oracle: &Oracle, steps: usize, x0: &Array4<f32>, method: Method) -> (f64, u64, u64) {
    let plan = plan(steps, 0.0);
    let up = encoded(oracle, &plan, x0, method);
    let down = decode(oracle, &plan, &up.latents, &method, &[], &mut unobserved).unwrap();
    (rms(&down.images, x0), up.evaluations, down.evaluations)
}

/// The probability-flow ODE of Gaussian data in closed form: it conserves (x_t − √a_t·μ)/√(a_t·v + 1 − a_t).
fn exact_latent(x0: &Array4<f32>) -> Array4<f32> {
    let level = schedule().level(Time::new(1000)).unwrap();
    let ratio = ((level.alpha_bar * VARIANCE + level.one_minus) / VARIANCE).sqrt();
    x0.mapv(|x| (level.signal() * MEAN + ratio * (f64::from(x) - MEAN)) as f32)
}

#[test]
fn encoding_approaches_the_exact_solution_of_the_ode_at_first_order() {
    let x0 = images(4);
    let error = |steps| {
        let Latents::One(x_t) = encoded(&gaussian(), &plan(steps, 0.0), &x0, Method::Ddim).latents else { panic!() };
        rms(&x_t, &exact_latent(&x0))
    };
    let errors = [25, 50, 100, 200].map(error);
    assert!(errors[3] < 0.03, "{errors:?}");
    for pair in errors.windows(2) {
        let ratio = pair[0] / pair[1];
        assert!((1.6..2.4).contains(&ratio), "first order halves the error with twice the steps: {errors:?}");
    }
}

#[test]
fn reconstruction_error_falls_at_first_order_and_counts_its_calls() {
    let x0 = images(4);
    let trips = [20, 40, 80, 160].map(|steps| round_trip(&gaussian(), steps, &x0, Method::Ddim));
    for (pair, steps) in trips.windows(2).zip([20, 40, 80]) {
        assert!((1.6..2.5).contains(&(pair[0].0 / pair[1].0)), "{trips:?}");
        assert_eq!((pair[0].1, pair[0].2), (4 * steps, 4 * steps));
    }
}

#[test]
fn the_network_is_called_at_the_timestep_of_the_state() {
    struct Recorder(std::sync::Mutex<Vec<u32>>);
    impl Denoiser for Recorder {
        fn shape(&self) -> [usize; 3] {
            [1, 1, 1]
        }
        fn prediction(&self) -> Prediction {
            Prediction::Epsilon
        }
        fn predict(&self, x: &Array4<f32>, t: &[Time], _: &[Condition]) -> Result<Array4<f32>> {
            self.0.lock().unwrap().push(t[0].index().unwrap().whole().unwrap());
            Ok(Array4::zeros(x.dim()))
        }
    }
    let tau = Trajectory::explicit(&[999, 499, 17], 1000).unwrap();
    let plan = Plan::ddim(&schedule(), &tau).unwrap();
    let asked = |method| {
        let recorder = Recorder(std::sync::Mutex::new(Vec::new()));
        encode(&recorder, &plan, &Array4::ones((1, 1, 1, 1)), &method, &[], &mut unobserved).unwrap();
        recorder.0.into_inner().unwrap()
    };
    assert_eq!(asked(Method::Ddim), [0, 17, 499]);
    assert_eq!(asked(Method::Bdia(Bdia::default())), [0, 17, 499]);
    assert_eq!(asked(Method::Edict(Edict::default())), [17, 17, 499, 499, 999, 999]);
    // With ε̂ = 0 the first guess is the solution, and one call confirms it.
    assert_eq!(asked(Method::FixedPoint(FixedPoint::default())), [0, 17, 499, 999]);
}

#[test]
fn a_network_that_predicts_zero_noise_gives_the_scaled_image_as_latent() {
    struct Silent;
    impl Denoiser for Silent {
        fn shape(&self) -> [usize; 3] {
            [1, 1, 1]
        }
        fn prediction(&self) -> Prediction {
            Prediction::Epsilon
        }
        fn predict(&self, x: &Array4<f32>, _: &[Time], _: &[Condition]) -> Result<Array4<f32>> {
            Ok(Array4::zeros(x.dim()))
        }
    }
    let signal = schedule().level(Time::new(1000)).unwrap().signal();
    for method in [Method::Ddim, Method::FixedPoint(FixedPoint::default())] {
        let up = encode(&Silent, &plan(7, 0.0), &Array4::ones((1, 1, 1, 1)), &method, &[], &mut unobserved).unwrap();
        let Latents::One(x_t) = up.latents else { panic!() };
        assert!((f64::from(x_t[[0, 0, 0, 0]]) / signal - 1.0).abs() < 1e-6);
    }
}

#[test]
fn ten_steps_of_bdia_and_edict_restore_the_image_up_to_rounding() {
    let x0 = images(8);
    for oracle in [gaussian(), clusters()] {
        for method in [
            Method::Bdia(Bdia::default()),
            Method::Bdia(Bdia { gamma: 0.5 }),
            Method::Edict(Edict::default()),
            Method::Edict(Edict { mix: 1.0 }),
        ] {
            let (error, up, down) = round_trip(&oracle, 10, &x0, method);
            // Images are f32: half a unit in the last place of 1 is 6e-8.
            assert!(error < 1e-7, "{method}: {error:e}");
            match method {
                Method::Edict(_) => assert_eq!((up, down), (160, 160)),
                _ => assert_eq!((up, down), (80, 72)),
            }
        }
        // Plain encoding is far less accurate.
        assert!(round_trip(&oracle, 10, &x0, Method::Ddim).0 > 1e-2);
    }
}

#[test]
fn exact_methods_converge_to_the_latents_of_the_ode() {
    // A round trip alone proves little: with many steps both methods must end at the exact solution.
    let x0 = images(4);
    for method in [Method::Bdia(Bdia::default()), Method::Edict(Edict { mix: 0.999 })] {
        let Latents::Pair(pair) = encoded(&gaussian(), &plan(200, 0.0), &x0, method).latents else { panic!() };
        let error = rms(&pair[0].mapv(|v| v as f32), &exact_latent(&x0));
        assert!(error < 0.15, "{method}: {error}");
    }
}

#[test]
fn ddim_sampling_from_a_fixed_point_latent_gives_the_image() {
    let x0 = images(6);
    let method = Method::FixedPoint(FixedPoint { tolerance: 1e-6, iterations: 200 });
    let up = encoded(&gaussian(), &plan(20, 0.0), &x0, method);
    assert!(up.convergence.iter().all(|step| step.unconverged == 0 && step.residual <= 1e-6), "{:?}", up.convergence);
    assert_eq!(up.convergence.len(), 20);
    assert_eq!((up.convergence[0].s, up.convergence[19].t), (Time::CLEAN, Time::new(1000)));
    let x = decode(&gaussian(), &plan(20, 0.0), &up.latents, &method, &[], &mut unobserved).unwrap();
    assert!(rms(&x.images, &x0) < 1e-4, "{}", rms(&x.images, &x0));
    // In closed form: a step t → s multiplies x − √a·μ of Gaussian data by a number, so inversion divides by it.
    let mut factor = 1.0;
    for step in plan(20, 0.0).steps() {
        let slope = step.from.noise() / (step.from.alpha_bar * VARIANCE + step.from.one_minus);
        let c = (step.to.alpha_bar / step.from.alpha_bar).sqrt();
        factor *= c + (step.to.noise() - c * step.from.noise()) * slope;
    }
    let Latents::One(x_t) = &up.latents else { panic!() };
    let signal = schedule().level(Time::new(1000)).unwrap().signal();
    for (&x_t, &x0) in x_t.iter().zip(&x0) {
        let expected = signal * MEAN + (f64::from(x0) - MEAN) / factor;
        assert!((f64::from(x_t) - expected).abs() < 1e-3, "{x_t} for {expected}");
    }
}

#[test]
fn an_unconverged_fixed_point_is_reported_and_the_best_iterate_kept() {
    // For point data the step onto clean data has no inverse: it forgets where it came from.
    let oracle = Oracle::points(&schedule(), vec![Array3::zeros((1, 3, 3)), Array3::ones((1, 3, 3))]).unwrap();
    let by = FixedPoint { tolerance: 1e-8, iterations: 7 };
    let up = encoded(&oracle, &plan(5, 0.0), &images(2), Method::FixedPoint(by));
    let worst = up.convergence.iter().max_by(|a, b| a.residual.total_cmp(&b.residual)).unwrap();
    assert!(worst.unconverged > 0 && worst.residual > 1e-8 && worst.iterations == 7, "{:?}", up.convergence);
    let Latents::One(x_t) = up.latents else { panic!() };
    assert!(x_t.iter().all(|v| v.is_finite()));
}

#[test]
fn an_image_does_not_depend_on_its_batch() {
    let x0 = images(3);
    let methods = [
        Method::Ddim,
        Method::FixedPoint(FixedPoint::default()),
        Method::Bdia(Bdia::default()),
        Method::Edict(Edict::default()),
    ];
    for method in methods {
        let alone = encoded(&clusters(), &plan(8, 0.0), &x0.select(Axis(0), &[2]), method).latents;
        match (encoded(&clusters(), &plan(8, 0.0), &x0, method).latents, alone) {
            (Latents::One(all), Latents::One(alone)) => assert_eq!(all.select(Axis(0), &[2]), alone),
            (Latents::Pair(all), Latents::Pair(alone)) => {
                for (all, alone) in all.iter().zip(alone.iter()) {
                    assert_eq!(all.select(Axis(0), &[2]), *alone);
                }
            }
            _ => panic!("{method}"),
        }
    }
}

#[test]
fn an_observer_sees_every_call_and_can_stop() {
    let mut seen = Vec::new();
    let all = encode(&gaussian(), &plan(4, 0.0), &images(1), &Method::Edict(Edict::default()), &[], &mut |p| {
        seen.push((p.step, p.steps, p.calls));
        ControlFlow::Continue(())
    });
    all.unwrap();
    assert_eq!(seen.len(), 8);
    assert_eq!((seen[0], seen[7]), ((0, 4, 1), (3, 4, 8)));
    for method in [Method::Ddim, Method::Bdia(Bdia::default()), Method::FixedPoint(FixedPoint::default())] {
        let stop = &mut |_| ControlFlow::Break(());
        assert!(encode(&gaussian(), &plan(4, 0.0), &images(1), &method, &[], stop).unwrap_err().is_stopped());
    }
}

#[test]
fn plans_that_cannot_be_inverted_are_refused() {
    let refused = |plan: &Plan, method: Method| {
        encode(&gaussian(), plan, &images(1), &method, &[], &mut unobserved).unwrap_err().message().to_owned()
    };
    assert!(refused(&plan(5, 0.5), Method::Ddim).contains("draws noise"));
    let tau = Trajectory::named(Spacing::Linear, 5, 1000, 0).unwrap();
    let clip = "keep-eps".parse().unwrap();
    let clipped = Plan::new(&schedule(), &tau, &NoiseScale::Eta(0.0), FinalLevel::Clean, clip).unwrap();
    let zero = schedule().with_zero_terminal_snr().unwrap();
    let from_nothing = Plan::ddim(&zero, &tau).unwrap();
    for method in
        [Method::Bdia(Bdia::default()), Method::Edict(Edict::default()), Method::FixedPoint(FixedPoint::default())]
    {
        assert!(refused(&clipped, method).contains("clip off"));
        assert!(refused(&from_nothing, method).contains("a = 0"));
    }
    assert!(refused(&plan(1, 0.0), Method::Bdia(Bdia::default())).contains("at least 2"));
    for method in [
        Method::Bdia(Bdia { gamma: 0.0 }),
        Method::Bdia(Bdia { gamma: f64::NAN }),
        Method::Edict(Edict { mix: 0.0 }),
        Method::FixedPoint(FixedPoint { tolerance: 0.0, iterations: 3 }),
        Method::FixedPoint(FixedPoint { tolerance: 1.0, iterations: 0 }),
    ] {
        assert!(refused(&plan(5, 0.0), method).contains("expected"), "{method}");
    }
    let pair = encoded(&gaussian(), &plan(5, 0.0), &images(1), Method::Bdia(Bdia::default())).latents;
    assert!(decode(&gaussian(), &plan(5, 0.0), &pair, &Method::Ddim, &[], &mut unobserved).is_err());
    assert!(
        encode(&gaussian(), &plan(5, 0.0), &Array4::zeros((1, 1, 2, 2)), &Method::Ddim, &[], &mut unobserved).is_err()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_stochastic_sampler_reproduces_the_image_from_its_latent_and_noise(
        eta in 0.1f64..1.0, final_sigma in 0.02f64..0.5, steps in 2usize..12, independent: bool, seed in 0u64..100,
    ) {
        let plan = plan(steps, eta).with_final_sigma(final_sigma).unwrap();
        let draw = if independent { Draw::Independent } else { Draw::Chain };
        let x0 = images(2);
        let mut source = Seeded { purpose: Purpose::Encode, ..Seeded::new(seed, 0) };
        let found = encode_noise(&clusters(), &plan, &x0, draw, &mut source, &[], &mut unobserved).unwrap();
        let mut z = Given::new(found.noise);
        let back = sample(&clusters(), &plan, found.x_t, &mut z, &[], &mut crate::sampling::sampler::unobserved);
        let error = rms(&back.unwrap(), &x0);
        prop_assert!(error < 1e-6, "{error:e}");
        prop_assert!((error - found.residual).abs() < 1e-9);
    }
}

#[test]
fn noise_recovered_from_the_chain_is_process_noise_plus_prediction_error() {
    // Images drawn from the oracle's distribution.
    let n = 400;
    let x0 = initial_latent(2, 0, n, [1, 3, 3]).mapv(|v| (MEAN + VARIANCE.sqrt() * f64::from(v)) as f32);
    for (steps, looked_at) in [(500, [0, 250, 480]), (10, [0, 4, 8])] {
        let plan = plan(steps, 1.0);
        let mut source = Seeded { purpose: Purpose::Encode, ..Seeded::new(0, 0) };
        let found = encode_noise(&gaussian(), &plan, &x0, Draw::Chain, &mut source, &[], &mut unobserved).unwrap();
        for i in looked_at {
            let z = found.noise.index_axis(Axis(0), i);
            let variance = z.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / z.len() as f64;
            // z = ε + (coefficient of x₀ in the mean)·(x₀ − x̂₀)/σ, and Var(x₀|x_t) = v·(1−a)/(a·v + 1 − a).
            let step = &plan.steps()[i];
            let left = VARIANCE * step.from.one_minus / (step.from.alpha_bar * VARIANCE + step.from.one_minus);
            let factor = crate::math::process::reverse(step.from, step.to, step.sigma).x0;
            let expected = 1.0 + factor * factor * left / (step.sigma * step.sigma);
            // 3600 values: the relative standard deviation of the estimate is √(2/3600) = 0.024.
            assert!((variance / expected - 1.0).abs() < 0.1, "step {i} of {steps}: {variance} for {expected}");
        }
        // If the last step injects no noise, the residual reports the error of x̂₀.
        assert!(found.residual > 1e-3 && found.noise.index_axis(Axis(0), steps - 1).iter().all(|&v| v == 0.0));
    }
}

#[test]
fn the_iteration_converges_at_the_predicted_rate() {
    // A factor of σ_t·(σ_t − σ_s)/(v + σ_t²) per iteration, the same for every image and element.
    let x0 = images(1);
    let residual = |last: u32, iterations: usize| {
        let tau = Trajectory::explicit(&[last + 30, last], 1000).unwrap();
        let plan = Plan::ddim(&schedule(), &tau).unwrap();
        let up = encoded(&gaussian(), &plan, &x0, Method::FixedPoint(FixedPoint { tolerance: 1e-9, iterations }));
        [up.convergence[0].residual, up.convergence[1].residual]
    };
    for last in [200, 400, 600] {
        let plan = Plan::ddim(&schedule(), &Trajectory::explicit(&[last + 30, last], 1000).unwrap()).unwrap();
        let rate = |t: f64, s: f64| t * (t - s) / (VARIANCE + t * t);
        let [wide, close] = [&plan.steps()[1], &plan.steps()[0]];
        let onto_clean = rate(wide.from.sigma_ve(), 0.0);
        let (two, four) = (residual(last, 2), residual(last, 4));
        assert!(((four[0] / two[0]).sqrt() / onto_clean - 1.0).abs() < 0.05, "{last}: {two:?} {four:?} {onto_clean}");
        // Small steps converge so fast that they soon reach f32 precision.
        let between = rate(close.from.sigma_ve(), close.to.sigma_ve());
        assert!(four[1] < 1.5 * two[1] * between * between + 1e-6, "{last}: {two:?} {four:?} {between}");
    }
}

#[test]
fn recovering_noise_from_a_plan_without_noise_is_refused() {
    let mut source = Seeded::new(0, 0);
    let found = encode_noise(&gaussian(), &plan(5, 0.0), &images(1), Draw::Chain, &mut source, &[], &mut unobserved);
    assert!(found.unwrap_err().message().contains("eta > 0"));
    assert!(plan(5, 1.0).with_final_sigma(-0.1).is_err());
}

#[test]
fn inversion_refuses_solvers_other_than_ddim() {
    let plan = plan(5, 0.0).with_solver(crate::sampling::solver::Solver::HEUN).unwrap();
    for method in [Method::Ddim, Method::FixedPoint(FixedPoint::default()), Method::Bdia(Bdia::default())] {
        let error = encode(&gaussian(), &plan, &images(1), &method, &[], &mut unobserved).unwrap_err();
        assert!(error.to_string().contains("solver heun; choose solver ddim"), "{error}");
    }
    let latents = Latents::One(images(1));
    assert!(decode(&gaussian(), &plan, &latents, &Method::Ddim, &[], &mut unobserved).is_err());
    let mut source = Seeded::new(3, 0);
    assert!(encode_noise(&gaussian(), &plan, &images(1), Draw::Chain, &mut source, &[], &mut unobserved).is_err());
    // Such a solver refuses final noise too.
    assert!(plan.with_final_sigma(0.1).unwrap_err().to_string().contains("needs eta = 0"));
}
