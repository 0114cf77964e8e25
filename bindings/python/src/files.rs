//! What `Samples` writes, and noise by its keys.

use std::path::PathBuf;

use ndarray::Array4;
use numpy::PyArrayDyn;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::{Map, Value};
use skipstone::Error;
use skipstone::io::image::{Layout, encode_png, grid, near_square, npy, text_chunks, to_byte};
use skipstone::math::noise::{NoiseSource, Seeded, initial_latent};
use skipstone::sampling::generate::{Folder, Manifest, texts};

use crate::arrays::{floats, out, room};
use crate::errors::{compute, value};

/// Images `[n, c, h, w]` of any shape.
fn any_images(given: &Bound<'_, PyAny>) -> PyResult<Array4<f32>> {
    let all: Array4<f32> = floats(given, "images", "[n, c, h, w]")?;
    if all.is_empty() {
        Err(value(format!("images: expected at least one, found the shape {:?}", all.shape())))
    } else {
        Ok(all)
    }
}

fn parsed(options: &str) -> skipstone::Result<Map<String, Value>> {
    serde_json::from_str(options).map_err(|e| Error::argument(format!("options: {e}")))
}

/// A PNG file of a grid, with the options as texts; `scaled` magnifies small images.
#[pyfunction]
#[pyo3(signature = (images, options, first, columns))]
pub fn png<'py>(
    py: Python<'py>,
    images: &Bound<'py, PyAny>,
    options: &str,
    first: u64,
    columns: Option<usize>,
) -> PyResult<Bound<'py, PyBytes>> {
    let all = any_images(images)?;
    let bytes = compute(py, || {
        let (n, _, h, w) = all.dim();
        let options = parsed(options)?;
        let mut said = if options.is_empty() { Vec::new() } else { texts(&options) };
        if !options.is_empty() {
            said.extend([("first".to_owned(), first.to_string()), ("n".to_owned(), n.to_string())]);
        }
        let picture = grid(&all, columns.unwrap_or(near_square(n)), &Layout::magnified(h, w))?;
        encode_png(&picture, &text_chunks(&said))
    })?;
    Ok(PyBytes::new(py, &bytes))
}

/// Writes one PNG per image and a manifest to a folder.
#[pyfunction]
pub fn save_folder(
    py: Python<'_>,
    path: PathBuf,
    images: &Bound<'_, PyAny>,
    options: &str,
    first: u64,
) -> PyResult<()> {
    let all = any_images(images)?;
    compute(py, || {
        let (n, c, h, w) = all.dim();
        let manifest = Manifest { options: parsed(options)?, first, n: n as u64 };
        Folder::of(&path, manifest, [c, h, w])?.write_all(first..first + n as u64, &all)
    })
}

/// Writes a .npy file, whole or not at all.
#[pyfunction]
pub fn save_npy(py: Python<'_>, path: PathBuf, images: &Bound<'_, PyAny>) -> PyResult<()> {
    let all: ndarray::ArrayD<f32> = floats(images, "images", "of any shape")?;
    compute(py, || npy::write(&path, all.view()))
}

/// Writes a file, whole or not at all.
#[pyfunction]
pub fn write(py: Python<'_>, path: PathBuf, data: &[u8]) -> PyResult<()> {
    compute(py, || skipstone::io::files::write_bytes(&path, data))
}

/// The bytes nearest to network values, as in pictures.
#[pyfunction]
pub fn pictures<'py>(py: Python<'py>, images: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArrayDyn<u8>>> {
    let all = any_images(images)?;
    let bytes = compute(py, || Ok(all.permuted_axes([0, 2, 3, 1]).as_standard_layout().mapv(to_byte)))?;
    Ok(numpy::IntoPyArray::into_pyarray(bytes.into_dyn(), py))
}

/// The latents x_T that images start from: float32 [n, c, h, w], standard normal, keyed by seed and image.
///
/// Args:
///     n: how many.
///     shape: (c, h, w).
///     seed: of the run.
///     first: index of the first image.
#[pyfunction]
#[pyo3(signature = (n, shape, *, seed=0, first=0))]
pub fn latents<'py>(
    py: Python<'py>,
    n: usize,
    shape: [usize; 3],
    seed: u64,
    first: u64,
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    let [c, h, w] = shape;
    room("n", &[n, c, h, w])?;
    Ok(out(py, compute(py, || Ok(initial_latent(seed, first, n, shape)))?))
}

/// The noise z of one step: float32 [n, c, h, w], standard normal, keyed by seed, image and step.
///
/// Args:
///     step: the step, from 0, as `Sampler.plan` lists them.
///     others: as for `latents`.
#[pyfunction]
#[pyo3(signature = (n, shape, step, *, seed=0, first=0))]
pub fn noise<'py>(
    py: Python<'py>,
    n: usize,
    shape: [usize; 3],
    step: usize,
    seed: u64,
    first: u64,
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    let [c, h, w] = shape;
    room("n", &[n, c, h, w])?;
    let z = compute(py, || {
        let mut z = Array4::zeros((n, c, h, w));
        Seeded::new(seed, first).fill(step, &mut z)?;
        Ok(z)
    })?;
    Ok(out(py, z))
}
