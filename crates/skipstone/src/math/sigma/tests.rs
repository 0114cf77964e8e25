use proptest::prelude::*;

use super::*;
use crate::math::schedule::BetaSchedule;
use crate::math::trajectory::Spacing;

fn linear() -> Schedule {
    Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap()
}

fn steps(calls: usize, scale: &NoiseScale) -> Result<Vec<Step>> {
    let tau = Trajectory::named(Spacing::Linear, calls, 1000, 0).unwrap();
    table(&linear(), &tau, scale, FinalLevel::Clean)
}

#[test]
fn eta_one_half_matches_hand_computation() {
    // a_t = 1/4, a_s = 3/4: σ(1)² = (1/4)/(3/4)·(1 − 1/3) = 2/9, σ(½) = ½·√2/3.
    let (t, s) = (NoiseLevel::from_alpha_bar(0.25), NoiseLevel::from_alpha_bar(0.75));
    let half = sigma(0.5, t, s);
    assert!((half - 2f64.sqrt() / 6.0).abs() < 1e-15);
    let c = Coefficients::new(s, half);
    assert!((c.x0 - 3f64.sqrt() / 2.0).abs() < 1e-15);
    // √(1/4 − 1/18) = √(7/36).
    assert!((c.eps - 7f64.sqrt() / 6.0).abs() < 1e-15);
}

#[test]
fn eta_scales_the_standard_deviation_not_the_variance() {
    let (t, s) = (NoiseLevel::from_alpha_bar(0.3), NoiseLevel::from_alpha_bar(0.6));
    assert!((sigma(0.5, t, s) / sigma(1.0, t, s) - 0.5).abs() < 1e-15);
}

#[test]
fn eta_one_is_the_ddpm_posterior() {
    // DDPM Eq. 7 in DDPM's notation: α, β, ᾱ.
    let schedule = linear();
    let mut product = 1.0;
    for t in 1..=1000u32 {
        let beta = schedule.betas()[t as usize - 1];
        let (alpha, before) = (1.0 - beta, product);
        product *= alpha;
        if t == 1 {
            continue;
        }
        let variance = (1.0 - before) / (1.0 - product) * beta;
        let of_x0 = before.sqrt() * beta / (1.0 - product);
        let of_xt = alpha.sqrt() * (1.0 - before) / (1.0 - product);
        let (t, s) = (schedule.level(Time::new(t)).unwrap(), schedule.level(Time::new(t - 1)).unwrap());
        let sigma = sigma(1.0, t, s);
        let c = Coefficients::new(s, sigma);
        // ε̂ = (x_t − √a_t·x̂₀)/√(1−a_t).
        let (xt, x0) = (c.eps / t.noise(), c.x0 - c.eps * t.signal() / t.noise());
        assert!((sigma * sigma - variance).abs() < 1e-10);
        assert!((xt - of_xt).abs() < 1e-10 && (x0 - of_x0).abs() < 1e-10);
    }
}

#[test]
fn the_last_step_lands_on_the_final_level_without_noise() {
    for scale in [NoiseScale::Eta(0.0), NoiseScale::Eta(1.0), NoiseScale::Hat] {
        let tau = Trajectory::explicit(&[900, 400, 17], 1000).unwrap();
        let last = *table(&linear(), &tau, &scale, FinalLevel::Clean).unwrap().last().unwrap();
        assert_eq!(last.coefficients, Coefficients { x0: 1.0, eps: 0.0, z: 0.0, least_z: None }, "{scale}");
        assert_eq!((last.s, last.to), (Time::CLEAN, NoiseLevel::CLEAN));
        let first = table(&linear(), &tau, &scale, FinalLevel::FirstTrained).unwrap();
        let last = first.last().unwrap();
        assert_eq!(last.to.alpha_bar, 1.0 - 1e-4);
        assert_eq!(last.coefficients.z, 0.0, "{scale}");
    }
}

#[test]
fn sigma_hat_keeps_the_ddpm_direction_and_enlarges_the_noise() {
    let (hat, ddpm) = (steps(10, &NoiseScale::Hat).unwrap(), steps(10, &NoiseScale::Eta(1.0)).unwrap());
    for (hat, ddpm) in hat.iter().zip(&ddpm).take(9) {
        assert_eq!(hat.coefficients.eps, ddpm.coefficients.eps);
        let expected = (1.0 - hat.from.alpha_bar / hat.to.alpha_bar).sqrt();
        assert!((hat.coefficients.z - expected).abs() < 1e-12);
        assert!(hat.coefficients.z > ddpm.coefficients.z);
    }
}

#[test]
fn a_vector_is_used_unchanged_and_errors_name_the_offending_step() {
    let sigmas = vec![0.3, 0.2, 0.1, 0.0];
    let found = steps(4, &NoiseScale::Vector(sigmas.clone())).unwrap();
    assert_eq!(found.iter().map(|step| step.coefficients.z).collect::<Vec<_>>(), sigmas);
    let message = |sigmas: Vec<f64>| steps(4, &NoiseScale::Vector(sigmas)).unwrap_err().to_string();
    assert!(message(vec![0.3, 2.0, 0.1, 0.0]).contains("step 2 of 4"));
    assert!(message(vec![0.3, 0.2, -0.1, 0.0]).contains("step 3 of 4"));
    assert!(message(vec![0.3, 0.2, f64::NAN, 0.0]).contains("step 3 of 4"));
    // Clean data admit no noise.
    assert!(message(vec![0.3, 0.2, 0.1, 0.1]).contains("step 4 of 4"));
    assert!(message(vec![0.3]).contains("expected one value per network call, 4"));
    // At the bound itself the coefficient of ε̂ vanishes.
    let bound = found[0].to.noise();
    assert_eq!(steps(4, &NoiseScale::Vector(vec![bound, 0.0, 0.0, 0.0])).unwrap()[0].coefficients.eps, 0.0);
}

#[test]
fn an_invalid_eta_is_refused_with_its_value_and_step() {
    for eta in [-0.1, f64::NAN, f64::INFINITY] {
        assert!(steps(10, &NoiseScale::Eta(eta)).unwrap_err().to_string().contains("eta"));
    }
    let message = steps(10, &NoiseScale::Eta(3.0)).unwrap_err().to_string();
    assert!(message.contains("eta = 3") && message.contains("step 1 of 10"), "{message}");
    assert!(steps(1000, &NoiseScale::Eta(1.0)).is_ok());
}

#[test]
fn a_trajectory_beyond_the_schedule_is_refused() {
    let tau = Trajectory::explicit(&[1500], 2000).unwrap();
    assert!(table(&linear(), &tau, &NoiseScale::Hat, FinalLevel::Clean).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    // Lemma 1: with x̂₀ = x₀ and ε̂ = ε the step lands on N(√a_s·x₀, (1 − a_s)I) for every η.
    #[test]
    fn marginals_do_not_depend_on_eta(n_s in 1e-6f64..0.999, jump in 1e-6f64..0.999, eta in 0.0f64..=1.0) {
        let s = NoiseLevel { alpha_bar: 1.0 - n_s, one_minus: n_s };
        let t = s.after(jump);
        let c = Coefficients::new(s, sigma(eta, t, s));
        prop_assert!((c.x0 - s.alpha_bar.sqrt()).abs() < 1e-12);
        prop_assert!((c.eps * c.eps + c.z * c.z - s.one_minus).abs() < 1e-12);
        prop_assert!(c.z * c.z <= s.one_minus * (1.0 + 1e-12));
    }
}
