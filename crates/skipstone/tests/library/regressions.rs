//! Mistakes of other diffusion sampler implementations, tested through the public interface from model file to image.
//! Mistakes within a single function are tested next to that function.

use ndarray::{Array4, Axis, concatenate, s};
use skipstone::Kind;
use skipstone::io::checkpoint::SchedulerConfig;
use skipstone::math::noise::{Seeded, initial_latent};
use skipstone::math::schedule::{BetaSchedule, FinalLevel, Schedule, Time};
use skipstone::math::sigma::NoiseScale;
use skipstone::math::trajectory::{Spacing, Trajectory};
use skipstone::sampling::denoiser::{Clip, Condition, Denoiser, Prediction};
use skipstone::sampling::sampler::{Plan, Progress, sample, unobserved};

use crate::golden::unets::Network;

fn linear() -> Schedule {
    Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap()
}

fn plan(spacing: Spacing, steps: usize, scale: NoiseScale) -> Plan {
    let trajectory = Trajectory::named(spacing, steps, 1000, 0).unwrap();
    Plan::new(&linear(), &trajectory, &scale, FinalLevel::Clean, Clip::Off).unwrap()
}

/// Images `first..first + n` of seed 5, with fresh noise at every step.
fn images(denoiser: &dyn Denoiser, plan: &Plan, first: u64, n: usize) -> Array4<f32> {
    let latents = initial_latent(5, first, n, denoiser.shape());
    sample(denoiser, plan, latents, &mut Seeded::new(5, first), &[], &mut unobserved).unwrap()
}

#[test]
fn a_sample_is_the_same_in_a_batch_of_any_size_and_on_any_number_of_threads() {
    let network = Network::read("cifar").unet(Prediction::Epsilon);
    for scale in [NoiseScale::Eta(0.0), NoiseScale::Eta(1.0), NoiseScale::Hat] {
        let plan = plan(Spacing::Quadratic, 4, scale);
        let together = images(&network, &plan, 0, 5);
        let parts = [(0, 2), (2, 2), (4, 1)].map(|(first, n)| images(&network, &plan, first, n));
        assert_eq!(together, concatenate(Axis(0), &parts.each_ref().map(|p| p.view())).unwrap());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_eq!(together, pool.install(|| images(&network, &plan, 0, 5)));
    }
}

#[test]
fn a_resumed_sampling_continues_with_new_images_instead_of_repeating_the_first() {
    let network = Network::read("cifar").unet(Prediction::Epsilon);
    let plan = plan(Spacing::Linear, 2, NoiseScale::Eta(1.0));
    let (all, rest) = (images(&network, &plan, 0, 4), images(&network, &plan, 2, 2));
    assert_eq!(all.slice(s![2.., .., .., ..]), rest);
    assert_ne!(all.slice(s![..2, .., .., ..]), rest);
}

#[test]
fn every_step_lands_where_the_next_begins_and_the_last_on_clean_data() {
    // T is not a multiple of 30: t − T//S would leave the trajectory and end at 10 instead of 0.
    for spacing in [Spacing::Linear, Spacing::Quadratic, Spacing::OfficialUniform, Spacing::Leading, Spacing::Trailing]
    {
        let plan = plan(spacing, 30, NoiseScale::Eta(1.0));
        for pair in plan.steps().windows(2) {
            assert_eq!((pair[0].s, pair[0].to), (pair[1].t, pair[1].from), "{spacing:?}");
        }
        let last = plan.steps().last().unwrap();
        assert_eq!((last.s, last.to.alpha_bar, last.coefficients.z), (Time::CLEAN, 1.0, 0.0), "{spacing:?}");
    }
}

#[test]
fn the_network_is_asked_about_the_index_of_the_paper_s_time() {
    /// Predicts zero noise and records the times of its calls.
    struct Diary(std::sync::Mutex<Vec<u32>>);
    impl Denoiser for Diary {
        fn shape(&self) -> [usize; 3] {
            [1, 2, 2]
        }
        fn prediction(&self) -> Prediction {
            Prediction::Epsilon
        }
        fn predict(&self, x_t: &Array4<f32>, t: &[Time], _: &[Condition]) -> skipstone::Result<Array4<f32>> {
            self.0.lock().unwrap().push(t[0].index().unwrap().whole().unwrap());
            Ok(Array4::zeros(x_t.dim()))
        }
    }
    let diary = Diary(Default::default());
    images(&diary, &plan(Spacing::Linear, 4, NoiseScale::Eta(0.0)), 0, 1);
    assert_eq!(*diary.0.lock().unwrap(), [999, 749, 499, 249]);
}

#[test]
fn no_noise_reaches_the_image_in_the_last_step_even_where_the_final_level_is_not_clean() {
    let network = Network::read("cifar").unet(Prediction::Epsilon);
    let trajectory = Trajectory::named(Spacing::Linear, 3, 1000, 0).unwrap();
    for (scale, level) in [
        (NoiseScale::Eta(1.0), FinalLevel::Clean),
        (NoiseScale::Eta(1.0), FinalLevel::FirstTrained),
        (NoiseScale::Hat, FinalLevel::FirstTrained),
    ] {
        let plan = Plan::new(&linear(), &trajectory, &scale, level, Clip::Off).unwrap();
        let latents = initial_latent(5, 0, 1, network.shape());
        // Two noise sources that agree on all steps but the last.
        let mut ends = Vec::new();
        for other_at_the_end in [false, true] {
            let mut noise = LastStep { inner: Seeded::new(5, 0), last: plan.calls() - 1, other_at_the_end };
            let end = sample(&network, &plan, latents.clone(), &mut noise, &[], &mut unobserved).unwrap();
            ends.push(end);
        }
        assert_eq!(ends[0], ends[1], "{scale:?}, {level:?}");
    }
}

/// Seeded noise, optionally with other noise for the last step.
struct LastStep {
    inner: Seeded,
    last: usize,
    other_at_the_end: bool,
}

impl skipstone::math::noise::NoiseSource for LastStep {
    fn fill(&mut self, call: usize, out: &mut Array4<f32>) -> skipstone::Result<()> {
        if call == self.last && self.other_at_the_end {
            self.inner.seed += 1;
        }
        self.inner.fill(call, out)
    }
}

#[test]
fn a_of_index_0_ends_a_run_only_where_the_models_scheduler_says_so() {
    for (json, expected) in [
        ("{}", FinalLevel::Clean),
        (r#"{"set_alpha_to_one": true}"#, FinalLevel::Clean),
        (r#"{"set_alpha_to_one": false}"#, FinalLevel::FirstTrained),
    ] {
        assert_eq!(SchedulerConfig::from_json(json).unwrap().final_level(), expected, "{json}");
    }
    let trajectory = Trajectory::named(Spacing::Linear, 2, 1000, 0).unwrap();
    let end = |level| {
        let plan = Plan::new(&linear(), &trajectory, &NoiseScale::Eta(0.0), level, Clip::Off).unwrap();
        plan.steps().last().unwrap().to.alpha_bar
    };
    assert_eq!(end(FinalLevel::Clean), 1.0);
    assert_eq!(end(FinalLevel::FirstTrained), 1.0 - 1e-4);
}

#[test]
fn a_model_of_zero_snr_that_predicts_noise_is_refused_before_the_network_is_called() {
    let json = r#"{"rescale_betas_zero_snr": true, "prediction_type": "epsilon", "beta_start": 0.0001,
                   "beta_end": 0.02, "beta_schedule": "linear"}"#;
    let schedule = match SchedulerConfig::from_json(json).and_then(|config| config.schedule()) {
        Ok(schedule) => schedule,
        Err(error) => {
            assert!(error.message().contains('v'), "{error}");
            return;
        }
    };
    let trajectory = Trajectory::named(Spacing::Linear, 4, 1000, 0).unwrap();
    let plan = Plan::ddim(&schedule, &trajectory).unwrap();
    let network = Network::read("cifar").unet(Prediction::Epsilon);
    let mut seen = |_: &Progress<'_>| -> std::ops::ControlFlow<()> { panic!("a step was made") };
    let latents = initial_latent(0, 0, 1, network.shape());
    let error = sample(&network, &plan, latents, &mut Seeded::new(0, 0), &[], &mut seen).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
    assert!(error.message().contains("v_prediction") || error.message().contains("v-prediction"), "{error}");
}
