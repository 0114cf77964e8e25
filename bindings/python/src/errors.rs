//! Errors of the library as Python's exceptions.

use std::any::Any;
use std::error::Error as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::create_exception;
use pyo3::exceptions::{PyFileNotFoundError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use skipstone::{Error, Kind};

use crate::process;

create_exception!(
    skipstone,
    InternalError,
    PyRuntimeError,
    "A bug in skipstone itself, where the library stopped rather than go on. Please report it with the message."
);

/// The exception for an error of the library: the one that the caller's own Python code raised, if there is one inside.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    if let Some(raised) = error.source().and_then(|source| source.downcast_ref::<PyErr>()) {
        return raised.clone_ref(py);
    }
    let message = error.to_string();
    match error.kind() {
        Kind::NotFound => PyFileNotFoundError::new_err(message),
        Kind::Io => PyOSError::new_err(message),
        Kind::Stopped => PyRuntimeError::new_err(message),
        _ => PyValueError::new_err(message),
    }
}

/// A `ValueError`.
pub fn value(message: impl Into<String>) -> PyErr {
    PyValueError::new_err(message.into())
}

/// Computes without Python's lock. Errors become exceptions; panics become [`InternalError`].
pub fn compute<T: Send>(py: Python<'_>, work: impl FnOnce() -> skipstone::Result<T> + Send) -> PyResult<T> {
    match py.detach(|| catch_unwind(AssertUnwindSafe(|| process::with_threads(work)))) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(raise(py, &error)),
        Err(panic) => Err(bug(&*panic)),
    }
}

fn bug(panic: &(dyn Any + Send)) -> PyErr {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    InternalError::new_err(format!(
        "a bug in skipstone {}: {}; please report it with what you called",
        env!("CARGO_PKG_VERSION"),
        text.unwrap_or("a panic without a message")
    ))
}

/// Runs the pending signal handlers, so that Ctrl-C becomes an error of the work under way.
pub fn signals() -> skipstone::Result<()> {
    Python::attach(|py| py.check_signals()).map_err(Error::caller)
}
