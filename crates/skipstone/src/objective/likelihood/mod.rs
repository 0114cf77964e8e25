//! The likelihood of data under a model.
//!
//! There are two measures, both in bits per dimension of an 8-bit image. The evidence lower bound
//! ([`crate::objective::elbo()`]) holds for the stochastic sampler, for any σ > 0 and any trajectory, and has one term
//! per step. The likelihood of the deterministic process ([`flow()`]) is exact up to discretisation and trace
//! estimation, whose errors can be told apart.

mod flow;

use std::f64::consts::LN_2;
use std::ops::Range;

use ndarray::Array4;

pub use flow::{FlowOptions, FlowStep, Flowed, ProbeKind, flow};

use crate::error::{Error, Result};
use crate::io::checkpoint::Model;
use crate::io::data::Dataset;
use crate::math::noise::{KeyedRng, Purpose};
use crate::sampling::denoiser::Condition;

/// The standard error of the mean of `values`. `None` for fewer than two values.
///
/// ```
/// assert_eq!(skipstone::objective::likelihood::standard_error(&[1.0, 3.0]), Some(1.0));
/// ```
pub fn standard_error(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    if values.len() < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (n - 1.0) / n).sqrt())
}

/// Converts a log-density in nats over `dims` = d dimensions to bits per dimension, for bins of width 2/255:
/// −log₂ p/d + log₂ 127.5.
pub fn bits_per_dim(log_density: f64, dims: usize) -> f64 {
    (127.5f64.ln() - log_density / dims as f64) / LN_2
}

/// Dequantises the images `x0`, `[n, c, h, w]` on the 256 levels of [−1, 1]: adds uniform noise over each bin of width
/// 2/255, so that their density bounds their probability (Theis et al., arXiv 1511.01844). Image i has the key
/// `first_image` + i.
pub fn dequantised(x0: &Array4<f32>, seed: u64, first_image: u64) -> Array4<f32> {
    let mut x = x0.clone();
    for (i, mut image) in x.outer_iter_mut().enumerate() {
        let mut rng = KeyedRng::new(seed, Purpose::Dequantise, first_image.wrapping_add(i as u64), 0);
        image.mapv_inplace(|x| (f64::from(x) + (rng.next_f64() - 0.5) * 2.0 / 255.0) as f32);
    }
    x
}

/// The conditions for `images` of a data set: the data's classes, else the model's null class. Empty for an unconditional
/// model.
///
/// # Errors
/// The model does not have one of the classes, the model needs classes that the data lack, or the range exceeds the data.
pub fn conditions_of(model: &Model, data: &Dataset, images: Range<usize>) -> Result<Vec<Condition>> {
    let Some(known) = model.config.num_class_embeds else { return Ok(Vec::new()) };
    let labels = match data.labels() {
        Some(labels) => labels.get(images.clone()).ok_or_else(|| {
            let (first, end, held) = (images.start, images.end, labels.len());
            Error::argument(format!("data set {}: expected images below {held}, found {first}..{end}", data.name()))
        })?,
        None => {
            let class = model.null_class.ok_or_else(|| {
                Error::argument(format!("data set {} has no classes, but the model needs them", data.name()))
            })?;
            return Ok(vec![Condition::Class(class); images.len()]);
        }
    };
    if let Some(label) = labels.iter().find(|&&label| label as usize >= known) {
        return Err(Error::argument(format!(
            "data set {}: class {label}, but the model has only {known} classes",
            data.name()
        )));
    }
    Ok(labels.iter().map(|&label| Condition::Class(label as usize)).collect())
}

#[cfg(test)]
mod tests;
