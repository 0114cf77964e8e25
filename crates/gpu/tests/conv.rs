//! Convolutions and their gradients against their definition in f64.

mod common;

use common::*;
use skipstone_gpu::conv::{self, Epilogue, Norm, Part, Shape, Vectors, Weights};
use skipstone_gpu::{Element, Gpu, View, gradient};
use skipstone_kernels::reference;

/// Every kind of layer, with sizes that are no multiples of any tile: 28 and 17 wide, 1, 3 and 96 channels.
fn shapes() -> Vec<Shape> {
    let same = |c_in, c_out, input, kernel| Shape {
        c_in,
        c_out,
        input,
        kernel,
        stride: 1,
        pad_before: kernel / 2,
        pad_after: kernel / 2,
        upsample: false,
    };
    let down = |c, input, pad| Shape { stride: 2, pad_before: pad, pad_after: 1, ..same(c, c, input, 3) };
    vec![
        same(1, 32, [28, 28], 3),
        same(3, 20, [9, 17], 3),
        same(96, 96, [5, 17], 3),
        same(40, 96, [7, 7], 1),
        same(33, 7, [4, 4], 1),
        same(64, 1, [28, 28], 3),
        same(48, 130, [2, 3], 3),
        down(24, [8, 10], 0),
        down(17, [9, 7], 1),
        Shape { upsample: true, ..same(24, 36, [5, 3], 3) },
        Shape { kernel: 5, pad_before: 2, pad_after: 2, ..same(6, 5, [6, 11], 5) },
    ]
}

const N: usize = 3;

fn reference_shape(shape: &Shape) -> skipstone_kernels::conv::Shape {
    let Shape { c_in, c_out, kernel, stride, pad_before, pad_after, .. } = *shape;
    skipstone_kernels::conv::Shape {
        c_in,
        c_out,
        input: shape.grid(),
        kernel,
        stride,
        pad_before,
        pad_after,
        upsample: false,
    }
}

struct Case {
    shape: Shape,
    x: Vec<f32>,
    w: Vec<f32>,
    ab: Vec<f32>,
}

impl Case {
    fn new(shape: Shape) -> Self {
        let x = numbers(N * shape.input_pixels() * shape.c_in, 1);
        Self { shape, x, w: numbers(shape.weights(), 2), ab: numbers(N * 2 * shape.c_in, 3) }
    }

    /// The image's planes as the kernel sees them: normalised, doubled.
    fn input(&self, image: usize, norm: bool) -> Vec<f64> {
        let Shape { c_in, input: [_, width], .. } = self.shape;
        let len = self.shape.input_pixels() * c_in;
        let mut x = planes(c_in, &self.x[image * len..(image + 1) * len]);
        if norm {
            let count = self.shape.input_pixels();
            for (i, x) in x.iter_mut().enumerate() {
                let at = image * 2 * c_in + i / count;
                *x = reference::silu(f64::from(self.ab[at]) * *x + f64::from(self.ab[at + c_in]));
            }
        }
        if self.shape.upsample {
            x = x.chunks_exact(self.shape.input_pixels()).flat_map(|x| reference::upsample(width, x)).collect();
        }
        x
    }

    fn norm(&self, gpu: &Gpu) -> Norm {
        Norm { ab: upload(gpu, &self.ab), silu: true }
    }

    fn parts(&self) -> Vec<Part> {
        // Two parts, as for the queries and keys of attention, with other parameters around them.
        let Shape { c_in, c_out, .. } = self.shape;
        let (first, each) = (c_out / 3, c_in * self.shape.taps());
        vec![
            Part { offset: 5, first: 0, channels: first },
            Part { offset: 5 + first * each + 11, first, channels: c_out - first },
        ]
    }

    /// The weights among other parameters.
    fn parameters(&self) -> Vec<f32> {
        let each = self.shape.c_in * self.shape.taps();
        let mut all = vec![f32::NAN; self.w.len() + 20];
        for part in self.parts() {
            let len = part.channels * each;
            all[part.offset..part.offset + len].copy_from_slice(&self.w[part.first * each..part.first * each + len]);
        }
        all
    }
}

#[test]
fn a_convolution_is_its_definition_with_everything_fused() {
    let Some(gpu) = gpu() else { return };
    for shape in shapes() {
        let case = Case::new(shape);
        let Shape { c_in, c_out, .. } = shape;
        let (pixels_out, scale) = (shape.output_pixels(), 0.7);
        let bias = numbers(c_out + 4, 4);
        let vectors = numbers(2 * (c_out + 6), 5);
        let residual = numbers(N * pixels_out * c_out, 6);
        let row_of = [1u32, 0, 1];
        let parameters = upload(&gpu, &case.parameters());
        let packed = Weights::reserve(&gpu, &shape, Element::F32).unwrap();
        for part in case.parts() {
            conv::pack(&gpu, &shape, &parameters, part, &packed);
        }
        for fused in [false, true] {
            let x = padded(&gpu, c_in, 6, &case.x);
            let y = padded(&gpu, c_out, 10, &vec![0.0; N * pixels_out * c_out]);
            let norm = case.norm(&gpu);
            let epilogue = if fused {
                Epilogue {
                    bias: Some((upload(&gpu, &bias), 3)),
                    vector: Some(Vectors {
                        view: View::part(upload(&gpu, &vectors), c_out + 6, 2),
                        rows: 2,
                        row_of: gpu.upload_integers(&row_of).unwrap(),
                    }),
                    residual: Some(padded(&gpu, c_out, 4, &residual)),
                    accumulate: false,
                    scale,
                }
            } else {
                Epilogue::default()
            };
            conv::forward(&gpu, &shape, N, &x, fused.then_some(&norm), &packed, &epilogue, &y);
            let found = rows(&gpu, c_out, &y);
            let mut expected = Vec::new();
            for image in 0..N {
                let input = case.input(image, fused);
                let zero = vec![0.0; c_out];
                let plain = reference::conv(&reference_shape(&shape), &input, &wide(&case.w), &zero);
                for (i, value) in pixels(c_out, &plain).into_iter().enumerate() {
                    let co = i % c_out;
                    let at = image * pixels_out * c_out + i;
                    let more = f64::from(bias[3 + co])
                        + f64::from(vectors[row_of[image] as usize * (c_out + 6) + 2 + co])
                        + f64::from(residual[at]);
                    expected.push(if fused { (value + more) * f64::from(scale) } else { value });
                }
            }
            assert_close(&format!("{shape:?} fused {fused}"), &found, &expected, 2e-6);
        }
    }
}

#[test]
fn a_convolutions_gradients_are_their_definition() {
    let Some(gpu) = gpu() else { return };
    for shape in shapes() {
        let case = Case::new(shape);
        let Shape { c_in, c_out, .. } = shape;
        let dy = numbers(N * shape.output_pixels() * c_out, 7);
        let len = dy.len() / N;
        let parameters = upload(&gpu, &case.parameters());
        let packed = Weights::reserve(&gpu, &shape, Element::F32).unwrap();
        for part in case.parts() {
            conv::pack_transposed(&gpu, &shape, &parameters, part, &packed);
        }
        let dy_view = padded(&gpu, c_out, 8, &dy);
        let before = numbers(N * shape.grid_pixels() * c_in, 8);
        let dx = padded(&gpu, c_in, 2, &before);
        conv::backward_data(&gpu, &shape, N, &dy_view, &packed, &dx, true);
        let dx = rows(&gpu, c_in, &dx);

        let scratch = gpu.reserve(gradient::scratch(&shape, N)).unwrap();
        let dw = upload(&gpu, &vec![0.5; case.w.len() + 20]);
        let (x, norm) = (padded(&gpu, c_in, 6, &case.x), case.norm(&gpu));
        gradient::weights(&gpu, &shape, N, &x, Some(&norm), &dy_view, &scratch, &dw, &case.parts());
        let dw = gpu.read(&dw).unwrap();

        let (mut expected_dx, mut expected_dw) = (Vec::new(), vec![0.5; case.w.len()]);
        for image in 0..N {
            let slope = planes(c_out, &dy[image * len..(image + 1) * len]);
            let input = case.input(image, true);
            let [dx, dw, _] = reference::conv_gradients(&reference_shape(&shape), &input, &wide(&case.w), &slope);
            expected_dx.extend(pixels(c_in, &dx));
            expected_dw.iter_mut().zip(dw).for_each(|(sum, dw)| *sum += dw);
        }
        let expected_dx: Vec<f64> = expected_dx.iter().zip(&before).map(|(a, b)| a + f64::from(*b)).collect();
        assert_close(&format!("dx of {shape:?}"), &dx, &expected_dx, 2e-6);
        let each = c_in * shape.taps();
        for part in case.parts() {
            let range = part.first * each..(part.first + part.channels) * each;
            let found = &dw[part.offset..part.offset + range.len()];
            assert_close(&format!("dw of {shape:?}"), found, &expected_dw[range], 2e-6);
        }
        let outside = dw[..5].iter().all(|v| *v == 0.5);
        assert!(outside, "a gradient was written outside its place");
    }
}

#[test]
fn an_image_gives_the_same_bytes_in_any_batch_and_at_any_place_of_it() {
    let Some(gpu) = gpu() else { return };
    for shape in shapes() {
        let case = Case::new(shape);
        let packed = Weights::reserve(&gpu, &shape, Element::F32).unwrap();
        let whole = Part { offset: 0, first: 0, channels: shape.c_out };
        conv::pack(&gpu, &shape, &upload(&gpu, &case.w), whole, &packed);
        let (len, out) = (shape.input_pixels() * shape.c_in, shape.output_pixels() * shape.c_out);
        let run = |images: &[usize]| {
            let x: Vec<f32> = images.iter().flat_map(|i| case.x[i * len..(i + 1) * len].iter().copied()).collect();
            let ab = images.iter().flat_map(|i| case.ab[i * 2 * shape.c_in..(i + 1) * 2 * shape.c_in].iter().copied());
            let norm = Norm { ab: upload(&gpu, &ab.collect::<Vec<_>>()), silu: true };
            let y = gpu.reserve(images.len() * out).unwrap();
            let (from, to) = (View::dense(upload(&gpu, &x), shape.c_in), View::dense(y.clone(), shape.c_out));
            conv::forward(&gpu, &shape, images.len(), &from, Some(&norm), &packed, &Epilogue::default(), &to);
            gpu.read(&y).unwrap()
        };
        let together = run(&[0, 1, 2, 1, 0, 2, 2]);
        for (place, image) in [0, 1, 2, 1, 0, 2, 2].into_iter().enumerate() {
            assert_eq!(bits(&run(&[image])), bits(&together[place * out..(place + 1) * out]), "{shape:?}");
        }
    }
}

#[test]
fn half_precision_rounds_what_is_stored_and_what_matrix_units_multiply() {
    let Some((gpu, halves)) = halves() else { return };
    for (shape, half) in shapes().into_iter().flat_map(|shape| halves.iter().map(move |half| (shape, *half))) {
        let mut case = Case::new(shape);
        let len = N * shape.output_pixels() * shape.c_out;
        let residual = rounded(half, &numbers(len, 6));
        let run = |case: &Case, element: Element| {
            let packed = Weights::reserve(&gpu, &shape, element).unwrap();
            let whole = Part { offset: 0, first: 0, channels: shape.c_out };
            conv::pack(&gpu, &shape, &upload(&gpu, &case.w), whole, &packed);
            let y = gpu.reserve(element.words(len)).unwrap();
            let view = |buffer, channels| View::dense(buffer, channels).stored(element);
            let from = view(stored(&gpu, element, &case.x), shape.c_in);
            let epilogue =
                Epilogue { residual: Some(view(stored(&gpu, element, &residual), shape.c_out)), ..Epilogue::default() };
            let to = view(y.clone(), shape.c_out);
            conv::forward(&gpu, &shape, N, &from, Some(&case.norm(&gpu)), &packed, &epilogue, &to);
            read_stored(&gpu, element, &y, len)
        };
        let found = run(&case, half);
        let exact = run(&case, Element::F32);
        assert!(relative(&found, &wide(&exact)) < 4.0 * step(half), "{half:?} {shape:?}");
        (case.x, case.w) = (rounded(half, &case.x), rounded(half, &case.w));
        let stored_only = rounded(half, &run(&case, Element::F32));
        if gpu.properties().matrix_units {
            // They round normalised pixels, too.
            assert!(relative(&found, &wide(&stored_only)) < 2.0 * step(half), "{half:?} {shape:?}");
        } else {
            assert_eq!(bits(&found), bits(&stored_only), "{half:?} {shape:?}");
        }
    }
}

#[test]
fn half_precision_gradients_of_weights_sum_the_stored_numbers() {
    let Some((gpu, halves)) = halves() else { return };
    for (shape, half) in shapes().into_iter().flat_map(|shape| halves.iter().map(move |half| (shape, *half))) {
        let case = Case::new(shape);
        let dy = rounded(half, &numbers(N * shape.output_pixels() * shape.c_out, 7));
        let x = rounded(half, &case.x);
        let scratch = gpu.reserve(gradient::scratch(&shape, N)).unwrap();
        let whole = Part { offset: 0, first: 0, channels: shape.c_out };
        let run = |element: Element| {
            let view = |values: &[f32], channels| View::dense(stored(&gpu, element, values), channels).stored(element);
            let dw = upload(&gpu, &vec![0.0; shape.weights()]);
            let (x, dy) = (view(&x, shape.c_in), view(&dy, shape.c_out));
            gradient::weights(&gpu, &shape, N, &x, Some(&case.norm(&gpu)), &dy, &scratch, &dw, &[whole]);
            gpu.read(&dw).unwrap()
        };
        let (found, exact) = (run(half), run(Element::F32));
        if gpu.properties().matrix_units {
            // They round normalised pixels.
            assert!(relative(&found, &wide(&exact)) < step(half), "{half:?} {shape:?}");
        } else {
            assert_eq!(bits(&found), bits(&exact), "{half:?} {shape:?}");
        }
    }
}
