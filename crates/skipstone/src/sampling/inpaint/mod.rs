//! Inpainting with a model that was not trained for it: projection, and RePaint's resampling (Lugmayr et al., arXiv
//! 2201.09865).

mod walk;

pub use walk::{Move, Resampling};

use std::ops::ControlFlow;

use ndarray::{Array2, Array3, Array4, Zip};

use crate::error::{Error, Kind, Result};
use crate::math::noise::NoiseSource;
use crate::math::schedule::NoiseLevel;
use crate::sampling::denoiser::{Condition, Denoiser, check_finite, check_shape, denoise};
use crate::sampling::sampler::{Plan, Progress, step};

/// An image and the mask of the region to fill.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    image: Array3<f32>,
    fill: Array2<bool>,
}

impl Region {
    /// `image` is `[c, h, w]` in network values; `fill` is `[h, w]`, true where the image is filled. Values in the filled
    /// region do not matter, but must be finite.
    ///
    /// # Errors
    /// The mask has another size than the image, an image value is not finite, or the mask selects nothing.
    pub fn new(image: Array3<f32>, fill: Array2<bool>) -> Result<Self> {
        let (_, h, w) = image.dim();
        if fill.dim() != (h, w) {
            return Err(Error::argument(format!(
                "mask: expected the image's size, [{h}, {w}], found {:?}",
                fill.shape()
            )));
        }
        if image.iter().any(|value| !value.is_finite()) {
            return Err(Error::new(Kind::NonFinite, "image to fill: expected finite values, found NaN or infinity"));
        }
        if !fill.iter().any(|&fill| fill) {
            return Err(Error::argument("mask: selects nothing to fill (white is filled, black is kept)"));
        }
        Ok(Self { image, fill })
    }

    /// The image, `[c, h, w]`.
    pub fn image(&self) -> &Array3<f32> {
        &self.image
    }

    /// The mask, `[h, w]`, true where the image is filled.
    pub fn fill(&self) -> &Array2<bool> {
        &self.fill
    }

    /// Overwrites the known region of the states `x` with the image, diffused to `level` with noise `eps` (RePaint Eq. 8a
    /// and 8c).
    fn keep(&self, x: &mut Array4<f32>, eps: &Array4<f32>, level: NoiseLevel) {
        let (signal, noise) = (level.signal(), level.noise());
        for (mut x, eps) in x.outer_iter_mut().zip(eps.outer_iter()) {
            for ((mut x, eps), known) in x.outer_iter_mut().zip(eps.outer_iter()).zip(self.image.outer_iter()) {
                Zip::from(&mut x).and(eps).and(known).and(&self.fill).for_each(|x, &eps, &known, &fill| {
                    if !fill {
                        *x = (signal * f64::from(known) + noise * f64::from(eps)) as f32;
                    }
                });
            }
        }
    }
}

/// The noise sources of an inpainting run. Each is called with the number k of the move, counted from 0.
pub struct Noises<'a> {
    /// Noise z of sampling steps, call k. Without resampling, move k is step k.
    pub step: &'a mut dyn NoiseSource,
    /// Noise that diffuses the known region (call 2k) and that moves the state back up (call 2k + 1).
    pub around: &'a mut dyn NoiseSource,
}

/// Fills `region` from the latents `x_t` (x_T, `[n, c, h, w]`), which gives n different fillings. Outside the region the
/// result is the image itself.
///
/// A move down makes one step of the plan, then replaces the known region by the image at that noise level (projection).
/// A move up diffuses the whole state again, so the next moves down can harmonise both regions. The observer's steps are
/// network calls, [`Resampling::calls`] in total.
///
/// ```
/// use ndarray::{Array2, Array3};
/// use skipstone::sampling::inpaint::{Noises, Region, Resampling, inpaint};
/// use skipstone::math::noise::{Purpose, Seeded, initial_latent};
/// use skipstone::sampling::sampler::{Plan, unobserved};
/// use skipstone::{sampling::oracle::Oracle, math::trajectory::{Spacing, Trajectory}};
/// use skipstone::math::schedule::{BetaSchedule, Schedule};
/// let schedule = Schedule::new(&BetaSchedule::Linear, 1e-4, 0.02, 1000)?;
/// let oracle = Oracle::points(&schedule, vec![Array3::from_elem((1, 2, 2), 0.5)])?;
/// let plan = Plan::ddim(&schedule, &Trajectory::named(Spacing::Linear, 10, 1000, 0)?)?;
/// let mut fill = Array2::from_elem((2, 2), false);
/// fill[[0, 0]] = true;
/// let region = Region::new(Array3::zeros((1, 2, 2)), fill)?;
/// let (mut step, mut around) = (Seeded::new(0, 0), Seeded { purpose: Purpose::Inpaint, ..Seeded::new(0, 0) });
/// let noises = Noises { step: &mut step, around: &mut around };
/// let x_t = initial_latent(0, 0, 1, [1, 2, 2]);
/// let x = inpaint(&oracle, &plan, x_t, &region, Resampling::PROJECTION, noises, &[], &mut unobserved)?;
/// assert!((x[[0, 0, 0, 0]] - 0.5).abs() < 1e-4 && x[[0, 0, 1, 1]] == 0.0);
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// The latents or the image do not have the network's shape, the jump or the number of resamples is 0, or the solver is
/// not DDIM; and as [`sample`](crate::sampling::sampler::sample).
#[expect(clippy::too_many_arguments, reason = "the arguments of sample, plus the region, the resampling and its noise")]
pub fn inpaint<D: Denoiser + ?Sized>(
    denoiser: &D,
    plan: &Plan,
    x_t: Array4<f32>,
    region: &Region,
    resampling: Resampling,
    noises: Noises<'_>,
    conditions: &[Condition],
    observer: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<Array4<f32>> {
    plan.check(denoiser.prediction())?;
    plan.check_ddim("inpainting")?;
    plan.check_variance(denoiser)?;
    let [c, h, w] = denoiser.shape();
    if region.image.dim() != (c, h, w) {
        return Err(Error::argument(format!(
            "image to fill: expected [{c}, {h}, {w}], found {:?}",
            region.image.shape()
        )));
    }
    check_shape("initial latents", &x_t, [c, h, w])?;
    check_finite("initial latents", &x_t)?;
    let steps = plan.steps();
    let moves = resampling.walk(steps.len())?;
    let calls = resampling.calls(steps.len())?;
    let Noises { step: step_noise, around } = noises;
    // The noise level after `done` steps.
    let level = |done: usize| if done == 0 { steps[0].from } else { steps[done - 1].to };
    let mut x = x_t;
    let mut fresh = Array4::zeros(x.dim());
    let mut called = 0;
    for (k, &to) in moves.iter().enumerate() {
        match to {
            Move::Down(i) => {
                let at = &steps[i];
                let denoised = denoise(denoiser, &x, at.t, at.from, conditions, plan.clip())
                    .map_err(|error| error.within(format_args!("call {} of {calls}", called + 1)))?;
                let z = at.coefficients.z != 0.0;
                if z {
                    step_noise.fill(k, &mut fresh)?;
                }
                x = step(&denoised, at.coefficients, z.then_some(&fresh));
                around.fill(2 * k, &mut fresh)?;
                region.keep(&mut x, &fresh, at.to);
                check_finite(&format!("call {} of {calls}: x at t = {}", called + 1, at.s.get()), &x)?;
                called += 1;
                let progress = Progress { step: called, steps: calls, t: at.t, s: at.s, x0: &denoised.x0, x: &x };
                if observer(&progress).is_break() && called < calls {
                    return Err(Error::stopped());
                }
            }
            Move::Up { from, to } => {
                let [keep, deviation] = level(to).jump_from(level(from));
                around.fill(2 * k + 1, &mut fresh)?;
                Zip::from(&mut x)
                    .and(&fresh)
                    .for_each(|x, &z| *x = (keep * f64::from(*x) + deviation * f64::from(z)) as f32);
            }
        }
    }
    // A plan that lands on the first trained level leaves slight noise in the known region: restore the image there.
    region.keep(&mut x, &fresh, NoiseLevel::CLEAN);
    Ok(x)
}

#[cfg(test)]
mod tests;
