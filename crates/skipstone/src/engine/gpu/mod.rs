//! The U-Net on graphics processors, forward and backward: Vulkan, Metal and DirectX 12 by one set of kernels.
//!
//! [`UNet`] evaluates a trained network and [`GpuLearner`] trains one. `conditions` computes the time and class vectors;
//! `execute` is the forward pass over the graph, `backward` the backward pass. Samplers, noise and targets stay on the host in
//! f64: what goes to the device and back in a step is an image per image.

mod backprop;
mod backward;
mod conditions;
mod differentiable;
mod execute;
mod learner;
mod limit;
mod network;
mod shapes;
mod tuning;

pub use differentiable::DifferentiableUNet;
pub use learner::GpuLearner;
pub use network::UNet;
pub use skipstone_gpu::{Adapter, Api as ApiName, Gpu, Properties, adapters};

use skipstone_gpu::Element;

use crate::engine::{Api, Device, DeviceInfo, Precision};
use crate::error::{Error, Kind, Result};

impl From<Api> for skipstone_gpu::Api {
    fn from(api: Api) -> Self {
        match api {
            Api::Any => Self::Any,
            Api::Vulkan => Self::Vulkan,
            Api::Metal => Self::Metal,
            Api::Dx12 => Self::Dx12,
        }
    }
}

/// Opens device `number` of an API.
///
/// # Errors
/// There is no such device, or its driver refuses.
pub(super) fn open(api: Api, number: usize) -> Result<Gpu> {
    let found = adapters(api.into());
    let device = Device::Gpu(api, number);
    let Some(adapter) = found.get(number) else {
        let message = if found.is_empty() {
            format!("device {device}: no graphics driver was found; install the card's driver, or use --device cpu")
        } else {
            format!("device {device}: there are only {} such devices; see `skipstone devices`", found.len())
        };
        return Err(Error::new(Kind::Device, message));
    };
    ready(adapter).map_err(|error| error.within(format_args!("device {device}")))
}

/// Opens a device and gives it the tiles that were measured on it, the first time.
fn ready(adapter: &Adapter) -> Result<Gpu> {
    let gpu = Gpu::open(adapter)?;
    if !gpu.is_tuned() {
        tuning::prepare(&gpu)?;
    }
    Ok(gpu)
}

/// How a network of this precision stores its activations and weights.
///
/// # Errors
/// The device does not compute in it.
fn element(gpu: &Gpu, precision: Precision) -> Result<Element> {
    match precision {
        Precision::F32 => Ok(Element::F32),
        Precision::F16 if gpu.properties().half => Ok(Element::F16),
        Precision::F16 => Err(Error::new(
            Kind::Device,
            "precision f16: the device does not compute in 16-bit floating point; use f32",
        )),
        Precision::Bf16 if gpu.properties().bfloat => Ok(Element::BF16),
        Precision::Bf16 => {
            Err(Error::new(Kind::Device, "precision bf16: the device or its driver lacks it; use f16 or f32"))
        }
    }
}

/// The first graphics processor that is not a program on the CPU.
pub(super) fn best() -> Option<Gpu> {
    let found = adapters(skipstone_gpu::Api::Any);
    found.iter().filter(|adapter| !adapter.is_software()).find_map(|adapter| ready(adapter).ok())
}

/// The graphics processors of this machine, under every API that it offers.
pub(super) fn devices() -> Vec<DeviceInfo> {
    let apis = [Api::Vulkan, Api::Metal, Api::Dx12];
    let of = |api: Api| adapters(api.into()).into_iter().map(move |adapter| describe(api, &adapter));
    apis.into_iter().flat_map(of).collect()
}

fn describe(api: Api, adapter: &Adapter) -> DeviceInfo {
    let (device, software) = (Device::Gpu(api, adapter.index).to_string(), adapter.is_software());
    match Gpu::open(adapter) {
        Ok(gpu) => {
            let Properties { name, memory, half, bfloat, matrix_units, compiler, .. } = gpu.properties();
            let mut precisions = vec!["f32"];
            precisions.extend(half.then_some("f16"));
            precisions.extend(bfloat.then_some("bf16"));
            let units = if matrix_units { ", matrix units" } else { "" };
            DeviceInfo {
                device,
                name,
                memory,
                precisions,
                engine: format!("{compiler}{units}"),
                software,
                trouble: None,
            }
        }
        Err(error) => DeviceInfo {
            device,
            name: "unknown".into(),
            memory: None,
            precisions: Vec::new(),
            engine: "none".into(),
            software,
            trouble: Some(error.to_string()),
        },
    }
}
