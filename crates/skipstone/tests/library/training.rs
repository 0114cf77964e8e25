//! Training on tiny data sets: identical bytes for any number of threads and through any interruption, a falling loss,
//! and errors that leave the state unchanged.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use ndarray::{Array4, Axis};
use skipstone::Kind;
use skipstone::engine::ranks::{InProcess, in_process};
use skipstone::engine::{self, Device, EngineOptions, Ranks, cpu::UNet};
use skipstone::io::checkpoint::{LoadOptions, Weights, WeightsChoice, load};
use skipstone::io::data::Dataset;
use skipstone::math::noise::initial_latent;
use skipstone::math::schedule::Time;
use skipstone::sampling::denoiser::{Condition, Denoiser, Guided, Prediction};
use skipstone::train::{Event, Recipe, Run, Trainer};

use crate::common::{assert_same_files, bits, files, go_on, on_threads, pictures};

const TINY: &str = r#"
[model]
sample_size = [8, 8]
channels = 1
block_out_channels = [8, 8]
attention = [false, true]
layers_per_block = 1
norm_num_groups = 4
[train]
steps = 7
batch = 4
shard = 2
checkpoint_every = 2
log_every = 1
preview_every = 0
[optimizer]
lr = 2e-3
warmup = 2
"#;

fn recipe(overrides: &[&str]) -> Recipe {
    let overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
    Recipe::parse(TINY, &overrides).unwrap()
}

fn trainer(overrides: &[&str], threads: usize) -> Trainer {
    Trainer::new(recipe(overrides), pictures(), None, on_threads(threads)).unwrap()
}

#[test]
fn batches_made_ahead_are_the_batches_made_when_they_are_due() {
    // The processor under the name that lets batches be made ahead; a graphics processor has other bytes.
    let auto = EngineOptions { device: Device::Auto, ..on_threads(1) };
    if engine::hardware(&auto).unwrap() != engine::hardware(&on_threads(1)).unwrap() {
        return;
    }
    let overrides = [
        "train.accumulate=3",
        "train.shard=3",
        "model.dropout=0.2",
        "data.classes=true",
        "data.flip=true",
        "train.seed=5",
    ];
    let run = |engine: EngineOptions| {
        let mut trainer = Trainer::new(recipe(&overrides), pictures(), None, engine).unwrap();
        // A measurement makes batches of the next step and must leave no trace.
        trainer.measure().unwrap();
        let losses: Vec<u64> = (0..4).map(|_| trainer.step().unwrap().loss.to_bits()).collect();
        (losses, bits(&trainer.weights().unwrap()))
    };
    assert!(run(auto) == run(on_threads(1)));
}

fn open(folder: &Path, overrides: &[&str], threads: usize, resume: bool) -> skipstone::Result<Run> {
    Run::open(folder, recipe(overrides), pictures(), None, on_threads(threads), resume)
}

/// Trains until step `stop`, like an interrupted run.
fn train_until(folder: &Path, overrides: &[&str], stop: u64, resume: bool) {
    let mut run = open(folder, overrides, 1, resume).unwrap();
    let mut observer = |event: Event<'_>| match event {
        Event::Step { report, .. } if report.step == stop => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    assert!(run.train(&mut observer).unwrap_err().is_stopped());
    assert_eq!(run.trainer().step_count(), stop);
}

fn train_to_the_end(folder: &Path, overrides: &[&str], threads: usize, resume: bool) {
    open(folder, overrides, threads, resume).unwrap().train(&mut go_on).unwrap();
}

/// Settings with which a step draws every kind of random number.
const EVERYTHING: [&str; 6] = [
    "model.dropout=0.2",
    "data.flip=true",
    "data.classes=true",
    "data.class_dropout=0.3",
    "train.accumulate=2",
    "optimizer.decay=cosine",
];

#[test]
fn two_runs_write_the_same_bytes_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let folders = [1, 1, 2, 3].iter().enumerate().map(|(i, &threads)| {
        let folder = dir.path().join(i.to_string());
        train_to_the_end(&folder, &EVERYTHING, threads, false);
        folder
    });
    let folders: Vec<_> = folders.collect();
    for other in &folders[1..] {
        assert_same_files(&folders[0], other);
    }
}

#[test]
fn another_seed_is_another_training() {
    let mut trainers = [trainer(&["train.seed=1"], 1), trainer(&["train.seed=2"], 1)];
    let losses = trainers.each_mut().map(|t| t.step().unwrap().loss);
    assert_ne!(losses[0], losses[1]);
    assert_ne!(bits(&trainers[0].weights().unwrap()), bits(&trainers[1].weights().unwrap()));
}

#[test]
fn a_run_interrupted_at_any_step_ends_with_the_bytes_of_an_uninterrupted_one() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    train_to_the_end(&whole, &EVERYTHING, 1, false);
    // Step 2 has a checkpoint, step 3 has none; 5 interrupts a resumed run.
    for stops in [&[2][..], &[3, 5]] {
        let parts = dir.path().join(format!("{stops:?}"));
        for (i, &stop) in stops.iter().enumerate() {
            train_until(&parts, &EVERYTHING, stop, i > 0);
        }
        train_to_the_end(&parts, &EVERYTHING, 2, true);
        assert_same_files(&whole, &parts);
        let steps = |folder: &Path| -> Vec<u64> {
            let log = std::fs::read_to_string(folder.join("log.jsonl")).unwrap();
            let step = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64().unwrap();
            log.lines().map(step).collect()
        };
        assert_eq!(steps(&parts), [1, 2, 3, 4, 5, 6, 7], "{stops:?}");
        assert_eq!(steps(&whole), steps(&parts));
    }
}

#[test]
fn a_run_killed_between_checkpoints_repeats_the_lost_steps_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    train_to_the_end(&whole, &[], 1, false);
    train_until(&killed, &[], 4, false);
    let (state, log) = (killed.join("state/training.safetensors"), killed.join("log.jsonl"));
    let (old_state, old_model) = (std::fs::read(&state).unwrap(), files(&killed));
    train_until(&killed, &[], 5, true);
    // As if the last checkpoint had only reached the model folder; the state of step 4 is authoritative.
    std::fs::write(&state, old_state).unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 5);
    let run = open(&killed, &[], 1, true).unwrap();
    assert_eq!(run.trainer().step_count(), 4);
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 4);
    assert!(files(&killed) == old_model, "the model folder does not follow from the state");
    drop(run);
    train_to_the_end(&killed, &[], 1, true);
    assert_same_files(&whole, &killed);
}

#[test]
fn a_finished_run_can_be_made_longer_but_not_into_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let (short, long) = (dir.path().join("short"), dir.path().join("long"));
    train_to_the_end(&short, &["train.steps=3"], 1, false);
    train_to_the_end(&short, &["train.steps=5"], 1, true);
    train_to_the_end(&long, &["train.steps=5"], 1, false);
    assert_same_files(&short, &long);

    let refused = |overrides: &[&str], resume: bool| open(&long, overrides, 1, resume).unwrap_err();
    let error = refused(&["train.steps=5"], false);
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.to_string().contains("resume"), "{error}");
    for (set, key) in
        [("optimizer.lr=1e-3", "optimizer.lr"), ("train.seed=3", "train.seed"), ("train.shard=1", "train.shard")]
    {
        let error = refused(&["train.steps=5", set], true);
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.to_string().contains(key), "{error}");
    }
    let fewer =
        Run::open(&long, recipe(&["train.steps=5"]), pictures().take(9), None, on_threads(1), true).unwrap_err();
    assert!(fewer.to_string().contains("data") && fewer.to_string().contains("9 images"), "{fewer}");
}

#[test]
fn a_resumed_run_remembers_its_initial_model() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let initial = trainer(&["train.seed=9"], 1).weights().unwrap().into_owned();
    let named = |hash: &str| Some((initial.clone(), hash.to_owned()));
    let open = |folder: &Path, init, resume| Run::open(folder, recipe(&[]), pictures(), init, on_threads(1), resume);
    open(&whole, named("a"), false).unwrap().train(&mut go_on).unwrap();
    let mut stopping = |event: Event<'_>| match event {
        Event::Step { report, .. } if report.step == 3 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    assert!(open(&parts, named("a"), false).unwrap().train(&mut stopping).unwrap_err().is_stopped());
    // It need not be named again, but no other one may be.
    drop(open(&parts, None, true).unwrap());
    let error = open(&parts, named("b"), true).unwrap_err();
    assert!(error.to_string().contains("the initial model a, but now it is b"), "{error}");
    open(&parts, named("a"), true).unwrap().train(&mut go_on).unwrap();
    assert_same_files(&whole, &parts);
    let fresh = dir.path().join("fresh");
    train_to_the_end(&fresh, &[], 1, false);
    let error = open(&fresh, named("a"), true).unwrap_err();
    assert!(error.to_string().contains("none (random weights)"), "{error}");
}

#[test]
fn the_model_of_a_run_loads_with_the_average_unless_raw_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = open(dir.path(), &["ema.decay=0.5", "ema.warmup=false"], 1, false).unwrap();
    run.train(&mut go_on).unwrap();
    let by = |weights| load(&run.model(), &LoadOptions { weights, ..LoadOptions::default() }).unwrap();
    let (auto, raw) = (by(WeightsChoice::Auto), by(WeightsChoice::Raw));
    assert_eq!((auto.weights, raw.weights), (Weights::Ema, Weights::Raw));
    assert_eq!(bits(&auto.parameters), bits(&run.trainer().ema().unwrap()));
    assert_eq!(bits(&raw.parameters), bits(&run.trainer().weights().unwrap()));
    assert_ne!(auto.hash, raw.hash);
    assert_eq!(auto.provenance["steps"], "7");
}

#[test]
fn a_preview_is_written_where_asked_and_does_not_change_the_training() {
    let dir = tempfile::tempdir().unwrap();
    let (with, without) = (dir.path().join("with"), dir.path().join("without"));
    let previews = ["train.preview_every=3", "train.preview_images=2", "train.preview_steps=2"];
    train_to_the_end(&with, &previews, 1, false);
    train_to_the_end(&without, &[], 1, false);
    for step in [3, 6, 7] {
        assert!(with.join(format!("previews/step-{step:07}.png")).is_file(), "step {step}");
    }
    let weights = "model/unet/diffusion_pytorch_model.safetensors";
    assert!(files(&with)[weights] == files(&without)[weights]);
    assert!(without.join("loss.png").is_file());
}

#[test]
fn the_loss_falls_far_on_images_that_are_all_alike() {
    let gray = Dataset::new("gray", Array4::from_elem((4, 1, 8, 8), 200), None, vec![]).unwrap();
    let recipe = recipe(&["train.batch=8", "train.shard=8", "optimizer.lr=5e-3", "optimizer.warmup=0"]);
    let mut trainer = Trainer::new(recipe, gray, None, on_threads(1)).unwrap();
    let losses: Vec<f64> = (0..60).map(|_| trainer.step().unwrap().loss).collect();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..5]), mean(&losses[50..]));
    println!("first {first:.3}, last {last:.3}");
    // A fresh network outputs 0, so the first loss is the mean of ε².
    assert!((losses[0] - 1.0).abs() < 0.2, "first loss {}", losses[0]);
    assert!(last < 0.4 * first, "from {first} to {last}");
}

#[test]
fn the_first_loss_is_the_mean_square_of_the_target() {
    // A fresh network outputs 0. x₀ = −1 everywhere (byte 0), so the loss for `sample` is exactly 1.
    let black = Dataset::new("black", Array4::zeros((4, 1, 8, 8)), None, vec![]).unwrap();
    let mut trainer = Trainer::new(recipe(&["diffusion.prediction=sample"]), black, None, on_threads(1)).unwrap();
    assert!((trainer.step().unwrap().loss - 1.0).abs() < 1e-12);
}

#[test]
fn weights_that_are_not_finite_end_a_training_at_its_first_step_and_stay_as_they_were() {
    let mut weights = trainer(&[], 1).weights().unwrap().into_owned();
    let at = weights.layout().get("conv_in.weight").unwrap().offset;
    weights.data_mut()[at] = f32::NAN;
    let before = bits(&weights);
    let mut trainer = Trainer::new(recipe(&[]), pictures(), Some(weights), on_threads(1)).unwrap();
    let error = trainer.step().unwrap_err();
    assert_eq!(error.kind(), Kind::NonFinite);
    assert!(error.message().starts_with("step 1:"), "{error}");
    assert_eq!(trainer.step_count(), 0);
    assert_eq!(bits(&trainer.weights().unwrap()), before);
}

#[test]
fn a_training_that_diverges_names_its_step_and_keeps_the_state_before_it() {
    // Weight decay with lr·λ = 1000 multiplies the weights by −999 at each step.
    let wild = ["optimizer.kind=adamw", "optimizer.lr=10", "optimizer.weight_decay=100", "optimizer.warmup=0"];
    let mut trainer = trainer(&wild, 1);
    let (error, before) = loop {
        let before = [bits(&trainer.weights().unwrap()), bits(&trainer.ema().unwrap())];
        match trainer.step() {
            Ok(report) => assert!(report.step < 100, "it should have diverged by now"),
            Err(error) => break (error, before),
        }
    };
    let done = trainer.step_count();
    assert!(done > 0, "the first step of a fresh network is finite");
    assert_eq!(error.kind(), Kind::NonFinite);
    assert!(error.message().starts_with(&format!("step {}:", done + 1)), "{error}");
    assert!(error.message().contains("optimizer.lr"), "{error}");
    assert_eq!([bits(&trainer.weights().unwrap()), bits(&trainer.ema().unwrap())], before);
    // The state is unchanged: the same step fails in the same way.
    assert_eq!(trainer.step().unwrap_err().to_string(), error.to_string());
}

#[test]
fn a_run_that_diverges_keeps_its_last_good_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let wild = [
        "optimizer.kind=adamw",
        "optimizer.lr=10",
        "optimizer.weight_decay=100",
        "optimizer.warmup=0",
        "train.steps=100",
        "train.checkpoint_every=1",
    ];
    let mut run = open(dir.path(), &wild, 1, false).unwrap();
    let mut saved = 0;
    let mut observer = |event: Event<'_>| {
        if let Event::Checkpoint { step } = event {
            saved = step;
        }
        ControlFlow::Continue(())
    };
    let error = run.train(&mut observer).unwrap_err();
    assert_eq!(error.kind(), Kind::NonFinite);
    assert!(saved > 0 && error.message().contains(&format!("last good checkpoint is step {saved}")), "{error}");
    drop(run);
    let run = open(dir.path(), &wild, 1, true).unwrap();
    assert_eq!(run.trainer().step_count(), saved);
    assert!(run.trainer().weights().unwrap().data().iter().all(|v| v.is_finite()));
    load(&run.model(), &LoadOptions::default()).unwrap();
}

#[test]
fn initial_weights_are_used_and_those_of_another_architecture_refused() {
    let given = trainer(&["train.seed=9"], 1).weights().unwrap().into_owned();
    let started = Trainer::new(recipe(&[]), pictures(), Some(given.clone()), on_threads(1)).unwrap();
    assert_eq!(bits(&started.weights().unwrap()), bits(&given));
    assert_eq!(bits(&started.ema().unwrap()), bits(&given));
    let other = trainer(&["model.block_out_channels=[8, 16]"], 1).weights().unwrap().into_owned();
    let error = Trainer::new(recipe(&[]), pictures(), Some(other), on_threads(1)).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.to_string().contains("architecture"), "{error}");
}

#[test]
fn data_that_does_not_fit_the_recipe_is_refused() {
    let colour = Dataset::new("colour", Array4::zeros((2, 3, 8, 8)), None, vec![]).unwrap();
    let error = Trainer::new(recipe(&[]), colour, None, on_threads(1)).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.to_string().contains("[3, 8, 8]") && error.to_string().contains("model.channels"), "{error}");
    let bare = Dataset::new("bare", Array4::zeros((2, 1, 8, 8)), None, vec![]).unwrap();
    let error = Trainer::new(recipe(&["data.classes=true"]), bare, None, on_threads(1)).unwrap_err();
    assert!(error.to_string().contains("data.classes"), "{error}");
    assert!(Trainer::new(recipe(&[]), pictures(), None, on_threads(0)).is_err(), "0 threads");
}

#[test]
fn the_moving_average_follows_its_decay() {
    let mut still = trainer(&["ema.decay=1", "ema.warmup=false"], 1);
    let initial = bits(&still.weights().unwrap());
    still.step().unwrap();
    assert_eq!(bits(&still.ema().unwrap()), initial);
    assert_ne!(bits(&still.weights().unwrap()), initial);

    let mut none = trainer(&["ema.decay=0", "ema.warmup=false"], 1);
    none.step().unwrap();
    assert_eq!(bits(&none.ema().unwrap()), bits(&none.weights().unwrap()));

    // Step 1 of the warm-up decays by (1 + 1)/(10 + 1).
    for (overrides, decay) in [(&["ema.decay=0.75", "ema.warmup=false"][..], 0.75), (&[], 2.0 / 11.0)] {
        let mut trainer = trainer(overrides, 1);
        let before = trainer.weights().unwrap().data().to_vec();
        trainer.step().unwrap();
        for ((ema, before), after) in
            trainer.ema().unwrap().data().iter().zip(before).zip(trainer.weights().unwrap().data())
        {
            let expected = decay * f64::from(before) + (1.0 - decay) * f64::from(*after);
            assert!((f64::from(*ema) - expected).abs() < 1e-6, "{ema} for {expected}, decay {decay}");
        }
    }
}

#[test]
fn adams_first_step_is_as_long_as_the_rate_of_its_warm_up() {
    let mut trainer = trainer(&["optimizer.lr=0.008", "optimizer.warmup=4"], 1);
    let before = trainer.weights().unwrap().get("conv_out.bias").unwrap().to_vec();
    let rates: Vec<f64> = (0..5).map(|_| trainer.step().unwrap().learning_rate).collect();
    for (found, expected) in rates.iter().zip([0.002, 0.004, 0.006, 0.008, 0.008]) {
        assert!((found - expected).abs() < 1e-15, "{rates:?}");
    }
    // m̂/√v̂ = ±1 at the first step for any gradient, provided that ε is small in comparison.
    let mut first = self::trainer(&["optimizer.lr=0.008", "optimizer.warmup=4"], 1);
    first.step().unwrap();
    let moved = f64::from(first.weights().unwrap().get("conv_out.bias").unwrap()[0] - before[0]).abs();
    assert!((moved - 0.002).abs() < 1e-6, "moved by {moved}");
}

#[test]
fn a_rate_of_zero_changes_nothing() {
    let mut trainer = trainer(&["optimizer.lr=0"], 1);
    let before = bits(&trainer.weights().unwrap());
    trainer.step().unwrap();
    assert_eq!(bits(&trainer.weights().unwrap()), before);
}

/// A single timestep with a = 1 − β, so that all draws agree.
fn single_time(beta: &str) -> [String; 4] {
    [
        "diffusion.timesteps=1".into(),
        format!("diffusion.beta_start={beta}"),
        format!("diffusion.beta_end={beta}"),
        "optimizer.warmup=0".into(),
    ]
}

fn trainer_with(overrides: &[String]) -> Trainer {
    let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
    trainer(&overrides, 1)
}

#[test]
fn two_batches_of_four_accumulate_to_the_gradient_of_eight() {
    // Images, noise and flips are keyed by the image's position in the run, times by the batch. With a single timestep
    // they agree. A large ε keeps Adam from turning the sign of a gradient that is pure rounding error into a step.
    let with = |batch: &str, accumulate: &str| {
        let mut overrides = single_time("0.5").to_vec();
        overrides.push("optimizer.eps=1e-2".into());
        overrides.push(format!("train.batch={batch}"));
        overrides.push(format!("train.accumulate={accumulate}"));
        trainer_with(&overrides)
    };
    let (mut whole, mut halves) = (with("8", "1"), with("4", "2"));
    for _ in 0..4 {
        let (a, b) = (whole.step().unwrap(), halves.step().unwrap());
        assert!((a.loss / b.loss - 1.0).abs() < 1e-5, "{a:?} {b:?}");
        assert!((a.gradient_norm / b.gradient_norm - 1.0).abs() < 1e-4, "{a:?} {b:?}");
    }
    for (a, b) in whole.weights().unwrap().data().iter().zip(halves.weights().unwrap().data()) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn min_snr_weighs_by_the_smaller_of_snr_and_gamma() {
    // γ = 5. β = 0.1: SNR = 9. β = 0.8: SNR = 1/4. For x₀ the weight is min(SNR, γ). An error of ε counts 1/SNR times
    // an error of x₀, an error of v 1/(SNR + 1) times.
    for (beta, prediction, expected) in [
        ("0.1", "epsilon", 5.0 / 9.0),
        ("0.1", "sample", 5.0),
        ("0.1", "v_prediction", 5.0 / 10.0),
        ("0.8", "epsilon", 1.0),
        ("0.8", "sample", 0.25),
        ("0.8", "v_prediction", 0.25 / 1.25),
    ] {
        let loss = |weighting: &str| {
            let mut overrides = single_time(beta).to_vec();
            overrides.push(format!("diffusion.prediction={prediction}"));
            overrides.push(format!("diffusion.weighting={weighting}"));
            trainer_with(&overrides).step().unwrap()
        };
        let (plain, weighted) = (loss("none"), loss("min_snr"));
        let found = weighted.loss / plain.loss;
        assert!((found - expected).abs() < 1e-9, "β {beta}, {prediction}: weight {found}, expected {expected}");
        let found = weighted.gradient_norm / plain.gradient_norm;
        assert!((found - expected).abs() < 1e-5, "β {beta}, {prediction}: gradient × {found}, expected {expected}");
    }
}

#[test]
fn dropout_changes_the_training_and_is_the_same_each_time() {
    let run = |dropout: &str| {
        let mut trainer = trainer(&[dropout], 1);
        (0..3).map(|_| trainer.step().unwrap().loss.to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(run("model.dropout=0.5"), run("model.dropout=0.5"));
    // Blocks start as the identity, so dropout has an effect only after the first step.
    assert_ne!(run("model.dropout=0.5"), run("model.dropout=0"));
}

#[test]
fn a_class_conditional_training_learns_its_classes_and_can_be_guided() {
    // Class 0 is black, class 1 is white, and the null class is half of each. The network predicts x₀.
    let images = Array4::from_shape_fn((8, 1, 8, 8), |(n, ..)| if n % 2 == 0 { 0 } else { 255 });
    let labels = (0..8).map(|n| n % 2).collect();
    let data = Dataset::new("two", images, Some(labels), vec!["black".into(), "white".into()]).unwrap();
    let recipe = recipe(&[
        "data.classes=true",
        "data.class_dropout=0.25",
        "diffusion.prediction=sample",
        "train.batch=8",
        "train.shard=8",
        "optimizer.lr=5e-3",
    ]);
    let mut trainer = Trainer::new(recipe, data, None, on_threads(1)).unwrap();
    assert_eq!((trainer.config().num_class_embeds, trainer.null_class()), (Some(3), Some(2)));
    for _ in 0..80 {
        trainer.step().unwrap();
    }
    let unet =
        UNet::new(trainer.config().clone(), trainer.weights().unwrap().into_owned(), Prediction::Sample).unwrap();
    // At t = T the noisy image has no information, so the prediction depends on the class.
    let (t, x) = (Time::new(1000), initial_latent(3, 0, 1, [1, 8, 8]));
    let mean = |y: Array4<f32>| f64::from(y.mean().unwrap());
    let [black, white, none] = [0, 1, 2].map(|class| mean(unet.predict(&x, &[t], &[Condition::Class(class)]).unwrap()));
    println!("black {black:.2}, none {none:.2}, white {white:.2}");
    assert!(black < -0.5 && white > 0.5, "black {black}, white {white}");
    assert!(black < none && none < white, "black {black}, none {none}, white {white}");

    let guided =
        |weight| mean(Guided::new(&unet, weight, 2).unwrap().predict(&x, &[t], &[Condition::Class(1)]).unwrap());
    for (weight, expected) in [(0.0, none), (1.0, white), (3.0, none + 3.0 * (white - none))] {
        assert!((guided(weight) - expected).abs() < 1e-5, "weight {weight}: {} for {expected}", guided(weight));
    }
    assert!(unet.predict(&x, &[t], &[]).is_err(), "a conditional network needs a class");
    assert!(unet.predict(&x, &[t], &[Condition::Class(3)]).is_err(), "class 3 of 3");
}

#[test]
fn a_preview_is_of_the_average_and_always_from_the_same_latents() {
    let mut trainer = trainer(&["train.preview_images=3", "train.preview_steps=2"], 1);
    trainer.step().unwrap();
    let (once, twice) = (trainer.preview().unwrap(), trainer.preview().unwrap());
    assert_eq!(once.len_of(Axis(0)), 3);
    assert_eq!(once, twice);
}

/// Runs `f` on ranks within this process and returns the results in their order.
fn on_ranks<R: Send>(size: usize, f: impl Fn(Arc<InProcess>) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let f = &f;
        let handles: Vec<_> =
            in_process(size).into_iter().map(|ranks| scope.spawn(move || f(Arc::new(ranks)))).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    })
}

/// Loss, norm, weights and average after three steps on so many ranks, as bits: equal on all of them.
fn three_steps(overrides: &[&str], size: usize) -> (Vec<[u64; 2]>, [Vec<u32>; 2]) {
    let mut results = on_ranks(size, |ranks| {
        let mut trainer = Trainer::on_ranks(recipe(overrides), pictures(), None, on_threads(1), ranks).unwrap();
        let reports = (0..3).map(|_| trainer.step().unwrap());
        let reports = reports.map(|r| [r.loss.to_bits(), r.gradient_norm.to_bits()]).collect();
        (reports, [bits(&trainer.weights().unwrap()), bits(&trainer.ema().unwrap())])
    });
    let first = results.remove(0);
    assert!(results.iter().all(|other| *other == first), "{size} ranks differ");
    first
}

#[test]
fn any_number_of_ranks_trains_to_the_same_bits() {
    // 8, 6, 15 and 1 shards in a step: more ranks than shards as well, and shards of one image beside larger ones.
    for shards in [
        &["train.batch=8", "train.shard=2"][..],
        &["train.batch=3", "train.shard=1"],
        &["train.batch=13", "train.shard=3", "train.accumulate=3"],
        &["train.batch=2", "train.shard=2", "train.accumulate=1"],
    ] {
        let overrides = [&EVERYTHING, shards, &["optimizer.kind=adamw", "optimizer.weight_decay=0.1"]].concat();
        let alone = three_steps(&overrides, 1);
        for size in 2..=4 {
            assert!(three_steps(&overrides, size) == alone, "{size} ranks, {shards:?}");
        }
    }
}

#[test]
fn a_tree_and_a_chain_add_the_same_numbers_in_another_order() {
    let with = |sum: &str| three_steps(&["train.batch=8", "train.shard=1", &format!("train.sum={sum}")], 1);
    let (tree, chain) = (with("tree"), with("chain"));
    assert_ne!(tree.1, chain.1);
    for (a, b) in tree.0.iter().zip(&chain.0) {
        let [a, b] = [a, b].map(|report| f64::from_bits(report[1]));
        assert!((a / b - 1.0).abs() < 1e-3, "{a} {b}");
    }
    // With two shards there is one sum.
    let two = |sum: &str| three_steps(&["train.batch=2", "train.shard=1", &format!("train.sum={sum}")], 1);
    let (tree, chain) = (two("tree"), two("chain"));
    for (a, b) in tree.0.iter().zip(&chain.0) {
        assert!((f64::from_bits(a[1]) / f64::from_bits(b[1]) - 1.0).abs() < 1e-5);
    }
}

#[test]
fn a_run_continues_on_another_number_of_ranks_and_only_rank_0_has_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    train_to_the_end(&whole, &EVERYTHING, 1, false);
    let parts = dir.path().join("parts");
    let absent = dir.path().join("absent");
    // Until step 2 on three ranks, 5 on two, the end on four. The last rank asks to stop, and all stop.
    for (size, stop, resume) in [(3, 2, false), (2, 5, true), (4, 99, true)] {
        on_ranks(size, |ranks| {
            let rank = ranks.rank();
            let folder = if rank == 0 { &parts } else { &absent };
            let opened =
                Run::open_on_ranks(folder, recipe(&EVERYTHING), pictures(), None, on_threads(1), resume, ranks);
            let mut run = opened.unwrap();
            let mut observer = |event: Event<'_>| match event {
                Event::Step { report, .. } if report.step == stop && rank == size - 1 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            };
            let ended = run.train(&mut observer);
            assert_eq!(ended.err().is_some_and(|e| e.is_stopped()), stop < 7, "{size} ranks, rank {rank}");
            assert_eq!(run.trainer().step_count(), stop.min(7));
        });
    }
    assert_same_files(&whole, &parts);
    assert!(!absent.exists());
    let log = std::fs::read_to_string(parts.join("log.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(last["ranks"].as_array().unwrap().len(), 4, "{last}");
    assert!(last["ranks"][0]["images_per_s"].as_f64().unwrap() > 0.0, "{last}");
}

#[test]
fn ranks_that_disagree_and_mistakes_of_one_give_all_the_same_error() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let errors = |resume: bool, make: &(dyn Fn(usize) -> (Recipe, Dataset) + Sync)| {
        let errors = on_ranks(3, |ranks| {
            let (recipe, data) = make(ranks.rank());
            Run::open_on_ranks(&folder, recipe, data, None, on_threads(1), resume, ranks).unwrap_err().to_string()
        });
        assert!(errors.iter().all(|error| *error == errors[0]), "{errors:?}");
        errors[0].clone()
    };
    let seeds = |rank: usize| (recipe(&[if rank == 2 { "train.seed=5" } else { "train.seed=4" }]), pictures());
    let error = errors(false, &seeds);
    assert!(error.contains("recipe") && error.contains("rank 2 has seed = 5") && error.contains("seed = 4"), "{error}");
    let data = |rank: usize| (recipe(&[]), pictures().take(if rank == 1 { 9 } else { 10 }));
    let error = errors(false, &data);
    assert!(error.contains("rank 1 has") && error.contains("9 images"), "{error}");
    let chain = |_: usize| (recipe(&["train.sum=chain"]), pictures());
    assert!(errors(false, &chain).contains("train.sum"));
    assert!(!folder.exists());
    train_until(&folder, &[], 1, false);
    assert!(errors(false, &|_| (recipe(&[]), pictures())).contains("--resume"));
    assert!(errors(true, &|_| (recipe(&["optimizer.lr=1"]), pictures())).contains("optimizer.lr"));
    let held = open(&folder, &[], 1, true).unwrap();
    assert!(errors(true, &|_| (recipe(&[]), pictures())).contains("another process"));
    drop(held);
}

#[test]
fn a_rank_owns_a_part_of_the_optimisers_state() {
    let bytes = |size: usize| {
        on_ranks(size, |ranks| {
            Trainer::on_ranks(recipe(&["train.shard=4"]), pictures(), None, on_threads(1), ranks).unwrap().bytes()
        })
    };
    let parameters = trainer(&[], 1).weights().unwrap().data().len();
    let (one, two) = (bytes(1)[0], bytes(2));
    // Average and moments are shared out; a rank's part of the sum and what travels come on top.
    assert!(two.iter().sum::<usize>() < 2 * one, "{one} and {two:?}, {parameters} parameters");
}
