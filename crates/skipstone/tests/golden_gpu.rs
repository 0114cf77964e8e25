//! Networks, gradients and training on a graphics processor (any will do, lavapipe included) against PyTorch with diffusers
//! (golden/README.md) and against the CPU.

#![cfg(feature = "gpu")]

#[path = "library/golden/mod.rs"]
mod golden;

use golden::unets::{NAMES, Network, bits};
use ndarray::{Array4, Axis};
use skipstone::engine::Precision;
use skipstone::engine::{
    self, Api, Batch, Device, EngineOptions, Group, Learner, Sharding, Targets, Update, open, open_differentiable,
    open_learner,
};
use skipstone::math::noise::initial_latent;
use skipstone::math::schedule::Time;
use skipstone::sampling::denoiser::{Condition, Prediction};
use skipstone::unet::{Config, DownBlock, Parameters, UpBlock, initialise};

/// The first graphics processor; `None`, and a line that says so, where there is no driver.
fn device() -> Option<EngineOptions> {
    if engine::devices().len() < 2 {
        assert!(std::env::var_os("SKIPSTONE_NEED_GPU").is_none(), "no graphics driver");
        eprintln!("skipped: no graphics driver (apt-get install mesa-vulkan-drivers)");
        return None;
    }
    Some(EngineOptions { device: Device::Gpu(Api::Any, 0), ..EngineOptions::on_threads(1) })
}

/// The same device in the 16-bit precisions that it has; a line says which it lacks.
fn halves() -> Vec<EngineOptions> {
    let Some(options) = device() else { return Vec::new() };
    let has = engine::devices()[1].precisions.clone();
    let all = [("f16", Precision::F16), ("bf16", Precision::Bf16)].into_iter();
    let (there, lacking): (Vec<_>, Vec<_>) = all.partition(|(name, _)| has.contains(name));
    lacking.iter().for_each(|(name, _)| eprintln!("skipped: the device does not compute in {name}"));
    there.into_iter().map(|(_, precision)| EngineOptions { precision, ..options }).collect()
}

/// bf16 has three bits less than f16, and so errors that are eight times as large.
fn coarser(precision: Precision) -> f64 {
    if precision == Precision::Bf16 { 8.0 } else { 1.0 }
}

fn network(golden: &Network, options: &EngineOptions) -> Box<dyn engine::Network> {
    open(golden.config.clone(), golden.parameters.clone(), Prediction::Epsilon, options).unwrap()
}

fn relative(found: &Array4<f32>, expected: &[f64]) -> f64 {
    golden::relative(found.iter().map(|&v| f64::from(v)), expected)
}

#[test]
fn every_network_computes_what_diffusers_computes() {
    let Some(options) = device() else { return };
    for name in NAMES {
        let golden = Network::read(name);
        let unet = network(&golden, &options);
        let y = unet.predict(&golden.images("x"), &golden.times(), &golden.conditions()).unwrap();
        let difference = relative(&y, &golden.tensors["y"].values);
        println!("{name}: y {difference:.1e}");
        assert!(difference < 1e-5, "{name}: relative difference {difference:e}");
    }
}

/// Networks that have every kind of layer between them.
const KINDS: [&str; 6] = ["heads", "scale_shift", "classes", "resnet_sampling", "learned_time", "gray28"];

#[test]
fn an_image_gives_the_same_bytes_alone_in_a_batch_and_anywhere_in_it() {
    let Some(options) = device() else { return };
    for name in KINDS {
        let golden = Network::read(name);
        golden.assert_images_do_not_depend_on_the_batch(&*network(&golden, &options));
    }
}

/// Targets and a factor for which the derivative of the squared error by `y` is `dy`.
fn targets_of(y: &Array4<f32>, dy: &[f32]) -> (Array4<f32>, f64) {
    // Targets far away lose none of the difference's digits.
    let dims = (y.len() / y.dim().0) as f64;
    let scale = 1e-4 * dims / 2.0;
    let slopes = Array4::from_shape_vec(y.dim(), dy.to_vec()).unwrap();
    (y - &(slopes / 1e-4f32), scale)
}

/// The gradients of Σ dy·y by the parameters, through a learner: Adam's first step with β₁ = 0 leaves the gradient itself as
/// the first moment.
fn gradient(golden: &Network, options: &EngineOptions, sharding: Sharding) -> Vec<f32> {
    let (config, parameters) = (golden.config.clone(), golden.parameters.clone());
    let y = network(golden, options).predict(&golden.images("x"), &golden.times(), &golden.conditions()).unwrap();
    let (target, scale) = targets_of(&y, &golden.tensors["dy"].f32());
    let mut learner = open_learner(config, parameters, sharding, options).unwrap();
    learner.zero_gradient();
    let (x, times, conditions) = (golden.images("x"), golden.times(), golden.conditions());
    let batch = Batch { x_t: &x, times: &times, conditions: &conditions, dropout: None };
    let targets = Targets { target: &target, weights: &vec![1.0; times.len()], scale };
    learner.add_gradient(batch, targets).unwrap();
    let norm = learner.gradient_norm().unwrap();
    learner.update(&Update { beta1: 0.0, ..update(1) }).unwrap();
    let gradient = learner.group(Group::FirstMoment).unwrap().data().to_vec();
    let expected = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    assert!((norm - expected).abs() <= 1e-5 * expected, "norm {norm}, {expected} by its elements");
    gradient
}

fn update(step: u64) -> Update {
    Update {
        step,
        shrink: None,
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.0,
        decoupled: false,
        ema_decay: 0.9,
    }
}

#[test]
fn every_gradient_of_every_network_is_pytorchs() {
    let Some(options) = device() else { return };
    for name in NAMES {
        let golden = Network::read(name);
        let found = gradient(&golden, &options, Sharding { images: 2, recompute: false });
        let mut worst = (0.0, String::new());
        for spec in golden.layout.specs() {
            let expected = &golden.tensors[&format!("grad/{}", spec.name)].values;
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
            let pairs = found[spec.range()].iter().zip(expected);
            let error = norm(&mut pairs.map(|(a, b)| f64::from(*a) - b));
            let scale = norm(&mut expected.iter().copied());
            // Softmax is invariant to a constant, so the gradient of the keys' bias is only rounding error.
            let floor = if spec.name.ends_with("to_k.bias") { 1e-5 } else { 0.0 };
            assert!(error <= 1e-4 * scale + floor, "{name}: {}: off by {error:e}, norm {scale:e}", spec.name);
            if floor == 0.0 && error / scale > worst.0 {
                worst = (error / scale, spec.name.clone());
            }
        }
        println!("{name}: worst gradient {:.1e}, {}", worst.0, worst.1);
        if !KINDS.contains(&name) {
            continue;
        }
        // Recomputed values are the values; smaller shards only change the order of the sum.
        let again = gradient(&golden, &options, Sharding { images: 2, recompute: true });
        assert_eq!(bits(&again), bits(&found), "{name}: recomputation changes the gradient");
        let halves = gradient(&golden, &options, Sharding { images: 1, recompute: false });
        let wide: Vec<f64> = found.iter().map(|v| f64::from(*v)).collect();
        let difference = golden::relative(halves.iter().map(|&v| f64::from(v)), &wide);
        assert!(difference < 1e-5, "{name}: {difference:e} by shards of one image");
    }
}

#[test]
fn the_vector_jacobian_product_is_pytorchs() {
    let Some(options) = device() else { return };
    for name in KINDS {
        let golden = Network::read(name);
        let unet = open_differentiable(golden.config.clone(), golden.parameters.clone(), Prediction::Epsilon, &options)
            .unwrap();
        if golden.config.image_channels() != golden.config.out_channels {
            continue;
        }
        let cotangent = golden.tensors["dy"].images();
        let pullback = unet.pullback(&golden.images("x"), &golden.times(), &golden.conditions(), &cotangent).unwrap();
        let (out, dx) = (
            relative(&pullback.out, &golden.tensors["y"].values),
            relative(&pullback.gradient, &golden.tensors["grad/x"].values),
        );
        assert!(out < 1e-5 && dx < 1e-4, "{name}: output {out:e}, gradient {dx:e}");
    }
}

#[test]
fn half_precision_stays_within_three_thousandths() {
    for (name, options) in halves().iter().flat_map(|options| NAMES.map(|name| (name, options))) {
        let (golden, precision) = (Network::read(name), options.precision);
        let unet = network(&golden, options);
        let y = unet.predict(&golden.images("x"), &golden.times(), &golden.conditions()).unwrap();
        let difference = relative(&y, &golden.tensors["y"].values);
        println!("{name}: y {difference:.1e} in {precision}");
        let most = 3e-3 * coarser(precision);
        assert!(difference < most && difference > 1e-6, "{name}: relative difference {difference:e} in {precision}");
    }
}

#[test]
fn half_precisions_gradients_stay_within_two_percent() {
    for (name, options) in halves().iter().flat_map(|options| NAMES.map(|name| (name, options))) {
        let (golden, precision) = (Network::read(name), options.precision);
        let found = gradient(&golden, options, Sharding { images: 2, recompute: false });
        let of = |name: &str| golden.tensors[&format!("grad/{name}")].values.iter().copied();
        let expected: Vec<f64> = golden.layout.specs().iter().flat_map(|spec| of(&spec.name)).collect();
        let difference = golden::relative(found.iter().map(|&v| f64::from(v)), &expected);
        println!("{name}: gradient {difference:.1e} in {precision}");
        let most = 2e-2 * coarser(precision);
        assert!(difference < most && difference > 1e-6, "{name}: relative difference {difference:e} in {precision}");
    }
}

/// A small network with dropout, classes and attention.
fn config() -> Config {
    Config {
        sample_size: [8, 8],
        block_out_channels: vec![8, 16],
        down_blocks: vec![DownBlock::Plain, DownBlock::Attention],
        up_blocks: vec![UpBlock::Attention, UpBlock::Plain],
        layers_per_block: 1,
        norm_num_groups: 4,
        num_class_embeds: Some(3),
        dropout: 0.1,
        ..Config::default()
    }
}

fn weights(config: &Config) -> Parameters {
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut other = next;
    initialise(config, &mut next, move || 2.0 * other() - 1.0).unwrap()
}

/// Training steps `steps`; returns the mean loss of each.
fn train(learner: &mut dyn Learner, config: &Config, steps: std::ops::Range<u64>) -> Vec<f64> {
    let n = 3;
    let [height, width] = config.sample_size;
    let step = |step: u64| {
        let x = initial_latent(step, 0, n, [config.in_channels, height, width]);
        let target = initial_latent(step, 100, n, [config.out_channels, height, width]);
        let times: Vec<Time> = (0..n as u32).map(|i| Time::from_index((step as u32 * 37 + i * 191) % 1000)).collect();
        let classes: Vec<usize> = (0..n).map(|i| (i + step as usize) % config.num_class_embeds.unwrap()).collect();
        let (conditions, keys) = (Condition::classes(&classes), [step, 1 << 40, u64::MAX - step]);
        let batch = Batch { x_t: &x, times: &times, conditions: &conditions, dropout: Some(&keys) };
        let targets = Targets { target: &target, weights: &[1.0, 0.5, 2.0], scale: 1.0 / (2 * n) as f64 };
        learner.zero_gradient();
        // Every fourth step accumulates two passes.
        if step.is_multiple_of(4) {
            learner.add_gradient(batch, targets).unwrap();
        }
        let losses = learner.add_gradient(batch, targets).unwrap();
        let norm = learner.gradient_norm().unwrap();
        learner.update(&Update { shrink: Some((1.0 / norm).min(1.0) as f32), ..update(step + 1) }).unwrap();
        losses.iter().sum::<f64>() / n as f64
    };
    steps.map(step).collect()
}

fn distance(a: &Parameters, b: &Parameters) -> f64 {
    let expected: Vec<f64> = b.data().iter().map(|v| f64::from(*v)).collect();
    golden::relative(a.data().iter().map(|&v| f64::from(v)), &expected)
}

#[test]
fn twenty_training_steps_follow_the_cpus_and_a_training_moves_between_devices() {
    let Some(options) = device() else { return };
    let config = config();
    let learner = |options: &EngineOptions, recompute: bool| {
        open_learner(config.clone(), weights(&config), Sharding { images: 2, recompute }, options).unwrap()
    };
    let (mut cpu, mut gpu) = (learner(&EngineOptions::on_threads(1), false), learner(&options, true));
    let (mut expected, mut found) = (train(&mut *cpu, &config, 0..10), train(&mut *gpu, &config, 0..10));
    // Ten more, each on the other device.
    let (mut to_gpu, mut to_cpu) = (learner(&options, false), learner(&EngineOptions::on_threads(1), true));
    for group in Group::ALL {
        to_gpu.set_group(group, cpu.group(group).unwrap().into_owned()).unwrap();
        to_cpu.set_group(group, gpu.group(group).unwrap().into_owned()).unwrap();
    }
    let moved = [train(&mut *to_gpu, &config, 10..20), train(&mut *to_cpu, &config, 10..20)];
    expected.extend(train(&mut *cpu, &config, 10..20));
    found.extend(train(&mut *gpu, &config, 10..20));
    for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!((found - expected).abs() < 1e-4 * expected, "step {step}: {found}, {expected} on the CPU");
    }
    for moved in &moved {
        for (step, (found, expected)) in moved.iter().zip(&expected[10..]).enumerate() {
            assert!((found - expected).abs() < 1e-4 * expected, "step {step}: {found}, {expected} on the CPU");
        }
    }
    for group in Group::ALL {
        let expected = cpu.group(group).unwrap();
        for other in [&gpu, &to_gpu, &to_cpu] {
            let difference = distance(&other.group(group).unwrap(), &expected);
            assert!(difference < 2e-3, "{group:?}: {difference:e}");
        }
    }
}

#[test]
fn the_same_training_has_the_same_bytes() {
    let Some(options) = device() else { return };
    let config = config();
    let run = |recompute: bool| {
        let sharding = Sharding { images: 2, recompute };
        let mut learner = open_learner(config.clone(), weights(&config), sharding, &options).unwrap();
        train(&mut *learner, &config, 0..3);
        Group::ALL.map(|group| bits(learner.group(group).unwrap().data()))
    };
    let once = run(false);
    assert!(once == run(false) && once == run(true));
}

#[test]
fn three_hundred_images_go_together_and_none_changes() {
    let Some(options) = device() else { return };
    let config = Config { num_class_embeds: None, dropout: 0.0, ..config() };
    let unet = open(config.clone(), weights(&config), Prediction::Epsilon, &options).unwrap();
    let call = |first: u64, n: usize| {
        let x = initial_latent(0, first, n, [1, 8, 8]);
        unet.predict(&x, &vec![Time::from_index(500); n], &[]).unwrap()
    };
    let many = call(0, 300);
    for image in [0, 151, 299] {
        assert_eq!(bits(&call(image as u64, 1)), bits(many.index_axis(Axis(0), image)), "image {image} of 300");
    }
}
