use ndarray::{Array4, Axis, Zip, concatenate};

use super::{Condition, Denoiser, Prediction, per_row};
use crate::error::{Error, Result};
use crate::math::schedule::Time;

/// Classifier-free guidance (Ho & Salimans, arXiv 2207.12598): uncond + w·(cond − uncond), computed in one network call
/// on a batch of 2n rows.
///
/// w = 1 is the conditional network, w = 0 the unconditional one. Guidance is linear, so it is the same for ε, x₀ and v. A
/// learned variance is the conditional network's.
#[derive(Clone, Debug)]
pub struct Guided<D> {
    inner: D,
    weight: f64,
    null_class: usize,
}

impl<D: Denoiser> Guided<D> {
    /// Guides `inner` with weight w. `null_class` is the class that means "no class".
    ///
    /// # Errors
    /// The weight is not finite.
    pub fn new(inner: D, weight: f64, null_class: usize) -> Result<Self> {
        if !weight.is_finite() {
            return Err(Error::argument(format!("guidance: expected a finite weight, found {weight}")));
        }
        Ok(Self { inner, weight, null_class })
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
        let null = Condition::Class(self.null_class);
        let guided: Vec<usize> = (0..n).filter(|&i| conditions[i] != Condition::Null).collect();
        if times.len() != n {
            return Err(Error::argument(format!("times: expected one per image, {n}, found {}", times.len())));
        }
        // All rows unconditionally first, then the guided rows with their conditions.
        let x = concatenate(Axis(0), &[x_t.view(), x_t.select(Axis(0), &guided).view()])
            .map_err(|e| Error::argument(format!("guidance: {e}")))?;
        let conditional = |i: &usize| (times[*i], conditions[*i]);
        let (times, conditions): (Vec<Time>, Vec<Condition>) =
            times.iter().map(|&t| (t, null)).chain(guided.iter().map(conditional)).unzip();
        let both = self.inner.predict(&x, &times, &conditions)?;
        if both.dim().0 != n + guided.len() {
            let (expected, found) = (n + guided.len(), both.dim().0);
            return Err(Error::argument(format!("guidance: expected {expected} rows from the network, found {found}")));
        }
        let (out, conditional) = both.view().split_at(Axis(0), n);
        let mut out = out.to_owned();
        for (&i, conditional) in guided.iter().zip(conditional.outer_iter()) {
            let images = self.shape()[0].min(conditional.len_of(Axis(0)));
            let (mut out, mut variance) = out.index_axis_mut(Axis(0), i).split_at(Axis(0), images);
            let (conditional, learned) = conditional.split_at(Axis(0), images);
            variance.assign(&learned);
            Zip::from(&mut out).and(conditional).for_each(|out, &conditional| {
                let unconditional = f64::from(*out);
                *out = (unconditional + self.weight * (f64::from(conditional) - unconditional)) as f32;
            });
        }
        Ok(out)
    }

    fn takes_fractional_times(&self) -> bool {
        self.inner.takes_fractional_times()
    }

    fn prepare(&self, times: &[Time], conditions: &[Condition]) {
        self.inner.prepare(times, &[Condition::Class(self.null_class)]);
        if !conditions.is_empty() {
            self.inner.prepare(times, conditions);
        }
    }
}
