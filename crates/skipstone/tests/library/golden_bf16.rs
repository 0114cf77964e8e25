//! Networks and their gradients in bf16 on matrix units, against PyTorch with diffusers in f32 (golden/README.md) and bit for bit
//! against themselves with other batches and numbers of threads. Skipped on processors without such units.

use ndarray::{Array4, Axis, s};
use skipstone::engine::cpu::{Algorithm, Backprop, ConvShape, Options, UNet};
use skipstone::engine::{self, Batch, EngineOptions, Precision};
use skipstone::sampling::denoiser::{Condition, Denoiser, Prediction};

use crate::golden;
use crate::golden::unets::{NAMES, Network};

/// Bf16 keeps eight digits of two, so a product is off by 2^-9 on average; the errors of a layer's terms are independent.
const CALL: f64 = 1e-2;
/// A gradient passes through every layer twice.
const GRADIENT: f64 = 3e-2;

fn options(threads: usize) -> Option<EngineOptions> {
    let options = EngineOptions { precision: Precision::Bf16, ..EngineOptions::on_threads(threads) };
    let there = engine::precision(&options).unwrap() == Precision::Bf16;
    if !there {
        println!("skipped: this processor has no matrix units");
    }
    there.then_some(options)
}

fn open(network: &Network, options: &EngineOptions) -> Box<dyn engine::Network> {
    let (config, weights) = (network.config.clone(), network.parameters.clone());
    engine::open(config, weights, Prediction::Epsilon, options).unwrap()
}

fn gradient(network: &Network, threads: usize) -> Vec<f32> {
    let (x, times, conditions) = (network.images("x"), network.times(), network.conditions());
    let cotangent = network.tensors["dy"].f32();
    let mut gradient = vec![0.0; network.layout.len()];
    let len = cotangent.len() / times.len();
    let backprop = Backprop::new(network.config.clone(), threads, 2).unwrap().in_precision(Precision::Bf16);
    let batch = Batch { x_t: &x, times: &times, conditions: &conditions, dropout: None };
    let copy = |images: std::ops::Range<usize>, _: &[f32], dy: &mut [f32]| {
        dy.copy_from_slice(&cotangent[images.start * len..images.end * len]);
    };
    backprop.unwrap().add_gradient(network.parameters.data(), batch, copy, &mut gradient, None).unwrap();
    gradient
}

#[test]
fn every_network_computes_what_diffusers_computes_as_far_as_the_precision_goes() {
    let Some(options) = options(1) else { return };
    for name in NAMES {
        let network = Network::read(name);
        let y =
            open(&network, &options).predict(&network.images("x"), &network.times(), &network.conditions()).unwrap();
        let difference = golden::relative(y.iter().map(|&v| f64::from(v)), &network.tensors["y"].values);
        println!("{name}: y {difference:.1e}");
        assert!(difference < CALL, "{name}: relative difference {difference:e}");
    }
}

#[test]
fn every_networks_gradient_is_pytorchs_as_far_as_the_precision_goes() {
    if options(1).is_none() {
        return;
    }
    for name in NAMES {
        let network = Network::read(name);
        let found = gradient(&network, 1);
        let expected: Vec<f64> = network
            .layout
            .specs()
            .iter()
            .flat_map(|spec| network.tensors[&format!("grad/{}", spec.name)].values.iter().copied())
            .collect();
        let difference = golden::relative(found.iter().map(|&v| f64::from(v)), &expected);
        println!("{name}: gradient {difference:.1e}");
        assert!(difference < GRADIENT, "{name}: relative difference {difference:e}");
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert!(bits(found) == bits(gradient(&network, 3)), "{name}: threads matter");
    }
}

#[test]
fn the_algorithm_of_other_layers_does_not_matter() {
    if options(1).is_none() {
        return;
    }
    // An algorithm that matrix units do not have, for every layer that allows it.
    let algorithm = |shape: &ConvShape| if shape.is_winograd() { Algorithm::Winograd2 } else { Algorithm::Direct };
    let network = Network::read("cifar");
    let (config, weights) = (network.config.clone(), network.parameters.clone());
    let options = Options { precision: Precision::Bf16, algorithm, ..Options::default() };
    let unet = UNet::with_options(config, weights, Prediction::Epsilon, options).unwrap();
    let y = unet.predict(&network.images("x"), &network.times(), &network.conditions()).unwrap();
    assert!(golden::relative(y.iter().map(|&v| f64::from(v)), &network.tensors["y"].values) < CALL);
}

#[test]
fn an_image_gives_the_same_bytes_alone_in_a_batch_and_on_any_threads() {
    let (Some(one), Some(three)) = (options(1), options(3)) else { return };
    for name in NAMES {
        let network = Network::read(name);
        let (x, times, conditions) = (network.images("x"), network.times(), network.conditions());
        let all = open(&network, &three).predict(&x, &times, &conditions).unwrap();
        let alone = open(&network, &one);
        for i in 0..times.len() {
            let of = |x: &Array4<f32>| x.slice(s![i..=i, .., .., ..]).to_owned();
            let condition: Vec<Condition> = conditions.get(i).copied().into_iter().collect();
            let y = alone.predict(&of(&x), &times[i..=i], &condition).unwrap();
            let same = y.iter().zip(all.index_axis(Axis(0), i)).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{name}: image {i}");
        }
    }
}
