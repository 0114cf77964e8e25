use ndarray::{Array4, Axis, Slice, Zip, concatenate};

use serde::{Deserialize, Serialize};

use super::{Condition, Denoiser, Prediction, per_row};
use crate::error::{Error, Result};
use crate::math::schedule::{Schedule, Time};

/// Classifier-free guidance (Ho & Salimans, arXiv 2207.12598): uncond + w·(cond − uncond), computed in one network call
/// on a batch of up to 2n rows.
///
/// w = 1 is the conditional network, w = 0 the unconditional one. Guidance is linear, so it is the same for ε, x₀ and v. A
/// learned variance is the conditional network's.
#[derive(Clone, Debug)]
pub struct Guided<D> {
    pub(super) inner: D,
    weight: f64,
    null_class: usize,
    interval: Option<(Schedule, Interval)>,
}

/// The noise levels at which guidance acts, σ_ve in (low, high] (Kynkäänniemi et al., arXiv 2404.07724). At others the
/// network is asked with the class alone, which saves half of the work there. In JSON, the list `[low, high]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "[f64; 2]", into = "[f64; 2]")]
pub struct Interval {
    low: f64,
    high: f64,
}

impl Interval {
    /// σ_ve above `low` and up to `high`.
    ///
    /// # Errors
    /// Not 0 ≤ low < high.
    pub fn new(low: f64, high: f64) -> Result<Self> {
        if low >= 0.0 && low < high {
            return Ok(Self { low, high });
        }
        Err(Error::argument(format!(
            "guidance_interval: expected two noise levels, 0 <= LOW < HIGH, for example 0.3,5, found {low},{high}"
        )))
    }

    /// Whether it holds the noise level of `time`.
    pub(super) fn contains(self, schedule: &Schedule, time: Time) -> Result<bool> {
        let sigma_ve = schedule.level(time)?.sigma_ve();
        Ok(self.low < sigma_ve && sigma_ve <= self.high)
    }
}

impl TryFrom<[f64; 2]> for Interval {
    type Error = Error;

    fn try_from([low, high]: [f64; 2]) -> Result<Self> {
        Self::new(low, high)
    }
}

impl From<Interval> for [f64; 2] {
    fn from(Interval { low, high }: Interval) -> Self {
        [low, high]
    }
}

/// A guidance weight.
pub(super) fn finite(weight: f64) -> Result<f64> {
    if weight.is_finite() {
        return Ok(weight);
    }
    Err(Error::argument(format!("guidance: expected a finite weight, found {weight}")))
}

impl<D: Denoiser> Guided<D> {
    /// Guides `inner` with weight w. `null_class` is the class that means "no class".
    ///
    /// # Errors
    /// The weight is not finite.
    pub fn new(inner: D, weight: f64, null_class: usize) -> Result<Self> {
        Ok(Self { inner, weight: finite(weight)?, null_class, interval: None })
    }

    /// Limits guidance to an interval of noise levels of this schedule, the network's.
    #[must_use]
    pub fn within(self, schedule: Schedule, interval: Interval) -> Self {
        Self { interval: Some((schedule, interval)), ..self }
    }

    fn acts_at(&self, time: Time) -> Result<bool> {
        self.interval.as_ref().map_or(Ok(true), |(schedule, interval)| interval.contains(schedule, time))
    }
}

impl<D: Denoiser> Denoiser for Guided<D> {
    fn shape(&self) -> [usize; 3] {
        self.inner.shape()
    }

    fn prediction(&self) -> Prediction {
        self.inner.prediction()
    }

    fn output_channels(&self) -> usize {
        self.inner.output_channels()
    }

    /// Rows with [`Condition::Null`] get the unconditional prediction: they have no class to guide towards.
    fn predict(&self, x_t: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Array4<f32>> {
        let n = x_t.dim().0;
        let conditions = per_row(conditions, n)?;
        if times.len() != n {
            return Err(Error::argument(format!("times: expected one per image, {n}, found {}", times.len())));
        }
        let null = Condition::Class(self.null_class);
        let mut guided = Vec::new();
        for (i, &time) in times.iter().enumerate() {
            if conditions[i] != Condition::Null && self.acts_at(time)? {
                guided.push(i);
            }
        }
        // Each row with its condition first, then the guided rows without.
        let x = concatenate(Axis(0), &[x_t.view(), x_t.select(Axis(0), &guided).view()])
            .map_err(|e| Error::argument(format!("guidance: {e}")))?;
        let own = conditions.iter().map(|&condition| if condition == Condition::Null { null } else { condition });
        let (times, conditions): (Vec<Time>, Vec<Condition>) =
            times.iter().copied().zip(own).chain(guided.iter().map(|&i| (times[i], null))).unzip();
        let both = self.inner.predict(&x, &times, &conditions)?;
        if both.dim().0 != n + guided.len() {
            let (expected, found) = (n + guided.len(), both.dim().0);
            return Err(Error::argument(format!("guidance: expected {expected} rows from the network, found {found}")));
        }
        let (out, unconditional) = both.view().split_at(Axis(0), n);
        let mut out = out.to_owned();
        for (&i, unconditional) in guided.iter().zip(unconditional.outer_iter()) {
            // A learned variance, behind the channels of the image, stays the conditional network's.
            let images = Slice::from(..self.shape()[0]);
            let mut out = out.index_axis_mut(Axis(0), i);
            Zip::from(out.slice_axis_mut(Axis(0), images)).and(unconditional.slice_axis(Axis(0), images)).for_each(
                |out, &unconditional| {
                    let (conditional, unconditional) = (f64::from(*out), f64::from(unconditional));
                    *out = (unconditional + self.weight * (conditional - unconditional)) as f32;
                },
            );
        }
        Ok(out)
    }

    fn takes_fractional_times(&self) -> bool {
        self.inner.takes_fractional_times()
    }

    fn evaluations(&self, time: Time) -> usize {
        let each = self.inner.evaluations(time);
        if self.acts_at(time).unwrap_or(true) { 2 * each } else { each }
    }

    fn prepare(&self, times: &[Time], conditions: &[Condition]) {
        self.inner.prepare(times, &[Condition::Class(self.null_class)]);
        if !conditions.is_empty() {
            self.inner.prepare(times, conditions);
        }
    }
}
