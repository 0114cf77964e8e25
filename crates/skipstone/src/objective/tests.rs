use std::ops::ControlFlow;

use ndarray::Array3;

use super::*;
use crate::math::noise::{Purpose, Seeded};
use crate::math::schedule::{BetaSchedule, FinalLevel, NoiseLevel, Schedule};
use crate::math::sigma::{NoiseScale, sigma, table};
use crate::math::trajectory::{Spacing, Trajectory};
use crate::sampling::denoiser::{Clip, Condition, Denoiser, Prediction};
use crate::sampling::oracle::Oracle;

fn linear() -> Schedule {
    Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap()
}

fn options(scale: NoiseScale) -> ElboOptions {
    ElboOptions { scale, sigma_1: None, clip: Clip::Off }
}

fn seeded() -> Seeded {
    Seeded { seed: 4, first_image: 0, purpose: Purpose::Likelihood }
}

fn unobserved(_: &ElboTerm) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn exact_weight_with_the_ddpm_sigma_matches_ddpm() {
    let schedule = linear();
    for t in 2..=1000u32 {
        let beta = schedule.betas()[t as usize - 1];
        let (t, s) = (schedule.level(Time::new(t)).unwrap(), schedule.level(Time::new(t - 1)).unwrap());
        let sigma = sigma(1.0, t, s);
        // DDPM Eq. 12: β²/(2σ²α(1−ᾱ)).
        let ddpm = beta * beta / (2.0 * sigma * sigma * (1.0 - beta) * t.one_minus);
        assert!((exact_weight(t, s, sigma) / ddpm - 1.0).abs() < 1e-10);
    }
}

#[test]
fn weight_formulas_match_hand_computation_and_the_last_step_uses_sigma_1() {
    let (t, s) = (NoiseLevel::from_alpha_bar(0.36), NoiseLevel::from_alpha_bar(0.64));
    // σ² = 0.2 leaves 1 − a_s − σ² = 0.16: [0.8 − 0.4·0.75]²·0.64/(2·0.36·0.2).
    let sigma = 0.2f64.sqrt();
    assert!((exact_weight(t, s, sigma) - 0.25 * 0.64 / 0.144).abs() < 1e-12);
    assert!((paper_weight(t, sigma, 5) - 1.0 / (2.0 * 5.0 * 0.2 * 0.36)).abs() < 1e-12);
    assert!((last_exact_weight(t, 0.1) - 0.64 / (2.0 * 0.36 * 0.01)).abs() < 1e-9);

    let tau = Trajectory::named(Spacing::Linear, 4, 1000, 0).unwrap();
    let at = |eta| table(&linear(), &tau, &NoiseScale::Eta(eta), FinalLevel::Clean).unwrap();
    let weights = j_sigma_weights(&at(1.0), 0.5, WeightFormula::Exact, 3).unwrap();
    assert_eq!(weights.len(), 4);
    let a = at(1.0)[3].from;
    assert!((weights[3] - a.one_minus / (2.0 * a.alpha_bar * 0.25)).abs() < 1e-9 * weights[3]);
    assert!(j_sigma_weights(&at(0.0), 0.5, WeightFormula::Exact, 3).unwrap_err().to_string().contains("eta > 0"));
    assert!(j_sigma_weights(&at(1.0), 0.0, WeightFormula::Paper, 3).is_err());
    assert_eq!("paper".parse::<WeightFormula>().unwrap().to_string(), "paper");
}

#[test]
fn losses_match_hand_computation() {
    let eps = Array4::from_shape_vec((2, 1, 1, 2), vec![1.0, 2.0, 3.0, 4.0]).unwrap();
    let zero = Array4::zeros((2, 1, 1, 2));
    assert_eq!(squared_errors(&eps, &zero).unwrap(), [5.0, 25.0]);
    assert_eq!(l_simple(&eps, &zero).unwrap(), 7.5);
    assert_eq!(l_gamma(&[5.0, 25.0], &[2.0, 0.1]).unwrap(), 12.5);
    assert!(l_gamma(&[5.0], &[]).is_err());
    assert!(l_simple(&eps, &Array4::zeros((1, 1, 1, 2))).is_err());
    assert!(l_simple(&Array4::zeros((0, 1, 1, 2)), &Array4::zeros((0, 1, 1, 2))).is_err());
}

#[test]
fn antithetic_times_mirror_their_first_half_and_are_truncated_to_the_batch() {
    for n in [0usize, 1, 2, 7, 128] {
        let times = antithetic_times(&mut KeyedRng::new(1, Purpose::TrainTime, 0, 0), n, 1000);
        assert_eq!(times.len(), n);
        let half = n / 2 + 1;
        assert!((half..n).all(|i| times[i].get() + times[i - half].get() == 1001.0));
        assert!(times.iter().all(|t| (1.0..=1000.0).contains(&t.get())));
    }
}

/// The data of the tests below: one image of 2,000 elements, all equal to one of the 256 levels.
const X0: f64 = 0.6;
const MEAN: f64 = 0.2;
const VARIANCE: f64 = 0.3;
const DIMS: usize = 2000;

fn gaussian(schedule: &Schedule) -> Oracle {
    let full = |value| Array3::from_elem((1, 40, 50), value);
    Oracle::gaussian(schedule, full(MEAN), full(VARIANCE)).unwrap()
}

#[test]
fn terms_of_the_bound_on_a_gaussian_match_their_closed_forms() {
    let schedule = linear();
    let x0 = Array4::from_elem((1, 1, 40, 50), X0 as f32);
    let tau = Trajectory::named(Spacing::Linear, 5, 1000, 0).unwrap();
    for (scale, hat) in [(NoiseScale::Eta(1.0), false), (NoiseScale::Eta(0.4), false), (NoiseScale::Hat, true)] {
        let steps = table(&schedule, &tau, &scale, FinalLevel::Clean).unwrap();
        let found =
            elbo(&gaussian(&schedule), &schedule, &tau, &options(scale), &x0, &mut seeded(), &[], &mut unobserved)
                .unwrap();
        for (term, step) in found.terms.iter().zip(&steps).take(4) {
            let (a_t, n_t, a_s) = (step.from.alpha_bar, step.from.one_minus, step.to.alpha_bar);
            let sigma2 = step.sigma * step.sigma;
            // x̂₀ − x₀ = (g√a_t − 1)(x₀ − μ) + g√(1−a_t)·ε, g = √a_t·v/(a_t·v + 1 − a_t).
            let g = a_t.sqrt() * VARIANCE / (a_t * VARIANCE + n_t);
            let x0_error = ((g * a_t.sqrt() - 1.0) * (X0 - MEAN)).powi(2) + g * g * n_t;
            let of_x0 = a_s.sqrt() - ((1.0 - a_s - sigma2) * a_t / n_t).sqrt();
            let z2 = if hat { 1.0 - a_t / a_s } else { sigma2 };
            let mismatch = 0.5 * (sigma2 / z2 - 1.0 - (sigma2 / z2).ln());
            let expected = DIMS as f64 * (of_x0 * of_x0 * x0_error / (2.0 * z2) + mismatch);
            // ‖·‖² over 2,000 draws: a standard error of about 3 %.
            assert!((term.nats / expected - 1.0).abs() < 0.12, "{} {expected}", term.nats);
            // Up to rounding, the term is the weight times the error of this draw.
            if !hat {
                let weighted = exact_weight(step.from, step.to, step.sigma) * term.squared_error;
                assert!((term.nats / weighted - 1.0).abs() < 1e-3, "{} {weighted}", term.nats);
            }
        }
        // KL(N(√a·x₀, 1−a) ‖ N(0, 1)).
        let (a, n) = (steps[0].from.alpha_bar, steps[0].from.one_minus);
        let prior = DIMS as f64 * 0.5 * (n + a * X0 * X0 - 1.0 - n.ln());
        assert!((found.prior_nats - prior).abs() < 1e-6 * DIMS as f64);
        let total = found.prior_nats + found.terms.iter().map(|term| term.nats).sum::<f64>();
        assert!((found.bits_per_dim() - total / (DIMS as f64 * 2f64.ln())).abs() < 1e-12);
    }
}

#[test]
fn the_bound_in_bits_matches_quadrature_and_exceeds_the_true_likelihood() {
    let schedule = linear();
    let x0 = Array4::from_elem((1, 1, 40, 50), X0 as f32);
    let tau = Trajectory::named(Spacing::Linear, 1000, 1000, 0).unwrap();
    let options = options(NoiseScale::Eta(1.0));
    let bits = elbo(&gaussian(&schedule), &schedule, &tau, &options, &x0, &mut seeded(), &[], &mut unobserved)
        .unwrap()
        .bits_per_dim();
    // An independent script (plain sums over t for the KLs, quadrature over ε with math.erfc for the decoder) gives
    // 0.0000 + 6.0944 + 2.5130 bits. The DDPM posterior's sigma_1 is narrower than the best one for this decoder.
    assert!((bits - 8.6074).abs() < 0.1, "{bits}");
    // −log₂ of N(x₀; μ, v) times the bin width.
    let density = (-(X0 - MEAN).powi(2) / (2.0 * VARIANCE)).exp() / (2.0 * std::f64::consts::PI * VARIANCE).sqrt();
    assert!(bits > -(density * 2.0 / 255.0).log2());
}

#[test]
fn an_infinite_or_undefined_bound_is_refused_before_any_network_call() {
    /// Fails the test when called.
    struct Uncalled(Prediction);
    impl Denoiser for Uncalled {
        fn shape(&self) -> [usize; 3] {
            [1, 1, 1]
        }
        fn prediction(&self) -> Prediction {
            self.0
        }
        fn predict(&self, _: &Array4<f32>, _: &[Time], _: &[Condition]) -> Result<Array4<f32>> {
            panic!("the network was called")
        }
    }
    let tau = Trajectory::named(Spacing::Linear, 5, 1000, 0).unwrap();
    let x0 = Array4::zeros((1, 1, 1, 1));
    let refusal = |schedule: &Schedule, options: &ElboOptions| {
        let denoiser = Uncalled(Prediction::Epsilon);
        elbo(&denoiser, schedule, &tau, options, &x0, &mut seeded(), &[], &mut unobserved).unwrap_err().to_string()
    };
    assert!(refusal(&linear(), &options(NoiseScale::Eta(0.0))).contains("sigma > 0"));
    let zero = ElboOptions { sigma_1: Some(0.0), ..options(NoiseScale::Eta(1.0)) };
    assert!(refusal(&linear(), &zero).contains("sigma_1: the decoder needs a finite number above 0, found 0"));
    let zero_snr = linear().with_zero_terminal_snr().unwrap();
    assert!(refusal(&zero_snr, &options(NoiseScale::Eta(1.0))).contains("v-prediction"));
    assert!(default_sigma_1(&Schedule::from_betas(&[0.5]).unwrap()).is_err());
}

#[test]
fn an_overflowing_bound_is_an_error_that_names_its_sigma() {
    let schedule = linear();
    let tau = Trajectory::named(Spacing::Linear, 3, 1000, 0).unwrap();
    let x0 = Array4::from_elem((1, 1, 40, 50), X0 as f32);
    for (scale, sigma_1, named) in
        [(NoiseScale::Eta(1e-200), None, "sigma ="), (NoiseScale::Eta(1.0), Some(1e-200), "sigma_1 = 1e-200")]
    {
        let options = ElboOptions { scale, sigma_1, clip: Clip::Off };
        let oracle = gaussian(&schedule);
        let error = elbo(&oracle, &schedule, &tau, &options, &x0, &mut seeded(), &[], &mut unobserved).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::NonFinite);
        assert!(error.message().contains(named), "{error}");
    }
}

#[test]
fn the_default_sigma_1_is_the_ddpm_posterior_at_timestep_two() {
    let schedule = linear();
    let (b1, b2) = (schedule.betas()[0], schedule.betas()[1]);
    let variance = b1 / (1.0 - (1.0 - b1) * (1.0 - b2)) * b2;
    assert!((default_sigma_1(&schedule).unwrap().powi(2) / variance - 1.0).abs() < 1e-10);
}

#[test]
fn the_weights_of_a_student_are_the_same_for_every_output() {
    // An error e of x̂₀ is an error √SNR·e of ε̂ and e/√(1−a) of v̂.
    for alpha_bar in [0.01, 0.3, 0.5, 0.7, 0.99] {
        let level = NoiseLevel::from_alpha_bar(alpha_bar);
        let snr = level.snr();
        for (weighting, expected) in
            [(LossWeighting::TruncatedSnr, snr.max(1.0)), (LossWeighting::SnrPlusOne, snr + 1.0)]
        {
            for (prediction, per_x0) in
                [(Prediction::Sample, 1.0), (Prediction::Epsilon, snr), (Prediction::Velocity, 1.0 / level.one_minus)]
            {
                let weight = weighting.at(prediction, level) * per_x0;
                assert!(
                    (weight / expected - 1.0).abs() < 1e-12,
                    "{weighting:?} {prediction:?}: {weight} for {expected}"
                );
            }
        }
    }
}
