//! What networks can be computed on.

use pyo3::prelude::*;
use skipstone::engine::DeviceInfo;

/// A device that networks can be computed on.
///
/// Attributes:
///     device: its name, for `load(device=…)`.
///     name: the hardware's name.
///     memory: bytes of its memory; None where the driver does not say.
///     precisions: those in which it computes.
///     engine: "cpu", or what kernels are compiled to.
///     software: whether this graphics processor is a program on the CPU.
///     trouble: why it cannot be opened; None if it can.
#[pyclass(name = "Device", module = "skipstone", frozen, get_all)]
pub struct PyDevice {
    device: String,
    name: String,
    memory: Option<u64>,
    precisions: Vec<&'static str>,
    engine: String,
    software: bool,
    trouble: Option<String>,
}

#[pymethods]
impl PyDevice {
    fn __repr__(&self) -> String {
        format!("Device({:?}, name={:?}, engine={:?})", self.device, self.name, self.engine)
    }
}

/// The devices of this machine, the CPU first.
///
/// Graphics processors need a build with the feature `gpu`, as the published wheels are, and the card's driver.
///
/// Returns:
///     list of Device.
#[pyfunction]
pub fn devices(py: Python<'_>) -> Vec<PyDevice> {
    let found = py.detach(skipstone::engine::devices);
    let device = |info| {
        let DeviceInfo { device, name, memory, precisions, engine, software, trouble } = info;
        PyDevice { device, name, memory, precisions, engine, software, trouble }
    };
    found.into_iter().map(device).collect()
}
