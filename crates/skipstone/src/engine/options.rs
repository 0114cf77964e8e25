use std::fmt;
use std::str::FromStr;
use std::thread::available_parallelism;

use crate::error::{Error, Result};

/// Where networks are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor.
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
            Error::argument(format!("device \"{name}\": this build computes on {} only", all.join(" and ")))
        })
    }
}

/// How exactly a network is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32 throughout: the same bytes whatever the batch and the threads.
    #[default]
    F32,
    /// Convolutions' weights in half precision; where the processor has AVX512-FP16, Winograd's products as well.
    /// About three digits, and bytes that are not promised.
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

/// Where, how exactly and on how many threads networks are computed.
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
    /// Where.
    pub device: Device,
    /// How exactly.
    pub precision: Precision,
    /// Threads of the processor; at least 1. Results do not depend on it.
    pub threads: usize,
}

impl Default for EngineOptions {
    /// The processor, in f32, on as many threads as it runs at once.
    fn default() -> Self {
        let threads = available_parallelism().map_or(1, usize::from);
        Self { device: Device::default(), precision: Precision::default(), threads }
    }
}

impl EngineOptions {
    /// The default on so many threads.
    pub fn on_threads(threads: usize) -> Self {
        Self { threads, ..Self::default() }
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.threads == 0 {
            return Err(Error::argument("threads: expected at least 1, found 0"));
        }
        Ok(())
    }

    /// The same for work that no engine does in less than f32.
    pub(super) fn check_exact(&self, what: &str) -> Result<()> {
        if self.precision != Precision::F32 {
            return Err(Error::unsupported(format!("precision {}: {what} can be had in f32 only", self.precision)));
        }
        self.check()
    }
}
