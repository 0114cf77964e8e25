use std::ops::ControlFlow;

use ndarray::{Array3, Array4};

use super::*;
use crate::math::noise::{Purpose, Seeded, initial_latent};
use crate::math::schedule::{BetaSchedule, FinalLevel};
use crate::math::trajectory::Spacing;
use crate::objective::{ElboOptions, default_sigma_1, elbo, exact_weight};
use crate::sampling::denoiser::{Clip, Prediction};
use crate::sampling::oracle::Oracle;
use crate::sampling::sampler::{Plan, sample, unobserved};

const MEAN: f64 = 0.2;
const VARIANCE: f64 = 0.3;
const T: u32 = 40;

/// Covers the same range of noise as the paper's schedule, in forty timesteps.
fn schedule() -> Schedule {
    Schedule::new(&BetaSchedule::Linear, 2.5e-3, 0.4, T).unwrap()
}

fn oracle() -> Oracle {
    let full = |value| Array3::from_elem((1, 40, 50), value);
    Oracle::gaussian(&schedule(), full(MEAN), full(VARIANCE)).unwrap()
}

fn seeded() -> Seeded {
    Seeded { seed: 4, first_image: 0, purpose: Purpose::Likelihood }
}

/// Images drawn from the oracle's distribution.
fn data(n: usize) -> Array4<f32> {
    initial_latent(11, 0, n, [1, 40, 50]).mapv(|z| (MEAN + VARIANCE.sqrt() * f64::from(z)) as f32)
}

fn measured(denoiser: &Oracle, schedule: &Schedule) -> Calibration {
    let sigma_1 = default_sigma_1(schedule).unwrap();
    let go_on = &mut |_| ControlFlow::Continue(());
    measure(denoiser, schedule, &data(4), &mut seeded(), &[], sigma_1, go_on).unwrap()
}

#[test]
fn the_means_of_a_gaussian_match_their_closed_forms() {
    let (schedule, found) = (schedule(), measured(&oracle(), &schedule()));
    for t in 1..=T {
        let level = schedule.level(Time::new(t)).unwrap();
        let total = level.alpha_bar * VARIANCE + level.one_minus;
        let i = t as usize - 1;
        // ε̂ = √(1−a)·(x − √a·μ)/(a·v + 1 − a), and the posterior variance v·(1−a)/(a·v + 1 − a); 8,000 draws.
        assert!((found.eps_squares[i] / (level.one_minus / total) - 1.0).abs() < 0.06, "{t}");
        assert!((found.x0_errors[i] / (VARIANCE * level.one_minus / total) - 1.0).abs() < 0.06, "{t}");
    }
}

#[test]
fn the_analytic_variance_preserves_the_marginals_of_a_gaussian_for_any_number_of_steps() {
    let (schedule, calibration) = (schedule(), measured(&oracle(), &schedule()));
    // Variance of the samples relative to that of the last x̂₀ of an exact chain.
    let ratio = |scale: &dyn Fn(&Trajectory) -> NoiseScale, steps: usize| {
        let tau = Trajectory::named(Spacing::Linear, steps, T, 0).unwrap();
        let plan = Plan::new(&schedule, &tau, &scale(&tau), FinalLevel::Clean, Clip::Off).unwrap();
        let last = plan.steps()[steps - 1].from;
        let x = initial_latent(5, 0, 8, [1, 40, 50]);
        let x = sample(&oracle(), &plan, x, &mut Seeded::new(5, 0), &[], &mut unobserved).unwrap();
        // x at the last timestep has the marginal variance a·v + 1 − a, and x̂₀ is linear in x.
        let total = last.alpha_bar * VARIANCE + last.one_minus;
        x.mapv(f64::from).var(0.0) / (last.alpha_bar * VARIANCE * VARIANCE / total)
    };
    for eta in [0.0, 1.0] {
        for steps in [2, 5, 10] {
            let found = ratio(&|tau| calibration.analytic(&schedule, eta, tau).unwrap(), steps);
            // 16,000 elements: 1.1 %. The calibration's mean adds as much.
            assert!((found - 1.0).abs() < 0.05, "eta {eta}, {steps} steps: {found}");
        }
    }
    // With as many steps the variances of the η-family make images too narrow: 0.77 and 0.61 by the recursion of moments.
    for (eta, expected) in [(0.0, 0.7715), (1.0, 0.6086)] {
        let found = ratio(&|_| NoiseScale::Eta(eta), 10);
        assert!((found - expected).abs() < 0.03, "eta {eta}: {found}");
    }
}

#[test]
fn the_cost_of_a_step_is_its_term_of_the_bound() {
    let (schedule, calibration) = (schedule(), measured(&oracle(), &schedule()));
    let tau = Trajectory::explicit(&[39, 30, 12, 3, 0], T).unwrap();
    let options = ElboOptions { scale: NoiseScale::Eta(1.0), sigma_1: Some(calibration.sigma_1), clip: Clip::Off };
    let go_on = &mut |_: &_| ControlFlow::Continue(());
    let bound = elbo(&oracle(), &schedule, &tau, &options, &data(4), &mut seeded(), &[], go_on).unwrap();
    for (term, (t, s)) in bound.terms.iter().zip(tau.steps()) {
        let cost = calibration.cost(&schedule, t, s).unwrap() * bound.dims as f64;
        // Tolerance for other draws of ε.
        assert!((cost / term.nats - 1.0).abs() < 0.08, "{} to {}: {cost} {}", t.get(), s.get(), term.nats);
    }
    // The error of x̂₀ is that of ε̂ times (1−a)/a, so the cost equals the exact weight times the error of ε̂.
    let (from, to) = (schedule.level(Time::new(31)).unwrap(), schedule.level(Time::new(13)).unwrap());
    let eps_error = calibration.x0_errors[30] * from.alpha_bar / from.one_minus;
    let weighted = exact_weight(from, to, sigma(1.0, from, to)) * eps_error;
    assert!((calibration.cost(&schedule, Time::new(31), Time::new(13)).unwrap() / weighted - 1.0).abs() < 1e-9);
    assert!(calibration.cost(&schedule, Time::new(3), Time::new(3)).is_err());
    assert!(calibration.cost(&schedule, Time::new(41), Time::new(3)).is_err());
}

#[test]
fn optimal_times_lower_the_bound() {
    let (schedule, calibration) = (schedule(), measured(&oracle(), &schedule()));
    let bits_under = |scale: NoiseScale, tau: &Trajectory| {
        let options = ElboOptions { scale, sigma_1: None, clip: Clip::Off };
        let go_on = &mut |_: &_| ControlFlow::Continue(());
        elbo(&oracle(), &schedule, tau, &options, &data(4), &mut seeded(), &[], go_on).unwrap().bits_per_dim()
    };
    let bits = |tau: &Trajectory| bits_under(NoiseScale::Eta(1.0), tau);
    let mut last = f64::INFINITY;
    for steps in [3, 6, 12] {
        let best = bits(&calibration.optimal(&schedule, steps).unwrap());
        for spacing in [Spacing::Linear, Spacing::Quadratic, Spacing::Trailing] {
            assert!(best < bits(&Trajectory::named(spacing, steps, T, 0).unwrap()), "{steps} {spacing}");
        }
        assert!(best < last);
        last = best;
        // The analytic variance lowers it further, for any timesteps.
        for tau in [calibration.optimal(&schedule, steps), Trajectory::named(Spacing::Linear, steps, T, 0)] {
            let tau = tau.unwrap();
            assert!(bits_under(calibration.analytic(&schedule, 1.0, &tau).unwrap(), &tau) < bits(&tau), "{steps}");
        }
    }
}

#[test]
fn zero_snr_has_costs_and_steps_without_a_cost_are_refused() {
    let schedule = schedule().with_zero_terminal_snr().unwrap();
    let full = |value| Array3::from_elem((1, 40, 50), value);
    let oracle = Oracle::gaussian(&schedule, full(MEAN), full(VARIANCE)).unwrap();
    let calibration = measured(&oracle.clone().predicting(Prediction::Velocity), &schedule);
    assert_eq!(calibration.optimal(&schedule, 5).unwrap().start(), Time::new(T));
    let tau = Trajectory::named(Spacing::Linear, 5, T, 0).unwrap();
    let scale = calibration.analytic(&schedule, 1.0, &tau).unwrap();
    let error = Plan::new(&schedule, &tau, &scale, FinalLevel::Clean, Clip::Off).unwrap_err();
    assert!(error.to_string().contains("zero terminal SNR"), "{error}");
    let go_on = &mut |_| ControlFlow::Continue(());
    assert!(measure(&oracle, &schedule, &data(1), &mut seeded(), &[], 0.1, go_on).is_err());
    let schedule = self::schedule();
    let stop = &mut |_| ControlFlow::Break(());
    assert!(measure(&self::oracle(), &schedule, &data(1), &mut seeded(), &[], 0.1, stop).unwrap_err().is_stopped());
    assert!(measure(&self::oracle(), &schedule, &data(1), &mut seeded(), &[], 0.0, go_on).is_err());
}

#[test]
fn a_file_round_trips_and_errors_in_a_broken_one_name_the_field() {
    let folder = tempfile::tempdir().unwrap();
    let mut calibration = measured(&oracle(), &schedule());
    calibration.model = "abc".to_owned();
    calibration.process = "p".to_owned();
    calibration.provenance.insert("data".to_owned(), "a Gaussian".to_owned());
    let path = Calibration::path_of(folder.path());
    assert_eq!(Calibration::read(&path).unwrap(), None);
    calibration.write(&path).unwrap();
    let back = Calibration::read(&path).unwrap().unwrap();
    assert_eq!((back.hash(), &back), (calibration.hash(), &calibration));
    let beside = Calibration::path_of(&folder.path().join("model.ckpt"));
    assert_eq!(beside, folder.path().join("model.ckpt.calibration.json"));

    let text = calibration.to_json();
    for (from, to, message) in [
        ("\"format\": 1", "\"format\": 2", "format 1, found 2"),
        ("\"format\": 1", "\"format\": \"1\"", "format"),
        ("\"sigma_1\": ", "\"sigma_2\": ", "sigma_1"),
        ("\"eps_squares\": [", "\"eps_squares\": [-1.0,", "x0_errors: expected 41"),
        ("\"decoder_nats\": [", "\"decoder_nats\": [null,", "decoder_nats[0]"),
        ("\"a Gaussian\"", "7", "provenance.data"),
        ("{", "", "not a calibration"),
        (text.as_str(), " ", "not a calibration: the file is empty"),
        (text.as_str(), "{", "not a calibration: not JSON, truncated"),
    ] {
        let error = Calibration::from_json(&text.replacen(from, to, 1)).unwrap_err();
        assert!(error.message().contains(message), "{error}");
    }
    assert!(required(Some(&back), "x", "abc", "p", T).is_ok());
    // One that cannot be read is as good as none.
    assert_eq!(Calibration::beside(folder.path()), Some(calibration));
    std::fs::write(&path, "").unwrap();
    assert_eq!(Calibration::beside(folder.path()), None);
    let other = required(Some(&back), "x", "abd", "p", T).unwrap_err();
    assert!(other.message().ends_with("repeat it with: skipstone calibrate --model DIR --data DATASET"), "{other}");
    let other = required(Some(&back), "x", "abc", "q", T).unwrap_err();
    assert!(other.message().contains("another schedule, or another prediction"), "{other}");
    assert!(required(Some(&back), "x", "abc", "p", 1000).unwrap_err().message().contains("40 times"));
    let missing = required(None, "spacing optimal", "abc", "p", T).unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
    assert!(missing.message().contains("skipstone calibrate --model DIR --data DATASET"), "{missing}");
}

/// The paper's schedule, and data whose variance falls from pixel to pixel as in the spectrum of pictures.
const MOST_T: u32 = 1000;

fn uneven() -> (Schedule, Oracle, Array3<f64>) {
    let schedule = Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, MOST_T).unwrap();
    let variance = Array3::from_shape_fn((1, 1, 64), |(.., i)| 1e-4 + 1.0 / ((i + 1) * (i + 1)) as f64);
    let oracle = Oracle::gaussian(&schedule, Array3::from_elem((1, 1, 64), MEAN), variance.clone()).unwrap();
    (schedule, oracle, variance)
}

#[test]
fn a_fitted_grid_ends_nearer_to_the_exact_flow_than_linear_and_quadratic_ones() {
    let (schedule, oracle, variance) = uneven();
    let latents = initial_latent(3, 0, 16, [1, 1, 64]);
    let mut seen = (0, 0);
    let mut see = |done, of| {
        seen = (done, of);
        ControlFlow::Continue(())
    };
    let errors = measure_path(&oracle, &schedule, &latents, &[], &mut see).unwrap();
    let stages = path_work(MOST_T).unwrap().stages;
    assert_eq!(seen, (stages, stages));
    // Other latents than those it was fitted on. The flow of a Gaussian conserves (x − √a·μ)/√(a·v + 1 − a).
    let x_t = initial_latent(4, 0, 64, [1, 1, 64]);
    let last = schedule.level(Time::new(MOST_T)).unwrap();
    let off_by = |tau: &Trajectory| {
        let plan = Plan::ddim(&schedule, tau).unwrap();
        let found = sample(&oracle, &plan, x_t.clone(), &mut Seeded::new(0, 0), &[], &mut unobserved).unwrap();
        let square = |((index, &x), &found): ((_, &f32), &f32)| {
            let (_, c, h, w): (usize, usize, usize, usize) = index;
            let v = variance[[c, h, w]];
            let total = last.alpha_bar * v + last.one_minus;
            let exact = MEAN + (v / total).sqrt() * (f64::from(x) - last.signal() * MEAN);
            (f64::from(found) - exact).powi(2)
        };
        (x_t.indexed_iter().zip(&found).map(square).sum::<f64>() / x_t.len() as f64).sqrt()
    };
    for steps in [4, 6, 8, 10] {
        let fitted = errors.fitted(steps).unwrap();
        assert_eq!((fitted.calls(), fitted.start()), (steps, Time::new(MOST_T)));
        let named = |spacing| off_by(&Trajectory::named(spacing, steps, MOST_T, 0).unwrap());
        let (fitted, linear, quadratic) = (off_by(&fitted), named(Spacing::Linear), named(Spacing::Quadratic));
        println!("{steps}: fitted {fitted:.4}, linear {linear:.4}, quadratic {quadratic:.4}");
        assert!(fitted <= linear.min(quadratic), "{steps}: {fitted}, {linear}, {quadratic}");
    }
}

#[test]
fn local_errors_are_those_of_single_steps_from_the_exact_flow() {
    let (schedule, oracle, variance) = uneven();
    let latents = initial_latent(3, 0, 4, [1, 1, 64]);
    let errors = measure_path(&oracle, &schedule, &latents, &[], &mut |_, _| ControlFlow::Continue(())).unwrap();
    let count = errors.times.len();
    let time = |j: usize| if j == 0 { Time::CLEAN } else { Time::new(errors.times[j - 1]) };
    let first = schedule.level(Time::new(MOST_T)).unwrap();
    for (k, j) in [(count - 1, count / 2), (count / 2, 0), (count - 1, 0), (count / 3, 5)] {
        let (from, to) = (schedule.level(time(k + 1)).unwrap(), schedule.level(time(j)).unwrap());
        let square = |((_, c, h, w), &x): ((usize, usize, usize, usize), &f32)| {
            let v = variance[[c, h, w]];
            let spread = |level: crate::math::schedule::NoiseLevel| (level.alpha_bar * v + level.one_minus).sqrt();
            let z = (f64::from(x) - first.signal() * MEAN) / spread(first);
            // On the flow x − √a·μ = spread·z, so ε̂ = √(1−a)·z/spread and x̂₀ = μ + √a·v·z/spread.
            let step =
                to.signal() * from.signal() * v * z / spread(from) + to.noise() * from.noise() * z / spread(from);
            (step - spread(to) * z).powi(2)
        };
        let exact = (latents.indexed_iter().map(square).sum::<f64>() / latents.len() as f64).sqrt();
        let found = errors.errors[k][j];
        // The reference has an error of its own.
        assert!((found - exact).abs() < 0.02 * exact + 2e-3, "{k} {j}: {found} {exact}");
    }
    // The flow of a Gaussian multiplies a difference in the value of variance v by √(v/(a·v + 1 − a)).
    assert_eq!(errors.gains[0], 1.0);
    for j in 1..count {
        let level = schedule.level(time(j)).unwrap();
        let gain = |v: f64| (v / (level.alpha_bar * v + level.one_minus)).sqrt();
        let (least, most) = variance.iter().fold((f64::MAX, 0.0f64), |(a, b), &v| (a.min(gain(v)), b.max(gain(v))));
        // Coarse steps of DDIM have an error of their own.
        assert!((0.9 * least..1.1 * most).contains(&errors.gains[j]), "{j}: {} in {least}..{most}", errors.gains[j]);
    }
}

#[test]
fn the_dynamic_programme_finds_the_least_sum_of_squared_local_errors() {
    let n = 9;
    let rows = |k: usize| (0..=k).map(move |j| ((k * 37 + j * 101) % 17) as f64 + ((k + 1 - j) * (k + 1 - j)) as f64);
    let errors = LocalErrors {
        times: vec![1, 3, 4, 10, 11, 20, 30, 36, 40],
        latents: 1,
        errors: (0..n).map(|k| rows(k).collect()).collect(),
        gains: (0..=n).map(|j| 1.0 + (j * 29 % 13) as f64).collect(),
    };
    // Of steps through these candidates, ascending, to clean data. Whole numbers, so that no order of the sum rounds.
    let cost = |stops: &[usize]| {
        let off = |pair: &[usize]| errors.errors[pair[1]][pair[0] + 1] * errors.gains[pair[0] + 1];
        stops.windows(2).map(|pair| off(pair).powi(2)).sum::<f64>() + errors.errors[stops[0]][0].powi(2)
    };
    for steps in 1..=n {
        // Every choice of steps − 1 candidates below the last.
        let chosen = (0..(1usize << (n - 1))).filter(|set| set.count_ones() as usize == steps - 1);
        let sum = |set: usize| {
            let stops: Vec<usize> = (0..n).filter(|&k| k == n - 1 || (set >> k) & 1 == 1).collect();
            cost(&stops)
        };
        let least = chosen.map(sum).fold(f64::INFINITY, f64::min);
        let found = errors.fitted(steps).unwrap();
        let place = |t: &Time| errors.times.iter().position(|&one| Time::new(one) == *t).unwrap();
        let stops: Vec<usize> = found.times().iter().rev().map(place).collect();
        assert_eq!(cost(&stops), least, "{steps}: {found:?}");
        assert_eq!((found.calls(), found.start()), (steps, Time::new(T)));
    }
    for steps in [0, n + 1] {
        assert!(errors.fitted(steps).unwrap_err().message().contains("expected 1 to 9"));
    }
}

#[test]
fn a_file_keeps_local_errors_and_refuses_damaged_ones() {
    let mut calibration = measured(&oracle(), &schedule());
    let without = calibration.to_json();
    assert!(!without.contains("local_errors") && calibration.fitted(2).unwrap_err().kind() == Kind::NotFound);
    let local = LocalErrors {
        times: vec![1, 7, T],
        latents: 2,
        errors: vec![vec![0.5], vec![1.0, 0.0], vec![2.0, 1.5, 0.25]],
        gains: vec![1.0, 1.0, 1.0, 1.0],
    };
    calibration.local_errors = Some(local.clone());
    let text = calibration.to_json();
    assert_eq!(Calibration::from_json(&text).unwrap(), calibration);
    // 0.25² + 1² is less than 1.5² + 0.5².
    assert_eq!(calibration.fitted(2).unwrap().times(), [Time::new(T), Time::new(7)]);
    let refused = |local: LocalErrors, field: &str| {
        let wrong = Calibration { local_errors: Some(local), ..calibration.clone() }.to_json();
        let error = Calibration::from_json(&wrong).unwrap_err();
        assert!(error.message().contains(field), "{error}");
    };
    refused(LocalErrors { times: vec![7, 1, T], ..local.clone() }, "local_errors.times");
    refused(LocalErrors { times: vec![1, 7, T - 1], ..local.clone() }, "local_errors.times");
    refused(LocalErrors { times: vec![0, 7, T], ..local.clone() }, "local_errors.times");
    refused(LocalErrors { times: Vec::new(), errors: Vec::new(), ..local.clone() }, "local_errors.times");
    refused(
        LocalErrors { errors: vec![vec![0.5], vec![1.0], vec![2.0, 1.5, 0.25]], ..local.clone() },
        "local_errors.errors",
    );
    refused(
        LocalErrors { errors: vec![vec![-0.5], vec![1.0, 0.0], vec![2.0, 1.5, 0.25]], ..local.clone() },
        "local_errors.errors",
    );
    // Through 1 it costs 1.5² + 0.5². Through 7 it costs (0.25·3)² + 1² with a gain of 3 there, and (0.25·5)² + 1² with one of 5.
    for (gain, through) in [(3.0, 7), (5.0, 1)] {
        let weighed = LocalErrors { gains: vec![1.0, 1.0, gain, 1.0], ..local.clone() };
        assert_eq!(weighed.fitted(2).unwrap().times(), [Time::new(T), Time::new(through)]);
    }
    refused(LocalErrors { gains: vec![1.0; 3], ..local.clone() }, "local_errors.gains");
    refused(LocalErrors { gains: vec![1.0, 1.0, -1.0, 1.0], ..local }, "local_errors.gains");
    assert!(Calibration::from_json(&text.replace("\"latents\":2", "\"latents\":-2")).is_err());
}
