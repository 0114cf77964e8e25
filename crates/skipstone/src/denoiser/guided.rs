use ndarray::{Array4, Zip};

use super::{Denoiser, Prediction};
use crate::error::{Error, Result};
use crate::schedule::Time;

/// Classifier-free guidance (Ho & Salimans, arXiv 2207.12598): uncond + w·(cond − uncond), two network calls in one.
///
/// w = 1 is the conditional network, w = 0 the unconditional one. Being linear, it means the same for ε, x₀ and v.
#[derive(Clone, Debug)]
pub struct Guided<D> {
    inner: D,
    weight: f64,
    null_class: usize,
}

impl<D: Denoiser> Guided<D> {
    /// Guidance of `inner` with weight w; `null_class` is the class that stands for "no class".
    ///
    /// # Errors
    /// A weight that is not finite.
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

    /// Without classes there is nothing to guide towards: the unconditional prediction.
    fn predict(&self, x_t: &Array4<f32>, t: Time, classes: Option<&[usize]>) -> Result<Array4<f32>> {
        let mut out = self.inner.predict(x_t, t, Some(&vec![self.null_class; x_t.dim().0]))?;
        if let Some(classes) = classes {
            let conditional = self.inner.predict(x_t, t, Some(classes))?;
            if conditional.dim() != out.dim() {
                return Err(Error::argument("guidance: the two predictions differ in shape"));
            }
            Zip::from(&mut out).and(&conditional).for_each(|out, &conditional| {
                let unconditional = f64::from(*out);
                *out = (unconditional + self.weight * (f64::from(conditional) - unconditional)) as f32;
            });
        }
        Ok(out)
    }

    fn prepare(&self, times: &[Time], classes: Option<&[usize]>) {
        self.inner.prepare(times, Some(&[self.null_class]));
        if classes.is_some() {
            self.inner.prepare(times, classes);
        }
    }
}
