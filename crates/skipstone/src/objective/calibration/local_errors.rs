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
/// Most latents on which programs measure the path.
pub const MOST_LATENTS: u16 = 4096;

/// How far single DDIM steps stray from the deterministic path (Chen et al., arXiv 2405.11326), and what becomes of it.
///
/// A reference run visits some tens of candidate timesteps t. From its state at each, one step goes to each later candidate s
/// and to clean data. The error of the step is its distance from the reference there. The process amplifies it on the way to
/// the image, the more the noisier s is: by the gain of s. If the errors of a run's steps have unrelated directions, their
/// squares add up, and the grid with the least sum of squared errors times gains ends closest to the reference's images. The
/// sum of the errors themselves is a bound, but prefers one very long step to two long ones: the long one's error is limited by
/// the size of the data, the bound of two is not.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalErrors {
    /// The candidates, ascending; the last is T.
    pub times: Vec<u32>,
    /// Number of latents measured.
    pub latents: usize,
    /// `errors[k][0]` of the step from `times[k]` to clean data, `errors[k][j]` of that to `times[j - 1]`: root mean square
    /// over latents and dimensions.
    pub errors: Vec<Vec<f64>>,
    /// `gains[0]` is 1, for clean data; `gains[j]` tells how much larger an error at `times[j - 1]` is in the image.
    pub gains: Vec<f64>,
}

impl LocalErrors {
    /// The trajectory of `steps` calls from T down with the least sum of squares of errors times gains.
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
        let cost = |t, s| (self.errors[number(t) - 1][number(s)] * self.gains[number(s)]).powi(2);
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
        let is_gain = |gain: &f64| gain.is_finite() && *gain >= 0.0;
        if self.gains.len() != self.times.len() + 1 || !self.gains.iter().all(is_gain) {
            let n = self.times.len() + 1;
            return Err(format!("local_errors.gains: expected {n} numbers of at least 0"));
        }
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

/// The extent of [`measure_path`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathWork {
    /// Steps that its observer sees, if the batch is not passed through in parts.
    pub stages: usize,
    /// Network calls on each latent.
    pub calls: usize,
}

/// The extent of [`measure_path`] for a schedule of `train_steps` timesteps.
///
/// # Errors
/// As [`candidates`].
pub fn path_work(train_steps: u32) -> Result<PathWork> {
    let count = candidates(train_steps)?.calls();
    let pairs = probes(count).map(|i| 2 * (count - i).div_ceil(stride(count)));
    // Heun's method calls the network twice per step, except for the last.
    Ok(PathWork { stages: count + probes(count).count(), calls: 2 * count - 1 + pairs.sum::<usize>() })
}

/// Candidates from one step of a typical fitted grid to the next.
fn stride(count: usize) -> usize {
    (count / 10).max(1)
}

/// The candidates at which gains are measured, in the order of the run: half a step apart.
fn probes(count: usize) -> impl Iterator<Item = usize> {
    (1..count).step_by(stride(count).div_ceil(2))
}

/// Measures the local errors of `denoiser` on the latents `x_t`, `[n, c, h, w]`, in as many calls as [`path_work`] says.
///
/// The reference is Heun's method over the [`candidates`]. The gain of a candidate follows from two short DDIM runs from there
/// to the image, one of them off the reference by the error of a step. A large batch is passed through in parts. `observer`
/// sees the number of stages done and that of all, and may stop the pass.
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
    // Of the errors at the probes, the sums of squares there and in the image.
    let mut amplified: Vec<(usize, f64, f64)> = probes(count).map(|i| (i, 0.0, 0.0)).collect();
    let (n, values) = (x_t.dim().0, x_t.len() / x_t.dim().0);
    let rows = (MOST_BYTES / (8 * values * count)).clamp(1, n);
    let of = (count + amplified.len()) * n.div_ceil(rows);
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
                squares[i][progress.step] += state.step(levels[progress.step]).zip(&x).map(off_by).sum::<f64>();
            }
            done += 1;
            observer(done, of)
        })?;
        for (i, there, in_image) in &mut amplified {
            let on = &states[*i].x;
            let step = states[i.saturating_sub(stride(count))].step(states[*i].level);
            let off = Array4::from_shape_vec(on.raw_dim(), step.map(|x| x as f32).collect());
            let off = off.map_err(|e| Error::argument(format!("latents: {e}")))?;
            *there += off.iter().map(|&x| f64::from(x)).zip(on).map(off_by).sum::<f64>();
            let times = tau.times()[*i..].iter().step_by(stride(count)).copied().collect();
            let rest = Plan::ddim(schedule, &Trajectory::from_times(times, schedule.train_steps())?)?;
            let image = |x| sample(denoiser, &rest, x, &mut Forbidden, conditions, &mut |_| ControlFlow::Continue(()));
            let (off, on) = (image(off)?, image(on.clone())?);
            *in_image += off.iter().map(|&x| f64::from(x)).zip(&on).map(off_by).sum::<f64>();
            done += 1;
            if observer(done, of).is_break() {
                return Err(Error::stopped());
            }
        }
    }
    let error = |i: usize, j: usize| six_digits((squares[i][j] / x_t.len() as f64).sqrt());
    // Ascending, where the states descend.
    let row = |k: usize| (0..=k).map(|j| error(count - 1 - k, count - j)).collect();
    let times = tau.times().iter().rev().map(|t| t.get() as u32).collect();
    let known: Vec<(usize, f64)> = amplified
        .iter()
        .rev()
        .map(|&(i, there, in_image)| (count - i, if there > 0.0 { (in_image / there).sqrt() } else { 1.0 }))
        .collect();
    let gains = (0..=count).map(|j| if j == 0 { 1.0 } else { six_digits(interpolated(&known, j)) }).collect();
    Ok(LocalErrors { times, latents: n, errors: (0..count).map(row).collect(), gains })
}

/// The value at `at` on the lines between known points, which ascend; beyond them that of the nearest.
fn interpolated(known: &[(usize, f64)], at: usize) -> f64 {
    let above = known.partition_point(|&(place, _)| place < at);
    match (above.checked_sub(1).map(|below| known[below]), known.get(above)) {
        (Some((a, low)), Some(&(b, high))) => low + (high - low) * (at - a) as f64 / (b - a) as f64,
        (Some((_, value)), None) | (None, Some(&(_, value))) => value,
        (None, None) => 1.0,
    }
}

/// The squared distance of two values.
fn off_by((x, y): (f64, &f32)) -> f64 {
    (x - f64::from(*y)).powi(2)
}

/// A state of the reference and the prediction there.
struct State {
    x: Array4<f32>,
    x0: Array4<f32>,
    level: NoiseLevel,
}

impl State {
    /// Where the DDIM step from here to `to` ends.
    fn step(&self, to: NoiseLevel) -> impl Iterator<Item = f64> {
        // x_s = √a_s·x̂₀ + √(1−a_s)·ε̂ with ε̂ = (x_t − √a_t·x̂₀)/√(1−a_t).
        let of_x = to.noise() / self.level.noise();
        let of_x0 = to.signal() - of_x * self.level.signal();
        self.x.iter().zip(&self.x0).map(move |(&x, &x0)| of_x * f64::from(x) + of_x0 * f64::from(x0))
    }
}
