use ndarray::{Array3, Array4, Axis, array};
use proptest::prelude::*;

use super::*;
use crate::math::noise::initial_latent;

fn norm(x: ArrayView3<'_, f32>) -> f64 {
    x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

fn angle(a: ArrayView3<'_, f32>, b: ArrayView3<'_, f32>) -> f64 {
    let dot: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    (dot / (norm(a) * norm(b))).acos()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn slerp_keeps_the_norm_of_equal_norm_latents_and_turns_at_constant_speed(
        seed in 0u64..1000, lambda in 0.05f64..0.95,
    ) {
        let two = initial_latent(seed, 0, 2, [1, 4, 4]);
        let a = two.index_axis(Axis(0), 0).to_owned();
        let b = two.index_axis(Axis(0), 1);
        let b = b.mapv(|v| (f64::from(v) * norm(a.view()) / norm(b)) as f32);
        let between = slerp(a.view(), b.view(), lambda).unwrap();
        prop_assert!((norm(between.view()) / norm(a.view()) - 1.0).abs() < 1e-6);
        prop_assert!((angle(a.view(), between.view()) - lambda * angle(a.view(), b.view())).abs() < 1e-5);
    }
}

#[test]
fn slerp_matches_hand_computation_at_a_right_angle() {
    // θ = π/2 between 2·e₁ and e₂; λ = 1/3: sin 60° and sin 30°.
    let (a, b) = (array![[[2.0f32, 0.0]]], array![[[0.0f32, 1.0]]]);
    let x = slerp(a.view(), b.view(), 1.0 / 3.0).unwrap();
    assert!((x[[0, 0, 0]] - 3f32.sqrt()).abs() < 1e-6 && (x[[0, 0, 1]] - 0.5).abs() < 1e-6);
}

#[test]
fn slerp_ends_are_exact_and_parallel_latents_interpolate_linearly() {
    let a = initial_latent(0, 0, 1, [1, 3, 3]).index_axis_move(Axis(0), 0);
    let b = initial_latent(0, 1, 1, [1, 3, 3]).index_axis_move(Axis(0), 0);
    assert_eq!(slerp(a.view(), b.view(), 0.0).unwrap(), a);
    assert_eq!(slerp(a.view(), b.view(), 1.0).unwrap(), b);
    assert_eq!(slerp(a.view(), a.view(), 0.3).unwrap(), a);
    let (one, three) = (Array3::from_elem((1, 2, 2), 1.0f32), Array3::from_elem((1, 2, 2), 3.0f32));
    assert_eq!(slerp(one.view(), three.view(), 0.25).unwrap(), Array3::from_elem((1, 2, 2), 1.5f32));
    // Nearly parallel: still finite.
    let nearly = a.mapv(|v| v * 1.000_001);
    assert!(slerp(a.view(), nearly.view(), 0.5).unwrap().iter().all(|v| v.is_finite()));
}

#[test]
fn a_zero_latent_interpolates_linearly() {
    let (zero, one) = (Array3::<f32>::zeros((1, 2, 2)), Array3::from_elem((1, 2, 2), 1.0f32));
    assert_eq!(slerp(zero.view(), one.view(), 0.5).unwrap(), Array3::from_elem((1, 2, 2), 0.5f32));
    assert_eq!(slerp(zero.view(), zero.view(), 0.5).unwrap(), zero);
}

#[test]
fn undefined_interpolations_are_refused() {
    let a = initial_latent(0, 0, 1, [1, 3, 3]).index_axis_move(Axis(0), 0);
    let error = slerp(a.view(), a.mapv(|v| -2.0 * v).view(), 0.5).unwrap_err();
    assert!(error.message().contains("opposite directions"), "{error}");
    assert!(slerp(a.view(), Array3::zeros((1, 3, 2)).view(), 0.5).is_err());
    assert!(slerp(a.view(), a.view(), -0.1).is_err() && slerp(a.view(), a.view(), f64::NAN).is_err());
    assert!(slerp(a.view(), a.mapv(|_| f32::NAN).view(), 0.5).is_err());
    assert!(line(a.view(), a.view(), 1).is_err());
}

#[test]
fn a_grid_has_the_four_latents_at_its_corners_and_slerps_along_its_edges() {
    let four = initial_latent(5, 0, 4, [1, 3, 3]);
    let corner = |i| four.index_axis(Axis(0), i);
    let square = grid([corner(0), corner(1), corner(2), corner(3)], 5).unwrap();
    assert_eq!(square.dim(), (25, 1, 3, 3));
    for (place, i) in [(0, 0), (4, 1), (20, 2), (24, 3)] {
        assert_eq!(square.index_axis(Axis(0), place), corner(i));
    }
    let edge = slerp(corner(0), corner(2), 0.75).unwrap();
    assert_eq!(square.index_axis(Axis(0), 15), edge);
    // The bottom corners repeat the top ones, so every row is the same line.
    let flat = grid([corner(0), corner(1), corner(0), corner(1)], 3).unwrap();
    assert_eq!(flat.index_axis(Axis(0), 1), flat.index_axis(Axis(0), 7));
    assert_eq!(flat.index_axis(Axis(0), 4), line(corner(0), corner(1), 3).unwrap().index_axis(Axis(0), 1));
}

#[test]
fn low_frequencies_are_means_of_squares_including_partial_ones() {
    // 3 pixels wide, squares of 2: the last square is one pixel wide.
    let a = array![[[[1.0f32, 0.0, 1.0], [0.0, 1.0, 1.0]]]];
    let b: Array4<f32> = Array4::zeros((1, 1, 2, 3));
    let d = distance(&a, &b, 2).unwrap();
    // Halved differences: 4 of 6 pixels give ½; the means give ½·½ and ½·1.
    assert!((d.full - (4.0f64 * 0.25 / 6.0).sqrt()).abs() < 1e-12);
    assert!((d.low - ((0.0625 + 0.25) / 2.0f64).sqrt()).abs() < 1e-12);
    assert!(distance(&a, &b, 0).is_err() && distance(&a, &Array4::zeros((1, 1, 2, 2)), 2).is_err());
}
