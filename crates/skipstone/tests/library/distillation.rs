//! Progressive distillation of tiny networks: identical bytes for any number of threads and ranks and through any
//! interruption, students that are ordinary models, and errors that name the mistake.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use ndarray::Array4;
use skipstone::engine::ranks::in_process;
use skipstone::io::checkpoint::{LoadOptions, Model, SchedulerConfig, load};
use skipstone::io::data::Dataset;
use skipstone::math::noise::{KeyedRng, Purpose};
use skipstone::sampling::denoiser::Prediction;
use skipstone::train::{Event, Recipe, Round, Run, Trainer};
use skipstone::unet::{Config, Parameters, initialise};

use crate::common::{assert_same_files, bits, go_on, on_threads, pictures};

/// Three rounds: 8 steps of an ε-predicting teacher are learnt as v, then halved twice.
const RECIPE: &str = "\
[distill]
steps = 2
from = 8
[train]
steps = 3
batch = 4
shard = 2
checkpoint_every = 2
log_every = 1
preview_every = 0
[optimizer]
lr = 2e-3
warmup = 1
";

fn recipe(overrides: &[&str]) -> Recipe {
    let overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
    Recipe::parse_distillation(RECIPE, &overrides).unwrap()
}

/// A network with random weights, also where a training starts from zeros.
fn network(config: &Config, seed: u64) -> Parameters {
    let mut rng = KeyedRng::new(seed, Purpose::Weights, 0, 0);
    let mut gaussian = KeyedRng::new(seed, Purpose::Weights, 1, 0);
    let mut weights = initialise(config, || rng.next_f64(), || gaussian.next_gaussians()[0]).unwrap();
    for value in weights.data_mut().iter_mut().filter(|value| **value == 0.0) {
        *value = 0.2 * (rng.next_f64() as f32 - 0.5);
    }
    weights
}

fn grey() -> Config {
    Config { in_channels: 1, out_channels: 1, ..Config::smallest() }
}

fn teacher() -> Model {
    Model::new(grey(), network(&grey(), 1), SchedulerConfig::default())
}

fn distil(overrides: &[&str], teacher: Model) -> skipstone::Result<Trainer> {
    Trainer::distill(recipe(overrides), pictures(), teacher, on_threads(1))
}

fn open(folder: &Path, threads: usize, resume: bool) -> skipstone::Result<Run> {
    Run::distill(folder, recipe(&[]), pictures(), teacher(), on_threads(threads), resume)
}

/// Distils until step `stop`, like an interrupted run.
fn until(folder: &Path, stop: u64, resume: bool) {
    let mut run = open(folder, 1, resume).unwrap();
    let mut observer = |event: Event<'_>| match event {
        Event::Step { report, .. } if report.step == stop => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    assert!(run.train(&mut observer).unwrap_err().is_stopped());
    assert_eq!(run.trainer().step_count(), stop);
}

#[test]
fn rounds_follow_each_other_and_leave_ordinary_models() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = open(dir.path(), 1, false).unwrap();
    let mut seen = Vec::new();
    let mut observer = |event: Event<'_>| {
        if let Event::Round { index, rounds, round } = event {
            seen.push((index, rounds, round.teacher, round.student));
        }
        ControlFlow::Continue(())
    };
    run.train(&mut observer).unwrap();
    assert_eq!(seen, [(0, 3, 8, 8), (1, 3, 8, 4), (2, 3, 4, 2)]);
    assert_eq!(run.trainer().round(), Some((2, Round { teacher: 4, student: 2 })));
    for (folder, steps) in [(run.student(8), 8), (run.student(4), 4), (run.model(), 2)] {
        let student = load(&folder, &LoadOptions::default()).unwrap();
        assert_eq!(student.scheduler.num_inference_steps, Some(steps), "{}", folder.display());
        assert_eq!(student.scheduler.default_steps(), steps);
        assert_eq!(student.scheduler.prediction_type, Prediction::Velocity);
        assert!(student.provenance["teacher"].starts_with(&teacher().hash), "{:?}", student.provenance);
    }
    assert!(!run.student(2).exists(), "the last student is the model of the run");
    let log = std::fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
    let students: Vec<u64> = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["student"].as_u64().unwrap())
        .collect();
    assert_eq!(students, [8, 8, 8, 4, 4, 4, 2, 2, 2]);
}

#[test]
fn a_student_begins_with_the_weights_of_its_teacher() {
    let mut trainer = distil(&["distill.conversion=false", "optimizer.lr=0"], teacher()).unwrap();
    assert_eq!(bits(&trainer.weights().unwrap()), bits(&teacher().parameters));
    // At a rate of zero, the second student is the first.
    (0..4).for_each(|_| assert!(trainer.step().unwrap().loss.is_finite()));
    assert_eq!(trainer.round().unwrap().0, 1);
    assert_eq!(bits(&trainer.ema().unwrap()), bits(&teacher().parameters));
}

#[test]
fn a_round_starts_the_optimiser_anew_from_the_average_of_the_last() {
    // Without a warm-up, a first step of Adam is as long as the rate.
    let mut trainer = distil(&["optimizer.warmup=0", "optimizer.lr=1e-3", "ema.decay=0.5"], teacher()).unwrap();
    (0..3).for_each(|_| assert!(trainer.step().unwrap().loss.is_finite()));
    let average = trainer.ema().unwrap().into_owned();
    assert!(bits(&average) != bits(&trainer.weights().unwrap()));
    trainer.step().unwrap();
    let moved = trainer.weights().unwrap();
    let most = moved.data().iter().zip(average.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let half = 0.5 * (1.0 + (std::f64::consts::PI / 3.0).cos()) * 1e-3;
    assert!((f64::from(most) / half - 1.0).abs() < 1e-2, "{most} for {half}");
}

#[test]
fn threads_and_ranks_change_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two] = [1, 2].map(|threads| {
        let folder = dir.path().join(threads.to_string());
        open(&folder, threads, false).unwrap().train(&mut go_on).unwrap();
        folder
    });
    assert_same_files(&one, &two);
    let alone = {
        let mut trainer = distil(&[], teacher()).unwrap();
        (0..7).for_each(|_| assert!(trainer.step().unwrap().loss.is_finite()));
        bits(&trainer.ema().unwrap())
    };
    let together: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let handles: Vec<_> = in_process(2)
            .into_iter()
            .map(|ranks| {
                scope.spawn(move || {
                    let (recipe, engine) = (recipe(&[]), on_threads(1));
                    let mut trainer =
                        Trainer::distill_on_ranks(recipe, pictures(), teacher(), engine, Arc::new(ranks)).unwrap();
                    (0..7).for_each(|_| assert!(trainer.step().unwrap().loss.is_finite()));
                    bits(&trainer.ema().unwrap())
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    assert!(together.iter().all(|rank| *rank == alone));
}

#[test]
fn a_run_interrupted_within_and_between_rounds_ends_with_the_bytes_of_an_uninterrupted_one() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    open(&whole, 1, false).unwrap().train(&mut go_on).unwrap();
    // The last step of a round, the first of the next, and all of them one after the other.
    for stops in [&[3][..], &[4], &[6], &[1, 2, 3, 4, 5, 6, 7, 8]] {
        let folder = dir.path().join(format!("{stops:?}"));
        for (i, stop) in stops.iter().enumerate() {
            until(&folder, *stop, i > 0);
        }
        open(&folder, 1, true).unwrap().train(&mut go_on).unwrap();
        assert_same_files(&whole, &folder);
    }
    // A finished run stays as it is.
    open(&whole, 1, true).unwrap().train(&mut go_on).unwrap();
}

#[test]
fn a_run_killed_after_a_round_repeats_the_lost_steps_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    open(&whole, 1, false).unwrap().train(&mut go_on).unwrap();
    for (kept, lost) in [(3, 5), (2, 4), (5, 8)] {
        let _ = std::fs::remove_dir_all(&killed);
        until(&killed, kept, false);
        let state = killed.join("state/training.safetensors");
        let old = std::fs::read(&state).unwrap();
        until(&killed, lost, true);
        std::fs::write(&state, old).unwrap();
        let mut run = open(&killed, 1, true).unwrap();
        assert_eq!(run.trainer().step_count(), kept);
        run.train(&mut go_on).unwrap();
        drop(run);
        assert_same_files(&whole, &killed);
    }
}

#[test]
fn the_loss_of_a_student_falls() {
    let overrides = ["distill.from=4", "distill.conversion=false", "train.steps=60", "train.batch=8"];
    let v = SchedulerConfig { prediction_type: Prediction::Velocity, ..SchedulerConfig::default() };
    let mut trainer = distil(&overrides, Model::new(grey(), network(&grey(), 1), v)).unwrap();
    let losses: Vec<f64> = (0..60).map(|_| trainer.step().unwrap().loss).collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, last) = (mean(&losses[..5]), mean(&losses[55..]));
    println!("loss {first:.4} to {last:.4}");
    assert!(last < 0.5 * first, "{first} to {last}");
}

#[test]
fn a_teacher_that_steps_by_heun_needs_fewer_rounds() {
    let v = SchedulerConfig { prediction_type: Prediction::Velocity, ..SchedulerConfig::default() };
    let of = |solver: &str, model: Model| {
        let overrides = ["distill.from=0", "distill.steps=4", &format!("distill.solver={solver}")];
        distil(&overrides, model).map(|mut trainer| {
            let loss = trainer.step().unwrap().loss;
            assert!(loss.is_finite());
            (trainer.recipe().distill.as_ref().unwrap().rounds(), trainer.teacher_calls())
        })
    };
    let round = |teacher, student| Round { teacher, student };
    let model = || Model::new(grey(), network(&grey(), 1), v.clone());
    assert_eq!(of("heun", model()).unwrap(), (vec![round(8, 4)], vec![4]));
    assert_eq!(of("ddim", model()).unwrap(), (vec![round(32, 16), round(16, 8), round(8, 4)], vec![2, 2, 2]));
    // One that predicts ε is first converted, in its own steps; the students then teach by DDIM.
    assert_eq!(of("heun", teacher()).unwrap(), (vec![round(8, 8), round(8, 4)], vec![2, 2]));
    // A student knows no other steps than its own.
    let student = SchedulerConfig { num_inference_steps: Some(8), ..v.clone() };
    let e = of("heun", Model::new(grey(), network(&grey(), 1), student)).unwrap_err().to_string();
    assert!(e.contains("distill.solver") && e.contains("distilled for 8 steps") && e.contains("leave it out"), "{e}");
    let e = Recipe::parse_distillation(RECIPE, &["distill.solver=dpm2".into()]).unwrap_err().to_string();
    assert!(e.contains("distill.solver") && e.contains("heun"), "{e}");
}

#[test]
fn a_conditional_teacher_can_be_guided_and_others_cannot() {
    let config = Config { num_class_embeds: Some(3), ..grey() };
    let conditional = || {
        let mut model = Model::new(config.clone(), network(&config, 2), SchedulerConfig::default());
        model.null_class = Some(2);
        model
    };
    let first = |weight: &str| {
        let mut trainer = distil(&[&format!("distill.guidance={weight}")], conditional()).unwrap();
        assert_eq!(trainer.null_class(), Some(2));
        trainer.step().unwrap().loss
    };
    assert!(first("1.0") != first("3.0"));
    let e = distil(&["distill.guidance=3.0"], teacher()).unwrap_err().to_string();
    assert!(e.contains("distill.guidance") && e.contains("null class"), "{e}");
    let bare = Dataset::new("bare", Array4::zeros((2, 1, 8, 8)), None, vec![]).unwrap();
    let e = Trainer::distill(recipe(&[]), bare, conditional(), on_threads(1)).unwrap_err().to_string();
    assert!(e.contains("bare") && e.contains("classes"), "{e}");
}

#[test]
fn mistakes_are_named() {
    let error = |overrides: &[&str]| distil(overrides, teacher()).unwrap_err().to_string();
    let e = error(&["distill.steps=3", "distill.from=0"]);
    assert!(e.contains("distill.steps: 3 does not divide the teacher's 1000 timesteps"), "{e}");
    let parsed = |set: &str| Recipe::parse_distillation(RECIPE, &[set.into()]).unwrap_err().to_string();
    let e = parsed("distill.from=12");
    assert!(e.contains("halving 12 steps does not lead to 2; choose 4, 8, 16"), "{e}");
    let e = parsed("distill.stepz=4");
    assert!(e.contains("did you mean distill.steps"), "{e}");
    let e = parsed("model.channels=3");
    assert!(e.contains("remove [model]"), "{e}");
    let e = Recipe::parse(RECIPE, &[]).unwrap_err().to_string();
    assert!(e.contains("distill"), "{e}");
    let colour = Dataset::new("colour", Array4::zeros((2, 3, 8, 8)), None, vec![]).unwrap();
    let e = Trainer::distill(recipe(&[]), colour, teacher(), on_threads(1)).unwrap_err().to_string();
    assert!(e.contains("[3, 8, 8]") && e.contains("the teacher's are [1, 8, 8]"), "{e}");
    let e = Trainer::new(recipe(&[]), pictures(), None, on_threads(1)).unwrap_err().to_string();
    assert!(e.contains("needs a teacher") || e.contains("images are"), "{e}");
}

#[test]
fn a_folder_of_another_run_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    until(&folder, 2, false);
    let e = open(&folder, 1, false).unwrap_err().to_string();
    assert!(e.contains("--resume"), "{e}");
    let resumed = |overrides: &[&str], teacher| {
        let run = Run::distill(&folder, recipe(overrides), pictures(), teacher, on_threads(1), true);
        run.unwrap_err().to_string()
    };
    let e = resumed(&[], Model::new(grey(), network(&grey(), 5), SchedulerConfig::default()));
    assert!(e.contains("started with the teacher") && e.contains("choose another folder"), "{e}");
    let e = resumed(&["train.steps=5"], teacher());
    assert!(e.contains("train.steps = 3, but now it is 5"), "{e}");
    let e = resumed(&["distill.weighting=snr_plus_one"], teacher());
    assert!(e.contains("distill.weighting"), "{e}");
    let trained = Recipe::parse("[model]\nsample_size = [8, 8]", &[]).unwrap();
    let e = Run::open(&folder, trained, pictures(), None, on_threads(1), true).unwrap_err().to_string();
    assert!(e.contains("the folder holds a distillation, not a training"), "{e}");
}
