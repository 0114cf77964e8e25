//! Networks, gradients and training on a graphics processor (any will do, lavapipe included) against PyTorch with diffusers
//! (golden/README.md) and against the CPU.

#![cfg(feature = "gpu")]

mod golden;

use golden::unets::{NAMES, Network};
use ndarray::{Array4, Axis, s};
use skipstone::engine::{
    self, Api, Batch, Device, EngineOptions, Group, Learner, Sharding, Targets, Update, open, open_differentiable,
    open_learner,
};
use skipstone::math::schedule::Time;
use skipstone::sampling::denoiser::{Condition, Prediction};
use skipstone::unet::{Config, Parameters};

/// The first graphics processor; `None`, and a line that says so, where there is no driver.
fn device() -> Option<EngineOptions> {
    if engine::devices().len() < 2 {
        assert!(std::env::var_os("SKIPSTONE_NEED_GPU").is_none(), "no graphics driver");
        eprintln!("skipped: no graphics driver (apt-get install mesa-vulkan-drivers)");
        return None;
    }
    Some(EngineOptions { device: Device::Gpu(Api::Any, 0), ..EngineOptions::on_threads(1) })
}

fn network(golden: &Network, options: &EngineOptions) -> Box<dyn engine::Network> {
    open(golden.config.clone(), golden.parameters.clone(), Prediction::Epsilon, options).unwrap()
}

fn relative(found: &Array4<f32>, expected: &[f64]) -> f64 {
    golden::relative(found.iter().map(|&v| f64::from(v)), expected)
}

/// The bits of the values, so that equality is exact (also for NaN).
fn bits<'a>(values: impl IntoIterator<Item = &'a f32>) -> Vec<u32> {
    values.into_iter().map(|v| v.to_bits()).collect()
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

#[test]
fn an_image_gives_the_same_bytes_alone_in_a_batch_and_anywhere_in_it() {
    let Some(options) = device() else { return };
    for name in NAMES {
        let golden = Network::read(name);
        let unet = network(&golden, &options);
        let (x, times, conditions) = (golden.images("x"), golden.times(), golden.conditions());
        let together = unet.predict(&x, &times, &conditions).unwrap();
        for i in 0..2 {
            let condition: Vec<Condition> = conditions.get(i).copied().into_iter().collect();
            let alone = unet.predict(&x.slice(s![i..=i, .., .., ..]).to_owned(), &times[i..=i], &condition).unwrap();
            assert_eq!(bits(&alone), bits(together.index_axis(Axis(0), i)), "{name}: image {i} alone");
        }
        // The two images as 0, 1, 1, 0, 1, in every position of an odd batch.
        let order = [0, 1, 1, 0, 1];
        let conditions: Vec<Condition> = order.iter().filter_map(|&i| conditions.get(i).copied()).collect();
        let many = unet.predict(&x.select(Axis(0), &order), &order.map(|i| times[i]), &conditions).unwrap();
        for (place, &i) in order.iter().enumerate() {
            let (found, expected) = (many.index_axis(Axis(0), place), together.index_axis(Axis(0), i));
            assert_eq!(bits(found), bits(expected), "{name}: image {i} at place {place}");
        }
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
    for name in NAMES {
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
