use super::*;

fn named(spacing: Spacing, steps: usize) -> Trajectory {
    Trajectory::named(spacing, steps, 1000, 0).unwrap()
}

fn indices(trajectory: &Trajectory) -> Vec<u32> {
    trajectory.times().iter().filter_map(|t| t.index()?.whole()).collect()
}

#[test]
fn call_counts_match_the_paper_and_the_official_code() {
    assert_eq!(named(Spacing::Quadratic, 100).calls(), 97);
    assert_eq!(named(Spacing::Quadratic, 1000).calls(), 750);
    assert_eq!(named(Spacing::OfficialUniform, 30).calls(), 31);
    assert_eq!(named(Spacing::OfficialUniform, 300).calls(), 334);
    for steps in [501, 700, 1000] {
        assert_eq!(named(Spacing::OfficialUniform, steps).calls(), 1000);
    }
    assert_eq!(named(Spacing::OfficialUniform, 10).start(), Time::from_index(900));
    assert_eq!(named(Spacing::OfficialQuad, 10).start(), Time::from_index(800));
    for steps in 1..=1000 {
        assert_eq!(named(Spacing::Linear, steps).calls(), steps);
        assert_eq!(named(Spacing::Trailing, steps).calls(), steps);
        assert_eq!(named(Spacing::Linspace, steps).calls(), steps);
    }
}

#[test]
fn linear_quadratic_and_trailing_reach_t_for_every_number_of_steps() {
    for steps in 1..=1000 {
        for spacing in [Spacing::Linear, Spacing::Quadratic, Spacing::Trailing] {
            assert_eq!(named(spacing, steps).start(), Time::new(1000), "{spacing} {steps}");
        }
    }
}

#[test]
fn small_cases_match_hand_computation() {
    assert_eq!(indices(&named(Spacing::Linear, 4)), [999, 749, 499, 249]);
    // 1000·i²/9: 111, 444, 1000.
    assert_eq!(indices(&named(Spacing::Quadratic, 3)), [999, 443, 110]);
    assert_eq!(indices(&named(Spacing::Leading, 4)), [750, 500, 250, 0]);
    assert_eq!(indices(&Trajectory::named(Spacing::Leading, 4, 1000, 1).unwrap()), [751, 501, 251, 1]);
    assert_eq!(indices(&named(Spacing::Trailing, 3)), [999, 666, 332]);
    // i·999/2: 499.5 rounds to even, 500.
    assert_eq!(indices(&named(Spacing::Linspace, 3)), [999, 500, 0]);
    // (28.284·i/2)²: 0, 14.142² = 200 up to rounding, 28.284² = 800.
    assert_eq!(indices(&named(Spacing::OfficialQuad, 3)), [800, 200, 0]);
    // 5/2 = 2.5 rounds to even, 2, so index 1.
    assert_eq!(indices(&Trajectory::named(Spacing::Trailing, 2, 5, 0).unwrap()), [4, 1]);
}

#[test]
fn halves_round_as_in_numpy_including_its_float_error() {
    // numpy 2: np.round(np.arange(1000, 0, -1000/S))[i] and np.linspace(0, 999, 27).round()[13]. Exact arithmetic
    // would give 938, 812 and 500.
    assert_eq!(named(Spacing::Trailing, 48).times()[3], Time::new(937));
    assert_eq!(named(Spacing::Trailing, 96).times()[18], Time::new(813));
    assert_eq!(named(Spacing::Linspace, 27).times()[13], Time::from_index(499));
}

#[test]
fn a_step_lands_on_the_next_timestep_not_on_t_minus_a_stride() {
    let tau = named(Spacing::Quadratic, 3);
    let t = Time::new;
    assert_eq!(tau.steps().collect::<Vec<_>>(), [(t(1000), t(444)), (t(444), t(111)), (t(111), Time::CLEAN)]);
    assert_eq!(tau.reverse_steps().collect::<Vec<_>>(), [(Time::CLEAN, t(111)), (t(111), t(444)), (t(444), t(1000))]);
}

#[test]
fn invalid_trajectories_are_refused() {
    let message = |result: Result<Trajectory>| result.unwrap_err().to_string();
    assert!(message(Trajectory::named(Spacing::Linear, 0, 1000, 0)).contains("at least 1"));
    assert!(message(Trajectory::named(Spacing::Linear, 1001, 1000, 0)).contains("1000"));
    assert!(message(Trajectory::named(Spacing::Leading, 1000, 1000, 1)).contains("steps_offset"));
    assert!(message(Trajectory::named(Spacing::Leading, 10, 1000, u32::MAX)).contains("steps_offset"));
    assert!(message(Trajectory::named(Spacing::Quadratic, 1000, u32::MAX, 0)).contains("num_train_timesteps"));
    assert!(message(Trajectory::explicit(&[], 1000)).contains("none"));
    assert!(message(Trajectory::explicit(&[1000], 1000)).contains("1000"));
    assert!(message(Trajectory::explicit(&[u32::MAX], 1000)).contains("out of range"));
    assert!(message(Trajectory::explicit(&[5, 7], 1000)).contains("index 5 is followed by 7"));
    assert!(Trajectory::explicit(&[5, 5], 1000).is_err());
    assert!(Trajectory::from_times(vec![Time::CLEAN], 1000).is_err());
}

#[test]
fn names_round_trip() {
    for spacing in Spacing::ALL {
        assert_eq!(spacing.to_string().parse::<Spacing>().unwrap(), spacing);
    }
    assert!("uniform".parse::<Spacing>().unwrap_err().to_string().contains("official-uniform"));
}

proptest::proptest! {
    #[test]
    fn every_spacing_is_a_valid_trajectory(train in 1u32..3000, part in 0.0f64..1.0, which in 0usize..7) {
        let steps = 1 + (part * f64::from(train - 1)) as usize;
        let tau = Trajectory::named(Spacing::ALL[which], steps, train, 0).unwrap();
        assert!(tau.calls() >= 1 && tau.start() <= Time::new(train));
        assert_eq!(tau.steps().last().unwrap().1, Time::CLEAN);
    }
}

#[test]
fn spacings_by_noise_level_are_evenly_spaced_in_their_own_measure() {
    let schedule =
        crate::math::schedule::Schedule::new(&crate::math::schedule::BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap();
    let even = |spacing: Spacing, measure: fn(f64) -> f64| {
        let tau = Trajectory::spaced(&schedule, spacing, 9, 0).unwrap();
        let at: Vec<f64> = tau.times().iter().map(|&t| measure(schedule.level(t).unwrap().sigma_ve())).collect();
        let step = (at[8] - at[0]) / 8.0;
        assert!(at.windows(2).all(|pair| ((pair[1] - pair[0]) / step - 1.0).abs() < 1e-6), "{spacing}: {at:?}");
        assert_eq!((tau.start(), tau.times()[8]), (Time::new(1000), Time::new(1)));
        assert!(tau.times()[4].whole().is_none());
        let whole = tau.whole();
        assert!(whole.times().iter().all(|t| t.whole().is_some()) && whole.calls() <= 9);
    };
    even(Spacing::Karras, |sigma| sigma.powf(1.0 / 7.0));
    even(Spacing::LogSnr, f64::ln);
    assert_eq!(Trajectory::spaced(&schedule, Spacing::Karras, 1, 0).unwrap().times(), [Time::new(1000)]);
    assert!(Trajectory::named(Spacing::LogSnr, 9, 1000, 0).unwrap_err().message().contains("schedule"));
    let zero_snr = schedule.with_zero_terminal_snr().unwrap();
    assert!(Trajectory::spaced(&zero_snr, Spacing::Karras, 9, 0).unwrap_err().message().contains("zero terminal"));
}

#[test]
fn respacings_that_do_not_exist_are_refused() {
    for (text, reason) in [
        ("ddim999", "no whole stride makes 999 of 1000"),
        ("ddim1001", "no whole stride"),
        ("1001", "section 1 has 1000"),
        ("1,501", "section 2 has 500"),
        ("4294967295,4294967295", "section 1 has 500"),
    ] {
        let error = Trajectory::respaced(&text.parse::<Respacing>().unwrap(), 1000).unwrap_err();
        assert!(error.message().contains(reason), "{text}: {error}");
    }
    for text in ["", "ddim", "ddim0", "ddim-1", "0", "3,", "1,0", "x", "4294967296"] {
        assert!(text.parse::<Respacing>().is_err(), "{text}");
    }
    // Sections with more parts than timesteps.
    let many = vec!["1"; 1001].join(",");
    assert!(Trajectory::respaced(&many.parse::<Respacing>().unwrap(), 1000).is_err());
    assert_eq!(Trajectory::respaced(&Respacing::Sections(vec![1000]), 1000).unwrap().calls(), 1000);
    assert_eq!(Trajectory::respaced(&Respacing::Stride(1), 1).unwrap().calls(), 1);
}
