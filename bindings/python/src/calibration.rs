//! Calibrations as objects.

use std::path::PathBuf;

use numpy::{IntoPyArray, PyArray1};
use pyo3::exceptions::PyFileNotFoundError;
use pyo3::prelude::*;
use skipstone::objective::calibration::Calibration;

use crate::errors::raise;

/// What `Sampler.calibrate` measured: the errors of a network at each of its T timesteps.
#[pyclass(name = "Calibration", module = "skipstone", frozen)]
pub struct PyCalibration(pub Calibration);

#[pymethods]
impl PyCalibration {
    /// Reads a calibration.json.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let found = Calibration::read(&path).map_err(|e| raise(py, &e))?;
        let missing = || PyFileNotFoundError::new_err(format!("{}: no such file", path.display()));
        found.map(Self).ok_or_else(missing)
    }

    /// Writes a calibration.json. Beside a model, as MODEL/calibration.json, it is found again when the model is loaded.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.0.write(&path).map_err(|e| raise(py, &e))
    }

    /// E‖ε̂‖² per dimension at every timestep, float64 [T].
    #[getter]
    fn eps_squares<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.0.eps_squares.clone().into_pyarray(py)
    }

    /// E‖x₀ − x̂₀‖² per dimension at every timestep, float64 [T].
    #[getter]
    fn x0_errors<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.0.x0_errors.clone().into_pyarray(py)
    }

    /// SHA-256 of the file's text.
    #[getter]
    fn hash(&self) -> String {
        self.0.hash()
    }

    #[staticmethod]
    fn _parse(py: Python<'_>, text: &str) -> PyResult<Self> {
        Calibration::from_json(text).map(Self).map_err(|e| raise(py, &e))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (String,))> {
        Ok((slf.get_type().getattr("_parse")?, (slf.get().0.to_json(),)))
    }

    fn __repr__(&self) -> String {
        format!("Calibration(T={})", self.0.eps_squares.len())
    }
}
