//! What `__reduce__` returns.

use pyo3::prelude::*;
use pyo3::types::PyDict;

/// A function and its arguments, from which pickle makes the object again.
pub type Reduced<'py> = (Bound<'py, PyAny>, (Bound<'py, PyAny>, Bound<'py, PyDict>));

/// An object that `make` makes of these keyword arguments.
pub fn reduced<'py>(make: Bound<'py, PyAny>, keywords: Bound<'py, PyDict>) -> PyResult<Reduced<'py>> {
    Ok((make.py().import("skipstone._pickle")?.getattr("build")?, (make, keywords)))
}
