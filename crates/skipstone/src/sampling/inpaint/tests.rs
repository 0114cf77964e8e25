use ndarray::{Array2, Array3, Array4, Axis};

use super::*;
use crate::math::noise::{Forbidden, Purpose, Seeded, initial_latent};
use crate::math::schedule::{BetaSchedule, FinalLevel, Schedule};
use crate::math::sigma::NoiseScale;
use crate::math::trajectory::{Spacing, Trajectory};
use crate::sampling::oracle::{Component, Oracle};
use crate::sampling::sampler::{sample, unobserved};
use crate::{math::schedule::Time, sampling::denoiser::Clip, sampling::denoiser::Prediction};

fn schedule() -> Schedule {
    Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap()
}

fn plan(steps: usize, eta: f64) -> Plan {
    let tau = Trajectory::named(Spacing::Linear, steps, 1000, 0).unwrap();
    Plan::new(&schedule(), &tau, &NoiseScale::Eta(eta), FinalLevel::Clean, Clip::Off).unwrap()
}

fn run<D: Denoiser>(
    denoiser: &D,
    plan: &Plan,
    x_t: Array4<f32>,
    region: &Region,
    by: Resampling,
    first: u64,
) -> Array4<f32> {
    let (mut step, mut around) = (Seeded::new(1, first), Seeded { purpose: Purpose::Inpaint, ..Seeded::new(1, first) });
    let noises = Noises { step: &mut step, around: &mut around };
    inpaint(denoiser, plan, x_t, region, by, noises, &[], &mut unobserved).unwrap()
}

/// Two pixels near (1, 1) or near (−1, −1), so the known one determines the other.
fn twins(schedule: &Schedule) -> Oracle {
    let point = |v: f64| Component {
        weight: 1.0,
        mean: Array3::from_elem((1, 1, 2), v),
        variance: Array3::from_elem((1, 1, 2), 0.01),
    };
    Oracle::mixture(schedule, vec![point(1.0), point(-1.0)]).unwrap()
}

fn first_known(value: f32) -> Region {
    Region::new(Array3::from_elem((1, 1, 2), value), Array2::from_shape_vec((1, 2), vec![false, true]).unwrap())
        .unwrap()
}

#[test]
fn the_walk_of_a_small_run_matches_the_papers_schedule() {
    // RePaint's get_schedule with t_T = 4, jump 2, 2 resamples, by hand: 3, 2, 1, 0, (1, 2), 1, 0, −1.
    use Move::{Down, Up};
    let moves = Resampling { jump: 2, resamples: 2 }.walk(4).unwrap();
    assert_eq!(moves, [Down(0), Down(1), Down(2), Up { from: 3, to: 1 }, Down(1), Down(2), Down(3)]);
    // Jump 1, 3 resamples, t_T = 3: 2, 1, (2), 1, (2), 1, 0, (1), 0, (1), 0, −1.
    let moves = Resampling { jump: 1, resamples: 3 }.walk(3).unwrap();
    let (a, b) = (Up { from: 1, to: 0 }, Up { from: 2, to: 1 });
    assert_eq!(moves, [Down(0), a, Down(0), a, Down(0), Down(1), b, Down(1), b, Down(1), Down(2)]);
    assert_eq!(Resampling::PROJECTION.walk(3).unwrap(), [Down(0), Down(1), Down(2)]);
    // A jump longer than the run never happens.
    assert_eq!(Resampling { jump: 9, resamples: 4 }.walk(2).unwrap(), [Down(0), Down(1)]);
}

#[test]
fn predicted_call_counts_match_the_walk() {
    for steps in 1..30 {
        for jump in 1..8 {
            let by = Resampling { jump, resamples: 3 };
            let moves = by.walk(steps).unwrap();
            let downs = moves.iter().filter(|to| matches!(to, Move::Down(_))).count();
            assert_eq!(by.calls(steps).unwrap(), downs, "{steps} {jump}");
        }
    }
    assert!(Resampling { jump: 0, resamples: 2 }.walk(5).is_err());
    assert!(Resampling { jump: 2, resamples: 0 }.walk(5).is_err());
    assert!(Resampling { jump: 1, resamples: usize::MAX }.walk(5).is_err());
}

#[test]
fn the_known_region_stays_the_image_and_determines_the_rest() {
    let schedule = schedule();
    let oracle = twins(&schedule);
    let x_t = initial_latent(0, 0, 16, [1, 1, 2]);
    for (eta, by) in [
        (1.0, Resampling::PROJECTION),
        (1.0, Resampling { jump: 5, resamples: 4 }),
        (0.0, Resampling { jump: 5, resamples: 4 }),
    ] {
        for known in [1.0, -1.0] {
            let x = run(&oracle, &plan(50, eta), x_t.clone(), &first_known(known), by, 0);
            assert!(x.index_axis(Axis(3), 0).iter().all(|&v| v == known));
            let right = x.index_axis(Axis(3), 1).iter().filter(|&&v| (v - known).abs() < 0.5).count();
            assert!(right >= 14, "eta {eta}, {by:?}, known {known}: {right} of 16");
        }
    }
}

#[test]
fn resampling_gets_closer_to_the_true_conditional_than_projection() {
    // The optimal denoiser of two pixels from N(0, Σ) with correlation 0.9.
    struct Pair(Schedule);
    impl Denoiser for Pair {
        fn shape(&self) -> [usize; 3] {
            [1, 1, 2]
        }
        fn prediction(&self) -> Prediction {
            Prediction::Epsilon
        }
        fn predict(&self, x: &Array4<f32>, t: &[Time], _: &[Condition]) -> Result<Array4<f32>> {
            // ε̂ = √(1−a)·(a·Σ + (1−a)·I)⁻¹·x, in the eigenbasis (1, ±1)/√2 with variances 1.9 and 0.1.
            let level = self.0.level(t[0])?;
            let mut out = x.clone();
            for mut row in out.outer_iter_mut() {
                let (u, v) = (f64::from(row[[0, 0, 0]]), f64::from(row[[0, 0, 1]]));
                let part = |w: f64, variance: f64| level.noise() * w / (level.alpha_bar * variance + level.one_minus);
                let (p, m) = (part((u + v) / 2.0, 1.9), part((u - v) / 2.0, 0.1));
                row[[0, 0, 0]] = (p + m) as f32;
                row[[0, 0, 1]] = (p - m) as f32;
            }
            Ok(out)
        }
    }
    let n = 400;
    let x_t = initial_latent(3, 0, n, [1, 1, 2]);
    let mean = |by| {
        let x = run(&Pair(schedule()), &plan(40, 1.0), x_t.clone(), &first_known(1.0), by, 0);
        x.index_axis(Axis(3), 1).iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64
    };
    // E[second | first = 1] = 0.9; the standard error of the mean is √0.19/20 = 0.02.
    let (projected, resampled) = (mean(Resampling::PROJECTION), mean(Resampling { jump: 4, resamples: 8 }));
    assert!((resampled - 0.9).abs() < 0.1, "{resampled}");
    assert!((resampled - 0.9).abs() < (projected - 0.9).abs(), "{resampled} and {projected}");
}

#[test]
fn an_image_does_not_depend_on_its_batch() {
    let schedule = schedule();
    let oracle = twins(&schedule);
    let x_t = initial_latent(0, 4, 3, [1, 1, 2]);
    let by = Resampling { jump: 3, resamples: 2 };
    let all = run(&oracle, &plan(10, 1.0), x_t.clone(), &first_known(0.9), by, 4);
    let last = x_t.select(Axis(0), &[2]);
    let alone = run(&oracle, &plan(10, 1.0), last, &first_known(0.9), by, 6);
    assert_eq!(all.index_axis(Axis(0), 2), alone.index_axis(Axis(0), 0));
}

#[test]
fn projection_with_a_full_mask_is_plain_sampling() {
    let schedule = schedule();
    let oracle = twins(&schedule);
    let region = Region::new(Array3::zeros((1, 1, 2)), Array2::from_elem((1, 2), true)).unwrap();
    let x_t = initial_latent(0, 0, 2, [1, 1, 2]);
    let filled = run(&oracle, &plan(10, 0.0), x_t.clone(), &region, Resampling::PROJECTION, 0);
    let plain = sample(&oracle, &plan(10, 0.0), x_t, &mut Forbidden, &[], &mut unobserved).unwrap();
    assert_eq!(filled, plain);
}

#[test]
fn invalid_regions_are_refused() {
    let image = Array3::<f32>::zeros((1, 2, 2));
    assert!(Region::new(image.clone(), Array2::from_elem((2, 3), true)).is_err());
    assert!(Region::new(image.clone(), Array2::from_elem((2, 2), false)).is_err());
    assert!(Region::new(image.mapv(|_| f32::NAN), Array2::from_elem((2, 2), true)).is_err());
}

#[test]
fn solvers_other_than_ddim_are_refused() {
    let plan = plan(5, 0.0).with_solver(crate::sampling::solver::Solver::AB2).unwrap();
    let (mut step, mut around) = (Seeded::new(1, 0), Seeded { purpose: Purpose::Inpaint, ..Seeded::new(1, 0) });
    let noises = Noises { step: &mut step, around: &mut around };
    let x_t = initial_latent(0, 0, 1, [1, 1, 2]);
    let by = Resampling::PROJECTION;
    let oracle = twins(&schedule());
    let error = inpaint(&oracle, &plan, x_t, &first_known(0.5), by, noises, &[], &mut unobserved).unwrap_err();
    assert!(error.to_string().contains("solver ab2; choose solver ddim"), "{error}");
}
