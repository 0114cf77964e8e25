use ndarray::{Array4, Axis, Slice, Zip};

use super::guided::finite;
use super::{Condition, Denoiser, Interval, Prediction, per_row};
use crate::error::{Error, Result};
use crate::math::schedule::{Schedule, Time};

/// Autoguidance (Karras et al., arXiv 2406.02507): D_weak + w·(D_strong − D_weak), the extrapolation of a network away from a
/// weaker version of itself.
///
/// The weaker network makes the same errors, only larger, so the difference points away from them. Both are asked with the
/// same condition; unconditional networks can be guided, too. w = 1 is the strong network. The extrapolation is linear, so it
/// is the same for ε, x₀ and v: where the prediction types differ, the weak network's output is converted exactly. A learned
/// variance is the strong network's.
#[derive(Clone, Debug)]
pub struct Autoguided<D, G> {
    strong: D,
    weak: G,
    weight: f64,
    schedule: Schedule,
    interval: Option<Interval>,
}

impl<D: Denoiser, G: Denoiser> Autoguided<D, G> {
    /// Guides `strong` by `weak` with weight w. `schedule` is the noise schedule of both.
    ///
    /// # Errors
    /// The weight is not finite, or the networks have images of different shapes.
    pub fn new(strong: D, weak: G, weight: f64, schedule: Schedule) -> Result<Self> {
        if weak.shape() != strong.shape() {
            let ([a, b, c], found) = (strong.shape(), weak.shape());
            return Err(Error::argument(format!(
                "guide: expected images of the shape [{a}, {b}, {c}], found {found:?}"
            )));
        }
        Ok(Self { strong, weak, weight: finite(weight)?, schedule, interval: None })
    }

    /// Limits guidance to an interval of noise levels. At others, only the strong network is asked.
    #[must_use]
    pub fn within(self, interval: Interval) -> Self {
        Self { interval: Some(interval), ..self }
    }

    fn acts_at(&self, time: Time) -> Result<bool> {
        self.interval.map_or(Ok(true), |interval| interval.contains(&self.schedule, time))
    }
}

impl<D: Denoiser, G: Denoiser> Denoiser for Autoguided<D, G> {
    fn shape(&self) -> [usize; 3] {
        self.strong.shape()
    }

    fn prediction(&self) -> Prediction {
        self.strong.prediction()
    }

    fn output_channels(&self) -> usize {
        self.strong.output_channels()
    }

    fn predict(&self, x_t: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Array4<f32>> {
        let mut out = self.strong.predict(x_t, times, conditions)?;
        let mut rows = Vec::new();
        for (i, &time) in times.iter().enumerate() {
            if self.acts_at(time)? {
                rows.push(i);
            }
        }
        if rows.is_empty() {
            return Ok(out);
        }
        let conditions = per_row(conditions, x_t.dim().0)?;
        let x = x_t.select(Axis(0), &rows);
        let (times, conditions): (Vec<Time>, Vec<Condition>) = rows.iter().map(|&i| (times[i], conditions[i])).unzip();
        let weak = self.weak.predict(&x, &times, &conditions)?;
        // A learned variance lies behind the channels of the image.
        let images = Slice::from(..self.shape()[0]);
        let weak = weak.slice_axis(Axis(1), images);
        if weak.dim() != x.dim() {
            let (expected, found) = (x.shape(), weak.shape());
            return Err(Error::argument(format!(
                "the guide's output: expected the shape {expected:?}, found {found:?}"
            )));
        }
        for (k, &i) in rows.iter().enumerate() {
            let level = self.schedule.level(times[k])?;
            let (of_x, of_weak) = self.weak.prediction().as_type(self.strong.prediction(), level)?;
            let mut out = out.index_axis_mut(Axis(0), i);
            Zip::from(out.slice_axis_mut(Axis(0), images))
                .and(x.index_axis(Axis(0), k))
                .and(weak.index_axis(Axis(0), k))
                .for_each(|out, &x, &weak| {
                    let weak = of_x * f64::from(x) + of_weak * f64::from(weak);
                    *out = (weak + self.weight * (f64::from(*out) - weak)) as f32;
                });
        }
        Ok(out)
    }

    fn takes_fractional_times(&self) -> bool {
        self.strong.takes_fractional_times() && self.weak.takes_fractional_times()
    }

    fn evaluations(&self, time: Time) -> usize {
        let weak = if self.acts_at(time).unwrap_or(true) { self.weak.evaluations(time) } else { 0 };
        self.strong.evaluations(time) + weak
    }

    fn prepare(&self, times: &[Time], conditions: &[Condition]) {
        self.strong.prepare(times, conditions);
        self.weak.prepare(times, conditions);
    }
}
