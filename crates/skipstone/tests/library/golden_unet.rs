//! Networks and their gradients against PyTorch with diffusers (golden/README.md), and bit for bit against themselves
//! with other batches and numbers of threads.

use ndarray::{Array4, s};
use skipstone::engine::cpu::{Backprop, Options, UNet};
use skipstone::engine::{Batch, EngineOptions};
use skipstone::sampling::denoiser::{Denoiser, Prediction};

use crate::golden;
use crate::golden::unets::{NAMES, Network, bits};

/// The gradients of Σ dy·y with respect to the parameters and to x.
fn gradients(network: &Network, threads: usize, shard: usize) -> (Vec<f32>, Array4<f32>) {
    let (x, times, conditions) = (network.images("x"), network.times(), network.conditions());
    let cotangent = network.tensors["dy"].f32();
    let mut gradient = vec![0.0; network.layout.len()];
    let mut dx = Array4::zeros(x.dim());
    let len = cotangent.len() / times.len();
    Backprop::new(network.config.clone(), threads, shard)
        .unwrap()
        .add_gradient(
            network.parameters.data(),
            Batch { x_t: &x, times: &times, conditions: &conditions, dropout: None },
            |images, _y, dy| dy.copy_from_slice(&cotangent[images.start * len..images.end * len]),
            &mut gradient,
            Some(&mut dx),
        )
        .unwrap();
    (gradient, dx)
}

#[test]
fn every_network_computes_what_diffusers_computes() {
    for name in NAMES {
        let network = Network::read(name);
        let unet = network.unet(Prediction::Epsilon);
        let y = unet.predict(&network.images("x"), &network.times(), &network.conditions()).unwrap();
        let difference = golden::relative(y.iter().map(|&v| f64::from(v)), &network.tensors["y"].values);
        println!("{name}: y {difference:.1e}");
        assert!(difference < 1e-5, "{name}: relative difference {difference:e}");
    }
}

#[test]
fn every_gradient_of_every_network_is_pytorchs() {
    for name in NAMES {
        let network = Network::read(name);
        let (gradient, dx) = gradients(&network, 1, 2);
        let mut worst = (0.0, String::new());
        let mut compare = |what: &str, found: &mut dyn Iterator<Item = f32>, expected: &[f64]| {
            let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
            let difference: Vec<f64> = found.zip(expected).map(|(a, b)| f64::from(a) - b).collect();
            assert_eq!(difference.len(), expected.len(), "{name}: {what}");
            // Softmax is invariant to a constant, so the gradient of the keys' bias is only rounding error.
            let floor = if what.ends_with("to_k.bias") { 1e-5 } else { 0.0 };
            let (error, scale) = (norm(&difference), norm(expected));
            assert!(error <= 1e-4 * scale + floor, "{name}: {what}: off by {error:e}, norm {scale:e}");
            if floor == 0.0 && error / scale > worst.0 {
                worst = (error / scale, what.to_owned());
            }
        };
        compare("x", &mut dx.iter().copied(), &network.tensors["grad/x"].values);
        for spec in network.layout.specs() {
            let expected = &network.tensors[&format!("grad/{}", spec.name)];
            assert_eq!(expected.shape, spec.shape, "{name}: {}", spec.name);
            compare(&spec.name, &mut gradient[spec.range()].iter().copied(), &expected.values);
        }
        println!("{name}: worst gradient {:.1e}, {}", worst.0, worst.1);
    }
}

#[test]
fn an_image_gives_the_same_bytes_alone_in_a_batch_and_anywhere_in_it() {
    for name in NAMES {
        let network = Network::read(name);
        network.assert_images_do_not_depend_on_the_batch(&network.unet(Prediction::Epsilon));
    }
}

#[test]
fn the_number_of_threads_changes_no_byte_of_an_output() {
    for name in NAMES {
        let network = Network::read(name);
        let (x, times, conditions) = (network.images("x"), network.times(), network.conditions());
        let first = &conditions[..conditions.len().min(1)];
        let run = |threads: usize| {
            let options = Options::from(&EngineOptions::on_threads(threads));
            let (config, parameters) = (network.config.clone(), network.parameters.clone());
            let unet = UNet::with_options(config, parameters, Prediction::Epsilon, options).unwrap();
            let batch = unet.predict(&x, &times, &conditions).unwrap();
            // A single image is shared among all threads.
            let lone = x.slice(s![..1, .., .., ..]).to_owned();
            let alone = unet.predict(&lone, &times[..1], first).unwrap();
            [bits(&batch), bits(&alone)]
        };
        let [one, three, four] = [1, 3, 4].map(run);
        assert!(one == three && one == four, "{name}: the bytes depend on the number of threads");
    }
}

#[test]
fn the_number_of_threads_changes_no_byte_of_a_gradient() {
    for name in NAMES {
        let network = Network::read(name);
        let run = |threads: usize| {
            let (gradient, dx) = gradients(&network, threads, 1);
            [bits(&gradient), bits(&dx)]
        };
        let [one, two, three] = [1, 2, 3].map(run);
        assert!(one == two && one == three, "{name}: the bytes depend on the number of threads");
    }
}

#[test]
fn a_gradient_is_added_to_what_is_there() {
    let network = Network::read("cifar");
    let (x, times) = (network.images("x"), network.times());
    let cotangent = network.tensors["dy"].f32();
    let len = cotangent.len() / 2;
    let mut backprop = Backprop::new(network.config.clone(), 1, 1).unwrap();
    let mut add = |gradient: &mut [f32]| {
        let batch = Batch { x_t: &x, times: &times, conditions: &[], dropout: None };
        let write = |r: std::ops::Range<usize>, _: &[f32], dy: &mut [f32]| {
            dy.copy_from_slice(&cotangent[r.start * len..r.end * len])
        };
        backprop.add_gradient(network.parameters.data(), batch, write, gradient, None).unwrap();
    };
    let mut once = vec![0.0; network.layout.len()];
    add(&mut once);
    let mut twice = once.clone();
    add(&mut twice);
    let expected: Vec<f64> = once.iter().map(|v| 2.0 * f64::from(*v)).collect();
    let difference = golden::relative(twice.iter().map(|&v| f64::from(v)), &expected);
    assert!(difference < 1e-6, "relative difference {difference:e}");
}
