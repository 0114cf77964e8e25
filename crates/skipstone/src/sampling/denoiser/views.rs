use ndarray::{Array4, Axis, Zip};

use super::condition::check_count;
use super::{Clip, Condition, Denoiser, Prediction, check_finite, check_shape};
use crate::error::{Error, Result};
use crate::math::schedule::{NoiseLevel, Time};

/// The two views of a network's output at x_t: x_t = √a·x̂₀ + √(1−a)·ε̂ unless clipping kept a stale ε̂.
#[derive(Clone, Debug, PartialEq)]
pub struct Denoised {
    /// x̂₀, `[n, c, h, w]`.
    pub x0: Array4<f32>,
    /// ε̂, `[n, c, h, w]`.
    pub eps: Array4<f32>,
}

/// A view is a linear function of x_t and the output: of_x·x_t + of_out·out.
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
    /// The views x̂₀ and ε̂ of this parameterization at one level.
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
                "epsilon prediction says nothing about x0 where a = 0: use v-prediction or sample prediction",
            )),
            Self::Sample => Err(Error::argument("sample prediction says nothing about the noise of clean data")),
        }
    }

    /// v̂ = of_x·x_t + of_out·out of this parameterization at one level, as (of_x, of_out).
    pub(crate) fn velocity_at(self, level: NoiseLevel) -> Result<(f64, f64)> {
        let (signal, noise) = (level.signal(), level.noise());
        match self {
            Self::Velocity => Ok((0.0, 1.0)),
            // v̂ = (ε̂ − √(1−a)·x_t)/√a.
            Self::Epsilon if signal > 0.0 => Ok((-noise / signal, 1.0 / signal)),
            // v̂ = (√a·x_t − x̂₀)/√(1−a).
            Self::Sample if noise > 0.0 => Ok((signal / noise, -1.0 / noise)),
            Self::Epsilon => Err(Error::argument("epsilon prediction says nothing about v where a = 0")),
            Self::Sample => Err(Error::argument("sample prediction says nothing about v of clean data")),
        }
    }

    /// What a network of this parameterization should output for given x₀ and ε: the training target.
    pub fn target(self, level: NoiseLevel, x0: f64, eps: f64) -> f64 {
        match self {
            Self::Epsilon => eps,
            Self::Sample => x0,
            Self::Velocity => level.signal() * eps - level.noise() * x0,
        }
    }
}

/// x̂₀ and ε̂ from a network's output `out` at x_t, clipped as asked. Scalars and each element's arithmetic are f64,
/// the arrays f32.
///
/// # Errors
/// Shapes that differ, a level at which the parameterization has no meaning, or a meaningless clip.
pub fn views(
    prediction: Prediction,
    x_t: &Array4<f32>,
    out: &Array4<f32>,
    level: NoiseLevel,
    clip: Clip,
) -> Result<Denoised> {
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
        return Err(Error::argument("clean data hold no noise to re-derive"));
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
    Ok(Denoised { x0, eps })
}

/// Asks `denoiser` about x_t at time `t` of the given level and returns x̂₀ and ε̂.
///
/// # Errors
/// Whatever the network refuses, a shape that is not its own, another number of conditions than images, and outputs
/// that are not finite.
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
