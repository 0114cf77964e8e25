//! Data sets, from names, files and arrays.

use std::path::PathBuf;

use ndarray::Array4;
use numpy::{PyArrayDyn, PyReadonlyArrayDyn};
use pyo3::prelude::*;
use pyo3::types::PyString;
use skipstone::io::data::{ArrayLayout, DataOptions, DataSpec, Dataset, Split, ValueRange};
use skipstone::io::image::to_byte;

use crate::arrays::{floats, labels, out};
use crate::errors::{compute, raise, value};

/// What a caller gives as data.
pub enum Given {
    /// A name or a path, as on the command line.
    Spec(DataSpec),
    /// Images in memory.
    Held(Dataset),
}

/// Reads the argument `data`: a name, a path, or an array of pictures.
pub fn given(data: &Bound<'_, PyAny>, classes: Option<&Bound<'_, PyAny>>) -> PyResult<Given> {
    let py = data.py();
    if data.is_instance_of::<PyString>() || data.hasattr("__fspath__")? {
        if classes.is_some() {
            return Err(value("labels: these data bring their own; leave labels out"));
        }
        let text = data.extract::<PathBuf>()?;
        let text = text.to_str().ok_or_else(|| value("data: the path is not UTF-8"))?;
        return text.parse().map(Given::Spec).map_err(|e| raise(py, &e));
    }
    let pictures = pictures(data)?;
    let classes = labels(classes, pictures.dim().0)?;
    Dataset::new("array", pictures, classes, Vec::new()).map(Given::Held).map_err(|e| raise(py, &e))
}

/// Pictures as bytes [n, c, h, w], from uint8 in either layout or from floats on the 256 levels of −1..1.
fn pictures(data: &Bound<'_, PyAny>) -> PyResult<Array4<u8>> {
    let numpy = data.py().import("numpy")?;
    let array = numpy.call_method1("asarray", (data,))?;
    let shape: Vec<usize> = array.getattr("shape")?.extract()?;
    if shape.len() != 4 || shape.contains(&0) {
        return Err(value(format!("data: expected an array [n, c, h, w] with n > 0, found the shape {shape:?}")));
    }
    if array.getattr("dtype")?.str()? == "uint8" {
        let array = numpy.call_method1("ascontiguousarray", (array,))?;
        let array: PyReadonlyArrayDyn<'_, u8> = array.extract()?;
        let array = array.as_array().to_owned().into_dimensionality().map_err(|e| value(e.to_string()))?;
        // Pictures as files have them: channels last.
        let last = matches!(shape[3], 1 | 3) && !matches!(shape[1], 1 | 3);
        return Ok(if last { array.permuted_axes([0, 3, 1, 2]) } else { array });
    }
    let array: Array4<f32> = floats(&array, "data", "[n, c, h, w]")?;
    let off = array.iter().find(|&&x| !x.is_finite() || (f32::from(to_byte(x)) / 127.5 - 1.0 - x).abs() > 1e-5);
    if let Some(off) = off {
        return Err(value(format!(
            "data: floats must be pictures, on the 256 levels of -1..1, found {off}; for other values give the path of a .npy \
             file, which keeps them"
        )));
    }
    Ok(array.mapv(to_byte))
}

/// Part of a data set by name.
pub fn split(name: &str) -> PyResult<Split> {
    match name {
        "train" => Ok(Split::Train),
        "test" => Ok(Split::Test),
        _ => Err(value(format!("split: expected train or test, found {name:?}"))),
    }
}

impl Given {
    /// The data set at the size and channels of `options`.
    pub fn load(self, split: Split, options: &DataOptions) -> skipstone::Result<Dataset> {
        match self {
            Self::Spec(spec) => spec.load(split, options),
            Self::Held(data) => {
                let [c, h, w] = data.shape();
                if options.channels.is_some_and(|channels| channels != c) || options.size.is_some_and(|s| s != [h, w]) {
                    let size = options.size.unwrap_or([h, w]);
                    let expected = [options.channels.unwrap_or(c), size[0], size[1]];
                    return Err(skipstone::Error::argument(format!(
                        "data: expected images of {expected:?}, found {:?}; arrays are not resized",
                        [c, h, w]
                    )));
                }
                Ok(data)
            }
        }
    }
}

/// The layout and the range of arrays on disk, as on the command line.
pub fn array_options(
    py: Python<'_>,
    layout: Option<&str>,
    range: Option<(f64, f64)>,
    options: DataOptions,
) -> PyResult<DataOptions> {
    let layout = layout.map(str::parse::<ArrayLayout>).transpose().map_err(|e| raise(py, &e))?;
    let range = range.map(|(low, high)| ValueRange::new(low, high)).transpose().map_err(|e| raise(py, &e))?;
    Ok(DataOptions { layout, range, ..options })
}

/// Reads images of a data set.
///
/// Args:
///     data: "fashion-mnist", "mnist", "cifar10", "idx:FILE", a .npy, .npz, .tar or .parquet file, or a folder of images.
///     n: how many, from the first [all].
///     split: "train" or "test".
///     size: height and width [the data's own]; channels: 1 or 3 [the data's own].
///     layout, range: how an array on disk is meant, as for the command.
///
/// Returns:
///     (images, labels): float32 [n, c, h, w] in −1..1, and a list of class numbers or None.
///
/// Raises:
///     FileNotFoundError: with the command that brings the files.
#[pyfunction]
#[pyo3(signature = (data, n=None, *, split="train", size=None, channels=None, layout=None, range=None))]
#[expect(clippy::too_many_arguments, clippy::type_complexity, reason = "keyword arguments")]
pub fn read_images<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyAny>,
    n: Option<usize>,
    split: &str,
    size: Option<(usize, usize)>,
    channels: Option<usize>,
    layout: Option<&str>,
    range: Option<(f64, f64)>,
) -> PyResult<(Bound<'py, PyArrayDyn<f32>>, Option<Vec<u32>>)> {
    let (given, split) = (given(data, None)?, self::split(split)?);
    let size = size.map(|(height, width)| [height, width]);
    let options = array_options(py, layout, range, DataOptions { size, channels, ..DataOptions::default() })?;
    let (images, labels) = compute(py, || {
        let data = given.load(split, &options)?;
        let n = n.unwrap_or(data.len()).min(data.len());
        let labels = data.labels().map(|labels| labels[..n].to_vec());
        Ok((data.batch(0..n)?, labels))
    })?;
    Ok((out(py, images), labels))
}
