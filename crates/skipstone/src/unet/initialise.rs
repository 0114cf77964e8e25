use std::sync::Arc;

use super::{Config, Parameters, layout};
use crate::error::Result;

/// The parameters of a network yet to be trained.
///
/// Convolutions and linear layers start as PyTorch's do, uniform in ±1/√(fan in); normalisations as the identity;
/// embeddings as unit Gaussians. Each residual block's last convolution, each attention's output and the network's last
/// convolution start at zero, as in the original DDPM code, so that blocks begin as the identity.
///
/// # Errors
/// As [`layout`].
pub fn initialise(
    config: &Config,
    mut uniform: impl FnMut() -> f64,
    mut gaussian: impl FnMut() -> f64,
) -> Result<Parameters> {
    let layout = Arc::new(layout(config)?);
    let mut parameters = Parameters::zeros(layout.clone());
    for spec in layout.specs() {
        let values = &mut parameters.data_mut()[spec.range()];
        let (module, kind) = spec.name.rsplit_once('.').unwrap_or(("", &spec.name));
        let is_norm = module.ends_with("norm1")
            || module.ends_with("norm2")
            || module.ends_with("norm")
            || module == "conv_norm_out";
        if is_norm {
            values.fill(if kind == "weight" { 1.0 } else { 0.0 });
        } else if module.ends_with("conv2") || module.ends_with("to_out.0") || module == "conv_out" {
            values.fill(0.0);
        } else if module == "class_embedding" || module == "time_proj" {
            values.iter_mut().for_each(|v| *v = gaussian() as f32);
        } else {
            let weight = layout.get(&format!("{module}.weight")).unwrap_or(spec);
            let fan_in: usize = weight.shape[1..].iter().product();
            let bound = 1.0 / (fan_in as f64).sqrt();
            values.iter_mut().for_each(|v| *v = ((2.0 * uniform() - 1.0) * bound) as f32);
        }
    }
    Ok(parameters)
}
