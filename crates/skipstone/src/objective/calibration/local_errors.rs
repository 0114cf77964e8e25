use std::ops::ControlFlow;

use ndarray::{Array4, Axis, Slice};

use super::measure::six_digits;
use crate::error::{Error, Result};
use crate::math::noise::Forbidden;
use crate::math::schedule::{NoiseLevel, Schedule, Time};
use crate::math::trajectory::{BestTimes, Spacing, Trajectory};
use crate::sampling::denoiser::{Condition, Denoiser, check_count, check_shape};
use crate::sampling::sampler::{Plan, sample};
use crate::sampling::solver::Solver;

/// Candidate timesteps of the reference, as many as a fitted grid may have.
const CANDIDATES: usize = 80;
/// Bytes of reference states held at a time.
const MOST_BYTES: usize = 1 << 28;

/// How far single DDIM steps stray from the deterministic path (Chen et al., arXiv 2405.11326).
///
/// A reference run visits some tens of candidate timesteps t. From its state at each, one step goes to each later candidate s
/// and to clean data. The error of the step is its distance from the reference there. As the errors of a run's steps add up
/// at most, the grid with the least sum of them follows the path closely.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalErrors {
    /// The candidates, ascending; the last is T.
    pub times: Vec<u32>,
    /// Number of latents measured.
    pub latents: usize,
    /// `errors[k][0]` of the step from `times[k]` to clean data, `errors[k][j]` of that to `times[j - 1]`: root mean square
    /// over latents and dimensions.
    pub errors: Vec<Vec<f64>>,
}

impl LocalErrors {
    /// The trajectory of `steps` calls from T down with the least sum of errors.
    ///
    /// # Errors
    /// `steps` is 0 or above the number of candidates.
    pub fn fitted(&self, steps: usize) -> Result<Trajectory> {
        let candidates = self.times.len();
        if steps == 0 || steps > candidates {
            return Err(Error::argument(format!(
                "steps: expected 1 to {candidates} with spacing fitted, the candidates that were measured, found {steps}"
            )));
        }
        // The dynamic programme over numbers of candidates in place of timesteps; 0 is clean data.
        let number = |t: Time| t.get() as usize;
        let cost = |t, s| self.errors[number(t) - 1][number(s)];
        let best = BestTimes::new(steps, candidates as u32, cost)?.trajectory(steps)?;
        let times = best.times().iter().map(|&t| Time::new(self.times[number(t) - 1])).collect();
        Trajectory::from_times(times, self.times[candidates - 1])
    }

    /// Checks what a file says for a schedule of `train_steps` timesteps. The message names the field.
    pub(super) fn check(&self, train_steps: usize) -> Result<(), String> {
        let ascend = self.times.first().is_some_and(|&first| first > 0) && self.times.is_sorted_by(|a, b| a < b);
        if !ascend || self.times.last().is_none_or(|&last| last as usize != train_steps) {
            return Err(format!("local_errors.times: expected ascending timesteps from 1 up to {train_steps}"));
        }
        let fits = |(k, row): (usize, &Vec<f64>)| {
            row.len() == k + 1 && row.iter().all(|error| error.is_finite() && *error >= 0.0)
        };
        if self.errors.len() != self.times.len() || !self.errors.iter().enumerate().all(fits) {
            let n = self.times.len();
            return Err(format!("local_errors.errors: expected {n} rows of 1 to {n} numbers of at least 0"));
        }
        Ok(())
    }
}

/// The candidates for a schedule of `train_steps` timesteps: t ∝ i² ([`Spacing::Quadratic`]), denser at low noise.
///
/// # Errors
/// As [`Trajectory::named`].
pub fn candidates(train_steps: u32) -> Result<Trajectory> {
    Trajectory::named(Spacing::Quadratic, CANDIDATES.min(train_steps as usize), train_steps, 0)
}

/// Measures the local errors of `denoiser` on the latents `x_t`, `[n, c, h, w]`: about 160 network calls on n images.
///
/// The reference is Heun's method over the [`candidates`]. A large batch is passed through in parts. `observer` sees the number
/// of steps done and that of all steps, and may stop the pass.
///
/// # Errors
/// ε-prediction meets zero SNR, a shape is wrong, an output is not finite, the observer stops the run
/// ([`Kind::Stopped`](crate::Kind)), or the network fails.
pub fn measure_path<D: Denoiser + ?Sized>(
    denoiser: &D,
    schedule: &Schedule,
    x_t: &Array4<f32>,
    conditions: &[Condition],
    observer: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<LocalErrors> {
    check_shape("latents", x_t, denoiser.shape())?;
    check_count(conditions, x_t.dim().0)?;
    let tau = candidates(schedule.train_steps())?;
    let plan = Plan::ddim(schedule, &tau)?.with_solver(Solver::HEUN)?;
    plan.check(denoiser.prediction())?;
    let count = tau.calls();
    let levels = tau.times().iter().chain([&Time::CLEAN]).map(|&t| schedule.level(t)).collect::<Result<Vec<_>>>()?;
    // Of the step from state i to state j, the sum of squares, with states in the order of the run.
    let mut squares = vec![vec![0.0; count + 1]; count];
    let (n, values) = (x_t.dim().0, x_t.len() / x_t.dim().0);
    let rows = (MOST_BYTES / (8 * values * count)).clamp(1, n);
    let of = count * n.div_ceil(rows);
    let mut done = 0;
    for first in (0..n).step_by(rows) {
        let part = first..(first + rows).min(n);
        let conditions = if conditions.is_empty() { conditions } else { &conditions[part.clone()] };
        let mut x = x_t.slice_axis(Axis(0), Slice::from(part)).to_owned();
        let mut states: Vec<State> = Vec::with_capacity(count);
        let start = x.clone();
        sample(denoiser, &plan, start, &mut Forbidden, conditions, &mut |progress| {
            let at = std::mem::replace(&mut x, progress.x.clone());
            states.push(State { x: at, x0: progress.x0.clone(), level: levels[progress.step - 1] });
            for (i, state) in states.iter().enumerate() {
                state.add_squares(levels[progress.step], &x, &mut squares[i][progress.step]);
            }
            done += 1;
            observer(done, of)
        })?;
    }
    let error = |i: usize, j: usize| six_digits((squares[i][j] / x_t.len() as f64).sqrt());
    // Ascending, where the states descend.
    let row = |k: usize| (0..=k).map(|j| error(count - 1 - k, count - j)).collect();
    let times = tau.times().iter().rev().map(|t| t.get() as u32).collect();
    Ok(LocalErrors { times, latents: n, errors: (0..count).map(row).collect() })
}

/// A state of the reference and the prediction there.
struct State {
    x: Array4<f32>,
    x0: Array4<f32>,
    level: NoiseLevel,
}

impl State {
    /// Adds the squared distances of the DDIM step from here to `to` from the reference `there`.
    fn add_squares(&self, to: NoiseLevel, there: &Array4<f32>, sum: &mut f64) {
        // x_s = √a_s·x̂₀ + √(1−a_s)·ε̂ with ε̂ = (x_t − √a_t·x̂₀)/√(1−a_t).
        let of_x = to.noise() / self.level.noise();
        let of_x0 = to.signal() - of_x * self.level.signal();
        for ((&x, &x0), &there) in self.x.iter().zip(&self.x0).zip(there) {
            *sum += (of_x * f64::from(x) + of_x0 * f64::from(x0) - f64::from(there)).powi(2);
        }
    }
}
