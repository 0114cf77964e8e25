use super::clip::quantile;
use super::*;
use crate::math::noise::Forbidden;
use crate::math::schedule::{BetaSchedule, NoiseLevel, Schedule};
use crate::math::trajectory::{Spacing, Trajectory};
use crate::sampling::oracle::Oracle;
use crate::sampling::sampler::{Plan, sample, unobserved};

const LEVEL: NoiseLevel = NoiseLevel { alpha_bar: 0.36, one_minus: 0.64 };

fn image(values: &[f32]) -> Array4<f32> {
    Array4::from_shape_vec((1, 1, 1, values.len()), values.to_vec()).unwrap()
}

#[test]
fn all_prediction_types_give_the_same_x0_and_noise() {
    let (x0, eps) = (image(&[0.5, -1.0, 0.25]), image(&[-0.3, 2.0, 1.5]));
    // √a = 0.6, √(1−a) = 0.8.
    let x_t = &x0 * 0.6 + &eps * 0.8;
    let v = &eps * 0.6 - &x0 * 0.8;
    for (prediction, out) in [(Prediction::Epsilon, &eps), (Prediction::Sample, &x0), (Prediction::Velocity, &v)] {
        let found = views(prediction, &x_t, out, LEVEL, Clip::Off).unwrap();
        assert!((&found.x0 - &x0).iter().all(|d| d.abs() < 1e-6), "{prediction:?}");
        assert!((&found.eps - &eps).iter().all(|d| d.abs() < 1e-6), "{prediction:?}");
        for ((&x0, &eps), &out) in x0.iter().zip(&eps).zip(out) {
            assert!((prediction.target(LEVEL, f64::from(x0), f64::from(eps)) - f64::from(out)).abs() < 1e-6);
        }
    }
}

#[test]
fn epsilon_at_zero_snr_is_refused_and_velocity_is_minus_x0() {
    let (x, out) = (image(&[0.7]), image(&[0.2]));
    assert!(views(Prediction::Epsilon, &x, &out, NoiseLevel::PURE_NOISE, Clip::Off).is_err());
    let found = views(Prediction::Velocity, &x, &out, NoiseLevel::PURE_NOISE, Clip::Off).unwrap();
    assert_eq!((found.x0[[0, 0, 0, 0]], found.eps[[0, 0, 0, 0]]), (-0.2, 0.7));
    assert!(views(Prediction::Sample, &x, &out, NoiseLevel::CLEAN, Clip::Off).is_err());
}

#[test]
fn clipping_keeps_or_rederives_the_noise() {
    // x̂₀ = (1.6 − 0.8·0.5)/0.6 = 2, clipped to 1: ε̂ stays 0.5 or becomes (1.6 − 0.6)/0.8 = 1.25.
    let (x, out) = (image(&[1.6]), image(&[0.5]));
    let at = |clip| {
        let found = views(Prediction::Epsilon, &x, &out, LEVEL, clip).unwrap();
        (found.x0[[0, 0, 0, 0]], found.eps[[0, 0, 0, 0]])
    };
    let near = |found: (f32, f32), expected: (f32, f32)| {
        assert!((found.0 - expected.0).abs() < 1e-6 && (found.1 - expected.1).abs() < 1e-6, "{found:?}");
    };
    near(at(Clip::Off), (2.0, 0.5));
    near(at(Clip::KeepEps(Bound::Range(1.0))), (1.0, 0.5));
    near(at(Clip::RederiveEps(Bound::Range(1.0))), (1.0, 1.25));
    near(at(Clip::RederiveEps(Bound::Range(1.6))), (1.6, (1.6 - 0.96) / 0.8));
}

#[test]
fn dynamic_threshold_scales_each_image_by_its_own_quantile() {
    let x = Array4::from_shape_vec((2, 1, 1, 3), vec![1.0, -2.0, 4.0, 0.1, 0.2, -0.5]).unwrap();
    let threshold = DynamicThreshold { ratio: 0.75, max: 10.0 };
    let clip = Clip::KeepEps(Bound::Range(1.0)).with_threshold(threshold).unwrap();
    let found = views(Prediction::Sample, &x, &x, LEVEL, clip).unwrap().x0;
    // |x̂₀| sorted 1, 2, 4: rank 1.5 gives 3. The second image stays within 1.
    for (found, expected) in found.iter().zip([1.0 / 3.0, -2.0 / 3.0, 1.0, 0.1, 0.2, -0.5]) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
    assert!(Clip::Off.with_threshold(threshold).is_err());
    assert!(Clip::KeepEps(Bound::Range(0.0)).check().is_err());
    assert!("static".parse::<Clip>().is_err());
}

#[test]
fn quantile_interpolates_linearly() {
    // torch.quantile(torch.tensor([3., 1., 2., 10.]), q) for q = 0, 0.5, 0.9, 1.
    for (ratio, expected) in [(0.0, 1.0), (0.5, 2.5), (0.9, 7.9), (1.0, 10.0)] {
        assert!((quantile(&mut [3.0, 1.0, 2.0, 10.0], ratio) - expected).abs() < 1e-12);
    }
}

/// Predicts the row's class for every element.
struct ByClass;

impl Denoiser for ByClass {
    fn shape(&self) -> [usize; 3] {
        [1, 1, 2]
    }

    fn prediction(&self) -> Prediction {
        Prediction::Epsilon
    }

    fn predict(&self, x_t: &Array4<f32>, _: &[Time], classes: &[Condition]) -> Result<Array4<f32>> {
        Ok(Array4::from_shape_fn(x_t.dim(), |(i, ..)| classes[i].class().unwrap() as f32))
    }
}

#[test]
fn guidance_moves_from_the_null_class_towards_the_class() {
    let guided = Guided::new(ByClass, 3.0, 10).unwrap();
    let out = guided.predict(&Array4::zeros((2, 1, 1, 2)), &[Time::new(1); 2], &Condition::classes(&[4, 11])).unwrap();
    // 10 + 3·(4 − 10) and 10 + 3·(11 − 10).
    assert_eq!((out[[0, 0, 0, 0]], out[[1, 0, 0, 1]]), (-8.0, 13.0));
    let out = guided.predict(&Array4::zeros((1, 1, 1, 2)), &[Time::new(1)], &[]).unwrap();
    assert_eq!(out[[0, 0, 0, 0]], 10.0);
    assert!(Guided::new(ByClass, f64::NAN, 10).is_err());
}

#[test]
fn guidance_acts_within_its_interval_only_and_asks_for_fewer_rows_outside() {
    /// [`ByClass`], counting rows.
    struct Counting(std::cell::Cell<usize>);
    impl Denoiser for Counting {
        fn shape(&self) -> [usize; 3] {
            [1, 1, 2]
        }
        fn prediction(&self) -> Prediction {
            Prediction::Epsilon
        }
        fn predict(&self, x_t: &Array4<f32>, times: &[Time], classes: &[Condition]) -> Result<Array4<f32>> {
            self.0.set(x_t.dim().0);
            ByClass.predict(x_t, times, classes)
        }
    }
    // σ_ve is 1, 2 and 3.
    let a = [1.0, 0.5, 0.2, 0.1];
    let betas: Vec<f64> = a.windows(2).map(|pair| 1.0 - pair[1] / pair[0]).collect();
    let schedule = Schedule::from_betas(&betas).unwrap();
    let sigma = |t: u32| schedule.level(Time::new(t)).unwrap().sigma_ve();
    let interval = Interval::new(sigma(1), sigma(2)).unwrap();
    let guided = Guided::new(Counting(Default::default()), 3.0, 10).unwrap().within(schedule, interval);
    let times = [1, 2, 3].map(Time::new);
    let out = guided.predict(&Array4::zeros((3, 1, 1, 2)), &times, &Condition::classes(&[4, 4, 4])).unwrap();
    // The lower end is outside, the upper one inside.
    assert_eq!([0, 1, 2].map(|i| out[[i, 0, 0, 0]]), [4.0, -8.0, 4.0]);
    assert_eq!(guided.inner.0.get(), 4);
    for (low, high) in [(-1.0, 2.0), (2.0, 2.0), (3.0, 1.0), (f64::NAN, 1.0), (0.0, f64::NAN)] {
        assert!(Interval::new(low, high).unwrap_err().message().starts_with("guidance_interval: "), "{low} {high}");
    }
}

#[test]
fn a_class_list_of_another_length_than_the_batch_is_refused() {
    let x = Array4::zeros((2, 1, 1, 2));
    let error = denoise(&ByClass, &x, Time::new(1), LEVEL, &[Condition::Class(1)], Clip::Off).unwrap_err();
    assert!(error.to_string().contains("conditions: expected one per image, 2, found 1"));
    assert!(denoise(&ByClass, &Array4::zeros((2, 1, 2, 2)), Time::new(1), LEVEL, &[], Clip::Off).is_err());
}

#[test]
fn autoguidance_asks_both_with_the_class_and_the_weaker_one_within_the_interval_only() {
    /// The row's class times a factor; counts rows.
    struct Scaled(f32, std::cell::Cell<usize>);
    impl Denoiser for Scaled {
        fn shape(&self) -> [usize; 3] {
            [1, 1, 2]
        }
        fn prediction(&self) -> Prediction {
            Prediction::Epsilon
        }
        fn predict(&self, x_t: &Array4<f32>, times: &[Time], classes: &[Condition]) -> Result<Array4<f32>> {
            self.1.set(x_t.dim().0);
            ByClass.predict(x_t, times, classes).map(|out| out * self.0)
        }
    }
    let schedule = Schedule::from_betas(&[0.5, 0.6, 0.5]).unwrap();
    let sigma = |t: u32| schedule.level(Time::new(t)).unwrap().sigma_ve();
    let interval = Interval::new(sigma(1), sigma(2)).unwrap();
    let (strong, weak) = (Scaled(1.0, Default::default()), Scaled(0.5, Default::default()));
    let guided = Autoguided::new(&strong, &weak, 3.0, schedule.clone()).unwrap().within(interval);
    let times = [1, 2, 3].map(Time::new);
    let out = guided.predict(&Array4::zeros((3, 1, 1, 2)), &times, &Condition::classes(&[4, 6, 8])).unwrap();
    // Only the second row is guided: 3 + 3·(6 − 3).
    assert_eq!([0, 1, 2].map(|i| out[[i, 0, 0, 0]]), [4.0, 12.0, 8.0]);
    assert_eq!((strong.1.get(), weak.1.get()), (3, 1));
    assert!(Autoguided::new(&strong, &weak, f64::NAN, schedule).is_err());
}

/// x₀ from N(mean, variance) for both networks of autoguidance, and their weight.
const STRONG: (f64, f64) = (0.3, 0.25);
const WEAK: (f64, f64) = (0.1, 0.6);
const WEIGHT: f64 = 2.5;

fn gaussian(schedule: &Schedule, (mean, variance): (f64, f64), prediction: Prediction) -> Oracle {
    let fill = |value| ndarray::Array3::from_elem((1, 1, 3), value);
    Oracle::gaussian(schedule, fill(mean), fill(variance)).unwrap().predicting(prediction)
}

/// ε of the density p_strong^w·p_weak^(1−w) at noise level (a, 1 − a). It is a Gaussian again: its precision and its precision
/// times its mean are the same combinations of those of the two.
fn eps_of_the_product(x: f64, level: NoiseLevel) -> f64 {
    let natural = |(mean, variance): (f64, f64)| {
        let precision = 1.0 / (level.alpha_bar * variance + level.one_minus);
        (precision, precision * level.alpha_bar.sqrt() * mean)
    };
    let (strong, weak) = (natural(STRONG), natural(WEAK));
    let precision = WEIGHT * strong.0 + (1.0 - WEIGHT) * weak.0;
    let mean = (WEIGHT * strong.1 + (1.0 - WEIGHT) * weak.1) / precision;
    level.one_minus.sqrt() * precision * (x - mean)
}

#[test]
fn autoguidance_of_two_gaussians_is_the_score_of_their_product_for_any_two_prediction_types() {
    let schedule = Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap();
    let all = [Prediction::Epsilon, Prediction::Sample, Prediction::Velocity];
    let x = image(&[-1.5, 0.2, 2.0]);
    for (strong, weak) in all.into_iter().flat_map(|strong| all.map(|weak| (strong, weak))) {
        let (a, b) = (gaussian(&schedule, STRONG, strong), gaussian(&schedule, WEAK, weak));
        let guided = Autoguided::new(a, b, WEIGHT, schedule.clone()).unwrap();
        for t in [20, 300, 700, 1000].map(Time::new) {
            let level = schedule.level(t).unwrap();
            let out = denoise(&guided, &x, t, level, &[], Clip::Off).unwrap();
            for (&x, &found) in x.iter().zip(&out.eps) {
                let expected = eps_of_the_product(f64::from(x), level);
                // x₀ determines ε to within its own rounding over √(1−a).
                let bound = 2e-5 * (1.0 + expected.abs()) / level.one_minus.sqrt().min(1.0);
                assert!((f64::from(found) - expected).abs() < bound, "{strong} {weak} {t}: {found} {expected}");
            }
        }
        // The whole deterministic run, as a recursion on numbers.
        let tau = Trajectory::named(Spacing::Linear, 20, 1000, 0).unwrap();
        let plan = Plan::ddim(&schedule, &tau).unwrap();
        let found = sample(&guided, &plan, x.clone(), &mut Forbidden, &[], &mut unobserved).unwrap();
        for (&x, &found) in x.iter().zip(&found) {
            let mut expected = f64::from(x);
            for (t, s) in tau.steps() {
                let (from, to) = (schedule.level(t).unwrap(), schedule.level(s).unwrap());
                let eps = eps_of_the_product(expected, from);
                let x0 = (expected - from.one_minus.sqrt() * eps) / from.alpha_bar.sqrt();
                expected = to.alpha_bar.sqrt() * x0 + to.one_minus.sqrt() * eps;
            }
            assert!((f64::from(found) - expected).abs() < 2e-5, "{strong} {weak}: {found} {expected}");
        }
    }
}

#[test]
fn a_guide_that_predicts_clean_data_guides_a_velocity_at_zero_snr() {
    let schedule = Schedule::from_betas(&[0.5, 0.5]).unwrap().with_zero_terminal_snr().unwrap();
    let strong = gaussian(&schedule, STRONG, Prediction::Velocity);
    let weak = gaussian(&schedule, WEAK, Prediction::Sample);
    let guided = Autoguided::new(strong, weak, WEIGHT, schedule).unwrap();
    let out = guided.predict(&image(&[-1.0, 0.0, 1.0]), &[Time::new(2)], &[]).unwrap();
    // At a = 0 the best x̂₀ is the mean, and v = −x̂₀.
    let expected = -(WEAK.0 + WEIGHT * (STRONG.0 - WEAK.0));
    assert!(out.iter().all(|&v| (f64::from(v) - expected).abs() < 1e-6), "{out}");
}
