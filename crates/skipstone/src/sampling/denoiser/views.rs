use ndarray::{Array4, Axis, Zip};

use super::condition::check_count;
use super::{Clip, Condition, Denoiser, Prediction, check_finite, check_shape};
use crate::error::{Error, Result};
use crate::math::schedule::{NoiseLevel, Time};

/// The two views of a network's output at x_t. They satisfy x_t = √a·x̂₀ + √(1−a)·ε̂ unless [`Clip::KeepEps`] changed x̂₀.
#[derive(Clone, Debug, PartialEq)]
pub struct Denoised {
    /// x̂₀, `[n, c, h, w]`.
    pub x0: Array4<f32>,
    /// ε̂, `[n, c, h, w]`.
    pub eps: Array4<f32>,
    /// v of [`NoiseScale::Learned`](crate::math::sigma::NoiseScale::Learned), `[n, c, h, w]`, from a network that learns
    /// its variance. It may lie outside 0..=1.
    pub variance: Option<Array4<f32>>,
}

/// A view of the output, linear in x_t and the output: of_x·x_t + of_out·out.
#[derive(Clone, Copy)]
struct View {
    of_x: f64,
    of_out: f64,
}

impl View {
    fn at(self, x: f32, out: f32) -> f64 {
        self.of_x * f64::from(x) + self.of_out * f64::from(out)
    }
}

impl Prediction {
    /// The views x̂₀ and ε̂ of this prediction type at a noise level.
    fn views_at(self, level: NoiseLevel) -> Result<(View, View)> {
        let (signal, noise) = (level.signal(), level.noise());
        let output = |of_x, of_out| View { of_x, of_out };
        match self {
            // x̂₀ = (x_t − √(1−a)·ε̂)/√a.
            Self::Epsilon if signal > 0.0 => Ok((output(1.0 / signal, -noise / signal), output(0.0, 1.0))),
            // ε̂ = (x_t − √a·x̂₀)/√(1−a).
            Self::Sample if noise > 0.0 => Ok((output(0.0, 1.0), output(1.0 / noise, -signal / noise))),
            // x̂₀ = √a·x_t − √(1−a)·v, ε̂ = √(1−a)·x_t + √a·v.
            Self::Velocity => Ok((output(signal, -noise), output(noise, signal))),
            Self::Epsilon => Err(Error::argument(
                "prediction_type: epsilon does not determine x0 at a = 0; use v-prediction (\"v_prediction\") or \"sample\"",
            )),
            Self::Sample => Err(Error::argument("prediction_type: sample does not determine the noise of clean data")),
        }
    }

    /// The coefficients (of_x, of_out) of v̂ = of_x·x_t + of_out·out for this prediction type at a noise level.
    pub(crate) fn velocity_at(self, level: NoiseLevel) -> Result<(f64, f64)> {
        let (signal, noise) = (level.signal(), level.noise());
        match self {
            Self::Velocity => Ok((0.0, 1.0)),
            // v̂ = (ε̂ − √(1−a)·x_t)/√a.
            Self::Epsilon if signal > 0.0 => Ok((-noise / signal, 1.0 / signal)),
            // v̂ = (√a·x_t − x̂₀)/√(1−a).
            Self::Sample if noise > 0.0 => Ok((signal / noise, -1.0 / noise)),
            Self::Epsilon => Err(Error::argument("prediction_type: epsilon does not determine v at a = 0")),
            Self::Sample => Err(Error::argument("prediction_type: sample does not determine v of clean data")),
        }
    }

    /// The coefficients (of_x, of_out) of an output of type `other`, of_x·x_t + of_out·out, for this prediction type at a
    /// noise level.
    pub(crate) fn as_type(self, other: Self, level: NoiseLevel) -> Result<(f64, f64)> {
        let (x0, eps) = match other {
            same if same == self => return Ok((0.0, 1.0)),
            Self::Velocity => return self.velocity_at(level),
            Self::Sample | Self::Epsilon => self.views_at(level)?,
        };
        let view = if other == Self::Sample { x0 } else { eps };
        Ok((view.of_x, view.of_out))
    }

    /// The training target of this prediction type for given x₀ and ε.
    pub fn target(self, level: NoiseLevel, x0: f64, eps: f64) -> f64 {
        match self {
            Self::Epsilon => eps,
            Self::Sample => x0,
            Self::Velocity => level.signal() * eps - level.noise() * x0,
        }
    }
}

/// Computes x̂₀ and ε̂ from a network's output `out` at x_t, both `[n, c, h, w]`, and applies `clip`. The arithmetic is f64,
/// the arrays are f32. An output of 2c channels has the variance in its second half.
///
/// # Errors
/// The shapes differ, the prediction type does not determine both views at this level, or `clip` is invalid.
pub fn views(
    prediction: Prediction,
    x_t: &Array4<f32>,
    out: &Array4<f32>,
    level: NoiseLevel,
    clip: Clip,
) -> Result<Denoised> {
    let channels = x_t.dim().1;
    let (out, variance) = if channels > 0 && out.dim().1 == 2 * channels {
        let (out, variance) = out.view().split_at(Axis(1), channels);
        (out, Some(variance.mapv(|out| 0.5 * (out + 1.0))))
    } else {
        (out.view(), None)
    };
    if x_t.dim() != out.dim() {
        return Err(Error::argument(format!(
            "network output: expected the shape of x_t, {:?}, found {:?}",
            x_t.shape(),
            out.shape()
        )));
    }
    clip.check()?;
    let (of_x0, of_eps) = prediction.views_at(level)?;
    let (signal, noise) = (level.signal(), level.noise());
    if matches!(clip, Clip::RederiveEps(_)) && noise == 0.0 {
        return Err(Error::argument("clip: rederive-eps cannot derive the noise of clean data (a = 1)"));
    }
    let mut x0 = Array4::zeros(x_t.dim());
    let mut eps = Array4::zeros(x_t.dim());
    for (((mut x0, mut eps), x), out) in
        x0.outer_iter_mut().zip(eps.outer_iter_mut()).zip(x_t.axis_iter(Axis(0))).zip(out.axis_iter(Axis(0)))
    {
        let limit = clip.limit(|| x.iter().zip(out).map(|(&x, &out)| of_x0.at(x, out).abs()).collect());
        Zip::from(&mut x0).and(&mut eps).and(x).and(out).for_each(|x0, eps, &x, &out| {
            let view = limit.apply(of_x0.at(x, out));
            *x0 = view as f32;
            *eps = match clip {
                Clip::RederiveEps(_) => (f64::from(x) - signal * view) / noise,
                Clip::Off | Clip::KeepEps(_) => of_eps.at(x, out),
            } as f32;
        });
    }
    Ok(Denoised { x0, eps, variance })
}

/// Calls `denoiser` on x_t, `[n, c, h, w]`, at timestep `t` with noise level `level`, and returns x̂₀ and ε̂.
///
/// # Errors
/// The network fails, x_t does not have its shape, the number of conditions differs from the number of images, or an
/// output is not finite.
pub fn denoise<D: Denoiser + ?Sized>(
    denoiser: &D,
    x_t: &Array4<f32>,
    t: Time,
    level: NoiseLevel,
    conditions: &[Condition],
    clip: Clip,
) -> Result<Denoised> {
    check_shape("x_t", x_t, denoiser.shape())?;
    let n = x_t.dim().0;
    check_count(conditions, n)?;
    let out = denoiser.predict(x_t, &vec![t; n], conditions)?;
    check_finite(&format!("network output at t = {}", t.get()), &out)?;
    views(denoiser.prediction(), x_t, &out, level, clip)
}
