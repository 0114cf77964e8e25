//! Group normalisation on every instruction set against its definition in f64, and its gradients against finite
//! differences.
//!
//! The bound, in the l2 norm, is 2e-6 for values whose mean does not exceed their deviation. The coefficients of a·x +
//! b are f32, so the error grows with |mean|/deviation.

mod common;

use common::{
    LAYOUTS, Layout, Rows, absolute_error, below, error, numeric_gradient, planes, rows, same, teams, values, wide,
};
use skipstone_kernels::norm::{Affine, Gradients, Shape, apply, backward, coefficients};
use skipstone_kernels::{Isa, Team, View, reference};

const fn shape(channels: usize, groups: usize, pixels: usize) -> Shape {
    Shape { channels, pixels, groups, eps: 1e-5, silu: false }
}

/// Groups of one channel up to all channels, channels that are not whole vectors, more pixels than a partial sum
/// covers.
const SHAPES: [Shape; 10] = [
    shape(1, 1, 7),
    shape(3, 3, 25),
    shape(5, 1, 7),
    shape(17, 17, 13),
    shape(33, 3, 70),
    shape(40, 8, 66),
    shape(32, 32, 16),
    shape(34, 17, 9),
    shape(48, 2, 31),
    shape(96, 8, 4),
];

struct Case {
    shape: Shape,
    n: usize,
    layout: Layout,
    x: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    /// Scales and shifts, if used.
    modulation: Option<Vec<f32>>,
    dy: Vec<f32>,
}

/// The results of the backward pass.
struct Found {
    dx: Vec<f32>,
    dgamma: Vec<f32>,
    dbeta: Vec<f32>,
    dmodulation: Vec<f32>,
}

impl Case {
    fn new(shape: Shape, n: usize, layout: Layout, modulated: bool, seed: u64) -> Self {
        let make = |i: u64, len: usize| values(1000 * seed + i, len);
        let len = n * shape.pixels * shape.channels;
        let modulation = modulated.then(|| make(3, n * 2 * shape.channels));
        let (gamma, beta) = (make(1, shape.channels), make(2, shape.channels));
        Self { shape, n, layout, x: make(0, len), gamma, beta, modulation, dy: make(4, len) }
    }

    fn image(&self) -> usize {
        self.shape.pixels * self.shape.channels
    }

    /// The definition, for channels-last pixels.
    fn reference(&self, x: &[f64], gamma: &[f64], beta: &[f64], modulation: &[f64]) -> Vec<f64> {
        let channels = self.shape.channels;
        let x = planes(self.n, channels, x);
        let images = x.chunks(self.image()).enumerate();
        let y: Vec<f64> = images
            .flat_map(|(image, x)| {
                let modulation = self.modulation.is_some().then(|| &modulation[image * 2 * channels..][..2 * channels]);
                reference::group_norm(&self.shape, x, gamma, beta, modulation)
            })
            .collect();
        rows(self.n, channels, &y)
    }

    fn modulation(&self) -> Vec<f64> {
        self.modulation.as_deref().map_or_else(Vec::new, wide)
    }

    fn affine<'a>(&'a self, modulation: Option<&'a Rows>) -> Affine<'a> {
        Affine { gamma: &self.gamma, beta: &self.beta, scale_shift: modulation.map(Rows::view) }
    }

    fn modulation_rows(&self) -> Option<Rows> {
        self.modulation.as_ref().map(|v| Rows::new(self.layout, 2 * self.shape.channels, v))
    }

    /// y, coefficients and statistics.
    fn forward(&self, isa: Isa, team: &Team) -> [Vec<f32>; 3] {
        let Shape { channels, pixels, groups, .. } = self.shape;
        let x = Rows::new(self.layout, channels, &self.x);
        let modulation = self.modulation_rows();
        let (mut ab, mut statistics) = (vec![f32::NAN; self.n * 2 * channels], vec![f32::NAN; self.n * groups * 2]);
        let affine = self.affine(modulation.as_ref());
        coefficients(&self.shape, isa, team, self.n, x.view(), affine, &mut ab, &mut statistics);
        let mut y = Rows::blank(self.layout, self.n * pixels, channels);
        apply(&self.shape, isa, team, self.n, x.view(), &ab, &mut y.view_mut());
        [y.content(), ab, statistics]
    }

    /// The gradients. Those of the parameters are added to `old`; that of the input as well if `accumulate`.
    fn backward(&self, isa: Isa, team: &Team, accumulate: bool, old: f32) -> Found {
        let channels = self.shape.channels;
        let [_, ab, statistics] = self.forward(isa, team);
        let x = Rows::new(self.layout, channels, &self.x);
        let modulation = self.modulation_rows();
        let mut dy = self.dy.clone();
        let mut dx = if accumulate {
            Rows::new(self.layout, channels, &vec![old; self.x.len()])
        } else {
            Rows::blank(self.layout, self.n * self.shape.pixels, channels)
        };
        let (mut dgamma, mut dbeta) = (vec![old; channels], vec![old; channels]);
        let mut dmodulation = vec![old; self.modulation().len()];
        let gradients = Gradients {
            dx: &mut dx.view_mut(),
            accumulate,
            dgamma: &mut dgamma,
            dbeta: &mut dbeta,
            dscale_shift: self.modulation.is_some().then_some(&mut dmodulation[..]),
        };
        let affine = self.affine(modulation.as_ref());
        backward(&self.shape, isa, team, self.n, x.view(), affine, &ab, &statistics, &mut dy, gradients);
        Found { dx: dx.content(), dgamma, dbeta, dmodulation }
    }
}

#[test]
fn every_shape_agrees_with_the_definition() {
    let [one, _, three] = teams();
    for (i, shape) in SHAPES.into_iter().enumerate() {
        for (silu, modulated, layout) in [
            (false, false, Layout::Dense),
            (true, false, Layout::Part),
            (false, true, Layout::Part),
            (true, true, Layout::Dense),
        ] {
            let case = Case::new(Shape { silu, ..shape }, 3, layout, modulated, i as u64);
            let expected = case.reference(&wide(&case.x), &wide(&case.gamma), &wide(&case.beta), &case.modulation());
            for isa in Isa::available() {
                let what = || format!("{isa:?} {:?} {layout:?} modulated {modulated}", case.shape);
                let [y, ab, statistics] = case.forward(isa, one);
                below(error(&y, &expected), 2e-6, what);
                let others = case.forward(isa, three);
                same(&y, &others[0], what);
                same(&ab, &others[1], what);
                same(&statistics, &others[2], what);
            }
        }
    }
}

#[test]
fn statistics_are_the_mean_and_the_inverse_deviation_of_each_group() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let case = Case::new(shape, 2, Layout::Part, false, i as u64);
        let x = wide(&planes(2, shape.channels, &case.x));
        let expected: Vec<f64> = x
            .chunks(shape.pixels * shape.channels / shape.groups)
            .flat_map(|x| {
                let mean = x.iter().sum::<f64>() / x.len() as f64;
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
                [mean, 1.0 / (variance + f64::from(shape.eps)).sqrt()]
            })
            .collect();
        for isa in Isa::available() {
            let [_, _, statistics] = case.forward(isa, Team::solo());
            below(error(&statistics, &expected), 1e-6, || format!("{isa:?} {shape:?}"));
        }
    }
}

#[test]
fn a_large_mean_costs_only_the_digits_it_takes() {
    let shape = shape(40, 8, 66);
    let mut case = Case::new(shape, 2, Layout::Dense, false, 1);
    case.x.iter_mut().for_each(|x| *x += 100.0);
    let expected = case.reference(&wide(&case.x), &wide(&case.gamma), &wide(&case.beta), &[]);
    for isa in Isa::available() {
        // The deviation is 1/√3, so |mean|/deviation is 173; the relative precision of f32 is 6e-8.
        below(error(&case.forward(isa, Team::solo())[0], &expected), 173.0 * 6e-8, || format!("{isa:?}"));
    }
}

#[test]
fn a_constant_group_becomes_its_offset() {
    for isa in Isa::available() {
        for shape in [shape(6, 2, 1), shape(6, 2, 90), shape(17, 17, 1)] {
            let mut case = Case::new(shape, 1, Layout::Dense, false, 1);
            case.x.fill(3.0);
            let expected: Vec<f64> = (0..shape.pixels).flat_map(|_| wide(&case.beta)).collect();
            // 1/√ε is 316, so b = β − mean·316·γ has an error of a few units in the last place of 1000.
            let scale = 3.0 / f64::from(shape.eps).sqrt();
            below(error(&case.forward(isa, Team::solo())[0], &expected), 6e-8 * scale * 2.0, || {
                format!("{isa:?} {shape:?}")
            });
        }
    }
}

#[test]
fn gradients_are_those_of_differences() {
    let [one, _, three] = teams();
    for (i, shape) in SHAPES.into_iter().enumerate() {
        for (silu, modulated, layout, accumulate) in
            [(true, true, Layout::Part, true), (false, false, Layout::Dense, false)]
        {
            let case = Case::new(Shape { silu, ..shape }, 2, layout, modulated, i as u64);
            let (x, gamma, beta) = (wide(&case.x), wide(&case.gamma), wide(&case.beta));
            let modulation = case.modulation();
            let dy = &case.dy;
            let by_gamma = numeric_gradient(&gamma, dy, |g| case.reference(&x, g, &beta, &modulation));
            let by_beta = numeric_gradient(&beta, dy, |b| case.reference(&x, &gamma, b, &modulation));
            let by_modulation = numeric_gradient(&modulation, dy, |v| case.reference(&x, &gamma, &beta, v));
            // One image at a time, because images are independent.
            let mut by_x = Vec::new();
            for (image, dy) in dy.chunks(case.image()).enumerate() {
                let per_image = 2 * shape.channels;
                let modulation = case.modulation.as_ref().map(|v| v[image * per_image..][..per_image].to_vec());
                let x = &x[image * case.image()..][..case.image()];
                let case = Case { n: 1, modulation, x: vec![], gamma: vec![], beta: vec![], dy: vec![], ..case };
                by_x.extend(numeric_gradient(x, dy, |x| case.reference(x, &gamma, &beta, &case.modulation())));
            }
            for isa in Isa::available() {
                let what = || format!("{isa:?} {:?} {layout:?}", case.shape);
                let old = 0.5;
                let found = case.backward(isa, one, accumulate, old);
                let plus =
                    |gradient: &[f64], old: f32| -> Vec<f64> { gradient.iter().map(|g| g + f64::from(old)).collect() };
                let old_dx = if accumulate { old } else { 0.0 };
                below(absolute_error(&found.dx, &plus(&by_x, old_dx)), 2e-6, || format!("dx: {}", what()));
                below(absolute_error(&found.dgamma, &plus(&by_gamma, old)), 2e-6, || format!("dγ: {}", what()));
                below(absolute_error(&found.dbeta, &plus(&by_beta, old)), 2e-6, || format!("dβ: {}", what()));
                let by_modulation = plus(&by_modulation, old);
                below(absolute_error(&found.dmodulation, &by_modulation), 2e-6, || format!("modulation: {}", what()));
                let other = case.backward(isa, three, accumulate, old);
                same(&found.dx, &other.dx, what);
                same(&found.dgamma, &other.dgamma, what);
                same(&found.dbeta, &other.dbeta, what);
                same(&found.dmodulation, &other.dmodulation, what);
            }
        }
    }
}

#[test]
fn an_image_is_the_same_alone_and_in_a_batch() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let shape = Shape { silu: true, ..shape };
        let batch = Case::new(shape, 16, Layout::Dense, true, i as u64);
        for isa in Isa::available() {
            let ([all, ..], all_dx) =
                (batch.forward(isa, Team::solo()), batch.backward(isa, Team::solo(), false, 0.0).dx);
            for (first, count) in [(0, 1), (15, 1), (4, 4)] {
                let part = |x: &[f32], len: usize| x[first * len..(first + count) * len].to_vec();
                let modulation = batch.modulation.as_ref().map(|v| part(v, 2 * shape.channels));
                let (x, dy) = (part(&batch.x, batch.image()), part(&batch.dy, batch.image()));
                let (gamma, beta) = (batch.gamma.clone(), batch.beta.clone());
                let few = Case { shape, n: count, layout: Layout::Dense, x, gamma, beta, modulation, dy };
                let what = || format!("{isa:?} {shape:?}: images {first}+{count}");
                for team in teams() {
                    same(&few.forward(isa, team)[0], &part(&all, batch.image()), what);
                    same(&few.backward(isa, team, false, 0.0).dx, &part(&all_dx, batch.image()), what);
                }
            }
        }
    }
}

#[test]
fn nan_and_infinity_reach_their_whole_group_and_no_other() {
    for isa in Isa::available() {
        for (shape, bad) in SHAPES.into_iter().flat_map(|shape| [(shape, f32::NAN), (shape, f32::INFINITY)]) {
            let mut case = Case::new(Shape { silu: true, ..shape }, 2, Layout::Part, false, 5);
            let channel = shape.channels - 1;
            let at = case.image() + (shape.pixels - 1) * shape.channels + channel;
            case.x[at] = bad;
            let group = shape.channels / shape.groups;
            let hit = |i: usize| i >= case.image() && i % shape.channels / group == channel / group;
            let [y, ..] = case.forward(isa, Team::solo());
            assert!(y.iter().enumerate().all(|(i, y)| y.is_nan() == hit(i)), "{isa:?} {shape:?} {bad}");
            let Found { dx, dgamma, .. } = case.backward(isa, Team::solo(), false, 0.0);
            assert!(dx.iter().enumerate().all(|(i, dx)| dx.is_nan() == hit(i)), "dx: {isa:?} {shape:?} {bad}");
            assert!(dgamma[channel].is_nan(), "dγ: {isa:?} {shape:?} {bad}");
        }
    }
}

#[test]
#[should_panic(expected = "input of a normalisation")]
fn an_input_that_is_too_short_is_refused() {
    let x = [0.0; 6 * 9 - 1];
    let affine = Affine { gamma: &[1.0; 6], beta: &[0.0; 6], scale_shift: None };
    let (mut ab, mut statistics) = ([0.0; 12], [0.0; 4]);
    coefficients(&shape(6, 2, 9), Isa::best(), Team::solo(), 1, View::dense(&x, 6), affine, &mut ab, &mut statistics);
}

#[test]
fn layouts_give_the_same_bits() {
    for isa in Isa::available() {
        for shape in SHAPES {
            let [a, b] = LAYOUTS.map(|layout| Case::new(shape, 2, layout, true, 6).forward(isa, Team::solo()));
            (0..3).for_each(|i| same(&a[i], &b[i], || format!("{isa:?} {shape:?}")));
        }
    }
}
