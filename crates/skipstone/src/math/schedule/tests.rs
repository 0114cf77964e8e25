use super::*;

fn linear() -> Schedule {
    Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap()
}

fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance * expected.abs(), "expected {expected}, found {found}");
}

#[test]
fn clean_data_has_no_index_and_index_zero_is_timestep_one() {
    assert_eq!(Time::CLEAN.index(), None);
    assert_eq!(Time::from_index(0), Time::new(1));
    assert_eq!(linear().level(Time::CLEAN).unwrap(), NoiseLevel::CLEAN);
    assert!(linear().level(Time::new(1001)).is_err());
}

#[test]
fn linear_levels_are_the_products_of_one_minus_beta() {
    let schedule = linear();
    // ∏(1−β) = exp Σ ln(1−β), computed independently of the recursion.
    let beta = |i: u32| 1e-4 + (0.02 - 1e-4) * f64::from(i) / 999.0;
    for t in [1, 2, 10, 500, 1000] {
        let log: f64 = (0..t).map(|i| (-beta(i)).ln_1p()).sum();
        let level = schedule.level(Time::new(t)).unwrap();
        close(level.alpha_bar, log.exp(), 1e-12);
        close(level.one_minus, -log.exp_m1(), 1e-12);
    }
    // The official models' first and last levels.
    close(schedule.level(Time::new(1)).unwrap().one_minus, 1e-4, 1e-15);
    close(schedule.level(Time::new(1000)).unwrap().alpha_bar, 4.0358e-5, 1e-4);
    // "At S = 10 the official code starts at index 900, where a = 2.7e-4."
    close(schedule.level(Time::from_index(900)).unwrap().alpha_bar, 2.7e-4, 2e-2);
}

#[test]
fn one_minus_a_keeps_its_digits_where_subtraction_loses_them() {
    let schedule = Schedule::from_betas(&[1e-17, 2e-17]).unwrap();
    let level = schedule.level(Time::new(2)).unwrap();
    assert_eq!(1.0 - level.alpha_bar, 0.0);
    close(level.one_minus, 3e-17, 1e-15);
}

#[test]
fn scaled_linear_is_linear_in_the_square_root() {
    let schedule = Schedule::new(&BetaSchedule::ScaledLinear, 0.0001, 0.04, 3).unwrap();
    // √β: 0.01, 0.105, 0.2.
    for (found, expected) in schedule.betas().iter().zip([1e-4, 0.011025, 0.04]) {
        close(*found, expected, 1e-14);
    }
}

#[test]
fn cosine_schedule_matches_its_closed_form_below_the_cap() {
    let schedule = Schedule::new(&BetaSchedule::SquaredCosCapV2, 0.0, 0.0, 1000).unwrap();
    // Telescoping: a_t = f(t/T)/f(0) below the cap.
    let f = |t: f64| ((t / 1000.0 + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
    for t in [1_u32, 100, 500, 900] {
        close(schedule.level(Time::new(t)).unwrap().alpha_bar, f(f64::from(t)) / f(0.0), 1e-10);
    }
    assert!(schedule.betas().iter().all(|&beta| beta > 1e-5));
    assert_eq!(*schedule.betas().last().unwrap(), 0.999);
}

#[test]
fn sigmoid_const_and_jsd_match_their_definitions() {
    let sigmoid = Schedule::new(&BetaSchedule::Sigmoid, 0.1, 0.3, 3).unwrap();
    let logistic = 1.0 / (1.0 + 6f64.exp());
    for (found, expected) in sigmoid.betas().iter().zip([0.1 + 0.2 * logistic, 0.2, 0.3 - 0.2 * logistic]) {
        close(*found, expected, 1e-14);
    }
    let constant = Schedule::new(&BetaSchedule::Const, 0.1, 0.3, 4).unwrap();
    close(constant.level(Time::new(4)).unwrap().alpha_bar, 0.7f64.powi(4), 1e-14);
    // ∏ (1 − 1/(T−t+1)) telescopes to (T − t)/T.
    let jsd = Schedule::new(&BetaSchedule::Jsd, 0.0, 0.0, 10).unwrap();
    for t in 1..10 {
        close(jsd.level(Time::new(t)).unwrap().alpha_bar, f64::from(10 - t) / 10.0, 1e-14);
    }
    assert!(jsd.is_zero_snr());
}

#[test]
fn zero_snr_keeps_the_first_level_and_shifts_the_roots_linearly() {
    let plain = linear();
    let schedule = plain.with_zero_terminal_snr().unwrap();
    assert!(schedule.is_zero_snr() && !plain.is_zero_snr());
    assert_eq!(schedule.level(Time::new(1000)).unwrap(), NoiseLevel::PURE_NOISE);
    let s = |t: u32| plain.level(Time::new(t)).unwrap().signal();
    for t in [1, 2, 250, 999] {
        let expected = (s(t) - s(1000)) * s(1) / (s(1) - s(1000));
        close(schedule.level(Time::new(t)).unwrap().signal(), expected, 1e-10);
    }
    assert!(Schedule::from_betas(&[0.5]).unwrap().with_zero_terminal_snr().is_err());
    // Its list of β gives the same levels, and to rescale it again changes nothing.
    let listed = Schedule::from_betas(schedule.betas()).unwrap();
    assert_eq!(listed, schedule);
    assert_eq!(listed.with_zero_terminal_snr().unwrap(), schedule);
}

#[test]
fn epsilon_prediction_is_refused_at_zero_snr_naming_v_prediction() {
    let schedule = linear().with_zero_terminal_snr().unwrap();
    let error = schedule.check_prediction(Prediction::Epsilon).unwrap_err();
    assert!(error.to_string().contains("v-prediction"), "{error}");
    assert!(schedule.check_prediction(Prediction::Velocity).is_ok());
    assert!(schedule.check_prediction(Prediction::Sample).is_ok());
    assert!(linear().check_prediction(Prediction::Epsilon).is_ok());
}

#[test]
fn betas_outside_the_open_interval_are_refused_by_index() {
    for bad in [0.0, -0.1, 1.5, f64::NAN, f64::INFINITY] {
        let error = Schedule::from_betas(&[0.1, bad, 0.1]).unwrap_err();
        assert!(error.to_string().contains("betas[1]"), "{error}");
    }
    assert!(Schedule::from_betas(&[1.0, 0.1]).unwrap_err().to_string().contains("betas[0]"));
    let until_one = Schedule::new(&BetaSchedule::Linear, 1e-4, 1.0, 3).unwrap_err();
    assert!(until_one.to_string().contains("rescale_betas_zero_snr"), "{until_one}");
    assert!(Schedule::from_betas(&[]).is_err());
    assert!(Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, MAX_TRAIN_STEPS + 1).is_err());
    assert!(Schedule::new(&BetaSchedule::Trained(vec![0.1]), 0.0, 0.0, 2).is_err());
    // a_t underflows, so x_T would carry no signal.
    assert!(Schedule::new(&BetaSchedule::Const, 0.0, 0.9, 1000).unwrap_err().to_string().contains("vanishes"));
}

#[test]
fn alpha_bar_decreases_strictly_for_every_family() {
    for family in ["linear", "quad", "squaredcos_cap_v2", "sigmoid", "const"] {
        let family: BetaSchedule = family.parse().unwrap();
        let schedule = Schedule::new(&family, 1e-4, 0.02, 1000).unwrap();
        for t in 1..=1000 {
            let (s, t) = (schedule.level(Time::new(t - 1)).unwrap(), schedule.level(Time::new(t)).unwrap());
            assert!(t.alpha_bar < s.alpha_bar && t.one_minus > s.one_minus);
            assert!((t.alpha_bar + t.one_minus - 1.0).abs() < 1e-12);
        }
    }
    assert!("cosine".parse::<BetaSchedule>().is_err());
}
