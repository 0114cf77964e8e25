//! Convolutions on every instruction set and by every algorithm against their definition in f64.
//!
//! The bounds, relative in the l2 norm, are 1e-6 by definition (sums of up to some thousand products in f32), 2e-6 by
//! F(2×2) and 5e-6 by F(4×4), whose transforms amplify rounding errors by the norms of their matrices.

mod common;

use common::{LAYOUTS, Layout, Rows, algorithms, below, error, planes, rows, same, teams, values, wide};
use proptest::prelude::*;
use skipstone_kernels::conv::{
    Algorithm, Epilogue, Layer, Norm, Precision, Shape, Source, backward_data, backward_weights,
};
use skipstone_kernels::{Isa, Team, View, reference};

fn bound(algorithm: Algorithm) -> f64 {
    match algorithm {
        Algorithm::Direct => 1e-6,
        Algorithm::Winograd2 => 2e-6,
        Algorithm::Winograd4 => 5e-6,
    }
}

const fn shape(c_in: usize, c_out: usize, input: [usize; 2], kernel: usize, stride: usize, pads: [usize; 2]) -> Shape {
    Shape { c_in, c_out, input, kernel, stride, pad_before: pads[0], pad_after: pads[1], upsample: false }
}

const fn doubled(shape: Shape) -> Shape {
    Shape { upsample: true, ..shape }
}

/// The shapes of the U-Net's convolutions, with odd sizes and channels that are not whole vectors.
const SHAPES: [Shape; 18] = [
    shape(1, 1, [1, 1], 3, 1, [1, 1]),
    shape(3, 5, [7, 9], 3, 1, [1, 1]),
    shape(5, 3, [6, 5], 3, 1, [0, 1]),
    shape(17, 1, [5, 8], 3, 1, [1, 0]),
    shape(1, 17, [9, 4], 3, 1, [0, 0]),
    shape(33, 40, [8, 8], 3, 1, [1, 1]),
    shape(40, 33, [13, 3], 3, 1, [1, 1]),
    shape(16, 48, [4, 17], 3, 1, [2, 2]),
    shape(8, 64, [3, 3], 3, 1, [1, 1]),
    doubled(shape(17, 5, [4, 3], 3, 1, [1, 1])),
    doubled(shape(32, 33, [5, 7], 3, 1, [1, 1])),
    shape(5, 17, [9, 7], 3, 2, [0, 1]),
    shape(33, 40, [8, 10], 3, 2, [1, 1]),
    shape(40, 3, [7, 7], 3, 2, [1, 1]),
    shape(33, 17, [5, 6], 1, 1, [0, 0]),
    shape(40, 96, [3, 4], 1, 1, [0, 0]),
    doubled(shape(17, 33, [3, 2], 1, 1, [0, 0])),
    shape(3, 5, [9, 8], 5, 3, [2, 1]),
];

/// What is fused into the convolution.
#[derive(Clone, Copy, Debug)]
struct Options {
    n: usize,
    layout: Layout,
    /// Whether the input is normalised, and if so whether SiLU follows.
    norm: Option<bool>,
    vector: bool,
    residual: bool,
    accumulate: bool,
    scale: f32,
    /// Output channels of the first of two parts of the weights.
    first_part: usize,
}

const PLAIN: Options = Options {
    n: 2,
    layout: Layout::Dense,
    norm: None,
    vector: false,
    residual: false,
    accumulate: false,
    scale: 1.0,
    first_part: 0,
};

/// Everything a layer reads, and the expected results.
struct Case {
    shape: Shape,
    o: Options,
    x: Rows,
    ab: Vec<f32>,
    w: Vec<f32>,
    b: Vec<f32>,
    vector: Rows,
    residual: Rows,
    /// The previous content of the output.
    old: Vec<f32>,
    dy: Rows,
    old_dx: Vec<f32>,
    expected: Vec<f64>,
    expected_dx: Vec<f64>,
    expected_dw: Vec<f64>,
    expected_db: Vec<f64>,
}

/// The same convolution on the upsampled input.
fn undoubled(shape: Shape) -> Shape {
    Shape { input: shape.grid(), upsample: false, ..shape }
}

impl Case {
    fn new(shape: Shape, o: Options, seed: u64) -> Self {
        let Shape { c_in, c_out, .. } = shape;
        let (inputs, outputs) = (o.n * shape.input_pixels(), o.n * shape.output_pixels());
        let make = |i: u64, len: usize| values(1000 * seed + i, len);
        let (x, ab) = (make(0, inputs * c_in), make(1, o.n * 2 * c_in));
        let (w, b) = (make(2, c_out * shape.patch()), make(3, c_out));
        let (vector, residual, old) = (make(4, o.n * c_out), make(5, outputs * c_out), make(6, outputs * c_out));
        let (dy, old_dx) = (make(7, outputs * c_out), make(8, inputs * c_in));

        let z: Vec<f64> = x
            .iter()
            .enumerate()
            .map(|(i, &x)| {
                let (image, channel) = (i / c_in / shape.input_pixels(), i % c_in);
                let at = |k: usize| f64::from(ab[(image * 2 + k) * c_in + channel]);
                match o.norm {
                    None => f64::from(x),
                    Some(silu) => {
                        let z = at(0) * f64::from(x) + at(1);
                        if silu { reference::silu(z) } else { z }
                    }
                }
            })
            .collect();
        let z = planes(o.n, c_in, &z);
        let z = if shape.upsample { reference::upsample(shape.input[1], &z) } else { z };
        let (of, wd, bd) = (undoubled(shape), wide(&w), wide(&b));
        let (mut y, mut dx) = (Vec::new(), Vec::new());
        let (mut expected_dw, mut expected_db) = (vec![0.0; w.len()], vec![0.0; b.len()]);
        let dy_planes = wide(&planes(o.n, c_out, &dy));
        for (z, dy) in z.chunks(z.len() / o.n).zip(dy_planes.chunks(dy.len() / o.n)) {
            y.extend(reference::conv(&of, z, &wd, &bd));
            let [image_dx, dw, db] = reference::conv_gradients(&of, z, &wd, dy);
            dx.extend(image_dx);
            expected_dw.iter_mut().zip(dw).for_each(|(sum, dw)| *sum += dw);
            expected_db.iter_mut().zip(db).for_each(|(sum, db)| *sum += db);
        }
        if shape.upsample {
            // Each pixel became four.
            dx = reference::average_pool(shape.input[1], &dx).into_iter().map(|mean| 4.0 * mean).collect();
        }
        let expected = rows(o.n, c_out, &y)
            .into_iter()
            .enumerate()
            .map(|(i, y)| {
                let image = i / c_out / shape.output_pixels();
                let vector = if o.vector { f64::from(vector[image * c_out + i % c_out]) } else { 0.0 };
                let residual = match (o.residual, o.accumulate) {
                    (true, _) => residual[i],
                    (false, true) => old[i],
                    (false, false) => 0.0,
                };
                (y + vector + f64::from(residual)) * f64::from(o.scale)
            })
            .collect();
        let expected_dx = rows(o.n, c_in, &dx)
            .into_iter()
            .zip(&old_dx)
            .map(|(dx, old)| dx + if o.accumulate { f64::from(*old) } else { 0.0 })
            .collect();
        Self {
            shape,
            o,
            ab,
            w,
            b,
            old,
            old_dx,
            expected,
            expected_dx,
            expected_dw,
            expected_db,
            x: Rows::new(o.layout, c_in, &x),
            vector: Rows::new(o.layout, c_out, &vector),
            residual: Rows::new(o.layout, c_out, &residual),
            dy: Rows::new(o.layout, c_out, &dy),
        }
    }

    fn source(&self) -> Source<'_> {
        Source { x: self.x.view(), norm: self.o.norm.map(|silu| Norm { ab: &self.ab, silu }) }
    }

    fn forward(&self, team: &Team, isa: Isa, algorithm: Algorithm) -> Vec<f32> {
        let (w, b) = (self.w.split_at(self.o.first_part * self.shape.patch()), self.b.split_at(self.o.first_part));
        let layer = Layer::pack(team, isa, self.shape, algorithm, &[(w.0, b.0), (w.1, b.1)]);
        let c_out = self.shape.c_out;
        let mut y = if self.o.accumulate {
            Rows::new(self.o.layout, c_out, &self.old)
        } else {
            Rows::blank(self.o.layout, self.old.len() / c_out, c_out)
        };
        let epilogue = Epilogue {
            vector: self.o.vector.then(|| self.vector.view()),
            residual: self.o.residual.then(|| self.residual.view()),
            accumulate: self.o.accumulate,
            scale: self.o.scale,
        };
        layer.forward(team, self.o.n, self.source(), epilogue, &mut y.view_mut());
        y.content()
    }

    fn backward_data(&self, team: &Team, isa: Isa, algorithm: Algorithm) -> Vec<f32> {
        let mut layer = Layer::transpose(isa, self.shape, |_| algorithm);
        let w = self.w.split_at(self.o.first_part * self.shape.patch());
        layer.repack_transposed(team, &[w.0, w.1]);
        let c_in = self.shape.c_in;
        let mut dx = if self.o.accumulate {
            Rows::new(self.o.layout, c_in, &self.old_dx)
        } else {
            Rows::blank(self.o.layout, self.old_dx.len() / c_in, c_in)
        };
        let (n, accumulate) = (self.o.n, self.o.accumulate);
        backward_data(&layer, &self.shape, team, n, self.dy.view(), &mut dx.view_mut(), accumulate);
        dx.content()
    }

    /// The gradients of weights and bias, each added to `old`.
    fn backward_weights(&self, team: &Team, isa: Isa, algorithm: Algorithm, old: f32) -> [Vec<f32>; 2] {
        let (mut dw, mut db) = (vec![old; self.w.len()], vec![old; self.b.len()]);
        let (w, b) = (dw.split_at_mut(self.o.first_part * self.shape.patch()), db.split_at_mut(self.o.first_part));
        let (n, source, dy) = (self.o.n, self.source(), self.dy.view());
        backward_weights(
            &self.shape,
            algorithm,
            Precision::Single,
            isa,
            team,
            n,
            source,
            dy,
            &mut [(w.0, b.0), (w.1, b.1)],
        );
        [dw, db]
    }

    /// Checks every instruction set and algorithm, with one thread and with three.
    fn check(&self) {
        let [one, _, three] = teams();
        for isa in Isa::available() {
            for algorithm in algorithms(&self.shape) {
                let what = |which: &str| format!("{which}: {isa:?} {algorithm:?} {:?} {:?}", self.shape, self.o);
                let bound = bound(algorithm);
                let y = self.forward(one, isa, algorithm);
                below(common::absolute_error(&y, &self.expected), bound, || what("y"));
                same(&y, &self.forward(three, isa, algorithm), || what("threads, y"));

                let dx = self.backward_data(one, isa, algorithm);
                below(common::absolute_error(&dx, &self.expected_dx), bound, || what("dx"));
                same(&dx, &self.backward_data(three, isa, algorithm), || what("threads, dx"));

                let old = 0.5;
                let gradients = self.backward_weights(one, isa, algorithm, old);
                let expected = [&self.expected_dw, &self.expected_db];
                for (gradient, expected) in gradients.iter().zip(expected) {
                    let expected: Vec<f64> = expected.iter().map(|x| x + f64::from(old)).collect();
                    below(common::absolute_error(gradient, &expected), bound, || what("dw or db"));
                }
                let others = self.backward_weights(three, isa, algorithm, old);
                (0..2).for_each(|i| same(&gradients[i], &others[i], || what("threads, dw or db")));
            }
        }
    }
}

#[test]
fn every_shape_agrees_with_the_definition_whatever_the_memory_layout() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        for layout in LAYOUTS {
            Case::new(shape, Options { layout, ..PLAIN }, i as u64).check();
        }
    }
}

#[test]
fn a_strided_convolution_whose_output_is_smaller_than_its_kernel_has_a_gradient() {
    for input in [[2, 4], [2, 2], [1, 1]] {
        Case::new(shape(4, 4, input, 3, 2, [1, 1]), PLAIN, 9).check();
    }
    Case::new(shape(4, 4, [2, 4], 3, 2, [0, 1]), PLAIN, 9).check();
}

#[test]
fn input_is_normalised_and_activated_on_the_way_in() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        for (silu, layout) in [(false, Layout::Part), (true, Layout::Part), (true, Layout::Dense)] {
            Case::new(shape, Options { layout, norm: Some(silu), n: 3, ..PLAIN }, i as u64).check();
        }
    }
}

#[test]
fn vectors_residuals_and_scales_are_added_on_the_way_out() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        for (vector, residual, accumulate, scale) in [
            (true, false, false, 1.0),
            (false, true, false, 1.0),
            (false, false, true, 1.0),
            (true, true, false, 0.707),
            (true, false, true, -2.0),
            (false, false, false, 0.25),
        ] {
            let layout = LAYOUTS[i % 2];
            Case::new(shape, Options { layout, vector, residual, accumulate, scale, ..PLAIN }, i as u64).check();
        }
    }
}

#[test]
fn weights_may_come_in_parts() {
    for (i, shape) in SHAPES.into_iter().enumerate().filter(|(_, shape)| shape.c_out > 2) {
        for first_part in [1, shape.c_out / 2, shape.c_out] {
            Case::new(shape, Options { first_part, accumulate: true, ..PLAIN }, i as u64).check();
        }
    }
}

#[test]
fn winograd_tiles_meet_every_border() {
    for height in 1..=9 {
        for (before, after) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (0, 2)] {
            // The width takes other residues than the height.
            let width = 1 + (height * 5 + 3) % 11;
            if height + before + after < 3 || width + before + after < 3 {
                continue;
            }
            Case::new(shape(5, 6, [height, width], 3, 1, [before, after]), PLAIN, height as u64).check();
        }
    }
}

#[test]
fn layers_of_many_blocks_and_panels_agree_too() {
    // More output channels than are transformed back at once, several blocks, several chunks of a gradient.
    Case::new(shape(300, 150, [8, 8], 3, 1, [1, 1]), Options { norm: Some(true), ..PLAIN }, 1).check();
    Case::new(shape(40, 136, [20, 20], 3, 1, [1, 1]), Options { n: 3, layout: Layout::Part, ..PLAIN }, 2).check();
    Case::new(shape(130, 70, [12, 12], 1, 1, [0, 0]), Options { n: 5, ..PLAIN }, 3).check();
}

#[test]
fn gradients_of_several_chunks_agree_too() {
    // Chunks of tiles; chunks of pixels, normalised on the way, that end within an image.
    for (shape, n, norm) in
        [(shape(200, 4, [28, 28], 3, 1, [1, 1]), 13, None), (shape(200, 40, [21, 20], 1, 1, [0, 0]), 12, Some(true))]
    {
        let case = Case::new(shape, Options { n, norm, ..PLAIN }, 4);
        let [one, _, three] = teams();
        for isa in Isa::available() {
            for algorithm in algorithms(&case.shape) {
                let [dw, db] = case.backward_weights(one, isa, algorithm, 0.0);
                // Sums of 10 192 or 5 040 pixels.
                let bound = 3.0 * bound(algorithm);
                below(error(&dw, &case.expected_dw), bound, || format!("{isa:?} {algorithm:?} {shape:?}"));
                below(error(&db, &case.expected_db), 1e-6, || format!("{isa:?} {algorithm:?} {shape:?}"));
                let [other, _] = case.backward_weights(three, isa, algorithm, 0.0);
                same(&dw, &other, || format!("{isa:?} {algorithm:?} {shape:?}"));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_shape_agrees(
        channels in (1usize..20, 1usize..20), input in [1usize..10, 1usize..10], kernel in 1usize..5,
        stride in 1usize..4, pads in [0usize..3, 0usize..3], upsample in any::<bool>(), n in 1usize..4,
        norm in proptest::option::of(any::<bool>()), accumulate in any::<bool>(), part in any::<bool>(), seed in 0u64..1000,
    ) {
        let shape = Shape { upsample, ..shape(channels.0, channels.1, input, kernel, stride, pads) };
        prop_assume!(shape.grid().iter().all(|size| size + pads[0] + pads[1] >= kernel));
        let layout = LAYOUTS[usize::from(part)];
        Case::new(shape, Options { n, layout, norm, accumulate, ..PLAIN }, seed).check();
    }
}

#[test]
fn gradients_written_out_are_those_of_differences() {
    for (i, shape) in SHAPES.into_iter().enumerate().filter(|(_, shape)| !shape.upsample && shape.patch() < 150) {
        let of = shape;
        let seed = i as u64;
        let dy = values(seed, of.c_out * of.output_pixels());
        let x = wide(&values(seed + 100, of.c_in * of.input_pixels()));
        let (w, b) = (wide(&values(seed + 200, of.c_out * of.patch())), wide(&values(seed + 300, of.c_out)));
        let [dx, dw, db] = reference::conv_gradients(&of, &x, &w, &wide(&dy));
        let close = |gradient: &[f64], at: &[f64], f: &dyn Fn(&[f64]) -> Vec<f64>| {
            // Some hundred elements in all places of the array: the stride is odd.
            (0..at.len()).step_by((at.len() / 100) | 1).all(|i| {
                let mut u = vec![0.0; at.len()];
                u[i] = 1.0;
                (common::derivative(at, &u, &dy, f) - gradient[i]).abs() < 1e-7
            })
        };
        assert!(close(&dx, &x, &|x| reference::conv(&of, x, &w, &b)), "dx of {of:?}");
        assert!(close(&dw, &w, &|w| reference::conv(&of, &x, w, &b)), "dw of {of:?}");
        assert!(close(&db, &b, &|b| reference::conv(&of, &x, &w, b)), "db of {of:?}");
    }
}

/// Images `first..first + count` of a buffer with `len` elements per image.
fn images(x: &[f32], len: usize, first: usize, count: usize) -> &[f32] {
    &x[first * len..(first + count) * len]
}

#[test]
fn an_image_is_the_same_alone_and_in_a_batch_with_any_threads() {
    const BATCH: usize = 16;
    for (index, shape) in [
        shape(40, 33, [8, 8], 3, 1, [1, 1]),
        shape(33, 17, [14, 13], 3, 1, [1, 1]),
        shape(17, 40, [4, 4], 3, 1, [0, 1]),
        shape(300, 150, [4, 4], 3, 1, [1, 1]),
        doubled(shape(17, 33, [4, 4], 3, 1, [1, 1])),
        shape(33, 40, [8, 8], 3, 2, [0, 1]),
        shape(33, 70, [7, 5], 1, 1, [0, 0]),
    ]
    .into_iter()
    .enumerate()
    {
        let Shape { c_in, c_out, .. } = shape;
        let (x_len, y_len) = (shape.input_pixels() * c_in, shape.output_pixels() * c_out);
        let seed = 7000 + 10 * index as u64;
        let (x, ab) = (values(seed, BATCH * x_len), values(seed + 1, BATCH * 2 * c_in));
        let (w, b) = (values(seed + 2, c_out * shape.patch()), values(seed + 3, c_out));
        let (dy, vector) = (values(seed + 4, BATCH * y_len), values(seed + 5, BATCH * c_out));
        for isa in Isa::available() {
            for algorithm in algorithms(&shape) {
                let layer = Layer::pack(Team::solo(), isa, shape, algorithm, &[(&w, &b)]);
                let mut transpose = Layer::transpose(isa, shape, |_| algorithm);
                transpose.repack_transposed(Team::solo(), &[&w]);
                let forward = |team: &Team, first: usize, count: usize, norm: bool| {
                    let ab = images(&ab, 2 * c_in, first, count);
                    let source = Source {
                        x: View::dense(images(&x, x_len, first, count), c_in),
                        norm: norm.then_some(Norm { ab, silu: true }),
                    };
                    let vector = Some(View::dense(images(&vector, c_out, first, count), c_out));
                    let mut y = Rows::blank(Layout::Dense, count * shape.output_pixels(), c_out);
                    layer.forward(team, count, source, Epilogue { vector, ..Epilogue::default() }, &mut y.view_mut());
                    y.content()
                };
                let backward = |team: &Team, first: usize, count: usize| {
                    let dy = View::dense(images(&dy, y_len, first, count), c_out);
                    let mut dx = Rows::blank(Layout::Dense, count * shape.input_pixels(), c_in);
                    backward_data(&transpose, &shape, team, count, dy, &mut dx.view_mut(), false);
                    dx.content()
                };
                let [one, ..] = teams();
                let all = [forward(one, 0, BATCH, false), forward(one, 0, BATCH, true), backward(one, 0, BATCH)];
                for team in teams() {
                    for (first, count) in [(0, 1), (5, 1), (15, 1), (8, 4), (0, BATCH)] {
                        let what = || {
                            let threads = team.threads();
                            format!("{isa:?} {algorithm:?} {shape:?}: images {first}+{count}, {threads} threads")
                        };
                        let few = [
                            forward(team, first, count, false),
                            forward(team, first, count, true),
                            backward(team, first, count),
                        ];
                        for ((few, all), len) in few.iter().zip(&all).zip([y_len, y_len, x_len]) {
                            same(few, images(all, len, first, count), what);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_gradient_by_weights_is_the_same_with_any_threads() {
    for (index, (shape, n)) in [
        (shape(40, 33, [14, 14], 3, 1, [1, 1]), 5),
        (shape(64, 130, [8, 8], 3, 1, [1, 1]), 3),
        (doubled(shape(17, 40, [6, 5], 3, 1, [1, 1])), 4),
        (shape(33, 40, [16, 16], 3, 2, [0, 1]), 4),
        (shape(40, 200, [16, 16], 1, 1, [0, 0]), 4),
    ]
    .into_iter()
    .enumerate()
    {
        let case = Case::new(shape, Options { n, norm: Some(true), ..PLAIN }, 900 + index as u64);
        for isa in Isa::available() {
            for algorithm in algorithms(&shape) {
                let [one, two, three] = teams().each_ref().map(|team| case.backward_weights(team, isa, algorithm, 0.0));
                for i in 0..2 {
                    same(&one[i], &two[i], || format!("two threads: {isa:?} {algorithm:?} {shape:?}"));
                    same(&one[i], &three[i], || format!("three threads: {isa:?} {algorithm:?} {shape:?}"));
                }
            }
        }
    }
}

#[test]
fn nan_and_infinity_reach_every_pixel_whose_window_covers_them() {
    let [height, width] = [7, 6];
    for (shape, norm) in [
        (shape(5, 3, [height, width], 3, 1, [1, 1]), None),
        (shape(16, 17, [height, width], 3, 1, [1, 1]), None),
        (shape(5, 3, [height, width], 3, 1, [0, 1]), Some(false)),
        (shape(5, 3, [height, width], 3, 1, [1, 1]), Some(true)),
        (shape(5, 3, [height, width], 3, 2, [0, 1]), None),
        (shape(5, 3, [height, width], 1, 1, [0, 0]), Some(true)),
    ] {
        let Shape { c_in, c_out, kernel, stride, pad_before, .. } = shape;
        let (x, w) = (values(1, height * width * c_in), values(2, c_out * shape.patch()));
        // Positive, so that SiLU does not map infinities to 0.
        let ab = vec![0.75; 2 * c_in];
        for isa in Isa::available() {
            for algorithm in algorithms(&shape) {
                let layer = Layer::pack(Team::solo(), isa, shape, algorithm, &[(&w, &vec![0.5; c_out])]);
                for (bad, pixel) in
                    [f32::NAN, f32::INFINITY].into_iter().flat_map(|bad| (0..height * width).map(move |p| (bad, p)))
                {
                    let mut x = x.clone();
                    x[pixel * c_in + pixel % c_in] = bad;
                    let source = Source { x: View::dense(&x, c_in), norm: norm.map(|silu| Norm { ab: &ab, silu }) };
                    let mut y = Rows::new(Layout::Dense, c_out, &vec![0.0; shape.output_pixels() * c_out]);
                    layer.forward(Team::solo(), 1, source, Epilogue::default(), &mut y.view_mut());
                    let y = y.content();
                    let [_, out_width] = shape.output();
                    let covers =
                        |out: usize, at: usize| (out * stride..out * stride + kernel).contains(&(at + pad_before));
                    for (i, y) in y.iter().enumerate() {
                        let (row, column) = (i / c_out / out_width, i / c_out % out_width);
                        if covers(row, pixel / width) && covers(column, pixel % width) {
                            assert!(!y.is_finite(), "{isa:?} {algorithm:?} {shape:?}: {bad} of pixel {pixel} at {i}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn nan_in_a_gradient_reaches_input_weights_and_bias() {
    for shape in
        [shape(5, 3, [7, 6], 3, 1, [1, 1]), shape(5, 3, [7, 6], 3, 2, [0, 1]), shape(5, 3, [7, 6], 1, 1, [0, 0])]
    {
        for isa in Isa::available() {
            for algorithm in algorithms(&shape) {
                for pixel in 0..shape.output_pixels() {
                    let mut case = Case::new(shape, Options { n: 1, ..PLAIN }, 3);
                    let mut dy = case.dy.content();
                    dy[pixel * 3 + 1] = f32::NAN;
                    case.dy = Rows::new(Layout::Dense, 3, &dy);
                    let [dw, db] = case.backward_weights(Team::solo(), isa, algorithm, 0.0);
                    let weights_of_channel = &dw[shape.patch()..2 * shape.patch()];
                    let [out_height, out_width] = shape.output();
                    let inside = (1..out_height - 1).contains(&(pixel / out_width))
                        && (1..out_width - 1).contains(&(pixel % out_width));
                    // At a border, taps of the window outside the image contribute 0 or nothing.
                    let reached = weights_of_channel.iter().filter(|w| w.is_nan()).count();
                    assert!(reached > 0 && (!inside || reached == shape.patch()), "{isa:?} {algorithm:?} {shape:?}");
                    assert!(db[1].is_nan() && db[0].is_finite() && db[2].is_finite());
                    let dx = case.backward_data(Team::solo(), isa, algorithm);
                    assert!(dx.chunks(5).any(|dx| dx.iter().all(|dx| dx.is_nan())), "{isa:?} {algorithm:?} {shape:?}");
                }
            }
        }
    }
}

#[test]
fn repacking_replaces_the_weights_entirely() {
    let [one, two, _] = teams();
    for (shape, isa) in SHAPES.into_iter().flat_map(|shape| Isa::available().into_iter().map(move |isa| (shape, isa))) {
        for algorithm in algorithms(&shape) {
            let case = Case::new(shape, PLAIN, 11);
            let nan = (vec![f32::NAN; case.w.len()], vec![f32::NAN; case.b.len()]);
            let mut layer = Layer::pack(one, isa, shape, algorithm, &[(&nan.0, &nan.1)]);
            layer.repack(two, &[(&case.w, &case.b)]);
            let mut y = Rows::blank(Layout::Dense, 2 * shape.output_pixels(), shape.c_out);
            layer.forward(one, 2, case.source(), Epilogue::default(), &mut y.view_mut());
            same(&y.content(), &case.forward(one, isa, algorithm), || format!("{isa:?} {algorithm:?} {shape:?}"));
            assert_eq!((layer.shape(), layer.algorithm()), (&shape, algorithm));
        }
    }
}

#[test]
fn no_image_is_no_work() {
    for isa in Isa::available() {
        for algorithm in algorithms(&SHAPES[1]) {
            let shape = SHAPES[1];
            let w = values(1, shape.c_out * shape.patch());
            let layer = Layer::pack(Team::solo(), isa, shape, algorithm, &[(&w, &[0.0; 5])]);
            let mut y = Rows::blank(Layout::Dense, 0, 5);
            let x = Source::plain(View::dense(&[], 3));
            layer.forward(Team::solo(), 0, x, Epilogue::default(), &mut y.view_mut());
            let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; 5]);
            let dy = View::dense(&[], 5);
            backward_weights(
                &shape,
                algorithm,
                Precision::Single,
                isa,
                Team::solo(),
                0,
                x,
                dy,
                &mut [(&mut dw, &mut db)],
            );
            assert!(dw.iter().chain(&db).all(|d| *d == 0.0));
        }
    }
}

#[test]
fn algorithms_are_picked_for_shapes_they_apply_to() {
    for shape in SHAPES {
        for algorithm in [shape.algorithm(), shape.training_algorithm()] {
            assert!(algorithms(&shape).contains(&algorithm), "{shape:?}: {algorithm:?}");
        }
    }
    // 32×32 images with many channels are bound by products, of which F(4×4) has the fewest.
    assert_eq!(shape(256, 256, [32, 32], 3, 1, [1, 1]).algorithm(), Algorithm::Winograd4);
}

mod mistakes {
    use super::*;

    const SHAPE: Shape = shape(3, 5, [7, 9], 3, 1, [1, 1]);

    fn run(n: usize, x: &[f32], epilogue: Epilogue<'_>, y: usize) {
        let w = values(1, SHAPE.c_out * SHAPE.patch());
        let layer = Layer::pack(Team::solo(), Isa::best(), SHAPE, Algorithm::Direct, &[(&w, &[0.0; 5])]);
        let mut y = Rows::blank(Layout::Dense, y, 5);
        layer.forward(Team::solo(), n, Source::plain(View::dense(x, 3)), epilogue, &mut y.view_mut());
    }

    #[test]
    #[should_panic(expected = "input of a convolution")]
    fn an_input_that_is_too_short() {
        run(2, &values(1, 2 * 63 * 3 - 1), Epilogue::default(), 2 * 63);
    }

    #[test]
    #[should_panic(expected = "output of a convolution")]
    fn an_output_that_is_too_short() {
        run(2, &values(1, 2 * 63 * 3), Epilogue::default(), 2 * 63 - 1);
    }

    #[test]
    #[should_panic(expected = "residual of a convolution")]
    fn a_residual_that_is_too_short() {
        let residual = Some(View::dense(&[0.0; 63 * 5 - 1], 5));
        run(1, &values(1, 63 * 3), Epilogue { residual, ..Epilogue::default() }, 63);
    }

    #[test]
    #[should_panic(expected = "vector of a convolution")]
    fn a_vector_that_is_too_short() {
        let vector = Some(View::dense(&[0.0; 4], 5));
        run(1, &values(1, 63 * 3), Epilogue { vector, ..Epilogue::default() }, 63);
    }

    #[test]
    #[should_panic(expected = "rows of 3 hold no 3 from 1")]
    fn rows_narrower_than_their_channels() {
        let w = values(1, SHAPE.c_out * SHAPE.patch());
        let layer = Layer::pack(Team::solo(), Isa::best(), SHAPE, Algorithm::Direct, &[(&w, &[0.0; 5])]);
        let (x, mut y) = (values(1, 1000), Rows::blank(Layout::Dense, 63, 5));
        layer.forward(Team::solo(), 1, Source::plain(View::part(&x, 3, 1)), Epilogue::default(), &mut y.view_mut());
    }

    #[test]
    #[should_panic(expected = "no weights")]
    fn a_layer_without_weights() {
        let layer = Layer::empty(Isa::best(), SHAPE, Algorithm::Direct);
        let (x, mut y) = (values(1, 63 * 3), Rows::blank(Layout::Dense, 63, 5));
        layer.forward(Team::solo(), 1, Source::plain(View::dense(&x, 3)), Epilogue::default(), &mut y.view_mut());
    }

    #[test]
    #[should_panic(expected = "Winograd4 of")]
    fn a_layer_by_an_algorithm_that_does_not_apply() {
        let _ = Layer::empty(Isa::best(), SHAPES[11], Algorithm::Winograd4);
    }

    #[test]
    #[should_panic(expected = "Winograd4 of")]
    fn a_gradient_by_an_algorithm_that_does_not_apply() {
        let case = Case::new(SHAPES[11], PLAIN, 1);
        case.backward_weights(Team::solo(), Isa::best(), Algorithm::Winograd4, 0.0);
    }

    #[test]
    #[should_panic(expected = "weights of")]
    fn weights_of_another_layer() {
        let w = values(1, 5 * 27 - 1);
        let _ = Layer::pack(Team::solo(), Isa::best(), SHAPE, Algorithm::Direct, &[(&w, &[0.0; 5])]);
    }
}
