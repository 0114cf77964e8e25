use std::sync::Arc;

use ndarray::Array4;
use proptest::prelude::*;

use super::*;
use crate::engine::Batch;
use crate::math::schedule::Time;
use crate::sampling::denoiser::{Condition, Denoiser, Prediction};
use crate::unet::{
    Activation, ClassEmbedding, Config, DownBlock, Parameters, TimeEmbedding, TimeScaleShift, UpBlock, initialise,
    layout,
};

/// Small networks with every combination of the features that change the graph.
fn configs() -> impl Strategy<Value = Config> {
    use {DownBlock as D, UpBlock as U};
    let down = prop_oneof![Just(D::Plain), Just(D::Attention), Just(D::ResnetDownsample)];
    let up = prop_oneof![Just(U::Plain), Just(U::Attention), Just(U::ResnetUpsample)];
    let level = (down, up, prop_oneof![Just(4usize), Just(8)]);
    let switches = prop::collection::vec(any::<bool>(), 13);
    (prop::collection::vec(level, 1..4), 1usize..3, switches).prop_map(|(levels, layers_per_block, on)| Config {
        sample_size: [4, 8],
        in_channels: 2,
        out_channels: 3,
        center_input_sample: on[0],
        time_embedding: if on[1] {
            TimeEmbedding::Learned { num_train_timesteps: 10 }
        } else {
            TimeEmbedding::Positional
        },
        down_blocks: levels.iter().map(|l| l.0).collect(),
        up_blocks: levels.iter().map(|l| l.1).collect(),
        block_out_channels: levels.iter().map(|l| l.2).collect(),
        layers_per_block,
        norm_num_groups: 2,
        downsample_padding: usize::from(on[2]),
        downsample_resnet: on[3],
        upsample_resnet: on[4],
        resnet_time_scale_shift: if on[5] { TimeScaleShift::ScaleShift } else { TimeScaleShift::Default },
        add_attention: on[6],
        num_class_embeds: on[7].then_some(3),
        class_embedding: match (on[7] && on[8], on[9]) {
            (false, _) => ClassEmbedding::Table,
            (true, false) => ClassEmbedding::Timestep,
            (true, true) => ClassEmbedding::Identity,
        },
        // Not ReLU, which has no slope at 0 for differences to find.
        activation: match (on[10], on[11]) {
            (false, _) => Activation::Silu,
            (true, false) => Activation::Gelu,
            (true, true) => Activation::Mish,
        },
        mid_block: on[12],
        ..Config::default()
    })
}

/// Numbers in ±1 without any pattern.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = crate::math::noise::KeyedRng::new(seed, crate::math::noise::Purpose::Weights, 0, 0);
    (0..len).map(|_| (2.0 * rng.next_f64() - 1.0) as f32).collect()
}

/// Random weights throughout. Blocks that start as the identity would hide mistakes.
fn random_parameters(config: &Config, seed: u64) -> Parameters {
    let layout = Arc::new(layout(config).unwrap());
    let data = numbers(layout.len(), seed);
    Parameters::new(layout, data).unwrap()
}

/// Step of central differences in f32.
const H: f32 = 1e-3;

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn sharing_memory_and_making_values_again_change_no_byte(config in configs(), seed: u64, n in 1usize..4) {
        let parameters = random_parameters(&config, seed);
        let x = Array4::from_shape_vec((n, 2, 4, 8), numbers(n * 2 * 4 * 8, seed ^ 1)).unwrap();
        let times = [3, 0, 9].map(Time::from_index);
        let classes = Condition::classes(&[2, 0, 1][..n]);
        let conditions = if config.num_class_embeds.is_some() { &classes[..] } else { &[] };
        let unet = UNet::new(config.clone(), parameters.clone(), Prediction::Epsilon).unwrap();
        let bits = |y: &Array4<f32>| y.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let expected = bits(&unet.predict(&x, &times[..n], conditions).unwrap());
        // The second call overwrites whatever the first left in the buffers.
        prop_assert_eq!(&bits(&unet.predict(&x, &times[..n], conditions).unwrap()), &expected);
        // Training stores every value separately, or recomputes those within blocks.
        let batch = Batch { x_t: &x, times: &times[..n], conditions, dropout: None };
        let mut found = [Vec::new(), Vec::new()].map(|_: Vec<f32>| (Vec::new(), Vec::new()));
        for (recompute, (output, gradient)) in [false, true].into_iter().zip(&mut found) {
            let mut backprop = Backprop::with_recomputation(config.clone(), 2, 3, recompute).unwrap();
            gradient.resize(parameters.data().len(), 0.0f32);
            let cotangent = |_: std::ops::Range<usize>, y: &[f32], dy: &mut [f32]| {
                output.extend_from_slice(y);
                dy.copy_from_slice(y);
            };
            backprop.add_gradient(parameters.data(), batch, cotangent, gradient, None).unwrap();
        }
        let [(output, gradient), (again, gradient_again)] = found;
        prop_assert_eq!(&output, &again);
        prop_assert!(gradient == gradient_again);
        let difference: f64 = output.iter().zip(&expected)
            .map(|(a, b)| f64::from(a - f32::from_bits(*b)).powi(2)).sum::<f64>().sqrt();
        let norm = output.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        prop_assert!(difference <= 1e-4 * norm, "{} of {}", difference, norm);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn gradients_are_slopes_by_differences(config in configs(), seed: u64) {
        let layout = Arc::new(layout(&config).unwrap());
        let weights = numbers(layout.len(), seed).into_iter().map(|w| 0.5 * w).collect::<Vec<_>>();
        let (x, direction) = (numbers(2 * 4 * 8, seed ^ 1), numbers(2 * 4 * 8, seed ^ 2));
        let (along, cotangent) = (numbers(layout.len(), seed ^ 3), numbers(3 * 4 * 8, seed ^ 4));
        let image = |x: Vec<f32>| Array4::from_shape_vec((1, 2, 4, 8), x).unwrap();
        let (times, class) = ([Time::from_index(7)], Condition::classes(&[1]));
        let conditions = if config.num_class_embeds.is_some() { &class[..] } else { &[] };
        let moved = |from: &[f32], by: &[f32], h: f32| from.iter().zip(by).map(|(a, b)| a + h * b).collect::<Vec<_>>();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();

        let mut backprop = Backprop::new(config.clone(), 1, 1).unwrap();
        let (mut by_weights, mut by_image) = (vec![0.0; layout.len()], image(vec![0.0; x.len()]));
        let batch = Batch { x_t: &image(x.clone()), times: &times, conditions, dropout: None };
        let keep = |_: std::ops::Range<usize>, _: &[f32], dy: &mut [f32]| dy.copy_from_slice(&cotangent);
        backprop.add_gradient(&weights, batch, keep, &mut by_weights, Some(&mut by_image)).unwrap();
        let by_image = by_image.as_slice().unwrap();
        let found = dot(&by_weights, &along) + dot(by_image, &direction);

        let at = |h: f32| {
            let parameters = Parameters::new(layout.clone(), moved(&weights, &along, h)).unwrap();
            let unet = UNet::new(config.clone(), parameters, Prediction::Epsilon).unwrap();
            let y = unet.predict(&image(moved(&x, &direction, h)), &times, conditions).unwrap();
            dot(y.as_slice().unwrap(), &cotangent)
        };
        let slope = (at(H) - at(-H)) / (2.0 * f64::from(H));
        let size = (dot(&by_weights, &by_weights) + dot(by_image, by_image)).sqrt();
        prop_assert!((found - slope).abs() < 0.02 * size, "{found} by the backward pass, {slope} by differences, {size}");
    }
}

#[test]
fn wrong_inputs_are_refused_saying_what_was_expected() {
    let config = Config {
        sample_size: [4, 4],
        block_out_channels: vec![4],
        down_blocks: vec![DownBlock::Plain],
        up_blocks: vec![UpBlock::Plain],
        norm_num_groups: 2,
        time_embedding: TimeEmbedding::Learned { num_train_timesteps: 10 },
        num_class_embeds: Some(3),
        ..Config::default()
    };
    let unet = UNet::new(config.clone(), random_parameters(&config, 0), Prediction::Epsilon).unwrap();
    let x = Array4::zeros((2, 1, 4, 4));
    let (t, classes) = ([Time::from_index(9); 2], &Condition::classes(&[0, 2])[..]);
    assert!(unet.predict(&x, &t, classes).is_ok());
    let message = |x: &Array4<f32>, times: &[Time], classes: &[Condition]| {
        unet.predict(x, times, classes).unwrap_err().to_string()
    };
    for (found, hint) in [
        (message(&Array4::zeros((2, 1, 4, 5)), &t, classes), "4"),
        (message(&x, &t[..1], classes), "1"),
        (message(&x, &[Time::from_index(10); 2], classes), "0 to 9"),
        (message(&x, &[Time::CLEAN; 2], classes), "clean"),
        (message(&x, &t, &Condition::classes(&[0, 3])), "0 to 2"),
        (message(&x, &t, &Condition::classes(&[0])), "found 1"),
        (message(&x, &t, &[]), "class"),
    ] {
        assert!(found.contains(hint), "no {hint:?} in {found:?}");
    }
    assert_eq!(unet.predict(&Array4::zeros((0, 1, 4, 4)), &[], &[]).unwrap().dim().0, 0);
    assert!(Backprop::new(config.clone(), 0, 1).is_err() && Backprop::new(config, 1, 0).is_err());
}

#[test]
fn a_fresh_network_answers_zero() {
    let config = Config { sample_size: [8, 8], ..Config::default() };
    let parameters = initialise(&config, || 0.7, || 0.5).unwrap();
    let unet = UNet::new(config, parameters, Prediction::Epsilon).unwrap();
    let y = unet.predict(&Array4::from_elem((1, 1, 8, 8), 0.7), &[Time::new(1)], &[]).unwrap();
    assert!(y.iter().all(|v| *v == 0.0));
}
