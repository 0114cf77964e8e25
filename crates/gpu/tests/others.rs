//! Attention, matrix products, passes over pixels, tables, dropout and the optimiser against their definitions, or against the
//! processor's kernels, which have tests of their own.

mod common;

use common::*;
use skipstone_gpu::attention::{self, Shape};
use skipstone_gpu::elementwise::{self, Activation};
use skipstone_gpu::optimizer::{self, State};
use skipstone_gpu::{Element, View, embedding};
use skipstone_kernels::optimizer::Adam;
use skipstone_kernels::{Isa, Team, reference};

fn heads() -> Vec<Shape> {
    let shape = |channels, heads, pixels| Shape { channels, heads, pixels };
    vec![shape(8, 2, 17), shape(96, 1, 49), shape(40, 5, 33), shape(64, 4, 300)]
}

const N: usize = 2;

/// Queries, keys or values of an image as planes.
fn operand(shape: &Shape, qkv: &[f32], image: usize, which: usize) -> Vec<f64> {
    let (c, len) = (shape.channels, shape.pixels * 3 * shape.channels);
    let rows = qkv[image * len..(image + 1) * len].chunks_exact(3 * c);
    planes(c, &rows.flat_map(|row| row[which * c..(which + 1) * c].iter().copied()).collect::<Vec<_>>())
}

fn kernel_shape(shape: &Shape) -> skipstone_kernels::attention::Shape {
    let Shape { channels, heads, pixels } = *shape;
    skipstone_kernels::attention::Shape { channels, heads, pixels }
}

#[test]
fn attention_is_its_definition() {
    let Some(gpu) = gpu() else { return };
    for shape in heads() {
        let c = shape.channels;
        // Scores of up to a few tens: their exponentials would overflow without the maximum.
        let qkv: Vec<f32> = numbers(N * shape.pixels * 3 * c, 1).into_iter().map(|v| 3.0 * v).collect();
        let (x, y) = (padded(&gpu, 3 * c, 6, &qkv), padded(&gpu, c, 4, &vec![0.0; N * shape.pixels * c]));
        let scratch = gpu.reserve(shape.images_at_once(N) * shape.scores()).unwrap();
        attention::forward(&gpu, &shape, N, &x, &scratch, &y);
        let expected: Vec<f64> = (0..N)
            .flat_map(|i| {
                let [q, k, v] = [0, 1, 2].map(|which| operand(&shape, &qkv, i, which));
                pixels(c, &reference::attention(&kernel_shape(&shape), &q, &k, &v))
            })
            .collect();
        assert_close(&format!("{shape:?}"), &rows(&gpu, c, &y), &expected, 5e-6);
    }
}

#[test]
fn attentions_gradients_are_slopes_of_its_definition() {
    let Some(gpu) = gpu() else { return };
    for shape in &heads()[..3] {
        let c = shape.channels;
        let (qkv, dy) = (numbers(N * shape.pixels * 3 * c, 1), numbers(N * shape.pixels * c, 2));
        let (x, dy_view) = (padded(&gpu, 3 * c, 6, &qkv), padded(&gpu, c, 4, &dy));
        let dx = padded(&gpu, 3 * c, 2, &vec![0.0; qkv.len()]);
        let scratch = [0, 1].map(|_| gpu.reserve(shape.images_at_once(N) * shape.scores()).unwrap());
        attention::backward(&gpu, shape, N, &x, &dy_view, [&scratch[0], &scratch[1]], &dx);
        let found = rows(&gpu, 3 * c, &dx);
        // Along random directions: the layer is too large for a difference by each element.
        for seed in 3..7 {
            let along = numbers(qkv.len(), seed);
            let value = |h: f64| -> f64 {
                (0..N)
                    .map(|i| {
                        let [q, k, v] = [0, 1, 2].map(|which| {
                            let (at, by) = (operand(shape, &qkv, i, which), operand(shape, &along, i, which));
                            at.iter().zip(by).map(|(a, b)| a + h * b).collect::<Vec<f64>>()
                        });
                        let y = pixels(c, &reference::attention(&kernel_shape(shape), &q, &k, &v));
                        let dy = &dy[i * y.len()..(i + 1) * y.len()];
                        y.iter().zip(dy).map(|(y, dy)| y * f64::from(*dy)).sum::<f64>()
                    })
                    .sum()
            };
            let slope = (value(1e-5) - value(-1e-5)) / 2e-5;
            let product: f64 = found.iter().zip(&along).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let size: f64 = found.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            assert!((slope - product).abs() < 1e-4 * size, "{shape:?}: {product}, {slope} by differences, {size}");
        }
    }
}

#[test]
fn half_precision_attention_differs_by_its_rounding() {
    let Some((gpu, halves)) = halves() else { return };
    for (shape, half) in heads().into_iter().flat_map(|shape| halves.iter().map(move |half| (shape, *half))) {
        let c = shape.channels;
        let qkv = rounded(half, &numbers(N * shape.pixels * 3 * c, 1));
        let dy = rounded(half, &numbers(N * shape.pixels * c, 2));
        let run = |element: Element| {
            let view = |values: &[f32], channels| View::dense(stored(&gpu, element, values), channels).stored(element);
            let (x, dy_view) = (view(&qkv, 3 * c), view(&dy, c));
            let (y, dx) = (view(&vec![0.0; dy.len()], c), view(&vec![0.0; qkv.len()], 3 * c));
            let scratch = [0, 1].map(|_| gpu.reserve(shape.images_at_once(N) * shape.scores()).unwrap());
            attention::forward(&gpu, &shape, N, &x, &scratch[0], &y);
            attention::backward(&gpu, &shape, N, &x, &dy_view, [&scratch[0], &scratch[1]], &dx);
            let read = |view: &View, len| read_stored(&gpu, element, &view.buffer, len);
            (read(&y, dy.len()), read(&dx, qkv.len()))
        };
        let ((y, dx), (exact_y, exact_dx)) = (run(half), run(Element::F32));
        if gpu.properties().matrix_units {
            // They round weights of pixels and their slopes, too.
            assert_close(&format!("{half:?} {shape:?}"), &y, &wide(&exact_y), 2.0 * step(half));
            assert_close(&format!("{half:?} gradient of {shape:?}"), &dx, &wide(&exact_dx), 2.0 * step(half));
        } else {
            assert_eq!(bits(&y), bits(&rounded(half, &exact_y)), "{half:?} {shape:?}");
            assert_eq!(bits(&dx), bits(&rounded(half, &exact_dx)), "{half:?} gradient of {shape:?}");
        }
    }
}

#[test]
fn activations_are_the_processors() {
    let Some(gpu) = gpu() else { return };
    let (isa, team) = (Isa::best(), Team::solo());
    let mut x: Vec<f32> = numbers(3 * 7 * 50, 1).into_iter().map(|v| 12.0 * v).collect();
    x[..7].copy_from_slice(&[0.0, -0.0, 90.0, -90.0, 1e30, -1e30, 1e-30]);
    let dy = numbers(x.len(), 2);
    for kind in [Activation::Silu, Activation::Gelu, Activation::Mish, Activation::Relu] {
        let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        let name = match kind {
            Activation::Silu => None,
            Activation::Gelu => Some(skipstone_kernels::activation::Activation::Gelu),
            Activation::Mish => Some(skipstone_kernels::activation::Activation::Mish),
            Activation::Relu => Some(skipstone_kernels::activation::Activation::Relu),
        };
        match name {
            Some(name) => {
                skipstone_kernels::activation::forward(name, isa, team, &x, &mut y);
                skipstone_kernels::activation::backward(name, isa, team, &x, &dy, &mut dx, false);
            }
            None => {
                skipstone_kernels::elementwise::silu(isa, &x, &mut y);
                dx.copy_from_slice(&dy);
                skipstone_kernels::elementwise::silu_backward(isa, &x, &mut dx);
            }
        }
        let (from, to) = (padded(&gpu, 7, 2, &x), padded(&gpu, 7, 3, &y));
        let (slopes, into) = (padded(&gpu, 7, 4, &dy), padded(&gpu, 7, 1, &y));
        elementwise::activation(&gpu, kind, x.len() / 7, 7, &from, &to);
        elementwise::activation_backward(&gpu, kind, x.len() / 7, 7, &from, &slopes, &into, false);
        for (what, found, expected) in [("value", rows(&gpu, 7, &to), &y), ("slope", rows(&gpu, 7, &into), &dx)] {
            for ((found, expected), x) in found.iter().zip(expected).zip(&x) {
                let close = (found - expected).abs() <= 2e-6 * expected.abs().max(1.0);
                assert!(close, "{kind:?}, {what} at {x}: {found}, the processor's {expected}");
            }
        }
    }
    let nan = gpu.upload(&[f32::NAN; 4]).unwrap();
    let view = View::dense(nan, 4);
    let y = View::dense(gpu.reserve(4).unwrap(), 4);
    elementwise::activation(&gpu, Activation::Relu, 1, 4, &view, &y);
    assert!(gpu.read(&y.buffer).unwrap().iter().all(|v| v.is_nan()), "NaN is lost");
}

#[test]
fn changes_of_size_and_layout_are_their_definitions() {
    let Some(gpu) = gpu() else { return };
    let (n, c, [h, w]) = (2, 5, [3, 17]);
    let x = numbers(n * c * h * w, 1);
    let view = padded(&gpu, c, 2, &x);
    let len = c * h * w;
    let image = |i: usize| planes(c, &x[i * len..(i + 1) * len]);
    // Up, and the gradient of that, which sums.
    let up = padded(&gpu, c, 4, &vec![0.0; 4 * x.len()]);
    elementwise::upsample(&gpu, n, [h, w], c, &view, &up);
    let doubled = |i: usize| image(i).chunks_exact(h * w).flat_map(|x| reference::upsample(w, x)).collect::<Vec<_>>();
    let expected: Vec<f64> = (0..n).flat_map(|i| pixels(c, &doubled(i))).collect();
    assert_close("upsample", &rows(&gpu, c, &up), &expected, 0.0);
    let sums = padded(&gpu, c, 2, &x);
    elementwise::upsample_backward(&gpu, n, [h, w], c, &up, &sums, true);
    let expected: Vec<f64> = x.iter().map(|v| 5.0 * f64::from(*v)).collect();
    assert_close("gradient of upsample", &rows(&gpu, c, &sums), &expected, 1e-6);
    // Down, from values that differ within each 2×2.
    let large = numbers(4 * x.len(), 2);
    let pool = padded(&gpu, c, 2, &x);
    elementwise::average_pool(&gpu, n, [h, w], c, &padded(&gpu, c, 3, &large), &pool);
    let expected: Vec<f64> = (0..n)
        .flat_map(|i| {
            let planes = planes(c, &large[i * 4 * len..(i + 1) * 4 * len]);
            pixels(c, &planes.chunks_exact(4 * h * w).flat_map(|x| reference::average_pool(w, x)).collect::<Vec<_>>())
        })
        .collect();
    assert_close("average_pool", &rows(&gpu, c, &pool), &expected, 1e-6);
    let back = padded(&gpu, c, 2, &vec![0.0; 4 * x.len()]);
    elementwise::average_pool_backward(&gpu, n, [h, w], c, &view, &back, false);
    let expected: Vec<f64> = (0..n).flat_map(|i| pixels(c, &doubled(i))).map(|v| v / 4.0).collect();
    assert_close("gradient of average_pool", &rows(&gpu, c, &back), &expected, 1e-6);
    // To planes and back, centred.
    let planar = gpu.reserve(x.len()).unwrap();
    elementwise::to_planes(&gpu, n, c, h * w, 1.0, &view, &planar);
    let expected: Vec<f64> = (0..n).flat_map(image).collect();
    assert_close("planes", &gpu.read(&planar).unwrap(), &expected, 0.0);
    let again = padded(&gpu, c, 6, &vec![0.0; x.len()]);
    elementwise::from_planes(&gpu, n, c, h * w, (2.0, -1.0), &planar, &again);
    let expected: Vec<f64> = x.iter().map(|v| 2.0 * f64::from(*v) - 1.0).collect();
    assert_close("centred pixels", &rows(&gpu, c, &again), &expected, 1e-6);
    // Sums over the pixels of each image.
    let sums = upload(&gpu, &[1.0; 3 + 2 * 5]);
    elementwise::sum_rows(&gpu, n, h * w, c, &view, &sums, 3, true);
    let expected: Vec<f64> = (0..n)
        .flat_map(|i| image(i).chunks_exact(h * w).map(|x| 1.0 + x.iter().sum::<f64>()).collect::<Vec<_>>())
        .collect();
    assert_close("sums", &gpu.read(&sums).unwrap()[3..], &expected, 1e-5);
}

#[test]
fn tables_are_read_and_their_gradients_added_up() {
    let Some(gpu) = gpu() else { return };
    let (width, len, at) = (70, 4, 6);
    let parameters = numbers(at + len * width, 1);
    let rows_of = [2u32, 0, 2, 9];
    let (table, indices) = (upload(&gpu, &parameters), gpu.upload_integers(&rows_of).unwrap());
    let y = padded(&gpu, width, 5, &vec![0.0; 4 * width]);
    embedding::look_up(&gpu, 4, width, &table, (at, len), &indices, &y);
    let found = rows(&gpu, width, &y);
    let row = |i: usize| &parameters[at + i * width..at + (i + 1) * width];
    // A number beyond the table is its last row.
    assert_eq!(found, [row(2), row(0), row(2), row(3)].concat());
    let (dy, gradient) = (numbers(4 * width, 2), upload(&gpu, &vec![0.0; parameters.len()]));
    embedding::look_up_backward(&gpu, 4, width, &upload(&gpu, &dy), &indices, &gradient, (at, len));
    let mut expected = vec![0.0f64; parameters.len()];
    for (i, row) in [2, 0, 2, 3].into_iter().enumerate() {
        for c in 0..width {
            expected[at + row * width + c] += f64::from(dy[i * width + c]);
        }
    }
    assert_close("gradient of a table", &gpu.read(&gradient).unwrap(), &expected, 1e-6);
}

#[test]
fn dropout_drops_what_the_processor_drops() {
    let Some(gpu) = gpu() else { return };
    let keys = [7u64, 1 << 40 | 3, u64::MAX];
    let halves: Vec<u32> = keys.iter().flat_map(|key| [*key as u32, (*key >> 32) as u32]).collect();
    let (x, halves) = (numbers(3 * 1000, 1), gpu.upload_integers(&halves).unwrap());
    for p in [0.1, 0.5, 0.9] {
        let (mut y, found) = (vec![0.0; x.len()], gpu.reserve(x.len()).unwrap());
        let [from, to] = [upload(&gpu, &x), found.clone()].map(|buffer| View::dense(buffer, 8));
        skipstone_kernels::dropout::forward(Isa::best(), p, &keys, &x, &mut y);
        embedding::dropout(&gpu, p, 3, 1000, &halves, &from, &to, false);
        assert_close("dropout", &gpu.read(&found).unwrap(), &wide(&y), 1e-7);
        embedding::dropout(&gpu, p, 3, 1000, &halves, &from, &to, true);
        let twice: Vec<f64> = y.iter().map(|v| 2.0 * f64::from(*v)).collect();
        assert_close("added dropout", &gpu.read(&found).unwrap(), &twice, 1e-6);
    }
}

#[test]
fn the_optimiser_steps_as_the_processors_does() {
    let Some(gpu) = gpu() else { return };
    let (isa, team, len) = (Isa::best(), Team::solo(), 20_001);
    for (decoupled, weight_decay, shrink) in [(false, 0.0, 1.0), (false, 0.1, 0.5), (true, 0.1, 0.25)] {
        let mut groups: Vec<Vec<f32>> = (1..5).map(|seed| numbers(len, seed)).collect();
        groups[3].iter_mut().for_each(|v| *v = v.abs());
        let buffers: Vec<_> = groups.iter().map(|group| upload(&gpu, group)).collect();
        let gradient = numbers(len, 9);
        let adam = Adam { lr: 1e-2, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay, decoupled };
        let state = State { weights: &buffers[0], ema: &buffers[1], first: &buffers[2], second: &buffers[3] };
        optimizer::step(&gpu, &adam.factors(3), shrink, 0.9, &upload(&gpu, &gradient), state);
        let clipped: Vec<f32> = gradient.iter().map(|g| shrink * g).collect();
        let [weights, ema, first, second] = &mut groups[..] else { unreachable!() };
        adam.step(isa, team, 3, &clipped, weights, first, second);
        skipstone_kernels::optimizer::moving_average(isa, team, 0.9, weights, ema);
        for (buffer, group) in buffers.iter().zip(&groups) {
            assert_close("a step", &gpu.read(buffer).unwrap(), &wide(group), 1e-6);
        }
        let scratch = gpu.reserve(optimizer::scratch(len)).unwrap();
        let norm = optimizer::squared_norm(&gpu, &buffers[0], &scratch).unwrap();
        let expected: f64 = groups[0].iter().map(|v| f64::from(*v).powi(2)).sum();
        assert!((norm - expected).abs() < 1e-4 * expected, "{norm}, expected {expected}");
    }
}

#[test]
fn the_loss_and_its_slope_are_their_definitions() {
    let Some(gpu) = gpu() else { return };
    let (n, c, pixels) = (3, 2, 300);
    let (y, target) = (numbers(n * c * pixels, 1), numbers(n * c * pixels, 2));
    let factors = [0.5f32, 0.0, 2.0];
    let (view, slopes) = (padded(&gpu, c, 3, &y), padded(&gpu, c, 1, &y));
    let sums = gpu.reserve(n).unwrap();
    optimizer::squared_error(
        &gpu,
        n,
        c,
        pixels,
        &view,
        &upload(&gpu, &target),
        &upload(&gpu, &factors),
        &slopes,
        &sums,
    );
    let difference: Vec<f64> = (0..y.len())
        .map(|i| {
            let (image, rest) = (i / (c * pixels), i % (c * pixels));
            f64::from(y[i]) - f64::from(target[image * c * pixels + rest % c * pixels + rest / c])
        })
        .collect();
    let slope: Vec<f64> =
        difference.iter().enumerate().map(|(i, d)| f64::from(factors[i / (c * pixels)]) * d).collect();
    assert_close("slope", &rows(&gpu, c, &slopes), &slope, 1e-6);
    let errors: Vec<f64> = difference.chunks_exact(c * pixels).map(|d| d.iter().map(|v| v * v).sum()).collect();
    assert_close("squared errors", &gpu.read(&sums).unwrap(), &errors, 1e-6);
}

#[test]
fn a_buffer_that_no_device_holds_is_refused_and_the_device_goes_on() {
    let Some(gpu) = gpu() else { return };
    let error = gpu.reserve(1 << 40).unwrap_err();
    assert!(matches!(error, skipstone_gpu::Error::TooLarge(_) | skipstone_gpu::Error::OutOfMemory), "{error}");
    assert_eq!(gpu.read(&upload(&gpu, &[7.0, 8.0])).unwrap(), [7.0, 8.0]);
}

#[test]
fn slices_and_views_beyond_a_buffer_are_refused() {
    let Some(gpu) = gpu() else { return };
    let buffer = gpu.reserve(256).unwrap();
    let refused = |f: &(dyn Fn() + std::panic::RefUnwindSafe)| std::panic::catch_unwind(f).is_err();
    let buffer = std::panic::AssertUnwindSafe(&buffer);
    let gpu = std::panic::AssertUnwindSafe(&gpu);
    assert!(refused(&|| drop(buffer.slice(192, 65))) && refused(&|| drop(buffer.slice(3, 5))));
    assert!(!refused(&|| drop(buffer.slice(192, 64))));
    let pass = |rows: usize| {
        let view = View::dense(buffer.0.clone(), 16);
        elementwise::add_rows(&gpu, rows, 16, 1.0, &view, &view, false);
    };
    assert!(refused(&|| pass(17)));
}
