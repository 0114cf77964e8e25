//! Objectives: the training loss, L_simple, L_γ, the weights of J_σ, and the evidence lower bound of a trained model
//! for any σ (DDIM §3, App. B).

pub mod calibration;
mod decoder;
mod elbo;
pub mod likelihood;
mod loss;
mod weights;

pub use decoder::log_likelihood;
pub use elbo::{Elbo, ElboOptions, ElboTerm, default_sigma_1, elbo};
pub use loss::LossWeighting;
pub(crate) use loss::training_loss;
pub use weights::{WeightFormula, exact_weight, j_sigma_weights, last_exact_weight, paper_weight};

use ndarray::Array4;

use crate::error::{Error, Result};
use crate::math::noise::KeyedRng;
use crate::math::schedule::Time;

/// ‖ε − ε̂‖² of each image, summed over its elements. Arrays are `[n, c, h, w]`.
///
/// # Errors
/// The shapes differ.
pub fn squared_errors(eps: &Array4<f32>, predicted: &Array4<f32>) -> Result<Vec<f64>> {
    if eps.dim() != predicted.dim() {
        return Err(Error::argument(format!(
            "expected eps and its prediction to have the same shape, found {:?} and {:?}",
            eps.shape(),
            predicted.shape()
        )));
    }
    let error = |(&a, &b): (&f32, &f32)| (f64::from(a) - f64::from(b)).powi(2);
    Ok(eps.outer_iter().zip(predicted.outer_iter()).map(|(a, b)| a.iter().zip(b).map(error).sum()).collect())
}

/// L_simple = E‖ε − ε̂‖²/d, the mean over images and elements (DDPM Eq. 14, per dimension).
///
/// # Errors
/// The shapes differ, or the arrays are empty.
pub fn l_simple(eps: &Array4<f32>, predicted: &Array4<f32>) -> Result<f64> {
    let errors = squared_errors(eps, predicted)?;
    if eps.is_empty() {
        return Err(Error::argument("eps: expected at least one element, found an empty batch"));
    }
    Ok(errors.iter().sum::<f64>() / eps.len() as f64)
}

/// L_γ = Σ_t γ_t·E‖ε − ε̂_t‖² (DDIM Eq. 5), from each step's mean squared error ‖·‖² and its weight.
///
/// # Errors
/// The numbers of weights and errors differ.
pub fn l_gamma(errors: &[f64], weights: &[f64]) -> Result<f64> {
    if errors.len() != weights.len() {
        let (expected, found) = (errors.len(), weights.len());
        return Err(Error::argument(format!("weights: expected one per error, {expected}, found {found}")));
    }
    Ok(errors.iter().zip(weights).map(|(error, weight)| weight * error).sum())
}

/// Draws antithetic training timesteps for a batch of `n`: ⌊n/2⌋ + 1 uniform indices, then their mirror images
/// T − 1 − index, truncated to n. The pairing lowers the variance of the loss.
///
/// ```
/// use skipstone::math::noise::{KeyedRng, Purpose};
/// let times = skipstone::objective::antithetic_times(&mut KeyedRng::new(0, Purpose::TrainTime, 0, 0), 3, 1000);
/// // The indices are i, j and T − 1 − i. As timesteps, the first and the last add up to T + 1.
/// assert_eq!(times[0].get() + times[2].get(), 1001.0);
/// ```
pub fn antithetic_times(rng: &mut KeyedRng, n: usize, train_steps: u32) -> Vec<Time> {
    antithetic_indices(rng, n, train_steps).into_iter().map(Time::from_index).collect()
}

/// The indices of [`antithetic_times`] among `count`.
pub(crate) fn antithetic_indices(rng: &mut KeyedRng, n: usize, count: u32) -> Vec<u32> {
    if count == 0 {
        return Vec::new();
    }
    let drawn: Vec<u32> = (0..n / 2 + 1).map(|_| rng.below(u64::from(count)) as u32).collect();
    let mirrored = drawn.iter().map(|index| count - 1 - index);
    drawn.iter().copied().chain(mirrored).take(n).collect()
}

#[cfg(test)]
mod tests;
