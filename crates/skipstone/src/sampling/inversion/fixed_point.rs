use ndarray::{Array4, Axis, Zip};

use super::{Affine, FixedPoint, Run};
use crate::error::Result;
use crate::math::schedule::Time;
use crate::math::sigma::Step;
use crate::sampling::denoiser::{Condition, Denoiser};

/// Convergence of the inversion of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Convergence {
    /// The timestep of the solution x_t.
    pub t: Time,
    /// The timestep on which the DDIM step from t lands.
    pub s: Time,
    /// Network calls for the slowest image.
    pub iterations: usize,
    /// Root mean square of Φ(x_t) − x_s for the worst image, in network values: the error of decoding this step alone.
    pub residual: f64,
    /// Number of images that missed the tolerance. Each keeps its best x_t.
    pub unconverged: usize,
}

/// x₀ → x_T such that each DDIM step of the plan lands on the state from which it was inverted.
pub(super) fn encode<D: Denoiser + ?Sized>(
    run: &mut Run<'_, D>,
    x0: &Array4<f32>,
    by: FixedPoint,
) -> Result<(Array4<f64>, Vec<Convergence>)> {
    let mut x = x0.mapv(f64::from);
    let mut report = Vec::with_capacity(run.steps);
    // A step's first guess is that of plain encoding: ε̂ of the state below at its own timestep.
    let mut eps = match run.plan.steps().last() {
        Some(last) => run.ask_below(&x, last)?.eps,
        None => return Ok((x, report)),
    };
    for step in run.plan.steps().iter().rev() {
        report.push(invert(run, step, &mut x, &mut eps, by)?);
        run.step_done(step.t, step.s);
    }
    Ok((x, report))
}

/// Replaces x_s by x_t in `x`, and ε̂ of the state below by ε̂(x_t, t) in `eps`.
fn invert<D: Denoiser + ?Sized>(
    run: &mut Run<'_, D>,
    step: &Step,
    x: &mut Array4<f64>,
    eps: &mut Array4<f32>,
    by: FixedPoint,
) -> Result<Convergence> {
    let c = Affine::of(step);
    let x_s = x.clone();
    let guess = |x_s: f64, eps: f32| (x_s - c.eps * f64::from(eps)) / c.x;
    let mut trial = Zip::from(&x_s).and(&*eps).map_collect(|&x_s, &eps| guess(x_s, eps));
    let n = x.dim().0;
    let mut best = vec![f64::INFINITY; n];
    let mut active: Vec<usize> = (0..n).collect();
    let mut iterations = 0;
    while !active.is_empty() && iterations < by.iterations {
        iterations += 1;
        let rows = trial.select(Axis(0), &active);
        let all = run.conditions;
        let conditions: Vec<Condition> = active.iter().filter_map(|&i| all.get(i).copied()).collect();
        let found = run.ask_about(&rows, step.t, step.from, &conditions)?.eps;
        let mut left = Vec::with_capacity(active.len());
        for (found, &i) in found.outer_iter().zip(&active) {
            let (mut at, x_s) = (trial.index_axis_mut(Axis(0), i), x_s.index_axis(Axis(0), i));
            let mut sum = 0.0;
            Zip::from(&at).and(&x_s).and(&found).for_each(|&at, &x_s, &eps| {
                let miss = c.x * at + c.eps * f64::from(eps) - x_s;
                sum += miss * miss;
            });
            let residual = (sum / at.len() as f64).sqrt();
            if residual < best[i] {
                best[i] = residual;
                x.index_axis_mut(Axis(0), i).assign(&at);
                eps.index_axis_mut(Axis(0), i).assign(&found);
            }
            if residual > by.tolerance && residual.is_finite() {
                Zip::from(&mut at).and(&x_s).and(&found).for_each(|at, &x_s, &eps| *at = guess(x_s, eps));
                left.push(i);
            }
        }
        active = left;
    }
    let residual = best.iter().copied().fold(0.0, f64::max);
    let unconverged = best.iter().filter(|&&residual| residual > by.tolerance).count();
    tracing::debug!(t = step.t.get(), iterations, residual, unconverged, "fixed point");
    Ok(Convergence { t: step.t, s: step.s, iterations, residual, unconverged })
}
