//! Every kernel against the naive f64 reference, over odd shapes and tails; every gradient against differences of it.

use proptest::prelude::*;
use skipstone_kernels::{Threads, attention, conv, elementwise, linear, norm, reference};

/// A stream of values in −1..1 that differ for every seed.
fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
        })
        .collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// ‖a − b‖/‖b‖.
fn error(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm: f64 = b.iter().map(|b| b * b).sum::<f64>().sqrt();
    let difference: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt();
    difference / norm.max(1e-12)
}

/// Whether ‖a − b‖ is small beside 1 + ‖b‖: gradients may cancel to nearly nothing.
fn near(a: &[f32], b: &[f64], tolerance: f64) -> bool {
    let size = b.iter().map(|b| b * b).sum::<f64>().sqrt();
    error(a, b) * size.max(1e-12) < tolerance * (size + 1.0)
}

/// d/dx Σ dy·f(x) by central differences in f64, for every element of x.
fn numeric_gradient(x: &[f64], dy: &[f32], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let loss = |x: &[f64]| f(x).iter().zip(dy).map(|(y, d)| y * f64::from(*d)).sum::<f64>();
    let h = 1e-5;
    (0..x.len())
        .map(|i| {
            let (mut above, mut below) = (x.to_vec(), x.to_vec());
            above[i] += h;
            below[i] -= h;
            (loss(&above) - loss(&below)) / (2.0 * h)
        })
        .collect()
}

fn conv_shape() -> impl Strategy<Value = conv::Shape> {
    (1usize..6, 1usize..6, 2usize..12, 2usize..12, prop_oneof![Just(1usize), Just(3)], 1usize..3, 0usize..2, 0usize..2)
        .prop_map(|(c_in, c_out, h, w, kernel, stride, pad_before, pad_after)| conv::Shape {
            c_in,
            c_out,
            input: [h, w],
            kernel,
            stride,
            pad_before,
            pad_after,
        })
        .prop_filter("an output exists", |s| s.input.iter().all(|n| n + s.pad_before + s.pad_after >= s.kernel))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn convolution_and_its_gradients(shape in conv_shape(), n in 1usize..4, seed in any::<u64>()) {
        let x = values(seed, n * shape.input_len());
        let w = values(seed + 1, shape.c_out * shape.patch());
        let b = values(seed + 2, shape.c_out);
        let mut y = vec![f32::NAN; n * shape.output_len()];
        conv::forward(&shape, n, &x, &w, &b, &mut y, Threads::Pool);
        let expected: Vec<f64> = wide(&x).chunks(shape.input_len())
            .flat_map(|x| reference::conv(&shape, x, &wide(&w), &wide(&b))).collect();
        prop_assert!(error(&y, &expected) < 1e-6, "{shape:?}");

        let mut serial = vec![0.0; y.len()];
        conv::forward(&shape, n, &x, &w, &b, &mut serial, Threads::One);
        prop_assert_eq!(&serial, &y);

        let dy = values(seed + 3, y.len());
        let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; b.len()]);
        conv::backward_data(&shape, n, &dy, &w, &mut dx);
        conv::backward_weights(&shape, n, &x, &dy, &mut dw, &mut db);
        // The map is bilinear: its gradients are itself with one operand replaced, so ⟨dx, x⟩ = ⟨dy, y − b⟩ and so on;
        // differences check the elements.
        let all = |x: &[f64], w: &[f64], b: &[f64]| -> Vec<f64> {
            x.chunks(shape.input_len()).flat_map(|x| reference::conv(&shape, x, w, b)).collect()
        };
        let (x, w, b) = (wide(&x), wide(&w), wide(&b));
        prop_assert!(near(&db, &numeric_gradient(&b, &dy, |b| all(&x, &w, b)), 1e-5));
        if w.len() * y.len() < 40_000 {
            prop_assert!(near(&dw, &numeric_gradient(&w, &dy, |w| all(&x, w, &b)), 1e-5));
        }
        if x.len() * y.len() < 40_000 {
            prop_assert!(near(&dx, &numeric_gradient(&x, &dy, |x| all(x, &w, &b)), 1e-5));
        }
    }

    #[test]
    fn group_norm_and_its_gradients(groups in 1usize..4, per_group in 1usize..4, pixels in 2usize..40, silu in any::<bool>(),
                                    scale_shift in any::<bool>(), n in 1usize..3, seed in any::<u64>()) {
        let shape = norm::Shape { channels: groups * per_group, pixels, groups, eps: 1e-5, silu };
        let x = values(seed, n * shape.image_len());
        let (gamma, beta) = (values(seed + 1, shape.channels), values(seed + 2, shape.channels));
        let v = values(seed + 3, n * 2 * shape.channels);
        let affine = norm::Affine { gamma: &gamma, beta: &beta, scale_shift: scale_shift.then_some(&v[..]) };
        let (mut y, mut statistics) = (vec![0.0; x.len()], vec![0.0; n * groups * 2]);
        norm::forward(&shape, n, &x, affine, &mut y, &mut statistics, Threads::Pool);
        let all = |x: &[f64], gamma: &[f64], beta: &[f64], v: &[f64]| -> Vec<f64> {
            x.chunks(shape.image_len()).zip(v.chunks(2 * shape.channels))
                .flat_map(|(x, v)| reference::group_norm(&shape, x, gamma, beta, scale_shift.then_some(v))).collect()
        };
        let (xd, gd, bd, vd) = (wide(&x), wide(&gamma), wide(&beta), wide(&v));
        prop_assert!(error(&y, &all(&xd, &gd, &bd, &vd)) < 2e-5);

        let dy = values(seed + 4, y.len());
        let (mut dx, mut dgamma, mut dbeta) = (vec![0.0; x.len()], vec![0.0; gamma.len()], vec![0.0; beta.len()]);
        let mut dv = vec![0.0; v.len()];
        norm::backward(&shape, n, &x, affine, &statistics, &dy, norm::Gradients {
            dx: &mut dx, dgamma: &mut dgamma, dbeta: &mut dbeta,
            dscale_shift: scale_shift.then_some(&mut dv[..]),
        });
        // Two pixels of one channel normalise to ±1 whatever they are: their true gradient is nearly 0.
        prop_assert!(near(&dgamma, &numeric_gradient(&gd, &dy, |g| all(&xd, g, &bd, &vd)), 2e-3));
        prop_assert!(near(&dbeta, &numeric_gradient(&bd, &dy, |b| all(&xd, &gd, b, &vd)), 2e-3));
        prop_assert!(near(&dx, &numeric_gradient(&xd, &dy, |x| all(x, &gd, &bd, &vd)), 2e-3));
        if scale_shift {
            prop_assert!(near(&dv, &numeric_gradient(&vd, &dy, |v| all(&xd, &gd, &bd, v)), 2e-3));
        }
    }

    #[test]
    fn attention_and_its_gradients(heads in 1usize..4, d in 1usize..5, pixels in 1usize..20, n in 1usize..3, seed in any::<u64>()) {
        let shape = attention::Shape { channels: heads * d, heads, pixels };
        let len = n * shape.channels * pixels;
        let (q, k, v) = (values(seed, len), values(seed + 1, len), values(seed + 2, len));
        let mut y = vec![f32::NAN; len];
        attention::forward(&shape, n, &q, &k, &v, &mut y, Threads::Pool);
        let image = shape.channels * pixels;
        let all = |q: &[f64], k: &[f64], v: &[f64]| -> Vec<f64> {
            (0..n).flat_map(|i| {
                let r = i * image..(i + 1) * image;
                reference::attention(&shape, &q[r.clone()], &k[r.clone()], &v[r])
            }).collect()
        };
        let (qd, kd, vd) = (wide(&q), wide(&k), wide(&v));
        prop_assert!(error(&y, &all(&qd, &kd, &vd)) < 2e-6);
        let dy = values(seed + 3, len);
        let (mut dq, mut dk, mut dv) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
        attention::backward(&shape, n, &q, &k, &v, &dy, &mut dq, &mut dk, &mut dv);
        prop_assert!(near(&dq, &numeric_gradient(&qd, &dy, |q| all(q, &kd, &vd)), 1e-5));
        prop_assert!(near(&dk, &numeric_gradient(&kd, &dy, |k| all(&qd, k, &vd)), 1e-5));
        prop_assert!(near(&dv, &numeric_gradient(&vd, &dy, |v| all(&qd, &kd, v)), 1e-5));
    }

    #[test]
    fn linear_and_its_gradients(inputs in 1usize..40, outputs in 1usize..9, n in 1usize..3, seed in any::<u64>()) {
        let (x, w, b) = (values(seed, n * inputs), values(seed + 1, inputs * outputs), values(seed + 2, outputs));
        let mut y = vec![0.0; n * outputs];
        linear::forward(n, &x, &w, &b, &mut y);
        let all = |x: &[f64], w: &[f64], b: &[f64]| -> Vec<f64> {
            x.chunks(inputs).flat_map(|x| reference::linear(x, w, b)).collect()
        };
        let (xd, wd, bd) = (wide(&x), wide(&w), wide(&b));
        prop_assert!(error(&y, &all(&xd, &wd, &bd)) < 1e-5);
        let dy = values(seed + 3, y.len());
        let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; b.len()]);
        linear::backward(n, &x, &w, &dy, &mut dx, &mut dw, &mut db);
        prop_assert!(near(&dx, &numeric_gradient(&xd, &dy, |x| all(x, &wd, &bd)), 1e-4));
        prop_assert!(near(&dw, &numeric_gradient(&wd, &dy, |w| all(&xd, w, &bd)), 1e-4));
        prop_assert!(near(&db, &numeric_gradient(&bd, &dy, |b| all(&xd, &wd, b)), 1e-4));
    }

    #[test]
    fn resampling_and_its_gradients(width in 1usize..9, rows in 1usize..9, seed in any::<u64>()) {
        let x = values(seed, width * rows);
        let mut y = vec![0.0; 4 * x.len()];
        elementwise::upsample(width, &x, &mut y);
        prop_assert!(error(&y, &reference::upsample(width, &wide(&x))) < 1e-9);
        let dy = values(seed + 1, y.len());
        let mut dx = vec![0.0; x.len()];
        elementwise::upsample_backward(width, &dy, &mut dx);
        prop_assert!(error(&dx, &numeric_gradient(&wide(&x), &dy, |x| reference::upsample(width, x))) < 1e-5);

        let large = values(seed + 2, 4 * x.len());
        let mut small = vec![0.0; x.len()];
        elementwise::average_pool(width, &large, &mut small);
        prop_assert!(error(&small, &reference::average_pool(width, &wide(&large))) < 1e-6);
        let dy = values(seed + 3, small.len());
        let mut dx = vec![0.0; large.len()];
        elementwise::average_pool_backward(width, &dy, &mut dx);
        let expected = numeric_gradient(&wide(&large), &dy, |x| reference::average_pool(width, x));
        prop_assert!(error(&dx, &expected) < 1e-5);
    }
}

#[test]
fn a_layer_of_several_bands_and_query_tiles_agrees_too() {
    // 64 channels at 28×28 need more than one band; 28·28 queries more than one tile.
    let shape = conv::Shape { c_in: 64, c_out: 5, input: [28, 28], kernel: 3, stride: 1, pad_before: 1, pad_after: 1 };
    let (x, w, b) = (values(1, shape.input_len()), values(2, 5 * shape.patch()), values(3, 5));
    let mut y = vec![0.0; shape.output_len()];
    conv::forward(&shape, 1, &x, &w, &b, &mut y, Threads::Pool);
    let expected = reference::conv(&shape, &wide(&x), &wide(&w), &wide(&b));
    assert!(error(&y, &expected) < 1e-6);
    // ⟨dy, w∗x⟩ = ⟨dx, x⟩ = ⟨dw, w⟩: the adjoints, over several bands.
    let dy = values(4, y.len());
    let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; 5]);
    conv::backward_data(&shape, 1, &dy, &w, &mut dx);
    conv::backward_weights(&shape, 1, &x, &dy, &mut dw, &mut db);
    let inner = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let product = inner(&dy, &y) - inner(&db, &b);
    assert!((inner(&dx, &x) - product).abs() < 1e-2 && (inner(&dw, &w) - product).abs() < 1e-2, "{product}");

    let shape = attention::Shape { channels: 6, heads: 2, pixels: 28 * 28 };
    let len = 6 * 28 * 28;
    let (q, k, v) = (values(5, len), values(6, len), values(7, len));
    let mut y = vec![0.0; len];
    attention::forward(&shape, 1, &q, &k, &v, &mut y, Threads::Pool);
    assert!(error(&y, &reference::attention(&shape, &wide(&q), &wide(&k), &wide(&v))) < 1e-5);
}

#[test]
fn nan_and_infinity_are_never_hidden() {
    let shape = conv::Shape { c_in: 2, c_out: 2, input: [5, 5], kernel: 3, stride: 1, pad_before: 1, pad_after: 1 };
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = values(1, 50);
        x[12] = bad;
        let mut y = vec![0.0; 50];
        conv::forward(&shape, 1, &x, &values(2, 36), &[0.0; 2], &mut y, Threads::One);
        assert!(!y[12].is_finite());
        let (mut y, mut statistics) = (vec![0.0; 50], vec![0.0; 2]);
        let norm_shape = norm::Shape { channels: 2, pixels: 25, groups: 1, eps: 1e-5, silu: true };
        let affine = norm::Affine { gamma: &[1.0; 2], beta: &[0.0; 2], scale_shift: None };
        norm::forward(&norm_shape, 1, &x, affine, &mut y, &mut statistics, Threads::One);
        assert!(y.iter().all(|y| y.is_nan()));
        let attend = attention::Shape { channels: 2, heads: 1, pixels: 25 };
        let mut y = vec![0.0; 50];
        attention::forward(&attend, 1, &x, &x, &x, &mut y, Threads::One);
        assert!(y.iter().any(|y| y.is_nan()));
    }
}

#[test]
fn an_image_does_not_see_its_neighbours_in_the_batch() {
    let shape = conv::Shape { c_in: 33, c_out: 17, input: [14, 14], kernel: 3, stride: 1, pad_before: 1, pad_after: 1 };
    let (w, b) = (values(1, 17 * shape.patch()), values(2, 17));
    let x = values(3, 5 * shape.input_len());
    let mut together = vec![0.0; 5 * shape.output_len()];
    conv::forward(&shape, 5, &x, &w, &b, &mut together, Threads::Pool);
    for (x, expected) in x.chunks(shape.input_len()).zip(together.chunks(shape.output_len())) {
        let mut alone = vec![0.0; shape.output_len()];
        conv::forward(&shape, 1, x, &w, &b, &mut alone, Threads::One);
        assert_eq!(alone, expected);
    }
}
