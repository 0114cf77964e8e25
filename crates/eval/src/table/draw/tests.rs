// One gap is a list of one range here, not a range written wrongly.
#![allow(clippy::single_range_in_vec_init)]

use std::path::Path;

use skipstone::engine::EngineOptions;
use skipstone::io::checkpoint::{Model, SchedulerConfig};
use skipstone::math::noise::{KeyedRng, Purpose};
use skipstone::math::schedule::BetaSchedule;
use skipstone::sampling::denoiser::Prediction;
use skipstone::sampling::generate::{Inputs, Settings};
use skipstone::sampling::options::{Noise, Request};
use skipstone::unet::{Config, initialise};

use super::*;

fn model() -> Model {
    let config = Config::smallest();
    let mut uniform = KeyedRng::new(1, Purpose::Weights, 0, 0);
    let mut gaussian = KeyedRng::new(1, Purpose::Weights, 1, 0);
    let parameters = initialise(&config, || uniform.next_f64(), || gaussian.next_gaussians()[0]).unwrap();
    Model::new(config, parameters, SchedulerConfig::default())
}

fn generator() -> Generator {
    let request = Request { steps: Some(3), noise: Noise::Eta(1.0), ..Request::default() };
    Generator::new(model(), &EngineOptions::default(), &request, Inputs::default(), 5, 20).unwrap()
}

fn open(root: &Path, generator: &Generator) -> Samples {
    Samples::open(root, generator.settings(), generator.shape()).unwrap()
}

#[test]
fn exactly_what_is_missing_is_drawn_and_kept_wherever_the_work_is_stopped() {
    let generator = generator();
    let whole = tempfile::tempdir().unwrap();
    let mut samples = open(whole.path(), &generator);
    let mut calls = 0;
    let mut count = |drawn: Drawn| {
        calls += drawn.batch * drawn.evaluations;
        ControlFlow::Continue(())
    };
    draw(&generator, &mut samples, 5..16, 4, &mut count).unwrap();
    assert_eq!(calls, 11 * 3);
    let expected = open(whole.path(), &generator).all(5..16).unwrap();
    // The pixels are those of the images as a file has them.
    let x0 = generator.generate(5..16, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(expected, x0.mapv(to_byte));

    // Stopped after any number of steps, and again at once, then let go on with another batch: 33 calls in all, but for those
    // of batches that were broken off.
    for after in 1..9 {
        let root = tempfile::tempdir().unwrap();
        let mut steps = 0;
        let mut stop = |_: Drawn| {
            steps += 1;
            if steps >= after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let mut samples = open(root.path(), &generator);
        assert!(draw(&generator, &mut samples, 5..16, 4, &mut stop).unwrap_err().is_stopped(), "{after}");
        // Batches of 4, 4 and 3 images take 3 steps each; the last step of one is not stopped.
        let kept: u64 = [0, 0, 0, 4, 4, 4, 8, 8, 8][after];
        let samples = &mut open(root.path(), &generator);
        assert_eq!(samples.missing(5..16), [5 + kept..16], "{after}");
        let mut rest = 0;
        let mut count = |drawn: Drawn| {
            rest += drawn.batch * drawn.evaluations;
            ControlFlow::Continue(())
        };
        draw(&generator, samples, 5..16, 7, &mut count).unwrap();
        assert_eq!((rest, samples.all(5..16).unwrap()), (3 * (11 - kept as usize), expected.clone()), "{after}");
        draw(&generator, samples, 5..16, 7, &mut |_| unreachable!()).unwrap();
        let (seconds, machines) = samples.effort(&(5..16));
        assert!(seconds > 0.0 && machines.len() == 1 && machines[0].contains("threads"), "{machines:?}");
    }
}

#[test]
fn the_same_weights_under_another_schedule_or_prediction_are_other_images() {
    let root = tempfile::tempdir().unwrap();
    let request = Request { steps: Some(3), ..Request::default() };
    let folder = |scheduler: SchedulerConfig| {
        let model = Model { scheduler, ..model() };
        let (settings, _) = Settings::resolve(&model, &request).unwrap();
        Samples::open(root.path(), &settings, [1, 8, 8]).unwrap().folder().to_path_buf()
    };
    let plain = folder(SchedulerConfig::default());
    assert_eq!(folder(SchedulerConfig::default()), plain);
    let schedule = SchedulerConfig { beta_schedule: BetaSchedule::SquaredCosCapV2, ..SchedulerConfig::default() };
    let prediction = SchedulerConfig { prediction_type: Prediction::Velocity, ..SchedulerConfig::default() };
    let end = SchedulerConfig { beta_end: 0.021, ..SchedulerConfig::default() };
    for other in [schedule, prediction, end] {
        assert_ne!(folder(other), plain);
    }
}
