//! What computes networks: the seam between the library and processors or accelerators.
//!
//! [`open`] gives a [`Network`] to ask, [`open_differentiable`] one that also knows its vector-Jacobian product, and
//! [`open_learner`] a [`Learner`], which holds weights, optimiser and moving average and is trained batch by batch.
//! [`EngineOptions`] say where, how exactly and on how many threads. What a network is, an engine reads off the graph
//! that [`crate::unet`] makes of its config. [`cpu`] is the one engine of this build; another is a [`Device`], a module
//! beside it and an arm in each function below.

pub mod bench;
pub mod cpu;
mod learner;
mod network;
mod options;

pub use learner::{Batch, Group, Learner, Sharding, Targets, Update};
pub use network::{Cost, Network};
pub use options::{Device, EngineOptions, Precision};

use crate::error::Result;
use crate::sampling::denoiser::{DifferentiableDenoiser, Prediction};
use crate::unet::{Config, Parameters};

/// A network of this architecture and these parameters, whose output means `prediction`, ready to be asked.
///
/// The parameters are taken over because engines keep them in a form of their own: the original and the packed weights
/// need not lie in memory together.
///
/// # Errors
/// The config is invalid or asks for absurdly large images, the parameters belong to another architecture, zero threads.
pub fn open(
    config: Config,
    parameters: Parameters,
    prediction: Prediction,
    options: &EngineOptions,
) -> Result<Box<dyn Network>> {
    options.check()?;
    match options.device {
        Device::Cpu => Ok(Box::new(cpu::UNet::with_options(config, parameters, prediction, options.into())?)),
    }
}

/// The same network with its vector-Jacobian product. An image's result depends on that image alone.
///
/// # Errors
/// As [`open`]; another precision than f32.
pub fn open_differentiable(
    config: Config,
    parameters: Parameters,
    prediction: Prediction,
    options: &EngineOptions,
) -> Result<Box<dyn DifferentiableDenoiser + Send + Sync>> {
    options.check_exact("gradients")?;
    match options.device {
        Device::Cpu => Ok(Box::new(cpu::DifferentiableUNet::new(config, parameters, prediction, options.threads)?)),
    }
}

/// A training of a network of this architecture that starts from these weights, with moments of zero and the weights
/// themselves as their moving average.
///
/// # Errors
/// As [`open`]; another precision than f32, shards of 0 images.
pub fn open_learner(
    config: Config,
    weights: Parameters,
    sharding: Sharding,
    options: &EngineOptions,
) -> Result<Box<dyn Learner>> {
    options.check_exact("training")?;
    match options.device {
        Device::Cpu => Ok(Box::new(cpu::CpuLearner::new(config, weights, sharding, options.threads)?)),
    }
}

/// The name of what computes: the processor's instruction set.
pub fn hardware(options: &EngineOptions) -> &'static str {
    match options.device {
        Device::Cpu => cpu::Isa::best().name(),
    }
}

/// Floating-point operations in a second that the device reaches with multiply-adds in registers, measured.
pub fn peak_flops(options: &EngineOptions) -> f64 {
    match options.device {
        Device::Cpu => cpu::peak_flops(options.threads),
    }
}

/// The bytes in a second at which the device reads `bytes` bytes of memory, measured.
pub fn bandwidth(options: &EngineOptions, bytes: usize) -> f64 {
    match options.device {
        Device::Cpu => cpu::bandwidth(options.threads, bytes),
    }
}

#[cfg(test)]
mod tests;
