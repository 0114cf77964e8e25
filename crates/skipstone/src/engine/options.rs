use std::fmt;
use std::str::FromStr;
use std::thread::available_parallelism;

use crate::error::{Error, Result};

/// The device that computes networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
}

impl Device {
    /// The devices of this build.
    pub const ALL: [Self; 1] = [Self::Cpu];
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
        })
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|device| device.to_string() == name).ok_or_else(|| {
            let all: Vec<String> = Self::ALL.iter().map(Self::to_string).collect();
            Error::argument(format!("unknown device \"{name}\": this build supports {}", all.join(" and ")))
        })
    }
}

/// The numerical precision of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32 throughout: bit-identical results for any batch and any number of threads.
    #[default]
    F32,
    /// Convolution weights in half precision. On processors with AVX512-FP16, Winograd's products as well. Accurate to
    /// about three digits, without guaranteed bits.
    F16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            _ => Err(Error::argument(format!("precision: expected f32 or f16, found \"{name}\""))),
        }
    }
}

/// The device, precision and number of threads for networks.
///
/// ```
/// use skipstone::engine::{Device, EngineOptions};
/// let one_thread = EngineOptions { threads: 1, ..EngineOptions::default() };
/// assert_eq!(one_thread.device, Device::Cpu);
/// assert_eq!("cpu".parse::<Device>()?, Device::Cpu);
/// # Ok::<(), skipstone::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// The device.
    pub device: Device,
    /// The precision.
    pub precision: Precision,
    /// CPU threads, at least 1. Results do not depend on this number.
    pub threads: usize,
}

impl Default for EngineOptions {
    /// The CPU in f32, on as many threads as it runs in parallel.
    fn default() -> Self {
        let threads = available_parallelism().map_or(1, usize::from);
        Self { device: Device::default(), precision: Precision::default(), threads }
    }
}

impl EngineOptions {
    /// The default options with this number of threads.
    pub fn on_threads(threads: usize) -> Self {
        Self { threads, ..Self::default() }
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.threads == 0 {
            return Err(Error::argument("threads: expected at least 1, found 0"));
        }
        Ok(())
    }

    /// As [`check`](Self::check), for operations that engines support in f32 only.
    pub(super) fn check_exact(&self, what: &str) -> Result<()> {
        if self.precision != Precision::F32 {
            return Err(Error::unsupported(format!("precision {}: {what} needs f32", self.precision)));
        }
        self.check()
    }
}
