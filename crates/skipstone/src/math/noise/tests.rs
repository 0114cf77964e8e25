use ndarray::{Array5, Axis};

use super::*;

#[test]
fn philox_matches_the_known_answers_of_random123() {
    // Random123's kat_vectors, philox4x32 with 10 rounds.
    let f = rand_philox::philox4x32_10;
    assert_eq!(f([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_eq!(f([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    assert_eq!(
        f([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
    );
}

#[test]
fn key_and_counter_layout_match_version_one() {
    // Purpose 2 is keyed by the second output of the reference SplitMix64 seeded with 0.
    let key = 0x6e78_9e6a_a1b9_65f4_u64;
    let words = rand_philox::philox4x32_10([0, 5, 9, 1], [key as u32, (key >> 32) as u32]);
    let mut rng = KeyedRng::new(0, Purpose::Step, 1 << 32 | 9, 5);
    assert_eq!(rng.next_u64(), u64::from(words[0]) | u64::from(words[1]) << 32);
    assert_eq!(rng.next_u64(), u64::from(words[2]) | u64::from(words[3]) << 32);
    assert_eq!(NOISE_VERSION, 1);
}

#[test]
fn noise_does_not_depend_on_the_batch() {
    let whole = initial_latent(3, 10, 7, [3, 5, 5]);
    for i in 0..7 {
        let one = initial_latent(3, 10 + i as u64, 1, [3, 5, 5]);
        assert_eq!(one.index_axis(Axis(0), 0), whole.index_axis(Axis(0), i));
    }
    // A larger image starts with the elements of the smaller one.
    let long = initial_latent(3, 10, 1, [3, 5, 6]);
    assert!(long.iter().zip(whole.index_axis(Axis(0), 0)).all(|(a, b)| a == b));
    // The memory layout does not matter.
    let mut transposed = Array4::zeros((3, 7, 5, 5)).permuted_axes([1, 0, 2, 3]);
    fill_gaussian(3, Purpose::Latent, 10, 0, &mut transposed);
    assert_eq!(transposed, whole);
}

#[test]
fn seeds_purposes_images_and_steps_give_different_noise() {
    let draw = |seed, purpose, a, b| KeyedRng::new(seed, purpose, a, b).next_u64();
    let base = draw(0, Purpose::Step, 0, 0);
    assert_ne!(base, draw(1, Purpose::Step, 0, 0));
    assert_ne!(base, draw(0, Purpose::Latent, 0, 0));
    assert_ne!(base, draw(0, Purpose::Step, 1, 0));
    assert_ne!(base, draw(0, Purpose::Step, 0, 1));
}

#[test]
fn gaussian_draws_have_the_moments_and_tails_of_a_normal() {
    let x = initial_latent(1, 0, 4, [4, 250, 250]).mapv(f64::from);
    let n = x.len() as f64; // a million, so the standard error of the mean is 1e-3
    let moment = |k: i32| x.mapv(|x| x.powi(k)).sum() / n;
    assert!(moment(1).abs() < 5e-3);
    assert!((moment(2) - 1.0).abs() < 8e-3);
    assert!(moment(3).abs() < 2e-2);
    assert!((moment(4) - 3.0).abs() < 6e-2);
    // P(|z| > 3) = 0.0026998.
    let tail = x.iter().filter(|x| x.abs() > 3.0).count() as f64 / n;
    assert!((tail - 0.0026998).abs() < 3e-4);
    // Neighbours share a generator block, yet are uncorrelated.
    let values: Vec<f64> = x.iter().copied().collect();
    let product = values.chunks_exact(2).map(|pair| pair[0] * pair[1]).sum::<f64>() / (n / 2.0);
    assert!(product.abs() < 8e-3);
}

#[test]
fn uniform_draws_cover_their_range_evenly() {
    let mut rng = KeyedRng::new(5, Purpose::TrainTime, 0, 0);
    let mut counts = [0u32; 7];
    for _ in 0..70_000 {
        counts[rng.below(7) as usize] += 1;
    }
    assert!(counts.iter().all(|count| count.abs_diff(10_000) < 500), "{counts:?}");
    assert_eq!(rng.below(0), 0);
    assert!((0..1000).all(|_| (0.0..1.0).contains(&rng.next_f64())));
    let mut order: Vec<u32> = (0..50).collect();
    rng.shuffle(&mut order);
    assert_ne!(order, (0..50).collect::<Vec<_>>());
    order.sort_unstable();
    assert_eq!(order, (0..50).collect::<Vec<_>>());
}

#[test]
fn given_noise_is_used_in_step_order_and_its_shape_is_checked() {
    let mut given = Given::new(Array5::from_shape_fn((2, 1, 1, 1, 2), |(call, ..)| call as f32));
    let mut out = Array4::zeros((1, 1, 1, 2));
    given.fill(1, &mut out).unwrap();
    assert_eq!(out, Array4::<f32>::ones((1, 1, 1, 2)));
    assert!(given.fill(2, &mut out).is_err());
    assert!(given.fill(0, &mut Array4::zeros((2, 1, 1, 2))).is_err());
    assert!(Given::new(Array5::from_elem((1, 1, 1, 1, 2), f32::NAN)).fill(0, &mut out).is_err());
    assert!(Forbidden.fill(0, &mut out).is_err());
}
