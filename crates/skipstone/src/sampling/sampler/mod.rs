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
    plan.check(denoiser.prediction())?;
    plan.check_variance(denoiser)?;
    check_shape("initial latents", &x_t, denoiser.shape())?;
    check_finite("initial latents", &x_t)?;

    let times: Vec<Time> = plan.steps().iter().map(|step| step.t).collect();
    denoiser.prepare(&times, conditions);
    let steps = plan.steps().len();
    let scheme = plan.solver().scheme();
    let mut past: Vec<(NoiseLevel, Denoised)> = Vec::new();
    let mut x = x_t;
    for (i, at) in plan.steps().iter().enumerate() {
        if let Some(jump) = plan.jump_before(i) {
            jump.apply(&mut x, noise)?;
            // The predictions so far belong to another path.
            past.clear();
        }
        let ask = |x: &Array4<f32>, t: Time, level: NoiseLevel| {
            denoise(denoiser, x, t, level, conditions, plan.clip())
                .map_err(|error| Error::new(error.kind(), format!("step {} of {steps}: {}", i + 1, error.message())))
        };
        let here = ask(&x, at.t, at.from)?;
        let x_s = (scheme.step)(&mut solver::Step {
            x: &x,
            from: at.from,
            to: at.to,
            here: &here,
            past: &past,
            coefficients: at.coefficients,
            steps,
            remaining: steps - i,
            schedule: plan.schedule(),
            ask: &mut |x, level| ask(x, time_of(denoiser, plan, at, level), level),
            source: noise,
            index: i,
        })?;
        x = x_s;
        check_finite(&format!("step {} of {steps}: x at t = {}", i + 1, at.s), &x)?;

        tracing::debug!(step = i + 1, steps, t = at.t.get(), s = at.s.get(), sigma = at.sigma, "step");
        let progress = Progress { step: i + 1, steps, t: at.t, s: at.s, x0: &here.x0, x: &x };
        if observer(&progress).is_break() && i + 1 < steps {
            return Err(Error::stopped());
        }
        if scheme.memory > 0 {
            past.truncate(scheme.memory - 1);
            past.insert(0, (at.from, here));
        }
    }
    Ok(x)
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
