//! The Python package `skipstone`: the library's samplers over its own networks and over anybody's.

#![forbid(unsafe_code)]

mod arrays;
mod calibration;
mod data;
mod denoiser;
mod devices;
mod errors;
mod evaluate;
mod files;
mod likelihood;
mod model;
mod options;
mod pickle;
mod plan;
mod process;
mod sampler;
mod schedule;
mod scores;
mod train;
mod trajectory;
mod watch;

use pyo3::prelude::*;

/// Runs the `skipstone` command and returns its exit code.
#[pyfunction]
fn command(py: Python<'_>, words: Vec<std::ffi::OsString>) -> u8 {
    py.detach(|| skipstone_cli::run(words))
}

/// Panics, so that the tests can see what becomes of it.
#[pyfunction]
fn _panic(py: Python<'_>) -> PyResult<()> {
    errors::compute(py, || panic!("on purpose"))
}

#[pymodule]
fn _skipstone(m: &Bound<'_, PyModule>) -> PyResult<()> {
    process::remember();
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add("InternalError", m.py().get_type::<errors::InternalError>())?;
    m.add_class::<calibration::PyCalibration>()?;
    m.add_class::<denoiser::PyDenoiser>()?;
    m.add_class::<devices::PyDevice>()?;
    m.add_class::<likelihood::Likelihood>()?;
    m.add_class::<model::PyModel>()?;
    m.add_class::<plan::PlanStep>()?;
    m.add_class::<sampler::PySampler>()?;
    m.add_class::<sampler::PyStep>()?;
    m.add_class::<schedule::PySchedule>()?;
    m.add_class::<scores::Features>()?;
    m.add_class::<train::Training>()?;
    m.add_class::<trajectory::Trajectory>()?;
    m.add_function(wrap_pyfunction!(_panic, m)?)?;
    m.add_function(wrap_pyfunction!(command, m)?)?;
    m.add_function(wrap_pyfunction!(devices::devices, m)?)?;
    m.add_function(wrap_pyfunction!(files::latents, m)?)?;
    m.add_function(wrap_pyfunction!(files::noise, m)?)?;
    m.add_function(wrap_pyfunction!(files::pictures, m)?)?;
    m.add_function(wrap_pyfunction!(files::png, m)?)?;
    m.add_function(wrap_pyfunction!(files::save_folder, m)?)?;
    m.add_function(wrap_pyfunction!(files::save_npy, m)?)?;
    m.add_function(wrap_pyfunction!(files::write, m)?)?;
    m.add_function(wrap_pyfunction!(data::read_images, m)?)?;
    m.add_function(wrap_pyfunction!(model::load, m)?)?;
    m.add_function(wrap_pyfunction!(scores::fit, m)?)?;
    m.add_function(wrap_pyfunction!(scores::frechet, m)?)?;
    m.add_function(wrap_pyfunction!(scores::kernel_distance, m)?)?;
    m.add_function(wrap_pyfunction!(scores::precision_recall, m)?)?;
    m.add_function(wrap_pyfunction!(train::train, m)?)?;
    m.add_function(wrap_pyfunction!(train::distill, m)?)?;
    Ok(())
}
