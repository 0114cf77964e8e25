//! The error type: what went wrong, and in which file and field.

use std::fmt;
use std::path::{Path, PathBuf};

/// A result with the library's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of failure of an [`Error`]. The command line derives its exit code from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The caller asked for something meaningless: 0 steps, η < 0, increasing times.
    InvalidArgument,
    /// A file or value violates its format: truncated data, a wrong shape, an unknown key.
    InvalidData,
    /// The input is well-formed but not supported.
    Unsupported,
    /// A required file, data set or tensor is missing.
    NotFound,
    /// NaN or infinity in place of a finite number.
    NonFinite,
    /// The operating system refused an operation: no space, no permission.
    Io,
    /// A graphics processor is missing, lacks memory or failed.
    Device,
    /// The caller's own observer stopped the work.
    Stopped,
    /// The caller's own network, noise or data failed. The error's source is what it reported.
    Caller,
}

/// An error with its context: the file, the problem and a remedy.
///
/// ```
/// use skipstone::{Error, Kind};
/// let e = Error::new(Kind::InvalidData, "conv_in.weight: expected [128, 3, 3, 3], found [128, 1, 3, 3]")
///     .in_file("unet/model.safetensors");
/// assert_eq!(e.kind(), Kind::InvalidData);
/// assert!(e.to_string().starts_with("unet/model.safetensors: conv_in.weight"));
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    path: Option<PathBuf>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with `message` (lower case, without full stop, with the offending value).
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), path: None, source: None }))
    }

    /// An error of kind [`Kind::InvalidArgument`].
    pub fn argument(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }

    /// An error of kind [`Kind::InvalidData`].
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidData, message)
    }

    /// What every long function returns once its observer has broken off ([`ControlFlow::Break`](std::ops::ControlFlow)).
    /// An observer that breaks at the very last step finds the work finished instead.
    pub fn stopped() -> Self {
        Self::new(Kind::Stopped, "stopped by its observer")
    }

    /// What a [`Denoiser`](crate::sampling::denoiser::Denoiser) or another part of the caller's own code reports. It passes
    /// through the library unchanged, as the [source](std::error::Error::source) of the error that comes out.
    ///
    /// ```
    /// use std::error::Error as _;
    /// let e = skipstone::Error::caller(std::fmt::Error);
    /// assert!(e.kind() == skipstone::Kind::Caller && e.source().is_some_and(|e| e.is::<std::fmt::Error>()));
    /// ```
    pub fn caller(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::new(Kind::Caller, source.to_string()).caused_by(source)
    }

    /// Whether the caller's own observer stopped the work.
    pub fn is_stopped(&self) -> bool {
        self.kind() == Kind::Stopped
    }

    /// An error of kind [`Kind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// An error of the operating system concerning `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        let kind = if source.kind() == std::io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Io };
        Self::new(kind, source.to_string()).in_file(path).caused_by(source)
    }

    /// The same error with its file, unless it already has one.
    #[must_use]
    pub fn in_file(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path.get_or_insert_with(|| path.as_ref().to_path_buf());
        self
    }

    /// The same error with its cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error with `context` and a colon before its message.
    ///
    /// ```
    /// use skipstone::Error;
    /// assert_eq!(Error::argument("steps: found 0").within("cell 3").message(), "cell 3: steps: found 0");
    /// ```
    #[must_use]
    pub fn within(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The message without the file.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.path {
            Some(path) => write!(f, "{}: {}", path.display(), self.0.message),
            None => f.write_str(&self.0.message),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let source: &(dyn std::error::Error + 'static) = self.0.source.as_deref()?;
        // Whoever prints an error with its sources would repeat a text that the message already includes.
        let told = match self.0.kind {
            Kind::Caller => false,
            Kind::Io | Kind::NotFound => true,
            _ => self.0.message.contains(&source.to_string()),
        };
        (!told).then_some(source)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn a_source_that_the_message_includes_is_not_told_again() {
        let source = || std::io::Error::other("cut off");
        assert!(Error::data("not JSON: cut off").caused_by(source()).source().is_none());
        assert!(Error::data("not JSON").caused_by(source()).source().is_some());
        assert!(Error::io("f", source()).source().is_none());
        assert!(Error::caller(source()).source().is_some());
    }
}
