//! Engines that compute networks: the interface between the library and processors or accelerators.
//!
//! [`open`] returns a [`Network`]. [`open_differentiable`] returns one with its vector-Jacobian product.
//! [`open_learner`] returns a [`Learner`], which holds weights, optimiser state and moving average and trains batch by
//! batch. [`EngineOptions`] select the device, the precision and the number of threads. An engine builds a network from
//! the graph that [`crate::unet`] derives from its config. [`cpu`] is in every build, `gpu` in builds with the feature `gpu`.
//! A new engine needs a [`Device`] variant, a module next to `cpu` and an arm in each function below. Networks of other
//! kinds come with their own engine, as a [`NetworkSource`].

pub mod bench;
pub mod cpu;
mod devices;
#[cfg(feature = "gpu")]
pub mod gpu;
mod inputs;
mod learner;
mod network;
mod options;
pub mod ranks;

pub use devices::{DeviceInfo, devices};
pub use learner::{Batch, Group, Learner, Sharding, Targets, Update};
pub use network::{Cost, Network, NetworkSource};
pub use options::{Api, Device, EngineOptions, Precision};
pub use ranks::Ranks;

use std::ops::Range;
use std::sync::Arc;

#[cfg(feature = "gpu")]
use crate::error::Error;
use crate::error::Result;
use crate::sampling::denoiser::{DifferentiableDenoiser, Prediction};
use crate::unet::{Config, Parameters};
use devices::Found;

/// Opens a network with this architecture, these parameters and this prediction type.
///
/// The function takes the parameters by value because engines repack them: this way, the original and the packed
/// weights need not be in memory at once.
///
/// # Errors
/// The config is invalid or its images are too large, the parameters belong to another architecture, `threads` is 0, or
/// the device is not there.
pub fn open(
    config: Config,
    parameters: Parameters,
    prediction: Prediction,
    options: &EngineOptions,
) -> Result<Box<dyn Network>> {
    options.check()?;
    match devices::find(options.device)? {
        Found::Cpu => Ok(Box::new(cpu::UNet::with_options(config, parameters, prediction, options.into())?)),
        #[cfg(feature = "gpu")]
        Found::Gpu(gpu) => Ok(Box::new(gpu::UNet::new(gpu, config, parameters, prediction, options.precision)?)),
    }
}

/// Opens a network with its vector-Jacobian product. Each image's result depends on that image alone.
///
/// # Errors
/// As [`open`]; also if the precision is not f32.
pub fn open_differentiable(
    config: Config,
    parameters: Parameters,
    prediction: Prediction,
    options: &EngineOptions,
) -> Result<Box<dyn DifferentiableDenoiser + Send + Sync>> {
    options.check_exact("the vector-Jacobian product")?;
    match devices::find(options.device)? {
        Found::Cpu => Ok(Box::new(cpu::DifferentiableUNet::new(config, parameters, prediction, options.threads)?)),
        #[cfg(feature = "gpu")]
        Found::Gpu(gpu) => Ok(Box::new(gpu::DifferentiableUNet::new(gpu, config, parameters, prediction)?)),
    }
}

/// Starts training a network of this architecture from these weights. The moments start at zero and the moving average
/// at the weights.
///
/// # Errors
/// As [`open`]; also if the shard size is 0, or the device does not train in this precision.
pub fn open_learner(
    config: Config,
    weights: Parameters,
    sharding: Sharding,
    options: &EngineOptions,
) -> Result<Box<dyn Learner>> {
    options.check()?;
    match devices::find(options.device)? {
        Found::Cpu => {
            Ok(Box::new(cpu::CpuLearner::new(config, weights, sharding, options.precision, options.threads)?))
        }
        #[cfg(feature = "gpu")]
        Found::Gpu(gpu) => Ok(Box::new(gpu::GpuLearner::new(gpu, config, &weights, sharding, options.precision)?)),
    }
}

/// As [`open_learner`], as one of the ranks that train this network together or as the only one ([`ranks::Alone`]). The
/// gradients of a step's shards, `shards` over all ranks, are summed by a fixed tree, so the results are the same bits for
/// any number of ranks.
///
/// The shards are numbered over the whole step. Each rank adds those of its [`share`] in order, `sharding.images` images
/// each or less, and then calls [`Learner::finish_gradient`]. From then on all ranks make the same calls.
///
/// A graphics processor adds the shards in an order of its own.
///
/// # Errors
/// As [`open_learner`]; also for several ranks on a graphics processor.
pub fn open_tree_learner(
    config: Config,
    weights: Parameters,
    sharding: Sharding,
    shards: usize,
    ranks: Arc<dyn Ranks>,
    options: &EngineOptions,
) -> Result<Box<dyn Learner>> {
    options.check()?;
    match devices::find(options.device)? {
        Found::Cpu => Ok(Box::new(cpu::TreeLearner::new(config, weights, sharding, shards, ranks, options)?)),
        #[cfg(feature = "gpu")]
        Found::Gpu(_) if ranks.size() > 1 => Err(Error::unsupported(
            "training on several ranks runs on the processor only; choose device cpu, or train in one process",
        )),
        #[cfg(feature = "gpu")]
        Found::Gpu(gpu) => Ok(Box::new(gpu::GpuLearner::new(gpu, config, &weights, sharding, options.precision)?)),
    }
}

/// The contiguous part of a step's shards that rank `rank` of `size` computes.
pub fn share(shards: usize, rank: usize, size: usize) -> Range<usize> {
    cpu::share(shards, rank, size)
}

/// The name of the hardware: on the CPU, its instruction set.
///
/// # Errors
/// The device is not there.
pub fn hardware(options: &EngineOptions) -> Result<String> {
    Ok(match devices::find(options.device)? {
        Found::Cpu => cpu::Isa::best().name().to_owned(),
        #[cfg(feature = "gpu")]
        Found::Gpu(gpu) => gpu.properties().name,
    })
}

/// The precision in which the device computes networks that are asked for `options.precision`. Some processors gain nothing
/// from f16 or bf16; on these, networks compute in f32 and have its exact results.
///
/// # Errors
/// The device is not there.
pub fn precision(options: &EngineOptions) -> Result<Precision> {
    Ok(match devices::find(options.device)? {
        Found::Cpu => cpu::precision(options.precision),
        #[cfg(feature = "gpu")]
        Found::Gpu(_) => options.precision,
    })
}

/// Measured peak floating-point operations per second of the device, multiply-adds in registers; `None` where nobody measures
/// it.
///
/// # Errors
/// The device is not there.
pub fn peak_flops(options: &EngineOptions) -> Result<Option<f64>> {
    Ok(match devices::find(options.device)? {
        Found::Cpu => Some(cpu::peak_flops(options.threads)),
        #[cfg(feature = "gpu")]
        Found::Gpu(_) => None,
    })
}

/// Measured bytes per second at which the device reads `bytes` bytes of memory; `None` where nobody measures it.
///
/// # Errors
/// The device is not there.
pub fn bandwidth(options: &EngineOptions, bytes: usize) -> Result<Option<f64>> {
    Ok(match devices::find(options.device)? {
        Found::Cpu => Some(cpu::bandwidth(options.threads, bytes)),
        #[cfg(feature = "gpu")]
        Found::Gpu(_) => None,
    })
}

#[cfg(test)]
mod tests;
