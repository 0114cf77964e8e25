use std::fmt;

use cubecl::server::{IoError, LaunchError, ServerError};

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a device refuses or fails to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The device cannot be opened.
    Unavailable(String),
    /// The device has too little memory for the work.
    OutOfMemory,
    /// A buffer of so many bytes is larger than the device allows.
    TooLarge(u64),
    /// The device was reset, removed or stopped by its driver.
    Lost(String),
    /// Anything else that the driver or the compiler reports.
    Failed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "the device cannot be opened: {why}"),
            Self::OutOfMemory => f.write_str("the device has too little memory"),
            Self::TooLarge(bytes) => write!(f, "{} MiB are more than one buffer of the device may hold", bytes >> 20),
            Self::Lost(why) => write!(f, "the device was lost: {why}"),
            Self::Failed(why) => write!(f, "the device reports: {why}"),
        }
    }
}

impl std::error::Error for Error {}

/// The first lines of a report, without its backtrace.
fn brief(report: &impl fmt::Display) -> String {
    let report = report.to_string();
    let lines = report.lines().map(str::trim).take_while(|line| !line.starts_with("Backtrace"));
    lines.filter(|line| !line.is_empty() && *line != "Caused by:").take(4).collect::<Vec<_>>().join(": ")
}

impl From<ServerError> for Error {
    fn from(error: ServerError) -> Self {
        if error.is_device_poisoned() {
            return Self::Lost(brief(&error));
        }
        memory(&error).unwrap_or_else(|| Self::Failed(brief(&error)))
    }
}

/// The shortage of memory at the root of an error, if that is what it is.
fn memory(error: &ServerError) -> Option<Error> {
    let by_io = |error: &IoError| match error {
        IoError::OutOfMemory { .. } => Some(Error::OutOfMemory),
        IoError::BufferTooBig { size, .. } => Some(Error::TooLarge(*size)),
        _ => None,
    };
    match error {
        ServerError::Io(error) => by_io(error),
        ServerError::Launch(LaunchError::OutOfMemory { .. }) => Some(Error::OutOfMemory),
        ServerError::Unwritten { root, .. } => memory(root),
        ServerError::Several { errors, .. } => errors.iter().find_map(memory),
        _ => None,
    }
}
