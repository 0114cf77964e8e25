//! Linear layers, elementwise operations, resampling, dropout and the optimiser on every instruction set against their
//! definitions in f64.

mod common;

use common::{
    LAYOUTS, Layout, Rows, absolute_error, below, error, numeric_gradient, planes, rows, same, teams, values, wide,
};
use skipstone_kernels::optimizer::{Adam, moving_average, scale, squared_norm};
use skipstone_kernels::{Isa, Team, View, dropout, elementwise, linear, reference};

fn isas_and_layouts() -> impl Iterator<Item = (Isa, Layout)> {
    Isa::available().into_iter().flat_map(|isa| LAYOUTS.map(|layout| (isa, layout)))
}

#[test]
fn linear_layers_and_their_gradients_agree_with_the_definition() {
    let [one, _, three] = teams();
    for (i, (inputs, outputs, n)) in
        [(1, 1, 1), (3, 5, 2), (17, 33, 3), (40, 70, 1), (128, 100, 2), (513, 3, 4)].into_iter().enumerate()
    {
        let seed = 10 * i as u64;
        let (x, w) = (values(seed, n * inputs), values(seed + 1, inputs * outputs));
        let (b, dy) = (values(seed + 2, outputs), values(seed + 3, n * outputs));
        let all = |x: &[f64], w: &[f64], b: &[f64]| -> Vec<f64> {
            x.chunks(inputs).flat_map(|x| reference::linear(x, w, b)).collect()
        };
        let (xd, wd, bd) = (wide(&x), wide(&w), wide(&b));
        let expected = all(&xd, &wd, &bd);
        let old = 0.5;
        let plus = |gradient: Vec<f64>| -> Vec<f64> { gradient.into_iter().map(|g| g + f64::from(old)).collect() };
        let by_x = plus(numeric_gradient(&xd, &dy, |x| all(x, &wd, &bd)));
        let by_b = plus(numeric_gradient(&bd, &dy, |b| all(&xd, &wd, b)));
        // Each output's weights affect that output only.
        let by_w = plus(
            (0..outputs)
                .flat_map(|o| {
                    let dy: Vec<f32> = dy.iter().skip(o).step_by(outputs).copied().collect();
                    numeric_gradient(&wd[o * inputs..(o + 1) * inputs], &dy, |w| all(&xd, w, &bd[o..=o]))
                })
                .collect(),
        );
        for (isa, layout) in isas_and_layouts() {
            let what = || format!("{isa:?} {layout:?} {inputs}→{outputs}, {n} vectors");
            let rows = Rows::new(layout, inputs, &x);
            let forward = |team: &Team| {
                let mut y = Rows::blank(layout, n, outputs);
                linear::forward(isa, team, n, inputs, rows.view(), &w, &b, &mut y.view_mut());
                y.content()
            };
            below(error(&forward(one), &expected), 1e-6, what);
            same(&forward(one), &forward(three), what);
            let backward = |team: &Team| {
                let (mut dx, mut dw, mut db) = (vec![old; x.len()], vec![old; w.len()], vec![old; outputs]);
                let into = linear::Gradients { dx: &mut dx, dw: &mut dw, db: &mut db };
                linear::backward(isa, team, n, inputs, rows.view(), &w, &dy, into);
                [dx, dw, db]
            };
            let found = backward(one);
            for (found, expected) in found.iter().zip([&by_x, &by_w, &by_b]) {
                below(absolute_error(found, expected), 1e-6, what);
            }
            found.iter().zip(backward(three)).for_each(|(a, b)| same(a, &b, what));
        }
    }
}

#[test]
fn a_vector_is_the_same_alone_and_in_a_batch() {
    let (inputs, outputs) = (130, 70);
    let (x, w, b) = (values(1, 16 * inputs), values(2, inputs * outputs), values(3, outputs));
    for isa in Isa::available() {
        let run = |x: &[f32]| {
            let n = x.len() / inputs;
            let (x, mut y) = (Rows::new(Layout::Dense, inputs, x), Rows::blank(Layout::Dense, n, outputs));
            linear::forward(isa, Team::solo(), n, inputs, x.view(), &w, &b, &mut y.view_mut());
            y.content()
        };
        let all = run(&x);
        for i in [0, 7, 15] {
            same(&run(&x[i * inputs..][..inputs]), &all[i * outputs..][..outputs], || format!("{isa:?} vector {i}"));
        }
    }
}

#[test]
fn silu_and_its_derivative_agree_with_the_definition() {
    for len in [1, 3, 15, 16, 17, 1000] {
        let x: Vec<f32> = values(len as u64, len).into_iter().map(|x| 12.0 * x).collect();
        let (expected, dy) = (wide(&x).into_iter().map(reference::silu).collect::<Vec<_>>(), values(9, len));
        let slopes: Vec<f64> = wide(&x)
            .iter()
            .map(|x| {
                let sigma = 1.0 / (1.0 + (-x).exp());
                sigma + x * sigma * (1.0 - sigma)
            })
            .collect();
        // The closed form agrees with finite differences.
        let differences =
            numeric_gradient(&wide(&x), &vec![1.0; len], |x| x.iter().map(|x| reference::silu(*x)).collect());
        // With a thousand values in the sum, finite differences have a noise of some 1e-8.
        assert!(slopes.iter().zip(&differences).all(|(a, b)| (a - b).abs() < 1e-6));
        let by_x: Vec<f64> = slopes.iter().zip(&dy).map(|(slope, dy)| slope * f64::from(*dy)).collect();
        for isa in Isa::available() {
            let (mut y, mut dx) = (vec![f32::NAN; len], dy.clone());
            elementwise::silu(isa, &x, &mut y);
            below(error(&y, &expected), 5e-7, || format!("{isa:?} {len}"));
            elementwise::silu_backward(isa, &x, &mut dx);
            below(absolute_error(&dx, &by_x), 5e-7, || format!("{isa:?} {len}"));
        }
    }
}

#[test]
fn silu_is_right_at_both_ends_and_keeps_nan() {
    for isa in Isa::available() {
        let x = [1e30, 100.0, 0.0, -100.0, f32::NAN];
        let (mut y, mut dx) = ([0.0; 5], [1.0; 5]);
        elementwise::silu(isa, &x, &mut y);
        elementwise::silu_backward(isa, &x, &mut dx);
        assert_eq!(y[..3], [1e30, 100.0, 0.0], "{isa:?}");
        assert!(y[3].abs() < 1e-30 && y[4].is_nan(), "{isa:?}: {y:?}");
        assert_eq!(dx[..3], [1.0, 1.0, 0.5], "{isa:?}");
        assert!(dx[3].abs() < 1e-30 && dx[4].is_nan(), "{isa:?}: {dx:?}");
    }
}

#[test]
fn axpy_adds_a_multiple() {
    for len in [0, 1, 17, 40_001] {
        let (x, y) = (values(1, len), values(2, len));
        let expected: Vec<f64> = x.iter().zip(&y).map(|(x, y)| -1.5 * f64::from(*x) + f64::from(*y)).collect();
        for (isa, team) in Isa::available().into_iter().flat_map(|isa| teams().iter().map(move |team| (isa, team))) {
            let mut sum = y.clone();
            elementwise::axpy(isa, team, -1.5, &x, &mut sum);
            below(error(&sum, &expected), 1e-7, || format!("{isa:?} {len}"));
        }
    }
}

#[test]
fn rows_are_scaled_and_added() {
    for (count, channels) in [(1, 1), (7, 5), (3, 33), (700, 40)] {
        let (x, old) = (values(1, count * channels), values(2, count * channels));
        for accumulate in [false, true] {
            let expected: Vec<f64> = x
                .iter()
                .zip(&old)
                .map(|(x, old)| f64::from(0.7f32) * f64::from(*x) + if accumulate { f64::from(*old) } else { 0.0 })
                .collect();
            for (isa, layout) in isas_and_layouts() {
                let source = Rows::new(layout, channels, &x);
                for team in teams() {
                    let start = if accumulate { old.clone() } else { vec![f32::NAN; old.len()] };
                    let mut y = Rows::new(layout, channels, &start);
                    let to = &mut y.view_mut();
                    elementwise::add_rows(isa, team, count, channels, 0.7, source.view(), to, accumulate);
                    below(error(&y.content(), &expected), 1e-7, || format!("{isa:?} {layout:?} {count}×{channels}"));
                }
            }
        }
    }
}

/// Applies a function of planes to `[n, size, channels]`.
fn by_planes(n: usize, channels: usize, x: &[f64], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    rows(n, channels, &f(&planes(n, channels, x)))
}

#[test]
fn resampling_and_its_gradients_agree_with_the_definition() {
    let n = 2;
    for ([height, width], channels) in [([1, 1], 1), ([3, 2], 5), ([2, 5], 17), ([4, 3], 40)] {
        let small_len = n * height * width * channels;
        let (small, large) = (values(1, small_len), values(2, 4 * small_len));
        let (old_small, old_large) = (values(3, small_len), values(4, 4 * small_len));
        let pooled = by_planes(n, channels, &wide(&large), |x| reference::average_pool(width, x));
        // Linear maps: the gradient of the mean is a quarter of the upsampled gradient, that of upsampling four times
        // the mean.
        let spread: Vec<f64> =
            by_planes(n, channels, &wide(&small), |x| reference::upsample(width, x)).iter().map(|x| x / 4.0).collect();
        let gathered: Vec<f64> = pooled.iter().map(|x| 4.0 * x).collect();
        if channels <= 5 {
            let differences = |x: &[f64], dy: &[f32], f: &dyn Fn(&[f64]) -> Vec<f64>| {
                numeric_gradient(x, dy, |x| by_planes(n, channels, x, f))
            };
            let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-8);
            assert!(close(&spread, &differences(&wide(&large), &small, &|x| reference::average_pool(width, x))));
            assert!(close(&gathered, &differences(&wide(&small), &large, &|x| reference::upsample(width, x))));
        }
        for (isa, layout) in isas_and_layouts() {
            let what = || format!("{isa:?} {layout:?} {height}×{width}×{channels}");
            let size = [height, width];
            let (small, whole) = (Rows::new(layout, channels, &small), Rows::new(layout, channels, &large));
            for team in teams() {
                let mut y = Rows::blank(layout, n * height * width, channels);
                elementwise::average_pool(team, isa, n, size, channels, whole.view(), &mut y.view_mut());
                below(error(&y.content(), &pooled), 2e-7, what);
                for accumulate in [false, true] {
                    let begin = |old: &[f32]| if accumulate { old.to_vec() } else { vec![f32::NAN; old.len()] };
                    let plus = |gradient: &[f64], old: &[f32]| -> Vec<f64> {
                        gradient
                            .iter()
                            .zip(old)
                            .map(|(g, old)| g + if accumulate { f64::from(*old) } else { 0.0 })
                            .collect()
                    };
                    let mut dx = Rows::new(layout, channels, &begin(&old_large));
                    let to = &mut dx.view_mut();
                    elementwise::average_pool_backward(team, isa, n, size, channels, small.view(), to, accumulate);
                    below(error(&dx.content(), &plus(&spread, &old_large)), 2e-7, what);
                    let mut dx = Rows::new(layout, channels, &begin(&old_small));
                    let to = &mut dx.view_mut();
                    elementwise::upsample_backward(
                        team,
                        isa,
                        n,
                        size,
                        channels,
                        View::dense(&large, channels),
                        to,
                        accumulate,
                    );
                    below(error(&dx.content(), &plus(&gathered, &old_small)), 2e-7, what);
                }
            }
        }
    }
}

#[test]
fn planes_become_pixels_and_back() {
    for (n, channels, pixels) in [(1, 1, 1), (2, 3, 35), (3, 17, 4)] {
        let x = values(1, n * channels * pixels);
        for layout in LAYOUTS {
            let mut y = Rows::blank(layout, n * pixels, channels);
            elementwise::from_planes(n, channels, (2.0, -1.0), &x, &mut y.view_mut());
            let expected: Vec<f32> = rows(n, channels, &x).iter().map(|x| 2.0 * x - 1.0).collect();
            assert_eq!(y.content(), expected);
            let mut back = vec![f32::NAN; x.len()];
            elementwise::to_planes(n, channels, 0.5, y.view(), &mut back);
            let expected: Vec<f32> = x.iter().map(|x| (2.0 * x - 1.0) / 2.0).collect();
            assert_eq!(back, expected);
        }
    }
    elementwise::from_planes(0, 3, (1.0, 0.0), &[], &mut Rows::blank(Layout::Dense, 0, 3).view_mut());
}

#[test]
fn dropout_keeps_its_share_and_is_the_same_on_every_instruction_set() {
    let n = 3;
    let (x, dy) = (values(1, n * 2111), values(2, n * 2111));
    let keys = [5, 1 << 50, u64::MAX];
    let p = 0.3;
    let run = |isa: Isa| {
        let (mut y, mut dx) = (vec![f32::NAN; x.len()], vec![0.5; x.len()]);
        dropout::forward(isa, p, &keys, &x, &mut y);
        dropout::backward(isa, p, &keys, &dy, &mut dx);
        [y, dx]
    };
    let expected = run(Isa::available()[0]);
    let factor = (1.0 / (1.0 - p)) as f32;
    let survivors = x.iter().zip(&expected[0]).filter(|(x, y)| **y == **x * factor).count();
    let dropped = expected[0].iter().filter(|y| **y == 0.0).count();
    assert_eq!(survivors + dropped, x.len());
    assert!((survivors as f64 / x.len() as f64 - 0.7).abs() < 0.03, "{survivors}");
    for (i, y) in expected[0].iter().enumerate() {
        let gradient = if *y == 0.0 { 0.0 } else { dy[i] * factor };
        assert!((expected[1][i] - (0.5 + gradient)).abs() < 1e-6, "element {i}");
    }
    for isa in Isa::available() {
        run(isa).iter().zip(&expected).for_each(|(a, b)| assert_eq!(a, b, "{isa:?}"));
    }
}

#[test]
fn without_probability_dropout_is_the_identity_and_of_nothing_it_is_nothing() {
    let x = values(1, 33);
    for isa in Isa::available() {
        let mut y = vec![f32::NAN; 33];
        dropout::forward(isa, 0.0, &[3], &x, &mut y);
        assert_eq!(y, x);
        dropout::forward(isa, 0.5, &[], &[], &mut []);
        dropout::forward(isa, 0.5, &[1, 2], &[], &mut []);
    }
}

#[test]
fn adam_steps_are_those_of_the_paper() {
    for (len, decoupled, weight_decay) in [(1, false, 0.0), (33, true, 0.01), (33, false, 0.01), (20_001, true, 0.1)] {
        let adam = Adam { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, decoupled };
        let start = values(1, len);
        let (mut pd, mut md, mut vd) = (wide(&start), vec![0.0f64; len], vec![0.0f64; len]);
        let gradients: Vec<Vec<f32>> = (0..5).map(|step| values(10 + step, len)).collect();
        for (step, g) in (1..).zip(&gradients) {
            for i in 0..len {
                let g = f64::from(g[i]) + if decoupled { 0.0 } else { weight_decay * pd[i] };
                md[i] = 0.9 * md[i] + 0.1 * g;
                vd[i] = 0.999 * vd[i] + 0.001 * g * g;
                let (m, v) = (md[i] / (1.0 - 0.9f64.powi(step)), vd[i] / (1.0 - 0.999f64.powi(step)));
                let shrink = if decoupled { 1.0 - 1e-2 * weight_decay } else { 1.0 };
                pd[i] = pd[i] * shrink - 1e-2 * m / (v.sqrt() + 1e-8);
            }
        }
        for isa in Isa::available() {
            let run = |team: &Team| {
                let (mut p, mut m, mut v) = (start.clone(), vec![0.0; len], vec![0.0; len]);
                for (step, g) in (1..).zip(&gradients) {
                    adam.step(isa, team, step, g, &mut p, &mut m, &mut v);
                }
                [p, m, v]
            };
            let found = run(Team::solo());
            for (found, expected) in found.iter().zip([&pd, &md, &vd]) {
                below(error(found, expected), 1e-6, || format!("{isa:?} {adam:?}"));
            }
            found.iter().zip(run(&teams()[2])).for_each(|(a, b)| same(a, &b, || format!("threads: {isa:?}")));
        }
    }
}

#[test]
fn averages_scales_and_norms_agree_with_the_definition() {
    for len in [1, 17, 20_001] {
        let (p, ema) = (values(1, len), values(2, len));
        let expected: Vec<f64> = p.iter().zip(&ema).map(|(p, e)| 0.99 * f64::from(*e) + 0.01 * f64::from(*p)).collect();
        let doubled: Vec<f64> = p.iter().map(|p| -2.0 * f64::from(*p)).collect();
        let norm: f64 = wide(&p).iter().map(|p| p * p).sum();
        for (isa, team) in Isa::available().into_iter().flat_map(|isa| teams().iter().map(move |team| (isa, team))) {
            let what = || format!("{isa:?} {len}");
            let (mut average, mut scaled) = (ema.clone(), p.clone());
            moving_average(isa, team, 0.99, &p, &mut average);
            below(error(&average, &expected), 1e-7, what);
            scale(isa, team, -2.0, &mut scaled);
            below(error(&scaled, &doubled), 1e-12, what);
            below((squared_norm(isa, &p) - norm).abs() / norm, 1e-6, what);
            let mut bad = p.clone();
            bad[len / 2] = f32::NAN;
            assert!(squared_norm(isa, &bad).is_nan());
            bad[len / 2] = f32::INFINITY;
            assert!(!squared_norm(isa, &bad).is_finite());
        }
    }
}

#[test]
fn an_instruction_set_is_found_by_its_name() {
    for isa in Isa::available() {
        assert_eq!(isa.name().parse::<Isa>(), Ok(isa));
    }
    assert!("mmx".parse::<Isa>().unwrap_err().contains("this processor has"));
    assert!(Isa::available().contains(&Isa::best()));
    assert_eq!(Isa::available().last().unwrap().name(), "portable");
}
