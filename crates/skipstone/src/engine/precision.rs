use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

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
