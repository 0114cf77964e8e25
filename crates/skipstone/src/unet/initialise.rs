//! The initial parameters of an untrained network.

use std::sync::Arc;

use super::graph::Graph;
use super::{Config, Parameters};
use crate::error::Result;

/// The initial distribution of a parameter's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Init {
    Zero,
    One,
    /// Standard normal.
    Gaussian,
    /// Uniform in ±1/√(fan in).
    Uniform {
        /// Number of inputs of each output.
        fan_in: usize,
    },
}

/// The initial parameters of an untrained network. `uniform` draws from 0 to 1, `gaussian` from the standard normal
/// distribution.
///
/// Convolutions and linear layers start as in PyTorch, uniform in ±1/√(fan in). Normalisations start as the identity,
/// embeddings as standard normal values. Each residual block's last convolution, each attention's output layer and the
/// network's last convolution start at zero, as in the original DDPM code, so that blocks start as the identity.
///
/// # Errors
/// As [`layout`](super::layout).
pub fn initialise(
    config: &Config,
    mut uniform: impl FnMut() -> f64,
    mut gaussian: impl FnMut() -> f64,
) -> Result<Parameters> {
    let Graph { layout, inits, .. } = Graph::new(config, false)?;
    let mut parameters = Parameters::zeros(Arc::new(layout));
    for (i, init) in inits.into_iter().enumerate() {
        let range = parameters.layout().specs()[i].range();
        let values = &mut parameters.data_mut()[range];
        match init {
            Init::Zero => {}
            Init::One => values.fill(1.0),
            Init::Gaussian => values.fill_with(|| gaussian() as f32),
            Init::Uniform { fan_in } => {
                let bound = 1.0 / (fan_in as f64).sqrt();
                values.fill_with(|| ((2.0 * uniform() - 1.0) * bound) as f32);
            }
        }
    }
    Ok(parameters)
}
