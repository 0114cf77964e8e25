use crate::engine::cpu::{self, Isa};
use crate::engine::{Device, Precision};
use crate::error::Result;
#[cfg(not(feature = "gpu"))]
use crate::error::{Error, Kind};

/// A device that this build can compute on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// What [`Device`] is parsed from.
    pub device: String,
    /// The hardware's name.
    pub name: String,
    /// Bytes of the device's memory, where the driver says.
    pub memory: Option<u64>,
    /// The precisions in which it computes.
    pub precisions: Vec<&'static str>,
    /// The engine: `cpu`, or what kernels are compiled to.
    pub engine: String,
    /// Whether this graphics processor is a program on the CPU.
    pub software: bool,
    /// Why the device cannot be opened, if it cannot.
    pub trouble: Option<String>,
}

/// The devices of this machine. A build without the feature `gpu` knows the CPU only.
pub fn devices() -> Vec<DeviceInfo> {
    let cpu = DeviceInfo {
        device: Device::Cpu.to_string(),
        name: Isa::best().name().to_owned(),
        memory: None,
        precisions: Precision::ALL
            .into_iter()
            .filter(|one| cpu::precision(*one) == *one)
            .map(Precision::name)
            .collect(),
        engine: "cpu".into(),
        software: false,
        trouble: None,
    };
    #[cfg_attr(not(feature = "gpu"), allow(unused_mut))]
    let mut all = vec![cpu];
    #[cfg(feature = "gpu")]
    all.extend(super::gpu::devices());
    all
}

/// A device that was found, and opened.
pub(super) enum Found {
    Cpu,
    #[cfg(feature = "gpu")]
    Gpu(super::gpu::Gpu),
}

/// Opens a device.
///
/// # Errors
/// It is not there, its driver is missing or refuses, or this build has no engine for it.
pub(super) fn find(device: Device) -> Result<Found> {
    match device {
        Device::Cpu => Ok(Found::Cpu),
        #[cfg(feature = "gpu")]
        Device::Gpu(api, number) => super::gpu::open(api, number).map(Found::Gpu),
        #[cfg(feature = "gpu")]
        Device::Auto => Ok(super::gpu::best().map_or(Found::Cpu, Found::Gpu)),
        #[cfg(not(feature = "gpu"))]
        Device::Auto => Ok(Found::Cpu),
        #[cfg(not(feature = "gpu"))]
        Device::Gpu(..) => Err(Error::new(
            Kind::Device,
            format!("device {device}: this build has no engine for graphics processors; build with --features gpu"),
        )),
    }
}
