use std::collections::BTreeMap;
use std::ops::ControlFlow;

use ndarray::Array4;

use super::Calibration;
use crate::error::{Error, Result};
use crate::math::noise::NoiseSource;
use crate::math::process::diffuse;
use crate::math::schedule::{Schedule, Time};
use crate::objective::log_likelihood;
use crate::sampling::denoiser::{Clip, Condition, Denoiser, check_finite, check_shape, denoise};

/// Calibrates `denoiser` on the images `x0`, `[n, c, h, w]` on the 256 levels of [−1, 1]: one network call on n images at
/// every timestep t = 1..=T.
///
/// All timesteps share one ε per image, the first of `noise`, so timesteps differ only by t and not by the draw. `sigma_1` is
/// the decoder's σ₁. `observer` sees every timestep and may stop the pass.
///
/// ```
/// use ndarray::{Array3, Array4};
/// use skipstone::math::noise::Seeded;
/// use skipstone::{sampling::oracle::Oracle, math::schedule::Schedule};
/// let schedule = Schedule::from_betas(&[0.1, 0.3])?;
/// let oracle = Oracle::gaussian(&schedule, Array3::zeros((1, 2, 2)), Array3::ones((1, 2, 2)))?;
/// let go_on = &mut |_| std::ops::ControlFlow::Continue(());
/// let x0 = Array4::zeros((2, 1, 2, 2));
/// let found = skipstone::objective::calibration::measure(&oracle, &schedule, &x0, &mut Seeded::new(0, 0), &[], 0.1, go_on)?;
/// assert_eq!(found.eps_squares.len(), 2);
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// ε-prediction meets zero SNR, σ₁ is not positive, an image or output is not finite, the observer stops the run
/// ([`Kind::Stopped`](crate::Kind)), or the network or the noise source fails.
pub fn measure<D: Denoiser + ?Sized>(
    denoiser: &D,
    schedule: &Schedule,
    x0: &Array4<f32>,
    noise: &mut dyn NoiseSource,
    conditions: &[Condition],
    sigma_1: f64,
    observer: &mut dyn FnMut(Time) -> ControlFlow<()>,
) -> Result<Calibration> {
    schedule.check_prediction(denoiser.prediction())?;
    check_shape("x0", x0, denoiser.shape())?;
    check_finite("x0", x0)?;
    if !(sigma_1.is_finite() && sigma_1 > 0.0) {
        return Err(Error::argument(format!("sigma_1: expected a positive finite number, found {sigma_1}")));
    }
    let mut eps = Array4::zeros(x0.dim());
    noise.fill(0, &mut eps)?;
    let times = schedule.train_steps() as usize;
    let mut found = Calibration {
        model: String::new(),
        process: String::new(),
        provenance: BTreeMap::new(),
        sigma_1,
        eps_squares: Vec::with_capacity(times),
        x0_errors: Vec::with_capacity(times),
        decoder_nats: Vec::with_capacity(times),
        local_errors: None,
    };
    let mean = |sum: f64| six_digits(sum / x0.len() as f64);
    for t in (1..=schedule.train_steps()).map(Time::new) {
        let level = schedule.level(t)?;
        let x_t = diffuse(x0, &eps, &vec![level; x0.dim().0])?;
        let at = denoise(denoiser, &x_t, t, level, conditions, Clip::Off)?;
        found.eps_squares.push(mean(at.eps.iter().map(|&eps| f64::from(eps).powi(2)).sum()));
        let pairs = || x0.iter().zip(&at.x0).map(|(&x0, &x0_hat)| (f64::from(x0), f64::from(x0_hat)));
        found.x0_errors.push(mean(pairs().map(|(x0, x0_hat)| (x0 - x0_hat).powi(2)).sum()));
        found.decoder_nats.push(mean(pairs().map(|(x0, x0_hat)| -log_likelihood(x0, x0_hat, sigma_1)).sum()));
        if observer(t).is_break() && t < Time::new(schedule.train_steps()) {
            return Err(Error::stopped());
        }
    }
    Ok(found)
}

/// Rounds to six significant digits: more than a mean over images justifies, and a short file.
pub(super) fn six_digits(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}
