use std::ops::ControlFlow;

use ndarray::{Array3, Array4};

use super::*;
use crate::engine::cpu::DifferentiableUNet;
use crate::math::noise::initial_latent;
use crate::math::schedule::{BetaSchedule, Schedule, Time};
use crate::math::trajectory::{Spacing, Trajectory};
use crate::sampling::denoiser::{Denoiser, DifferentiableDenoiser, Prediction};
use crate::sampling::oracle::{Component, Oracle};
use crate::unet::{Config, initialise};

const MEAN: f64 = 0.2;
const VARIANCE: f64 = 0.3;

fn linear() -> Schedule {
    Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap()
}

fn options(probes: usize, kind: ProbeKind) -> FlowOptions {
    FlowOptions { probes, kind, seed: 3, first_image: 0 }
}

fn run(
    denoiser: &dyn DifferentiableDenoiser,
    schedule: &Schedule,
    steps: usize,
    options: &FlowOptions,
    x0: &Array4<f32>,
) -> Result<Flowed> {
    let tau = Trajectory::named(Spacing::Linear, steps, 1000, 0)?;
    flow(denoiser, schedule, &tau, options, x0, &[], &mut |_| ControlFlow::Continue(()))
}

fn log_gaussian(x: f64, mean: f64, variance: f64) -> f64 {
    -0.5 * ((x - mean).powi(2) / variance + (2.0 * std::f64::consts::PI * variance).ln())
}

/// log p(x₀) of a Gaussian's flow with prior N(0, I): x_T = √a·μ + √((a·v + 1 − a)/v)·(x₀ − μ) is linear in x₀.
fn exact(schedule: &Schedule, x0: &Array4<f32>) -> f64 {
    let level = schedule.level(Time::new(schedule.train_steps())).unwrap();
    let slope = ((level.alpha_bar * VARIANCE + level.one_minus) / VARIANCE).sqrt();
    x0.iter()
        .map(|&x0| log_gaussian(level.signal() * MEAN + slope * (f64::from(x0) - MEAN), 0.0, 1.0) + slope.ln())
        .sum()
}

fn gaussian(schedule: &Schedule, shape: (usize, usize, usize)) -> Oracle {
    Oracle::gaussian(schedule, Array3::from_elem(shape, MEAN), Array3::from_elem(shape, VARIANCE)).unwrap()
}

#[test]
fn the_likelihood_of_a_gaussian_matches_its_closed_form_for_every_prediction_type() {
    let schedule = linear();
    let x0 = Array4::from_shape_vec((1, 1, 1, 4), vec![-0.8f32, 0.1, 0.4, 1.0]).unwrap();
    let exact = exact(&schedule, &x0);
    for prediction in [Prediction::Epsilon, Prediction::Sample, Prediction::Velocity] {
        let oracle = gaussian(&schedule, (1, 1, 4)).predicting(prediction);
        // The Jacobian is diagonal, so one probe of ±1 gives its trace without variance.
        let found = run(&oracle, &schedule, 200, &options(1, ProbeKind::Rademacher), &x0).unwrap();
        assert!((found.means()[0] - exact).abs() < 2e-3, "{prediction}: {} {exact}", found.means()[0]);
        assert_eq!(found.probe_error(), None);
    }
}

#[test]
fn discretisation_error_falls_with_the_square_of_the_step_size() {
    let schedule = linear();
    let oracle = gaussian(&schedule, (1, 1, 1)).predicting(Prediction::Velocity);
    let error = |steps| {
        let one = |x0: f32| {
            let x0 = Array4::from_elem((1, 1, 1, 1), x0);
            let found = run(&oracle, &schedule, steps, &options(1, ProbeKind::Rademacher), &x0).unwrap();
            (found.means()[0] - exact(&schedule, &x0)).abs()
        };
        [-1.0, -0.3, 0.2, 1.2].map(one).iter().sum::<f64>()
    };
    // With more steps, the approximation below the first trained timestep dominates: 1e-3.
    let errors = [error(5), error(10), error(20)];
    for pair in errors.windows(2) {
        let order = (pair[0] / pair[1]).log2();
        assert!((1.6..2.6).contains(&order), "{errors:?}");
    }
}

#[test]
fn zero_snr_works_with_v_prediction() {
    let schedule = linear().with_zero_terminal_snr().unwrap();
    let x0 = Array4::from_elem((1, 1, 1, 1), 0.7f32);
    let oracle = gaussian(&schedule, (1, 1, 1));
    let found =
        run(&oracle.clone().predicting(Prediction::Velocity), &schedule, 200, &options(1, ProbeKind::Rademacher), &x0);
    // No signal is left at T, so the prior is exact and so is the density.
    let expected = log_gaussian(f64::from(0.7f32), MEAN, VARIANCE);
    assert!((found.unwrap().means()[0] - expected).abs() < 2e-3);
    let refused = run(&oracle, &schedule, 20, &options(1, ProbeKind::Rademacher), &x0).unwrap_err();
    assert!(refused.message().contains("v-prediction"));
}

#[test]
fn estimates_are_unbiased_and_their_reported_error_is_correct() {
    let schedule = linear();
    let part = |weight, mean: [f64; 2], variance: [f64; 2]| Component {
        weight,
        mean: Array3::from_shape_vec((1, 1, 2), mean.to_vec()).unwrap(),
        variance: Array3::from_shape_vec((1, 1, 2), variance.to_vec()).unwrap(),
    };
    // Between the two components the Jacobian is far from diagonal.
    let parts = vec![part(0.6, [0.5, 0.4], [0.1, 0.05]), part(0.4, [-0.4, -0.6], [0.05, 0.2])];
    let oracle = Oracle::mixture(&schedule, parts.clone()).unwrap().predicting(Prediction::Velocity);
    let x0 = Array4::from_shape_vec((1, 1, 1, 2), vec![0.1f32, -0.1]).unwrap();
    let density: f64 = parts
        .iter()
        .map(|k| {
            let log: f64 = (0..2)
                .map(|i| log_gaussian(f64::from(x0[[0, 0, 0, i]]), k.mean[[0, 0, i]], k.variance[[0, 0, i]]))
                .sum();
            k.weight * log.exp()
        })
        .sum();
    for kind in [ProbeKind::Rademacher, ProbeKind::Gaussian] {
        let found = run(&oracle, &schedule, 250, &options(400, kind), &x0).unwrap();
        let error = found.probe_error().unwrap();
        assert!(error > 1e-3, "{kind}: {error}");
        // The prior at T is N(0, I) to 1e-4.
        let off = found.means()[0] - density.ln();
        assert!(off.abs() < 4.0 * error + 5e-3, "{kind}: {off} with error {error}");
    }
    // For a diagonal Jacobian, ±1 probes have no variance; Gaussian probes do.
    let diagonal = gaussian(&schedule, (1, 1, 2)).predicting(Prediction::Velocity);
    let error = |kind| run(&diagonal, &schedule, 10, &options(50, kind), &x0).unwrap().probe_error().unwrap();
    assert!(error(ProbeKind::Rademacher) < 1e-6 && error(ProbeKind::Gaussian) > 1e-2);
}

#[test]
fn an_images_likelihood_depends_only_on_the_image_and_its_index() {
    let schedule = linear();
    let oracle = gaussian(&schedule, (1, 2, 3));
    let x0 = dequantised(&initial_latent(1, 0, 4, [1, 2, 3]), 3, 0);
    let whole = run(&oracle, &schedule, 5, &options(2, ProbeKind::Gaussian), &x0).unwrap();
    let last = x0.slice_axis(ndarray::Axis(0), ndarray::Slice::from(3..)).to_owned();
    let alone = FlowOptions { first_image: 3, ..options(2, ProbeKind::Gaussian) };
    let alone = run(&oracle, &schedule, 5, &alone, &last).unwrap();
    assert_eq!(alone.log_densities[0], whole.log_densities[3]);
    assert_ne!(whole.log_densities[0], whole.log_densities[1]);
    let first = x0.slice_axis(ndarray::Axis(0), ndarray::Slice::from(..3)).to_owned();
    let first = run(&oracle, &schedule, 5, &options(2, ProbeKind::Gaussian), &first).unwrap();
    assert_eq!(Flowed::merged(vec![first, alone]).unwrap(), Some(whole));
    assert!(run(&oracle, &schedule, 5, &options(0, ProbeKind::Gaussian), &x0).is_err());
    let tau = Trajectory::named(Spacing::Linear, 5, 1000, 0).unwrap();
    let stopped = flow(&oracle, &schedule, &tau, &options(1, ProbeKind::Gaussian), &x0, &[], &mut |step| {
        if step.step == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(stopped.unwrap_err().is_stopped());
}

#[test]
fn dequantised_values_fill_their_bins_uniformly() {
    let level = 2.0 * 100.0 / 255.0 - 1.0;
    let x = dequantised(&Array4::from_elem((1, 1, 100, 100), level as f32), 0, 0).mapv(f64::from);
    assert!(x.iter().all(|x| (x - level).abs() <= 1.0 / 255.0 + 1e-7));
    // The variance of a uniform number is its width squared over 12.
    assert!((x.var(0.0) / ((2.0f64 / 255.0).powi(2) / 12.0) - 1.0).abs() < 0.05);
    // A density of 127.5 over a bin of 2/255 is probability 1: 0 bits.
    assert!(bits_per_dim(3.0 * 127.5f64.ln(), 3).abs() < 1e-12);
    assert_eq!(standard_error(&[1.0]), None);
}

#[test]
fn a_networks_pullback_matches_finite_differences() {
    let config = Config::smallest();
    let mut rng = KeyedRng::new(1, Purpose::Weights, 0, 0);
    let mut gaussian = KeyedRng::new(1, Purpose::Weights, 1, 0);
    let mut weights = initialise(&config, || rng.next_f64(), || gaussian.next_gaussians()[0]).unwrap();
    for value in weights.data_mut() {
        *value += 0.1 * (rng.next_f64() as f32 - 0.5);
    }
    let network =
        |threads| DifferentiableUNet::new(config.clone(), weights.clone(), Prediction::Velocity, threads).unwrap();
    let unet = network(2);
    let x = initial_latent(0, 0, 3, [1, 8, 8]);
    let v = initial_latent(1, 0, 3, [1, 8, 8]);
    let times = [Time::new(500); 3];
    let found = unet.pullback(&x, &times, &[], &v).unwrap();
    let plain = unet.predict(&x, &times, &[]).unwrap();
    assert!(found.out.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-4));
    // Along one direction for all elements: v·(f(x + hu) − f(x − hu))/2h = u·Jᵀv.
    let u = initial_latent(2, 0, 3, [1, 8, 8]);
    for i in 0..3 {
        let at = |h: f32| {
            let y = unet.predict(&(&x + &(&u * h)), &times, &[]).unwrap();
            let product = &y * &v;
            f64::from(product.index_axis(ndarray::Axis(0), i).sum())
        };
        let slope = (at(0.01) - at(-0.01)) / 0.02;
        let product = &found.gradient * &u;
        let along = f64::from(product.index_axis(ndarray::Axis(0), i).sum());
        assert!((along - slope).abs() < 2e-2 * slope.abs().max(0.5), "{i}: {along} {slope}");
    }
    // A second call, one thread, and a batch of one all give the same bits.
    assert_eq!(network(1).pullback(&x, &times, &[], &v).unwrap(), found);
    assert_eq!(unet.pullback(&x, &times, &[], &v).unwrap(), found);
    assert!(unet.pullback(&x, &times, &[], &Array4::zeros((1, 1, 8, 8))).is_err());
}
