//! The sampling loop: the generative process p_θ(x_s | x_t) from x_T to an image, by DDIM (Eq. 12) or another solver.

mod plan;
mod restart;

pub use plan::Plan;
pub use restart::Restart;

use std::ops::ControlFlow;

use ndarray::{Array4, Zip};

use crate::error::{Error, Result};
use crate::math::noise::NoiseSource;
use crate::math::schedule::{NoiseLevel, Time};
use crate::math::sigma::{self, Coefficients};
use crate::sampling::denoiser::{Condition, Denoised, Denoiser, check_finite, check_shape, denoise};
use crate::sampling::solver;

/// The state of a run, passed to the observer after each step.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Steps done, from 1.
    pub step: usize,
    /// Steps of the whole run.
    pub steps: usize,
    /// The timestep of the network call.
    pub t: Time,
    /// The timestep on which the step landed.
    pub s: Time,
    /// The prediction x̂₀ at t, `[n, c, h, w]`.
    pub x0: &'a Array4<f32>,
    /// x_s, `[n, c, h, w]`.
    pub x: &'a Array4<f32>,
}

/// An observer that never stops the run.
pub fn unobserved(_: &Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// x_s = x0·x̂₀ + eps·ε̂ + z·z in one pass over the data, with f64 arithmetic. `z` may be `None` if its coefficient is 0.
/// Where the network learns the variance, z has a coefficient for each value.
pub fn step(denoised: &Denoised, c: Coefficients, z: Option<&Array4<f32>>) -> Array4<f32> {
    let mut x_s = Array4::zeros(denoised.x0.dim());
    let mean = |x0: f32, eps: f32| c.x0 * f64::from(x0) + c.eps * f64::from(eps);
    match z {
        Some(z) if let (Some(least), Some(variance)) = (c.least_z, &denoised.variance) => {
            let (low, high) = (least.ln(), c.z.ln());
            let sigma = |v: f32| (low + f64::from(v) * (high - low)).exp();
            Zip::from(&mut x_s)
                .and(&denoised.x0)
                .and(&denoised.eps)
                .and(variance)
                .and(z)
                .for_each(|x_s, &x0, &eps, &v, &z| *x_s = (mean(x0, eps) + sigma(v) * f64::from(z)) as f32);
        }
        None => Zip::from(&mut x_s)
            .and(&denoised.x0)
            .and(&denoised.eps)
            .for_each(|x_s, &x0, &eps| *x_s = mean(x0, eps) as f32),
        Some(z) => Zip::from(&mut x_s)
            .and(&denoised.x0)
            .and(&denoised.eps)
            .and(z)
            .for_each(|x_s, &x0, &eps, &z| *x_s = (mean(x0, eps) + c.z * f64::from(z)) as f32),
    }
    x_s
}

/// Runs `plan` from the latents `x_t` (x_T, `[n, c, h, w]`) to images, which are not clamped.
///
/// Steps draw fresh noise from `noise` by their index in the run, and only if their coefficient of z is not 0. Image i
/// depends only on row i of the inputs. `observer` sees every step and may stop the run.
///
/// ```
/// use ndarray::Array3;
/// use skipstone::math::noise::{Forbidden, initial_latent};
/// use skipstone::sampling::sampler::{Plan, sample, unobserved};
/// use skipstone::math::schedule::{BetaSchedule, Schedule};
/// use skipstone::{sampling::oracle::Oracle, math::trajectory::{Spacing, Trajectory}};
/// let schedule = Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000)?;
/// let point = Array3::from_elem((1, 4, 4), 0.5);
/// let denoiser = Oracle::points(&schedule, vec![point])?;
/// let plan = Plan::ddim(&schedule, &Trajectory::named(Spacing::Linear, 10, 1000, 0)?)?;
/// let x = sample(&denoiser, &plan, initial_latent(0, 0, 2, [1, 4, 4]), &mut Forbidden, &[], &mut unobserved)?;
/// assert!(x.iter().all(|value| (value - 0.5).abs() < 1e-4));
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// The latents do not have the network's shape, the number of conditions differs from the batch size, the plan uses
/// ε-prediction at zero SNR, the latents or a network output are not finite (the message names the step), the observer stops
/// the run ([`Kind::Stopped`](crate::Kind)), or the network or the noise source fails.
pub fn sample<D: Denoiser + ?Sized>(
    denoiser: &D,
    plan: &Plan,
    x_t: Array4<f32>,
    noise: &mut dyn NoiseSource,
    conditions: &[Condition],
    observer: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<Array4<f32>> {
    let mut run = Run::new(denoiser, plan, x_t, conditions)?;
    while let Some(progress) = run.advance(denoiser, plan, noise, conditions)? {
        if observer(&progress).is_break() && progress.step < progress.steps {
            return Err(Error::stopped());
        }
    }
    Ok(run.x)
}

/// A run between two steps. [`sample`] drives one to its end; a caller that wants to hold the run itself, for instance as an
/// iterator, advances it step by step, always with the same network, plan, noise and conditions.
#[derive(Clone, Debug)]
pub struct Run {
    x: Array4<f32>,
    /// x̂₀ of the latest step, unless it is the first of `past`.
    latest: Option<Denoised>,
    /// Predictions of earlier steps with their noise levels, latest first.
    past: Vec<(NoiseLevel, Denoised)>,
    step: usize,
}

impl Run {
    /// A run from the latents `x_t`, `[n, c, h, w]`, before its first step.
    ///
    /// # Errors
    /// As [`sample`], as far as it can be told before a network call.
    pub fn new<D: Denoiser + ?Sized>(
        denoiser: &D,
        plan: &Plan,
        x_t: Array4<f32>,
        conditions: &[Condition],
    ) -> Result<Self> {
        plan.check(denoiser.prediction())?;
        plan.check_variance(denoiser)?;
        check_shape("initial latents", &x_t, denoiser.shape())?;
        check_finite("initial latents", &x_t)?;
        let times: Vec<Time> = plan.steps().iter().map(|step| step.t).collect();
        denoiser.prepare(&times, conditions);
        Ok(Self { x: x_t, latest: None, past: Vec::new(), step: 0 })
    }

    /// Makes the next step. `None` once all steps are done.
    ///
    /// # Errors
    /// As [`sample`]. The state stays that before the step.
    pub fn advance<D: Denoiser + ?Sized>(
        &mut self,
        denoiser: &D,
        plan: &Plan,
        noise: &mut dyn NoiseSource,
        conditions: &[Condition],
    ) -> Result<Option<Progress<'_>>> {
        let (i, steps) = (self.step, plan.steps().len());
        let Some(at) = plan.steps().get(i) else { return Ok(None) };
        let scheme = plan.solver().scheme();
        let ask = |x: &Array4<f32>, t: Time, level: NoiseLevel| {
            denoise(denoiser, x, t, level, conditions, plan.clip())
                .map_err(|error| error.within(format_args!("step {} of {steps}", i + 1)))
        };
        let jumped = plan.jump_before(i).map(|jump| jump.apply(&self.x, noise)).transpose()?;
        let x = jumped.as_ref().unwrap_or(&self.x);
        // After a jump, the predictions so far belong to another path.
        let past = if jumped.is_some() { &[][..] } else { &self.past };
        let here = ask(x, at.t, at.from)?;
        let x_s = (scheme.step)(&mut solver::Step {
            x,
            from: at.from,
            to: at.to,
            here: &here,
            past,
            coefficients: at.coefficients,
            steps,
            remaining: steps - i,
            schedule: plan.schedule(),
            ask: &mut |x, level| ask(x, time_of(denoiser, plan, at, level), level),
            source: noise,
            index: i,
        })?;
        check_finite(&format!("step {} of {steps}: x at t = {}", i + 1, at.s), &x_s)?;
        tracing::debug!(step = i + 1, steps, t = at.t.get(), s = at.s.get(), sigma = at.sigma, "step");
        if jumped.is_some() {
            self.past.clear();
        }
        self.x = x_s;
        self.step = i + 1;
        let x0 = if scheme.memory > 0 {
            self.past.truncate(scheme.memory - 1);
            self.past.insert(0, (at.from, here));
            &self.past[0].1.x0
        } else {
            &self.latest.insert(here).x0
        };
        Ok(Some(Progress { step: i + 1, steps, t: at.t, s: at.s, x0, x: &self.x }))
    }
}

/// The timestep of a network call at `level` within the step `at`.
fn time_of<D: Denoiser + ?Sized>(denoiser: &D, plan: &Plan, at: &sigma::Step, level: NoiseLevel) -> Time {
    if level == at.to && at.s != Time::CLEAN {
        return at.s;
    }
    let t = plan.schedule().time(level);
    if denoiser.takes_fractional_times() { t } else { t.rounded() }
}

#[cfg(test)]
mod tests;
