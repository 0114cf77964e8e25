use std::path::Path;

use super::*;
use crate::io::checkpoint::{Guide, SchedulerConfig};
use crate::io::image::{npy, read_png};
use crate::math::noise::{KeyedRng, initial_latent};
use crate::math::trajectory::Spacing;
use crate::sampling::denoiser::Prediction;
use crate::sampling::solver::Solver;
use crate::unet::{Config, initialise};

fn model(classes: Option<usize>) -> Model {
    let config = Config { num_class_embeds: classes, ..Config::smallest() };
    let mut uniform = KeyedRng::new(1, Purpose::Weights, 0, 0);
    let mut gaussian = KeyedRng::new(1, Purpose::Weights, 1, 0);
    let mut parameters = initialise(&config, || uniform.next_f64(), || gaussian.next_gaussians()[0]).unwrap();
    // A fresh output layer is zero.
    let last = parameters.layout().get("conv_out.weight").unwrap().range();
    parameters.data_mut()[last].iter_mut().for_each(|weight| *weight = 0.1 * (uniform.next_f64() as f32 - 0.5));
    Model::new(config, parameters, SchedulerConfig::default())
}

fn pipeline() -> Pipeline {
    Pipeline::from_model(model(None), &EngineOptions::on_threads(1)).unwrap()
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn a_pipeline_makes_the_images_of_a_generator_of_the_same_request() {
    let request =
        Request { steps: Some(4), noise: Noise::Eta(1.0), seed: 3, clip: Some(ClipMode::Off), ..Request::default() };
    let engine = EngineOptions::on_threads(2);
    let generator = Generator::new(model(None), &engine, &request, Inputs::default(), 5, 6).unwrap();
    let expected = generator.generate(5..11, &mut crate::sampling::sampler::unobserved).unwrap();

    let options = pipeline().steps(4).eta(1.0).seed(3).clip(ClipMode::Off).first(5);
    let images = options.clone().sample(6).unwrap();
    assert_eq!(images.array(), expected);
    assert_eq!(images.settings(), generator.settings());
    // Whatever the batch, and by way of a whole request.
    assert_eq!(options.clone().batch(4).sample(6).unwrap().array(), expected);
    assert_eq!(pipeline().request(request).first(5).sample(6).unwrap().into_array(), expected);
    assert_ne!(options.spacing(Spacing::Quadratic).sample(6).unwrap().array(), expected);
}

#[test]
fn images_are_saved_as_a_grid_a_folder_and_an_array() {
    let at = tempfile::tempdir().unwrap();
    let images = pipeline().steps(3).sample(4).unwrap();
    images.save_grid(at.path().join("grid.png")).unwrap();
    let text = read_png(&at.path().join("grid.png")).unwrap().text;
    for (key, said) in [("steps", "3"), ("n", "4"), ("first", "0")] {
        assert!(text.contains(&(key.into(), said.into())), "{key}: {text:?}");
    }
    images.save_npy(at.path().join("x.npy")).unwrap();
    assert_eq!(npy::read::<ndarray::Ix4>(&at.path().join("x.npy")).unwrap(), images.array());

    // A folder that is made batch by batch, was broken off, and goes on is the same as one of images in memory.
    let (whole, parts) = (at.path().join("whole"), at.path().join("parts"));
    images.save_folder(&whole).unwrap();
    let small = pipeline().steps(3).batch(2);
    small.sample_to_folder(&parts, 2).unwrap();
    std::fs::remove_file(parts.join("000000.png")).unwrap();
    let kept = std::fs::metadata(parts.join("000001.png")).unwrap().modified().unwrap();
    small.sample_to_folder(&parts, 4).unwrap();
    assert_eq!(std::fs::metadata(parts.join("000001.png")).unwrap().modified().unwrap(), kept);
    for name in ["000000.png", "000001.png", "000002.png", "000003.png", "manifest.json"] {
        assert_eq!(bytes(&whole.join(name)), bytes(&parts.join(name)), "{name}");
    }
    assert!(pipeline().steps(4).sample_to_folder(&parts, 4).unwrap_err().message().contains("steps"));
}

#[test]
fn images_are_encoded_and_decoded_with_the_same_options() {
    let pipeline = pipeline().steps(50).batch(2);
    let x0 = initial_latent(9, 0, 3, [1, 8, 8]).mapv(|x| x.clamp(-1.0, 1.0));
    let latents = pipeline.encode(&x0).unwrap();
    let generator = pipeline.clone().clip(ClipMode::Off).generator(Inputs::default(), 3).unwrap();
    let encoded = generator.encode(&x0, 0..3, &Method::Ddim, &mut inversion::unobserved).unwrap();
    assert_eq!(encoded.latents, Latents::One(latents.clone()));
    // Decoding is sampling from given latents.
    let from_latents = Inputs { latents: Some(latents.clone()), ..Inputs::default() };
    let sampled = pipeline.clone().clip(ClipMode::Off).sample_with(from_latents, 3).unwrap();
    let back = pipeline.decode(&latents).unwrap();
    assert_eq!((back.array(), back.settings()), (sampled.array(), sampled.settings()));
    assert!(pipeline.clone().eta(1.0).encode(&x0).is_err());
    assert!(pipeline.encode(&Array4::zeros((1, 3, 8, 8))).is_err());
}

#[test]
fn an_interpolation_ends_at_the_images_of_its_seeds() {
    let pipeline = pipeline().steps(3);
    let line = pipeline.interpolate(&pipeline.latents(&[4, 2]), 5).unwrap();
    let image = |seed| pipeline.clone().seed(seed).sample(1).unwrap().into_array();
    assert_eq!(line.array().slice_axis(Axis(0), Slice::from(..1)), image(4));
    assert_eq!(line.array().slice_axis(Axis(0), Slice::from(4..)), image(2));
    assert_eq!(pipeline.interpolate(&pipeline.latents(&[1, 2, 3, 4]), 3).unwrap().array().dim().0, 9);
    assert!(pipeline.interpolate(&pipeline.latents(&[1]), 3).is_err());
}

#[test]
fn the_likelihood_is_the_bound_of_ddpm_unless_there_is_noise_in_the_options() {
    let pipeline = pipeline().steps(10);
    let x0 = Array4::from_elem((BOUNDED + 1, 1, 8, 8), 0.0);
    let bound = pipeline.likelihood(&x0).unwrap();
    assert_eq!((bound.image_nats.len(), bound.terms.len()), (BOUNDED + 1, 10));
    assert_eq!(bound, pipeline.clone().eta(1.0).likelihood(&x0).unwrap());
    assert_ne!(bound.bits_per_dim(), pipeline.eta(0.5).likelihood(&x0).unwrap().bits_per_dim());
}

#[test]
fn options_without_meaning_for_the_model_are_refused() {
    let f16 = Request { precision: Precision::F16, ..Request::default() };
    assert!(pipeline().request(f16).sample(1).unwrap_err().message().starts_with("precision"));
    assert!(pipeline().class(1).sample(1).is_err());
    assert!(pipeline().sample(0).is_err());
    let classes = Pipeline::from_model(model(Some(3)), &EngineOptions::on_threads(1)).unwrap().steps(2);
    let (ends, x0) = (classes.latents(&[1, 2]), Array4::zeros((1, 1, 8, 8)));
    assert!(classes.interpolate(&ends, 2).unwrap_err().message().contains("3 classes"));
    assert!(classes.likelihood(&x0).unwrap_err().message().contains("3 classes"));
    classes.clone().class(1).interpolate(&ends, 2).unwrap();
    classes.class(1).likelihood(&x0).unwrap();
    // A half-precision network is what its engine says, whatever the request leaves open.
    let engine = EngineOptions { precision: Precision::F16, ..EngineOptions::on_threads(1) };
    let half = Pipeline::from_model(model(None), &engine).unwrap().request(Request::default()).steps(2);
    assert_eq!(half.sample(1).unwrap().settings().precision, Precision::F16);
}

#[test]
fn a_driver_hands_over_whole_batches_and_stops_where_its_observer_breaks() {
    let generator = pipeline().steps(3).generator(Inputs::default(), 20).unwrap();
    let wanted = || [0, 1, 2, 5, 6, 9].into_iter();
    // Stopped after any number of steps: three for each of the batches 0..2, 2..3, 5..7 and 9..10.
    for after in 1..=12 {
        let (mut steps, mut done) = (0, Vec::new());
        let mut see = |_: &Range<u64>, _: &Progress<'_>| {
            steps += 1;
            if steps >= after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let ended = generator.generate_all(wanted(), 2, &mut see, |images, x0| {
            assert_eq!(x0, generator.generate(images.clone(), &mut crate::sampling::sampler::unobserved)?);
            done.push(images);
            Ok::<_, Error>(())
        });
        assert_eq!(done, [0..2, 2..3, 5..7, 9..10][..after / 3], "{after}");
        // A batch at its last step is finished, and none is begun after it.
        assert_eq!((steps, ended.map_err(|e| e.is_stopped())), (after, if after == 12 { Ok(()) } else { Err(true) }));
    }
    let full = generator.generate_all(0..2, 2, &mut go_on, |_, _| Err(Error::argument("full")));
    assert_eq!(full.unwrap_err().message(), "full");
}

/// [`model`] with other weights of the last layer.
fn weaker(classes: Option<usize>) -> Model {
    let mut weak = model(classes);
    let last = weak.parameters.layout().get("conv_out.weight").unwrap().range();
    weak.parameters.data_mut()[last].iter_mut().for_each(|weight| *weight *= 0.5);
    Model::new(weak.config, weak.parameters, weak.scheduler)
}

fn guided_by(weak: Model, classes: Option<usize>) -> Result<Pipeline> {
    Pipeline::from_model(model(classes).guided_by(Guide::new(weak))?, &EngineOptions::on_threads(1))
}

#[test]
fn a_guide_extrapolates_away_from_its_own_images() {
    let weak = Pipeline::from_model(weaker(None), &EngineOptions::on_threads(1)).unwrap();
    // x₀ of a single step is linear in the prediction.
    let one = |pipeline: &Pipeline| pipeline.clone().steps(1).clip(ClipMode::Off).sample(2).unwrap().into_array();
    let (strong, weak_images) = (one(&pipeline()), one(&weak));
    let guided = guided_by(weaker(None), None).unwrap();
    let found = one(&guided.clone().guidance(3.0));
    let expected = &weak_images + &((&strong - &weak_images) * 3.0);
    let size = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    assert!((&found - &expected).iter().all(|d| d.abs() < 1e-5 * size), "{found} {expected}");
    assert!((&found - &strong).iter().any(|d| d.abs() > 1e-3 * size));
    // A weight of 1 is the model itself.
    let (x, y) = (guided.clone().guidance(1.0).steps(5).sample(2), pipeline().steps(5).sample(2));
    let distance = x.unwrap().into_array() - y.unwrap().into_array();
    assert!(distance.iter().all(|d| d.abs() < 1e-5), "{distance}");
    // Two calls a step; the manifest says by whom, and no path.
    let generator = guided.clone().guidance(3.0).steps(5).generator(Inputs::default(), 2).unwrap();
    let cost = |pipeline: &Pipeline| pipeline.network.cost();
    assert_eq!((generator.calls(), generator.calls_per_step()), (5, 2));
    assert_eq!(generator.flops_per_call(), cost(&guided).flops + cost(&weak).flops);
    let options = generator.settings().to_json();
    assert_eq!(options["guide"], weaker(None).hash);
    assert_eq!(options["guide_process"], options["process"]);
    // Neither a null class nor a class is needed.
    let classes = guided_by(weaker(Some(3)), Some(3)).unwrap().guidance(2.0).steps(2);
    assert_eq!(classes.clone().sample(2).unwrap().settings().null_class, None);
    classes.class(1).sample(1).unwrap();
}

#[test]
fn a_guide_of_another_prediction_type_is_converted_and_one_of_another_kind_is_refused() {
    let options = || Request { steps: Some(4), guidance: Some(2.0), ..Request::default() };
    let velocity = |weak: Model| {
        let scheduler = SchedulerConfig { prediction_type: Prediction::Velocity, ..weak.scheduler };
        Model { scheduler, ..weak }
    };
    let converted = guided_by(velocity(weaker(None)), None).unwrap().request(options());
    let process = converted.sample(1).unwrap().settings().to_json()["guide_process"].clone();
    assert_ne!(process, converted.sample(1).unwrap().settings().process);

    let refused = |weak: Model, classes: Option<usize>, word: &str| {
        let error = guided_by(weak, classes).unwrap_err();
        assert!(error.message().starts_with("guide: ") && error.message().contains(word), "{error}");
    };
    let other = Config { sample_size: [16, 16], ..Config::smallest() };
    let parameters = weaker(None).parameters;
    refused(Model::new(other, parameters, SchedulerConfig::default()), None, "[1, 8, 8]");
    refused(weaker(Some(3)), None, "expected the classes none");
    refused(weaker(None), Some(3), "expected the classes 3");
    refused(Model { null_class: Some(2), ..weaker(Some(3)) }, Some(3), "2 is no class");
    let scheduler = SchedulerConfig { beta_end: 0.03, ..SchedulerConfig::default() };
    refused(Model { scheduler, ..weaker(None) }, None, "noise schedule");
    let bare = guided_by(weaker(None), None).unwrap().sample(1).unwrap_err();
    assert_eq!(bare.message(), "guide: needs guidance; set guidance");
    let named = Request { guide: Some("weak".to_owned()), ..options() };
    assert!(pipeline().request(named).sample(1).unwrap_err().message().contains("weak is not loaded"));
}

/// A pipeline of the test network with this scheduler.
fn scheduled(scheduler: SchedulerConfig) -> Pipeline {
    Pipeline::from_model(Model { scheduler, ..model(None) }, &EngineOptions::on_threads(1)).unwrap()
}

#[test]
fn a_preset_sets_what_is_left_open_and_the_settings_say_what_that_is() {
    for preset in Preset::ALL {
        let images = pipeline().preset(preset).sample(1).unwrap();
        let settings = images.settings();
        assert_eq!(settings.steps, Some(preset.steps()), "{preset}");
        assert_eq!(settings.spacing, Some(preset.spacing().into()), "{preset}");
        assert_eq!(settings.solver, Solver::DEIS, "{preset}");
        let said = settings.request();
        assert_eq!(said.preset, None);
        assert_eq!(pipeline().request(said).sample(1).unwrap().array(), images.array(), "{preset}");

        let own = pipeline().preset(preset).steps(3).solver(Solver::AB2).spacing(Spacing::Quadratic).sample(1).unwrap();
        let own = own.settings();
        assert_eq!((own.steps, own.solver), (Some(3), Solver::AB2), "{preset}");
        assert_eq!(own.spacing, Some(Spacing::Quadratic.into()), "{preset}");
        // Noise is for ddim alone.
        assert_eq!(pipeline().preset(preset).eta(1.0).sample(1).unwrap().settings().solver, Solver::DDIM, "{preset}");

        let short = SchedulerConfig { num_train_timesteps: 4, beta_end: 0.5, ..SchedulerConfig::default() };
        assert_eq!(scheduled(short).preset(preset).sample(1).unwrap().settings().steps, Some(4), "{preset}");
        let student = SchedulerConfig { num_inference_steps: Some(2), ..SchedulerConfig::default() };
        let refused = scheduled(student).preset(preset).sample(1).unwrap_err();
        assert!(
            refused.message().starts_with("preset: ") && refused.message().contains("distilled for 2"),
            "{refused}"
        );
    }
}

#[test]
fn the_automatic_solver_makes_one_call_per_step_and_is_always_allowed() {
    let auto = |pipeline: Pipeline, steps| {
        let images = pipeline.solver(SolverChoice::Auto).steps(steps).sample(1).unwrap();
        let solver = images.settings().solver;
        assert_eq!(solver.calls(steps), steps, "{solver}");
        solver
    };
    assert_eq!(
        [1, 5, 6, 30].map(|steps| auto(pipeline(), steps)),
        [Solver::UNIPC3, Solver::UNIPC3, Solver::DEIS, Solver::DEIS]
    );
    // deis follows the predicted noise, which this clipping leaves alone.
    assert_eq!(auto(pipeline().clip(ClipMode::KeepEps), 30), Solver::UNIPC3);
    assert_eq!(auto(pipeline().eta(0.5), 4), Solver::DDIM);
    let zero_snr = SchedulerConfig {
        rescale_betas_zero_snr: true,
        prediction_type: Prediction::Velocity,
        timestep_spacing: Some(Spacing::Trailing),
        ..SchedulerConfig::default()
    };
    assert_eq!(auto(scheduled(zero_snr), 4), Solver::DDIM);
}
