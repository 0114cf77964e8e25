//! Encoding for stochastic samplers: an image's latent *and* the noise of every step (arXiv 2210.05559, 2304.06140).

use ndarray::{Array4, Array5, Axis, Zip};

use crate::error::{Error, Kind, Result};
use crate::math::noise::NoiseSource;
use crate::math::process::reverse;
use crate::math::schedule::{NoiseLevel, Time};
use crate::sampling::denoiser::{Condition, Denoised, Denoiser, check_finite, check_shape, denoise};
use crate::sampling::inversion::{Calls, Observer};
use crate::sampling::sampler::{Plan, step};

/// How to draw the noisy states of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Draw {
    /// From the process Q_σ of DDIM Eq. 7: x_T from q(x_T|x₀), then each x_s from q_σ(x_s|x_t, x₀).
    ///
    /// The recovered noise is the noise of Q_σ, which is normal, plus a term from the error x₀ − x̂₀ (Wu & De la Torre).
    /// That term vanishes with many steps; the analytic variance accounts for it. Under σ̂ the recovered noise is
    /// smaller than normal, because σ̂ injects more noise than Q_σ.
    #[default]
    Chain,
    /// Each x_t = √a_t·x₀ + √(1−a_t)·ε with an independent ε. The recovered noise carries more of the image and is larger
    /// than normal noise, which keeps an edited image closer to the original (Huberman-Spiegelglas et al.).
    Independent,
}

/// The latent and noise from which a stochastic sampler reproduces an image.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseTrajectory {
    /// x_T, `[n, c, h, w]`.
    pub x_t: Array4<f32>,
    /// z of every step, in step order, `[steps, n, c, h, w]`. Zero for a step without noise.
    pub noise: Array5<f32>,
    /// Root mean square of the difference between the images and their samples, in network values. It is rounding error if
    /// the last step injects noise, else the error of the last x̂₀.
    pub residual: f64,
}

/// Finds latents and noise from which [`sample`](crate::sampling::sampler::sample) with `plan` reproduces the images `x0`,
/// `[n, c, h, w]`.
///
/// `draw` draws the states x_t with noise from `source`: x_T from call 0, the state after step i from call i + 1. The
/// noise z = (x_s − c.x0·x̂₀ − c.eps·ε̂)/c.z then takes the sampler from each state to the next. Each z is rounded to f32
/// and the state recomputed as the sampler will, so errors do not accumulate. The last step is exact only if it injects
/// noise: see [`Plan::with_final_sigma`].
///
/// ```
/// use ndarray::{Array3, Array4};
/// use skipstone::sampling::inversion::{Draw, encode_noise, unobserved};
/// use skipstone::math::noise::{Given, Seeded};
/// use skipstone::sampling::sampler::{Plan, sample};
/// use skipstone::{sampling::denoiser::Clip, sampling::oracle::Oracle, math::sigma::NoiseScale, math::trajectory::{Spacing, Trajectory}};
/// use skipstone::math::schedule::{BetaSchedule, FinalLevel, Schedule};
/// let schedule = Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000)?;
/// let oracle = Oracle::gaussian(&schedule, Array3::zeros((1, 2, 2)), Array3::ones((1, 2, 2)))?;
/// let tau = Trajectory::named(Spacing::Linear, 5, 1000, 0)?;
/// let plan = Plan::new(&schedule, &tau, &NoiseScale::Eta(1.0), FinalLevel::Clean, Clip::Off)?.with_final_sigma(0.1)?;
/// let x0 = Array4::from_elem((1, 1, 2, 2), 0.7);
/// let found = encode_noise(&oracle, &plan, &x0, Draw::Chain, &mut Seeded::new(3, 0), &[], &mut unobserved)?;
/// let mut z = Given::new(found.noise);
/// let back = sample(&oracle, &plan, found.x_t, &mut z, &[], &mut skipstone::sampling::sampler::unobserved)?;
/// assert!((back - x0).iter().all(|difference| difference.abs() < 1e-6));
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// A step before the last injects no noise, the images do not have the network's shape, the observer stops the run
/// ([`Kind::Stopped`]), or the network fails.
pub fn encode_noise<D: Denoiser + ?Sized>(
    denoiser: &D,
    plan: &Plan,
    x0: &Array4<f32>,
    draw: Draw,
    source: &mut dyn NoiseSource,
    conditions: &[Condition],
    observer: Observer<'_>,
) -> Result<NoiseTrajectory> {
    plan.check(denoiser.prediction())?;
    plan.check_ddim("encoding with noise")?;
    if plan.learns_variance() {
        return Err(Error::argument(
            "sigma learned: encoding with noise needs one sigma per step; choose eta or sigma hat",
        ));
    }
    check_shape("images", x0, denoiser.shape())?;
    check_finite("images", x0)?;
    let calls = plan.steps().len();
    if let Some(i) = plan.steps()[..calls - 1].iter().position(|step| step.coefficients.z == 0.0) {
        let message = format!("step {} of {calls} injects no noise, so none can be recovered; set eta > 0", i + 1);
        return Err(Error::argument(message));
    }
    let mut fresh = Array4::zeros(x0.dim());
    let mut noise_of = |call: usize, out: &mut Array4<f32>| source.fill(call, out);
    noise_of(0, &mut fresh)?;
    let x_t = marginal(x0, &fresh, plan.steps()[0].from);
    let (n, c, h, w) = x0.dim();
    let mut noise = Array5::zeros((calls, n, c, h, w));
    let mut x = x_t.clone();
    for (i, at) in plan.steps().iter().enumerate() {
        let Denoised { x0: seen, eps, .. } = denoise(denoiser, &x, at.t, at.from, conditions, plan.clip())?;
        let c = at.coefficients;
        let target = if at.s == Time::CLEAN {
            x0.clone()
        } else {
            noise_of(i + 1, &mut fresh)?;
            match draw {
                Draw::Independent => marginal(x0, &fresh, at.to),
                Draw::Chain => {
                    let q = reverse(at.from, at.to, at.sigma);
                    let deviation = q.variance.sqrt();
                    let mean = |x0: f32, x: f32| q.x0 * f64::from(x0) + q.x * f64::from(x);
                    Zip::from(x0)
                        .and(&x)
                        .and(&fresh)
                        .map_collect(|&x0, &x, &z| (mean(x0, x) + deviation * f64::from(z)) as f32)
                }
            }
        };
        let mut z = noise.index_axis_mut(Axis(0), i);
        if c.z > 0.0 {
            let mean = |seen: f32, eps: f32| c.x0 * f64::from(seen) + c.eps * f64::from(eps);
            Zip::from(&mut z)
                .and(&target)
                .and(&seen)
                .and(&eps)
                .for_each(|z, &x_s, &seen, &eps| *z = ((f64::from(x_s) - mean(seen, eps)) / c.z) as f32);
        }
        let z = z.to_owned();
        if z.iter().any(|value| !value.is_finite()) {
            let message =
                format!("step {} of {calls}: the recovered noise is not finite; its scale {} is too small", i + 1, c.z);
            return Err(Error::new(Kind::NonFinite, message));
        }
        x = step(&Denoised { x0: seen, eps, variance: None }, c, (c.z > 0.0).then_some(&z));
        if observer(Calls { step: i + 1, steps: calls, calls: i + 1 }).is_break() && i + 1 < calls {
            return Err(Error::stopped());
        }
    }
    let square: f64 = x.iter().zip(x0).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    Ok(NoiseTrajectory { x_t, noise, residual: (square / x0.len() as f64).sqrt() })
}

/// √a·x₀ + √(1−a)·ε.
fn marginal(x0: &Array4<f32>, eps: &Array4<f32>, level: NoiseLevel) -> Array4<f32> {
    let (signal, noise) = (level.signal(), level.noise());
    Zip::from(x0).and(eps).map_collect(|&x0, &eps| (signal * f64::from(x0) + noise * f64::from(eps)) as f32)
}
