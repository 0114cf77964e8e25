//! Activations and their derivatives on every instruction set against PyTorch's definitions in f64.

mod common;

use common::{absolute_error, below, error, same, teams, values, wide};
use skipstone_kernels::Isa;
use skipstone_kernels::activation::{self, Activation};

const ALL: [Activation; 3] = [Activation::Gelu, Activation::Mish, Activation::Relu];

fn value(kind: Activation, x: f64) -> f64 {
    match kind {
        Activation::Gelu => 0.5 * x * libm::erfc(-x / 2f64.sqrt()),
        Activation::Mish => x * x.exp().ln_1p().tanh(),
        Activation::Relu => x.max(0.0),
    }
}

fn slope(kind: Activation, x: f64) -> f64 {
    match kind {
        Activation::Relu => f64::from(x > 0.0),
        _ => (value(kind, x + 1e-5) - value(kind, x - 1e-5)) / 2e-5,
    }
}

#[test]
fn every_activation_and_its_derivative_agree_with_the_definition() {
    for kind in ALL {
        for len in [1, 3, 15, 16, 17, 1000, 40_000] {
            let x: Vec<f32> = values(len as u64, len).into_iter().map(|x| 12.0 * x).collect();
            let dy = values(9, len);
            let expected: Vec<f64> = wide(&x).into_iter().map(|x| value(kind, x)).collect();
            let by_x: Vec<f64> = wide(&x).into_iter().zip(&dy).map(|(x, dy)| slope(kind, x) * f64::from(*dy)).collect();
            let more: Vec<f64> = by_x.iter().map(|d| d + 0.5).collect();
            for isa in Isa::available() {
                let mut first = None;
                for team in teams() {
                    let (mut y, mut dx, mut sum) = (vec![f32::NAN; len], vec![f32::NAN; len], vec![0.5; len]);
                    activation::forward(kind, isa, team, &x, &mut y);
                    activation::backward(kind, isa, team, &x, &dy, &mut dx, false);
                    activation::backward(kind, isa, team, &x, &dy, &mut sum, true);
                    let case = || format!("{kind:?} {isa:?} {len}");
                    below(error(&y, &expected), 5e-7, case);
                    below(absolute_error(&dx, &by_x), 1e-6, case);
                    below(absolute_error(&sum, &more), 1e-6, case);
                    let first = first.get_or_insert_with(|| (y.clone(), dx.clone()));
                    same(&first.0, &y, case);
                    same(&first.1, &dx, case);
                }
            }
        }
    }
}

#[test]
fn activations_are_right_at_both_ends_and_keep_nan() {
    let [one, ..] = teams();
    let x = [1e30, 100.0, 0.0, -100.0, -1e30, f32::NAN];
    for kind in ALL {
        for isa in Isa::available() {
            let (mut y, mut dx) = ([0.0; 6], [0.0; 6]);
            activation::forward(kind, isa, one, &x, &mut y);
            activation::backward(kind, isa, one, &x, &[1.0; 6], &mut dx, false);
            let case = format!("{kind:?} {isa:?}: {y:?} {dx:?}");
            assert!(y[..3] == [1e30, 100.0, 0.0] && y[3].abs() < 1e-30 && y[5].is_nan(), "{case}");
            assert!(y[4].abs() < 1.0, "{case}");
            let middle = match kind {
                Activation::Gelu => 0.5,
                Activation::Mish => 0.6,
                Activation::Relu => 0.0,
            };
            assert!(dx[..2] == [1.0, 1.0] && (dx[2] - middle).abs() < 1e-6, "{case}");
            assert!(dx[3].abs() < 1e-30 && dx[5].is_nan(), "{case}");
        }
    }
}
