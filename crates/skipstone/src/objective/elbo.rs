use std::f64::consts::LN_2;
use std::ops::ControlFlow;

use ndarray::Array4;

use super::decoder::log_likelihood;
use super::weights::check_sigma;
use crate::error::{Error, Kind, Result};
use crate::math::noise::NoiseSource;
use crate::math::process::diffuse;
use crate::math::schedule::{FinalLevel, NoiseLevel, Schedule, Time};
use crate::math::sigma::{NoiseScale, Step, sigma, table};
use crate::math::trajectory::Trajectory;
use crate::sampling::denoiser::{Clip, Condition, Denoised, Denoiser, check_finite, check_shape, denoise};

/// The sampler whose bound is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct ElboOptions {
    /// σ of every step but the last. Each must be positive.
    pub scale: NoiseScale,
    /// The decoder's σ₁. Default: [`default_sigma_1`].
    pub sigma_1: Option<f64>,
    /// Clipping of x̂₀.
    pub clip: Clip,
}

/// The contribution of one step to the bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ElboTerm {
    /// The timestep of the network call.
    pub t: Time,
    /// The timestep on which the step lands; [`Time::CLEAN`] for the decoder.
    pub s: Time,
    /// E‖ε − ε̂‖², the mean over images.
    pub squared_error: f64,
    /// KL(q_σ(x_s|x_t,x₀) ‖ p_θ(x_s|x_t)), or −log p_θ(x₀|x_t) for the decoder, in nats per image.
    pub nats: f64,
}

/// The evidence lower bound: −log p(x₀) ≤ prior + Σ terms, in nats per image.
#[derive(Clone, Debug, PartialEq)]
pub struct Elbo {
    /// KL(q(x_T|x₀) ‖ N(0, I)) at the trajectory's first timestep.
    pub prior_nats: f64,
    /// The steps in order. The last is the decoder.
    pub terms: Vec<ElboTerm>,
    /// d, the number of elements of an image.
    pub dims: usize,
    /// The bound of each image, in nats.
    pub image_nats: Vec<f64>,
}

impl Elbo {
    /// Merges bounds of several batches along the same trajectory. `None` for no batches.
    pub fn merged(parts: Vec<Self>) -> Option<Self> {
        parts.into_iter().reduce(|mut sum, part| {
            let (n, m) = (sum.image_nats.len() as f64, part.image_nats.len() as f64);
            let mean = |a: &mut f64, b: f64| *a = (n * *a + m * b) / (n + m);
            mean(&mut sum.prior_nats, part.prior_nats);
            for (term, other) in sum.terms.iter_mut().zip(&part.terms) {
                mean(&mut term.squared_error, other.squared_error);
                mean(&mut term.nats, other.nats);
            }
            sum.image_nats.extend(part.image_nats);
            sum
        })
    }

    /// The standard error of the bound over images, in bits per dimension. It covers the choice of images and the noise
    /// draws. `None` for a single image.
    pub fn standard_error(&self) -> Option<f64> {
        let scale = 1.0 / (self.dims as f64 * LN_2);
        crate::objective::likelihood::standard_error(&self.image_nats).map(|error| error * scale)
    }

    /// The bound in nats per image.
    pub fn total_nats(&self) -> f64 {
        self.prior_nats + self.terms.iter().map(|term| term.nats).sum::<f64>()
    }

    /// The bound in bits per dimension.
    pub fn bits_per_dim(&self) -> f64 {
        self.total_nats() / (self.dims as f64 * LN_2)
    }
}

/// The decoder's default σ₁: that of the DDPM posterior at t = 2.
///
/// # Errors
/// T = 1, so there is no t = 2.
pub fn default_sigma_1(schedule: &Schedule) -> Result<f64> {
    if schedule.train_steps() < 2 {
        return Err(Error::argument("sigma_1: a schedule with one timestep has no default; set sigma_1"));
    }
    Ok(sigma(1.0, schedule.level(Time::new(2))?, schedule.level(Time::new(1))?))
}

/// Computes the evidence lower bound of `denoiser` on the images `x0`, `[n, c, h, w]` on the 256 levels of [−1, 1], with one
/// network call per step of `trajectory`.
///
/// The decoder p_θ(x₀|x_t) is a discretised Gaussian over 256 levels with its own σ₁. Bins are 2/255 wide and open at both
/// ends. `noise` gives ε of call i. `observer` sees each term and may stop the run.
///
/// # Errors
/// A step has σ = 0 (the bound is infinite), a term exceeds the range of f64, ε-prediction meets zero SNR, an image or output
/// is not finite, the observer stops the run ([`Kind::Stopped`]), or [`table`], the network or the noise source fails.
#[allow(clippy::too_many_arguments)] // orthogonal inputs, as for `sample`
pub fn elbo<D: Denoiser + ?Sized>(
    denoiser: &D,
    schedule: &Schedule,
    trajectory: &Trajectory,
    options: &ElboOptions,
    x0: &Array4<f32>,
    noise: &mut dyn NoiseSource,
    conditions: &[Condition],
    observer: &mut dyn FnMut(&ElboTerm) -> ControlFlow<()>,
) -> Result<Elbo> {
    schedule.check_prediction(denoiser.prediction())?;
    options.clip.check()?;
    check_shape("x0", x0, denoiser.shape())?;
    check_finite("x0", x0)?;
    if options.scale == NoiseScale::Learned {
        return Err(Error::argument("sigma learned: the bound needs one sigma per step; choose eta or sigma hat"));
    }
    let steps = table(schedule, trajectory, &options.scale, FinalLevel::Clean)?;
    let sigma_1 = match options.sigma_1 {
        Some(sigma_1) => sigma_1,
        None => default_sigma_1(schedule)?,
    };
    // Refuse invalid input before the first network call.
    for step in &steps {
        check_sigma(if step.s == Time::CLEAN { sigma_1 } else { step.sigma }, step)?;
    }

    let n = x0.dim().0;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / n as f64;
    let mut image_nats = prior_nats(steps[0].from, x0);
    let prior_nats = mean(&image_nats);
    let mut eps = Array4::zeros(x0.dim());
    let mut terms = Vec::with_capacity(steps.len());
    for (call, step) in steps.iter().enumerate() {
        noise.fill(call, &mut eps)?;
        let x_t = diffuse(x0, &eps, &vec![step.from; n])?;
        let found = denoise(denoiser, &x_t, step.t, step.from, conditions, options.clip)?;
        let squared_error = mean(&super::squared_errors(&eps, &found.eps)?);
        let nats =
            if step.s == Time::CLEAN { decoder_nats(x0, &found.x0, sigma_1) } else { kl_nats(step, x0, &eps, &found) };
        image_nats.iter_mut().zip(&nats).for_each(|(total, nats)| *total += nats);
        let term = ElboTerm { t: step.t, s: step.s, squared_error, nats: mean(&nats) };
        check_term(&term, if step.s == Time::CLEAN { sigma_1 } else { step.sigma })?;
        terms.push(term);
        if observer(&term).is_break() && call + 1 < steps.len() {
            return Err(Error::stopped());
        }
    }
    Ok(Elbo { prior_nats, terms, dims: x0.len() / n, image_nats })
}

/// Refuses a term that is not finite, which an extremely small σ or an extreme σ₁ causes.
fn check_term(term: &ElboTerm, sigma: f64) -> Result<()> {
    if term.nats.is_finite() {
        return Ok(());
    }
    let (name, remedy) = if term.s == Time::CLEAN { ("sigma_1", "sigma_1") } else { ("sigma", "eta") };
    Err(Error::new(
        Kind::NonFinite,
        format!(
            "step t = {} to {}: the bound is {} with {name} = {sigma:e}; choose another {remedy}",
            term.t.get(),
            term.s.get(),
            term.nats
        ),
    ))
}

/// KL(N(μ_q, σ²I) ‖ N(μ_θ, z²I)) of each image, where μ_q uses the true x₀ and ε, and μ_θ uses x̂₀ and ε̂. Only σ̂ and the
/// analytic variance have z ≠ σ.
fn kl_nats(step: &Step, x0: &Array4<f32>, eps: &Array4<f32>, found: &Denoised) -> Vec<f64> {
    let c = step.coefficients;
    let ratio = step.sigma / c.z;
    let mismatch = 0.5 * (ratio * ratio - 1.0) - ratio.ln();
    let truth = x0.outer_iter().zip(eps.outer_iter());
    let guess = found.x0.outer_iter().zip(found.eps.outer_iter());
    truth
        .zip(guess)
        .map(|((x0, eps), (x0_hat, eps_hat))| {
            let apart = |((&x0, &eps), (&x0_hat, &eps_hat)): ((&f32, &f32), (&f32, &f32))| {
                let of_x0 = c.x0 * (f64::from(x0) - f64::from(x0_hat));
                let of_eps = c.eps * (f64::from(eps) - f64::from(eps_hat));
                (of_x0 + of_eps).powi(2)
            };
            let distance: f64 = x0.iter().zip(eps).zip(x0_hat.iter().zip(eps_hat)).map(apart).sum();
            distance / (2.0 * c.z * c.z) + x0.len() as f64 * mismatch
        })
        .collect()
}

/// −log p_θ(x₀|x_t) of each image.
fn decoder_nats(x0: &Array4<f32>, x0_hat: &Array4<f32>, sigma_1: f64) -> Vec<f64> {
    let nats = |(&x0, &mean): (&f32, &f32)| -log_likelihood(f64::from(x0), f64::from(mean), sigma_1);
    x0.outer_iter().zip(x0_hat.outer_iter()).map(|(x0, mean)| x0.iter().zip(mean).map(nats).sum()).collect()
}

/// KL(N(√a·x₀, (1−a)I) ‖ N(0, I)) of each image.
fn prior_nats(level: NoiseLevel, x0: &Array4<f32>) -> Vec<f64> {
    // (1−a) − 1 = −a.
    let constant = -level.alpha_bar - level.one_minus.ln();
    let nats = |&x0: &f32| 0.5 * (level.alpha_bar * f64::from(x0).powi(2) + constant);
    x0.outer_iter().map(|image| image.iter().map(nats).sum()).collect()
}
