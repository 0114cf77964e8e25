use std::fmt;
use std::str::FromStr;
use std::thread::available_parallelism;

use crate::error::{Error, Result};

/// A graphics API, through which an engine reaches graphics processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// The best that the machine offers.
    Any,
    /// Vulkan: Linux, Windows.
    Vulkan,
    /// Metal: macOS.
    Metal,
    /// DirectX 12: Windows.
    Dx12,
}

/// The device that computes networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// A graphics processor, by API and number (`skipstone devices` lists them).
    Gpu(Api, usize),
    /// The first graphics processor of this machine, or the CPU where there is none.
    Auto,
}

/// The devices' names; graphics processors may have `:N` after theirs.
const NAMES: [(&str, Device); 6] = [
    ("cpu", Device::Cpu),
    ("gpu", Device::Gpu(Api::Any, 0)),
    ("vulkan", Device::Gpu(Api::Vulkan, 0)),
    ("metal", Device::Gpu(Api::Metal, 0)),
    ("dx12", Device::Gpu(Api::Dx12, 0)),
    ("auto", Device::Auto),
];

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, number) = match *self {
            Self::Gpu(api, number) => (Self::Gpu(api, 0), number),
            other => (other, 0),
        };
        let name = NAMES.iter().find(|(_, device)| *device == first).map_or("", |(name, _)| name);
        if number == 0 { f.write_str(name) } else { write!(f, "{name}:{number}") }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, number) = text.split_once(':').map_or((text, None), |(name, number)| (name, Some(number)));
        let device = NAMES.iter().find(|(known, _)| *known == name).map(|(_, device)| *device);
        match (device, number) {
            (Some(device), None) => Ok(device),
            (Some(Self::Gpu(api, _)), Some(number)) => match number.parse() {
                Ok(number) => Ok(Self::Gpu(api, number)),
                Err(_) => Err(Error::argument(format!("device \"{text}\": expected a number after the colon"))),
            },
            (Some(_), Some(_)) => Err(Error::argument(format!("device \"{text}\": {name} has no number"))),
            (None, _) => {
                let names = NAMES.map(|(name, _)| name).join(", ");
                Err(Error::argument(format!("unknown device \"{text}\": expected {names} or one of these with :N")))
            }
        }
    }
}

/// The numerical precision of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32 throughout: bit-identical results for any batch and any number of threads.
    #[default]
    F32,
    /// Convolution weights in half precision. On processors with AVX512-FP16, Winograd's products as well; on graphics
    /// processors, activations. Accurate to about three digits, without guaranteed bits. Processors with AVX-512 that do
    /// not multiply in half precision compute in [`F32`](Self::F32), which is faster there.
    F16,
    /// Convolutions in bf16 with f32 sums on the matrix units of processors with AMX: the fastest there. Accurate to between
    /// two and three digits. Other processors compute in [`F32`](Self::F32); graphics processors refuse.
    Bf16,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// The name: `f32`, `f16` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Whether this is [`F32`](Self::F32).
    pub fn is_exact(&self) -> bool {
        *self == Self::F32
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|precision| precision.name() == name);
        found.ok_or_else(|| Error::argument(format!("precision: expected f32, f16 or bf16, found \"{name}\"")))
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
        if !self.precision.is_exact() {
            return Err(Error::unsupported(format!("precision {}: {what} needs f32", self.precision)));
        }
        self.check()
    }
}
