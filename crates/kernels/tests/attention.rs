//! Attention on every instruction set against its definition in f64, and its gradients against finite differences.
//!
//! The bounds, in the l2 norm, are 2e-6 for values and 1e-5 for gradients, which are differences of similar numbers.

mod common;

use common::{
    LAYOUTS, Layout, Rows, absolute_error, below, derivative, error, numeric_gradient, planes, rows, same, teams,
    values, wide,
};
use skipstone_kernels::attention::{Shape, backward, forward};
use skipstone_kernels::{Isa, Team, View, reference};

const fn shape(channels: usize, heads: usize, pixels: usize) -> Shape {
    Shape { channels, heads, pixels }
}

/// One head and many, widths that are not whole vectors, more queries than a tile holds.
const SHAPES: [Shape; 10] = [
    shape(1, 1, 1),
    shape(3, 1, 5),
    shape(5, 1, 17),
    shape(4, 4, 9),
    shape(6, 2, 57),
    shape(33, 3, 20),
    shape(40, 8, 64),
    shape(34, 2, 130),
    shape(48, 3, 113),
    shape(80, 1, 49),
];

/// The definition, for queries, keys and values side by side; the result has the same layout.
fn expected(shape: &Shape, n: usize, qkv: &[f64]) -> Vec<f64> {
    let channels = shape.channels;
    let qkv = planes(n, 3 * channels, qkv);
    let y: Vec<f64> = qkv
        .chunks(3 * channels * shape.pixels)
        .flat_map(|qkv| {
            let [q, k, v] = [0, 1, 2].map(|i| &qkv[i * channels * shape.pixels..][..channels * shape.pixels]);
            reference::attention(shape, q, k, v)
        })
        .collect();
    rows(n, channels, &y)
}

fn attend(shape: &Shape, isa: Isa, team: &Team, layout: Layout, n: usize, qkv: &[f32]) -> Vec<f32> {
    attend_on(shape, isa, false, team, layout, n, qkv)
}

fn attend_on(shape: &Shape, isa: Isa, units: bool, team: &Team, layout: Layout, n: usize, qkv: &[f32]) -> Vec<f32> {
    let qkv = Rows::new(layout, 3 * shape.channels, qkv);
    let mut y = Rows::blank(layout, n * shape.pixels, shape.channels);
    forward(shape, isa, units, team, n, qkv.view(), &mut y.view_mut());
    y.content()
}

fn gradient(shape: &Shape, isa: Isa, team: &Team, layout: Layout, n: usize, qkv: &[f32], dy: &[f32]) -> Vec<f32> {
    let (qkv, dy) = (Rows::new(layout, 3 * shape.channels, qkv), Rows::new(layout, shape.channels, dy));
    let mut dqkv = Rows::blank(layout, n * shape.pixels, 3 * shape.channels);
    backward(shape, isa, team, n, qkv.view(), dy.view(), &mut dqkv.view_mut());
    dqkv.content()
}

/// Queries, keys and values whose scores differ noticeably, and a gradient.
fn operands(shape: &Shape, n: usize, seed: u64) -> [Vec<f32>; 2] {
    let qkv = values(seed, n * shape.pixels * 3 * shape.channels).into_iter().map(|x| 2.0 * x).collect();
    [qkv, values(seed + 500, n * shape.pixels * shape.channels)]
}

#[test]
fn every_shape_agrees_with_the_definition() {
    let [one, _, three] = teams();
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let [qkv, _] = operands(&shape, 2, i as u64);
        let expected = expected(&shape, 2, &wide(&qkv));
        for (isa, layout) in Isa::available().into_iter().flat_map(|isa| LAYOUTS.map(|layout| (isa, layout))) {
            let y = attend(&shape, isa, one, layout, 2, &qkv);
            below(error(&y, &expected), 2e-6, || format!("{isa:?} {layout:?} {shape:?}"));
            same(&y, &attend(&shape, isa, three, layout, 2, &qkv), || format!("threads: {isa:?} {shape:?}"));
        }
    }
}

/// Scores here are up to about ten, of which bf16 keeps two digits. Where there are no units, this is f32.
#[test]
fn matrix_units_agree_with_the_definition_as_far_as_bf16_goes() {
    let [one, two, three] = teams();
    for (i, shape) in SHAPES.into_iter().chain([shape(256, 1, 256), shape(64, 1, 196)]).enumerate() {
        let [qkv, _] = operands(&shape, 2, 40 + i as u64);
        let expected = expected(&shape, 2, &wide(&qkv));
        for layout in LAYOUTS {
            let what = || format!("{layout:?} {shape:?}");
            let y = attend_on(&shape, Isa::best(), true, one, layout, 2, &qkv);
            println!("{shape:?} {:.1e}", error(&y, &expected));
            below(error(&y, &expected), 2e-2, what);
            same(&y, &attend_on(&shape, Isa::best(), true, two, layout, 2, &qkv), what);
            same(&y, &attend_on(&shape, Isa::best(), true, three, layout, 2, &qkv), what);
        }
    }
    // Alone and in a batch.
    let shape = shape(48, 3, 113);
    let [qkv, _] = operands(&shape, 5, 60);
    let all = attend_on(&shape, Isa::best(), true, three, Layout::Dense, 5, &qkv);
    for (qkv, y) in qkv.chunks(3 * 48 * 113).zip(all.chunks(48 * 113)) {
        same(&attend_on(&shape, Isa::best(), true, one, Layout::Dense, 1, qkv), y, || "alone".into());
    }
}

#[test]
fn gradients_are_those_of_differences() {
    let [one, _, three] = teams();
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let n = 1;
        let [qkv, dy] = operands(&shape, n, 10 + i as u64);
        let exact = wide(&qkv);
        let small = shape.pixels * shape.pixels * shape.channels * qkv.len() < 30_000_000;
        let differences = small.then(|| numeric_gradient(&exact, &dy, |qkv| expected(&shape, n, qkv)));
        // For large shapes, only directional derivatives: along the queries, the keys and the values.
        let channels = shape.channels;
        let directions: Vec<Vec<f64>> = (0..9)
            .map(|k| {
                let direction = values(77 + k as u64, qkv.len());
                let part = |i: usize| i % (3 * channels) / channels == k % 3;
                direction.iter().enumerate().map(|(i, u)| if part(i) { f64::from(*u) } else { 0.0 }).collect()
            })
            .collect();
        let derivatives: Vec<f64> =
            directions.iter().map(|u| derivative(&exact, u, &dy, |qkv| expected(&shape, n, qkv))).collect();
        for (isa, layout) in Isa::available().into_iter().flat_map(|isa| LAYOUTS.map(|layout| (isa, layout))) {
            let what = || format!("{isa:?} {layout:?} {shape:?}");
            let found = gradient(&shape, isa, one, layout, n, &qkv, &dy);
            if let Some(differences) = &differences {
                below(absolute_error(&found, differences), 1e-5, what);
            }
            let size = found.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            for (u, derivative) in directions.iter().zip(&derivatives) {
                let inner: f64 = found.iter().zip(u).map(|(g, u)| f64::from(*g) * u).sum();
                below((inner - derivative).abs() / (1.0 + size), 1e-5, what);
            }
            same(&found, &gradient(&shape, isa, three, layout, n, &qkv, &dy), what);
        }
    }
}

#[test]
fn an_image_is_the_same_alone_and_in_a_batch_with_any_threads() {
    const BATCH: usize = 16;
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let [qkv, dy] = operands(&shape, BATCH, 20 + i as u64);
        let len = shape.pixels * shape.channels;
        for isa in Isa::available() {
            let y = attend(&shape, isa, Team::solo(), Layout::Dense, BATCH, &qkv);
            let dqkv = gradient(&shape, isa, Team::solo(), Layout::Dense, BATCH, &qkv, &dy);
            for (team, (first, count)) in
                teams().iter().flat_map(|team| [(0, 1), (15, 1), (4, 4)].map(|part| (team, part)))
            {
                let part = |x: &[f32], len: usize| x[first * len..(first + count) * len].to_vec();
                let (qkv, dy) = (part(&qkv, 3 * len), part(&dy, len));
                let what = || format!("{isa:?} {shape:?}: images {first}+{count}, {} threads", team.threads());
                same(&attend(&shape, isa, team, Layout::Dense, count, &qkv), &part(&y, len), what);
                same(&gradient(&shape, isa, team, Layout::Dense, count, &qkv, &dy), &part(&dqkv, 3 * len), what);
            }
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let shape = shape(5, 1, 40);
    let qkv: Vec<f32> =
        values(3, 40 * 15).into_iter().enumerate().map(|(i, x)| if i % 15 < 10 { 300.0 * x } else { x }).collect();
    let expected = expected(&shape, 1, &wide(&qkv));
    for isa in Isa::available() {
        // In f32, scores of about 1e5 have errors of about 1e-2, and so have the logarithms of probabilities.
        let y = attend(&shape, isa, Team::solo(), Layout::Dense, 1, &qkv);
        below(error(&y, &expected), 1e-2, || format!("{isa:?}"));
    }
}

#[test]
fn nan_reaches_every_query_that_attends_to_it() {
    for (isa, shape) in Isa::available().into_iter().flat_map(|isa| SHAPES.map(|shape| (isa, shape))) {
        let Shape { channels, heads, pixels } = shape;
        let [qkv, dy] = operands(&shape, 1, 4);
        // In the last head of the last pixel.
        let last = (pixels - 1) * 3 * channels;
        let head = channels / heads;
        for (what, offset) in [("query", channels - 1), ("key", 2 * channels - 1), ("value", 3 * channels - 1)] {
            let mut qkv = qkv.clone();
            qkv[last + offset] = f32::NAN;
            let y = attend(&shape, isa, Team::solo(), Layout::Part, 1, &qkv);
            for (i, y) in y.iter().enumerate() {
                let hit = match what {
                    "query" => i / channels == pixels - 1 && i % channels >= channels - head,
                    "key" => i % channels >= channels - head,
                    _ => i % channels == channels - 1,
                };
                assert_eq!(y.is_nan(), hit, "{isa:?} {shape:?}: NaN in a {what}, element {i}");
            }
            let d = gradient(&shape, isa, Team::solo(), Layout::Part, 1, &qkv, &dy);
            assert!(d.iter().any(|d| d.is_nan()), "{isa:?} {shape:?}: gradient, NaN in a {what}");
        }
        let mut dy = dy;
        dy[pixels * channels - 1] = f32::NAN;
        let d = gradient(&shape, isa, Team::solo(), Layout::Part, 1, &qkv, &dy);
        // The gradient of the values in that channel, at every pixel.
        assert!(d.chunks(3 * channels).all(|d| d[3 * channels - 1].is_nan()), "{isa:?} {shape:?}: NaN in dy");
    }
}

#[test]
fn infinite_scores_are_not_hidden() {
    for isa in Isa::available() {
        let shape = shape(5, 1, 40);
        let [mut qkv, _] = operands(&shape, 1, 5);
        qkv[5] = f32::INFINITY;
        assert!(attend(&shape, isa, Team::solo(), Layout::Dense, 1, &qkv).iter().any(|y| y.is_nan()), "{isa:?}");
    }
}

#[test]
#[should_panic(expected = "input of attention")]
fn an_input_that_is_too_short_is_refused() {
    let (qkv, mut y) = ([0.0; 9 * 12 - 1], Rows::blank(Layout::Dense, 9, 4));
    forward(&shape(4, 2, 9), Isa::best(), false, Team::solo(), 1, View::dense(&qkv, 12), &mut y.view_mut());
}
