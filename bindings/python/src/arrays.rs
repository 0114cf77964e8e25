//! Arrays between Python and the library.

use ndarray::{Array, Array2, Array3, Array4, Axis, Dimension};
use numpy::{IntoPyArray, PyArrayDyn, PyReadonlyArrayDyn};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

use crate::errors::value;

/// A float32 array of the rank of `D`, from anything that NumPy takes for one: any strides, byte order and float type. `name` and
/// `shape`, such as "[n, c, h, w]", are for messages.
pub fn floats<D: Dimension>(given: &Bound<'_, PyAny>, name: &str, shape: &str) -> PyResult<Array<f32, D>> {
    let py = given.py();
    let numpy = py.import("numpy")?;
    let array = numpy.call_method1("asarray", (given,))?;
    let (kind, dtype) = (array.getattr("dtype")?.getattr("kind")?.extract::<char>()?, array.getattr("dtype")?.str()?);
    if kind != 'f' {
        let remedy = if dtype == "uint8" { "; for pictures, x / 127.5 - 1" } else { "" };
        return Err(value(format!("{name}: expected floating-point numbers {shape}, found {dtype}{remedy}")));
    }
    let found = format!("{}", array.getattr("shape")?.str()?);
    if array.getattr("size")?.extract::<usize>()? == 0 {
        return Err(value(format!("{name}: expected an array {shape} that is not empty, found the shape {found}")));
    }
    let array = numpy.call_method1("ascontiguousarray", (array, "float32"))?;
    let array: PyReadonlyArrayDyn<'_, f32> = array.extract()?;
    let array = array.as_array().to_owned();
    let wrong = |_| value(format!("{name}: expected an array {shape}, found the shape {found}"));
    let array = array.into_dimensionality::<D>().map_err(wrong)?;
    Ok(array)
}

/// Arrays of a run's images that are in memory at the same time.
const COPIES: usize = 4;

/// Refuses a run whose arrays `[lengths]` memory cannot hold: a failed allocation would end the process.
///
/// # Errors
/// `MemoryError`.
pub fn room(name: &str, lengths: &[usize]) -> PyResult<()> {
    let values = lengths.iter().try_fold(COPIES, |product, &length| product.checked_mul(length));
    let fits = values.is_some_and(|values| {
        let mut room = Vec::<f32>::new();
        let fits = room.try_reserve_exact(values).is_ok();
        // Otherwise the compiler may leave the allocation out and take it for granted.
        std::hint::black_box(&room);
        fits
    });
    if fits {
        return Ok(());
    }
    Err(PyMemoryError::new_err(format!("{name}: there is no memory for arrays of {lengths:?}; make fewer at a time")))
}

/// Images or latents `[n, c, h, w]` with at least one of them.
pub fn images(given: &Bound<'_, PyAny>, name: &str, [c, h, w]: [usize; 3]) -> PyResult<Array4<f32>> {
    let shape = format!("[n, {c}, {h}, {w}]");
    let array: Array4<f32> = floats(given, name, &shape)?;
    if array.is_empty() || array.shape()[1..] != [c, h, w] {
        return Err(value(format!(
            "{name}: expected an array {shape} with n > 0, found the shape {:?}",
            array.shape()
        )));
    }
    Ok(array)
}

/// One image `[c, h, w]`, perhaps with a leading axis of length 1.
pub fn image(given: &Bound<'_, PyAny>, name: &str, shape: [usize; 3]) -> PyResult<Array3<f32>> {
    if given.getattr("ndim").and_then(|ndim| ndim.extract::<usize>()).is_ok_and(|ndim| ndim == 4) {
        let all = images(given, name, shape)?;
        if all.dim().0 == 1 {
            return Ok(all.index_axis_move(Axis(0), 0));
        }
    }
    let [c, h, w] = shape;
    let expected = format!("[{c}, {h}, {w}]");
    let image: Array3<f32> = floats(given, name, &expected)?;
    if image.shape() != shape {
        return Err(value(format!("{name}: expected an array {expected}, found the shape {:?}", image.shape())));
    }
    Ok(image)
}

/// A mask `[h, w]` of booleans; numbers count as true where they are not 0.
pub fn mask(given: &Bound<'_, PyAny>, name: &str, [h, w]: [usize; 2]) -> PyResult<Array2<bool>> {
    let numpy = given.py().import("numpy")?;
    let array = numpy.call_method1("asarray", (given,))?;
    let found: Vec<usize> = array.getattr("shape")?.extract()?;
    if found.iter().product::<usize>() != h * w || found.len() < 2 || found[found.len() - 2..] != [h, w] {
        return Err(value(format!("{name}: expected an array [{h}, {w}], found the shape {found:?}")));
    }
    let array = numpy.call_method1("ascontiguousarray", (array.call_method1("reshape", (h, w))?, "bool"))?;
    let array: numpy::PyReadonlyArray2<'_, bool> = array.extract()?;
    Ok(array.as_array().to_owned())
}

/// Class numbers, one per image.
pub fn labels(given: Option<&Bound<'_, PyAny>>, n: usize) -> PyResult<Option<Vec<u32>>> {
    let Some(given) = given else { return Ok(None) };
    let labels: Vec<u32> = given
        .call_method0("tolist")
        .unwrap_or_else(|_| given.clone())
        .extract()
        .map_err(|_| value("labels: expected a list of class numbers, one per image"))?;
    if labels.len() != n {
        return Err(value(format!("labels: expected one per image, {n}, found {}", labels.len())));
    }
    Ok(Some(labels))
}

/// An array of Python's, without a copy.
pub fn out<'py, D: Dimension>(py: Python<'py>, array: Array<f32, D>) -> Bound<'py, PyArrayDyn<f32>> {
    array.into_dyn().into_pyarray(py)
}
