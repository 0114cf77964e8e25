//! Convolutions in half precision against their definition in f64, on every instruction set.
//!
//! The bounds, relative in the l2 norm, are a few times the rounding error of half precision, 2^-12 on average. With
//! half weights: 4e-4 by definition, 8e-4 by F(2×2), 2e-3 by F(4×4). With half products: 3e-3 by F(2×2), 1e-2 by
//! F(4×4).

mod common;

use common::{Layout, Rows, algorithms, below, error, planes, rows, same, teams, values, wide};
use skipstone_kernels::conv::{
    Algorithm, Epilogue, Layer, Norm, Precision, Shape, Source, backward_data, backward_weights,
};
use skipstone_kernels::{Isa, Team, View, ViewMut, reference};

const fn shape(c_in: usize, c_out: usize, input: [usize; 2], kernel: usize, stride: usize, pads: [usize; 2]) -> Shape {
    Shape { c_in, c_out, input, kernel, stride, pad_before: pads[0], pad_after: pads[1], upsample: false }
}

/// Odd sizes and channels, one and several chunks of products, one and several panels.
const SHAPES: [Shape; 14] = [
    shape(1, 1, [1, 1], 3, 1, [1, 1]),
    shape(3, 5, [7, 9], 3, 1, [1, 1]),
    shape(33, 40, [8, 8], 3, 1, [1, 1]),
    shape(64, 17, [13, 3], 3, 1, [1, 0]),
    shape(150, 70, [6, 6], 3, 1, [1, 1]),
    shape(130, 33, [4, 4], 3, 1, [1, 1]),
    shape(33, 40, [8, 10], 3, 2, [0, 1]),
    shape(33, 17, [5, 6], 1, 1, [0, 0]),
    shape(32, 33, [6, 14], 3, 2, [0, 1]),
    shape(17, 40, [14, 8], 3, 2, [1, 1]),
    shape(16, 3, [17, 1], 3, 1, [1, 1]),
    shape(512, 33, [2, 3], 3, 1, [1, 1]),
    shape(100, 64, [20, 20], 1, 1, [0, 0]),
    Shape { upsample: true, ..shape(32, 33, [5, 7], 3, 1, [1, 1]) },
];

fn bound(algorithm: Algorithm, precision: Precision) -> f64 {
    match (precision, algorithm) {
        (Precision::Single, _) => 5e-6,
        (Precision::HalfWeights, Algorithm::Direct) => 4e-4,
        (Precision::HalfWeights, Algorithm::Winograd2) => 8e-4,
        (Precision::HalfWeights, Algorithm::Winograd4) => 2e-3,
        (Precision::HalfProducts, Algorithm::Winograd4) => 1e-2,
        (Precision::HalfProducts, _) => 3e-3,
        (Precision::BFloat16, _) => 4e-3,
    }
}

/// The precisions that the instruction set and the algorithm allow.
fn precisions(isa: Isa, algorithm: Algorithm, shape: &Shape) -> Vec<Precision> {
    let mut all = vec![Precision::HalfWeights];
    if Precision::least(isa, algorithm) == Precision::HalfProducts {
        all.push(Precision::HalfProducts);
    }
    if algorithm == Algorithm::Direct && Precision::with_units(isa, shape) == Precision::BFloat16 {
        all.push(Precision::BFloat16);
    }
    all
}

/// All valid combinations for a shape.
fn variants(shape: Shape) -> impl Iterator<Item = (Isa, Algorithm, Precision)> {
    Isa::available().into_iter().flat_map(move |isa| {
        let algorithms: Vec<_> = algorithms(&shape).into_iter().collect();
        algorithms.into_iter().flat_map(move |a| precisions(isa, a, &shape).into_iter().map(move |p| (isa, a, p)))
    })
}

struct Case {
    shape: Shape,
    n: usize,
    x: Vec<f32>,
    ab: Option<Vec<f32>>,
    w: Vec<f32>,
    b: Vec<f32>,
}

impl Case {
    fn new(shape: Shape, n: usize, norm: bool, seed: u64) -> Self {
        let make = |i: u64, len: usize| values(1000 * seed + i, len);
        Self {
            shape,
            n,
            x: make(0, n * shape.input_pixels() * shape.c_in),
            ab: norm.then(|| make(1, n * 2 * shape.c_in)),
            w: make(2, shape.c_out * shape.patch()),
            b: make(3, shape.c_out),
        }
    }

    fn expected(&self) -> Vec<f64> {
        let Shape { c_in, c_out, .. } = self.shape;
        let pixels = self.shape.input_pixels();
        let z: Vec<f64> = self.x.iter().enumerate().map(|(i, &x)| self.normalised(f64::from(x), i, pixels)).collect();
        let z = planes(self.n, c_in, &z);
        let z = if self.shape.upsample { reference::upsample(self.shape.input[1], &z) } else { z };
        let of = Shape { input: self.shape.grid(), upsample: false, ..self.shape };
        let (w, b) = (wide(&self.w), wide(&self.b));
        let y: Vec<f64> = z.chunks(z.len() / self.n).flat_map(|z| reference::conv(&of, z, &w, &b)).collect();
        rows(self.n, c_out, &y)
    }

    fn normalised(&self, x: f64, i: usize, pixels: usize) -> f64 {
        let c_in = self.shape.c_in;
        let Some(ab) = &self.ab else { return x };
        let at = |k: usize| f64::from(ab[(i / c_in / pixels * 2 + k) * c_in + i % c_in]);
        reference::silu(at(0) * x + at(1))
    }

    fn norm(&self) -> Option<Norm<'_>> {
        self.ab.as_ref().map(|ab| Norm { ab, silu: true })
    }

    /// The gradients of the normalised input and of the weights.
    fn expected_gradients(&self, dy: &[f32]) -> [Vec<f64>; 2] {
        let Shape { c_in, c_out, input, upsample, .. } = self.shape;
        let pixels = self.shape.input_pixels();
        let z: Vec<f64> = self.x.iter().enumerate().map(|(i, &x)| self.normalised(f64::from(x), i, pixels)).collect();
        let z = planes(self.n, c_in, &z);
        let z = if upsample { reference::upsample(input[1], &z) } else { z };
        let of = Shape { input: self.shape.grid(), upsample: false, ..self.shape };
        let (w, dy) = (wide(&self.w), planes(self.n, c_out, &wide(dy)));
        let (mut dx, mut dw) = (Vec::new(), vec![0.0; w.len()]);
        for (z, dy) in z.chunks(z.len() / self.n).zip(dy.chunks(dy.len() / self.n)) {
            let [of_x, of_w, _] = reference::conv_gradients(&of, z, &w, dy);
            dx.extend(of_x);
            dw.iter_mut().zip(of_w).for_each(|(sum, w)| *sum += w);
        }
        // Every pixel of the input is four of the grid.
        let [_, width] = of.input;
        let fold = |(i, _): (usize, &f64)| {
            let (plane, at) = (i / pixels, i % pixels);
            let (y, x) = (2 * (at / input[1]), 2 * (at % input[1]));
            let of = |y: usize, x: usize| dx[plane * 4 * pixels + y * width + x];
            of(y, x) + of(y, x + 1) + of(y + 1, x) + of(y + 1, x + 1)
        };
        let dx: Vec<f64> = if upsample { dx.iter().take(dx.len() / 4).enumerate().map(fold).collect() } else { dx };
        [rows(self.n, c_in, &dx), dw]
    }

    fn layer(&self, isa: Isa, algorithm: Algorithm, precision: Precision) -> Layer {
        let mut layer = Layer::empty(isa, self.shape, algorithm).in_precision(precision);
        layer.repack(Team::solo(), &[(&self.w, &self.b)]);
        layer
    }

    fn run(&self, layer: &Layer, team: &Team) -> Vec<f32> {
        let Shape { c_in, c_out, .. } = self.shape;
        let source = Source { x: View::dense(&self.x, c_in), norm: self.norm() };
        let mut y = Rows::blank(Layout::Dense, self.n * self.shape.output_pixels(), c_out);
        layer.forward(team, self.n, source, Epilogue::default(), &mut y.view_mut());
        y.content()
    }
}

#[test]
fn every_shape_agrees_with_the_definition_as_far_as_the_precision_goes() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        for norm in [false, true] {
            let case = Case::new(shape, 3, norm, i as u64);
            let expected = case.expected();
            for (isa, algorithm, precision) in variants(shape) {
                let what = || format!("{isa:?} {algorithm:?} {precision:?} {shape:?}");
                let layer = case.layer(isa, algorithm, precision);
                let [one, _, three] = teams();
                let y = case.run(&layer, one);
                below(error(&y, &expected), bound(algorithm, precision), what);
                same(&y, &case.run(&layer, three), what);
            }
        }
    }
}

/// One thread takes a few images at a time here; three threads share all of them.
#[test]
fn matrix_units_give_the_same_bytes_however_many_images_a_task_takes() {
    let isa = Isa::best();
    let shapes = [shape(33, 40, [20, 20], 3, 1, [1, 1]), shape(20, 16, [32, 30], 3, 2, [1, 1]), SHAPES[13]];
    for (i, shape) in shapes.into_iter().enumerate() {
        if Precision::with_units(isa, &shape) != Precision::BFloat16 {
            continue;
        }
        let case = Case::new(shape, 8, true, 70 + i as u64);
        let layer = case.layer(isa, Algorithm::Direct, Precision::BFloat16);
        let [one, two, three] = teams();
        let y = case.run(&layer, one);
        below(error(&y, &case.expected()), bound(Algorithm::Direct, Precision::BFloat16), || format!("{shape:?}"));
        same(&y, &case.run(&layer, two), || format!("two threads: {shape:?}"));
        same(&y, &case.run(&layer, three), || format!("three threads: {shape:?}"));
    }
}

#[test]
fn gradients_on_matrix_units_agree_with_the_definition_as_far_as_the_precision_goes() {
    let isa = Isa::best();
    // One image and several; many pixels, so that there are several parts and chunks.
    let many = [shape(16, 33, [40, 50], 3, 1, [1, 1]), shape(40, 16, [64, 64], 1, 1, [0, 0])];
    for (i, shape) in SHAPES.into_iter().chain(many).enumerate() {
        if Precision::training_with_units(isa, &shape) != Precision::BFloat16 {
            continue;
        }
        let Shape { c_in, c_out, .. } = shape;
        for (n, norm) in [(1, false), (3, true)] {
            let case = Case::new(shape, n, norm, 60 + i as u64);
            let dy = values(i as u64, n * shape.output_pixels() * c_out);
            let [expected_dx, expected_dw] = case.expected_gradients(&dy);
            let what = || format!("{n} {norm} {shape:?}");
            let source = Source { x: View::dense(&case.x, c_in), norm: case.norm() };
            let of = |team: &Team| {
                let (mut dw, mut db) = (vec![0.0; case.w.len()], vec![0.0; c_out]);
                let dy = View::dense(&dy, c_out);
                let into = &mut [(&mut dw[..], &mut db[..])];
                backward_weights(&shape, Algorithm::Direct, Precision::BFloat16, isa, team, n, source, dy, into);
                dw
            };
            let [one, two, three] = teams();
            let dw = of(one);
            below(error(&dw, &expected_dw), 4e-3, what);
            same(&dw, &of(two), what);
            same(&dw, &of(three), what);

            let layer = Layer::transpose(isa, shape, |_| Algorithm::Direct);
            if c_out < 16 {
                continue;
            }
            let mut layer = layer.in_precision(Precision::BFloat16);
            layer.repack_transposed(Team::solo(), &[&case.w]);
            let mut dx = vec![0.0; case.x.len()];
            let mut view = ViewMut::dense(&mut dx, c_in);
            backward_data(&layer, &shape, Team::solo(), n, View::dense(&dy, c_out), &mut view, false);
            below(error(&dx, &expected_dx), 4e-3, what);
        }
    }
}

#[test]
fn weights_that_half_precision_holds_give_the_same_bits_as_in_f32() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let mut case = Case::new(shape, 2, true, 40 + i as u64);
        case.w.iter_mut().for_each(|w| *w = (*w * 256.0).round() / 256.0);
        for isa in Isa::available() {
            let half = case.run(&case.layer(isa, Algorithm::Direct, Precision::HalfWeights), Team::solo());
            let single = case.run(&case.layer(isa, Algorithm::Direct, Precision::Single), Team::solo());
            same(&half, &single, || format!("{isa:?} {shape:?}"));
        }
    }
}

#[test]
fn tiny_weights_lose_no_more_than_others() {
    let mut case = Case::new(SHAPES[2], 1, true, 50);
    // Below the smallest number of half precision.
    case.w.iter_mut().for_each(|w| *w *= 1e-9);
    case.b.fill(0.0);
    let expected = case.expected();
    for (isa, algorithm, precision) in variants(case.shape) {
        let y = case.run(&case.layer(isa, algorithm, precision), Team::solo());
        below(error(&y, &expected), bound(algorithm, precision), || format!("{isa:?} {algorithm:?} {precision:?}"));
    }
}

#[test]
fn numbers_beyond_half_precision_are_scaled_and_leave_nothing_behind() {
    for magnitude in [3e3, 3e5] {
        let mut case = Case::new(SHAPES[4], 2, false, 60);
        case.x.iter_mut().for_each(|x| *x *= magnitude);
        let expected = case.expected();
        let usual = Case::new(SHAPES[4], 2, false, 61);
        for (isa, algorithm, precision) in variants(case.shape) {
            let what = || format!("{magnitude} {isa:?} {algorithm:?} {precision:?}");
            let layer = case.layer(isa, algorithm, precision);
            below(error(&case.run(&layer, Team::solo()), &expected), bound(algorithm, precision), what);
            // The layer has adapted its scale; numbers of usual size still have full precision.
            let again = Case { w: case.w.clone(), b: case.b.clone(), x: usual.x.clone(), ab: None, ..case };
            below(error(&again.run(&layer, Team::solo()), &again.expected()), 2.0 * bound(algorithm, precision), what);
        }
    }
}

#[test]
fn nan_and_infinity_come_through_and_are_forgotten() {
    let usual = Case::new(SHAPES[2], 1, false, 70);
    for bad in [f32::NAN, f32::INFINITY] {
        for (isa, algorithm, precision) in variants(usual.shape) {
            let what = || format!("{bad} {isa:?} {algorithm:?} {precision:?}");
            let layer = usual.layer(isa, algorithm, precision);
            let before = usual.run(&layer, Team::solo());
            let mut x = usual.x.clone();
            x[9 * 33] = bad;
            let broken = Case { w: usual.w.clone(), b: usual.b.clone(), x, ab: None, ..usual };
            let y = broken.run(&layer, Team::solo());
            // Pixel 9 lies in the window of pixel 0.
            assert!(y[..40].iter().all(|y| !y.is_finite()), "{}", what());
            same(&usual.run(&layer, Team::solo()), &before, what);
        }
    }
}

#[test]
fn an_image_is_the_same_alone_and_in_a_batch() {
    for shape in [SHAPES[2], SHAPES[5], SHAPES[6]] {
        let batch = Case::new(shape, 16, false, 80);
        for (isa, algorithm, precision) in variants(shape) {
            let layer = batch.layer(isa, algorithm, precision);
            let all = batch.run(&layer, &teams()[1]);
            let (x_len, y_len) = (batch.x.len() / 16, all.len() / 16);
            for image in [0, 7, 15] {
                let x = batch.x[image * x_len..(image + 1) * x_len].to_vec();
                let alone = Case { n: 1, x, ab: None, w: Vec::new(), b: Vec::new(), ..batch };
                let y = alone.run(&layer, Team::solo());
                same(&y, &all[image * y_len..(image + 1) * y_len], || format!("{isa:?} {algorithm:?} {precision:?}"));
            }
        }
    }
}

#[test]
fn half_precision_takes_half_the_memory() {
    let case = Case::new(SHAPES[4], 1, false, 90);
    for (isa, algorithm, precision) in variants(case.shape) {
        let (half, single) = (case.layer(isa, algorithm, precision), case.layer(isa, algorithm, Precision::Single));
        // The bias, at least two vectors, has the same size in both. Tiles have whole steps of 32 channels.
        let step = if precision == Precision::BFloat16 { 9 * 32 * 32 * 2 } else { 0 };
        assert!(half.bytes() < single.bytes() / 2 + step + 1024, "{isa:?} {algorithm:?} {precision:?}");
        assert_eq!(half.precision(), precision);
    }
}

#[test]
#[should_panic(expected = "HalfProducts of Direct")]
fn products_in_half_precision_are_for_winograd_only() {
    let _ = Layer::empty(Isa::best(), SHAPES[0], Algorithm::Direct).in_precision(Precision::HalfProducts);
}
