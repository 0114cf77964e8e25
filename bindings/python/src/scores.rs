//! Scores of images: features, distances, precision and recall.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ndarray::{Array2, Array4, Axis, Slice, concatenate};
use numpy::{IntoPyArray, PyArray1, PyArray2};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use skipstone::io::data::{DataOptions, Dataset};
use skipstone::{Error, Result};
use skipstone_eval::{FeatureSpec, Statistics, Subsets, features, kid, kid_full};

use crate::arrays::{floats, room};
use crate::data::{given, split};
use crate::errors::{compute, raise, signals, value};
use crate::watch::Watch;

/// Images whose features are taken at a time.
const BATCH: usize = 256;

/// Feature vectors of images with their mean and covariance, all of one network. Made by `fit`.
///
/// A Fréchet distance is an FID only with the Inception network of FID; numbers of different networks cannot be compared.
#[pyclass(module = "skipstone", frozen)]
pub struct Features {
    /// The network that makes more of them; None for vectors of the caller's.
    spec: Option<FeatureSpec>,
    statistics: Statistics,
    /// None if only the statistics were kept.
    vectors: Option<Array2<f32>>,
}

fn spec(py: Python<'_>, name: &str) -> PyResult<FeatureSpec> {
    name.parse().map_err(|e| raise(py, &e))
}

impl Features {
    fn of(spec: FeatureSpec, images: &Array4<f32>, keep: bool, watch: &mut Watch) -> Result<Self> {
        let network = spec.open(skipstone_model::FASHION_CNN)?;
        let mut statistics = Statistics::of(&*network);
        let n = images.dim().0;
        watch.begin("features", n);
        let mut parts = Vec::new();
        for first in (0..n).step_by(BATCH) {
            signals()?;
            let rows = first..(first + BATCH).min(n);
            let found = features(&*network, images.slice_axis(Axis(0), Slice::from(rows.clone())))?;
            statistics.add(found.view())?;
            parts.push(found);
            if watch.advance_by(rows.len(), |_, _| Ok(())).is_break() {
                return Err(Error::stopped());
            }
        }
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        let vectors = concatenate(Axis(0), &views).map_err(|e| Error::argument(e.to_string()))?;
        Ok(Self { spec: Some(spec), statistics, vectors: keep.then_some(vectors) })
    }

    fn vectors(&self) -> PyResult<&Array2<f32>> {
        self.vectors
            .as_ref()
            .ok_or_else(|| value("only the statistics of these features were kept; this score needs the vectors"))
    }
}

#[pymethods]
impl Features {
    /// Features of any network of yours: `vectors`, float [n, d]. `network` names it, so that different ones are not mixed.
    #[staticmethod]
    fn from_vectors(py: Python<'_>, vectors: &Bound<'_, PyAny>, network: &str) -> PyResult<Self> {
        let vectors: Array2<f32> = floats(vectors, "vectors", "[n, d]")?;
        room("vectors", &[vectors.ncols(), vectors.ncols()])?;
        let mut statistics = Statistics::new(network, vectors.ncols());
        statistics.add(vectors.view()).map_err(|e| raise(py, &e))?;
        Ok(Self { spec: None, statistics, vectors: Some(vectors) })
    }

    /// Reads statistics that `save` wrote. `features` is the network, to make more of them.
    #[staticmethod]
    #[pyo3(signature = (path, features=None))]
    fn load(py: Python<'_>, path: PathBuf, features: Option<&str>) -> PyResult<Self> {
        let spec = features.map(|name| spec(py, name)).transpose()?;
        let statistics = compute(py, || {
            let found = Statistics::read(&path)?;
            if let Some(spec) = &spec {
                let network = spec.open(skipstone_model::FASHION_CNN)?;
                if network.name() != found.network() {
                    let (found, expected) = (found.network(), network.name());
                    return Err(
                        Error::argument(format!("statistics of {found}; expected those of {expected}")).in_file(&path)
                    );
                }
            }
            Ok(found)
        })?;
        Ok(Self { spec, statistics, vectors: None })
    }

    /// Writes count, mean and covariance as a .npz file, which pytorch-fid reads too. Vectors are not kept.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        compute(py, || self.statistics.write(&path))
    }

    /// These features and `others`, of the same network: as if all had been made at once.
    fn merge(&self, py: Python<'_>, other: &Bound<'_, Self>) -> PyResult<Self> {
        let other = other.get();
        let mut statistics = self.statistics.clone();
        statistics.merge(&other.statistics).map_err(|e| raise(py, &e))?;
        let vectors = match (&self.vectors, &other.vectors) {
            (Some(a), Some(b)) => Some(concatenate(Axis(0), &[a.view(), b.view()]).map_err(|e| value(e.to_string()))?),
            _ => None,
        };
        Ok(Self { spec: self.spec.clone(), statistics, vectors })
    }

    /// Number of images.
    #[getter]
    fn count(&self) -> u64 {
        self.statistics.count()
    }

    fn __len__(&self) -> usize {
        self.statistics.count() as usize
    }

    /// d, the length of a vector.
    #[getter]
    fn dimensions(&self) -> usize {
        self.statistics.dimensions()
    }

    /// The network's name and the beginning of its hash.
    #[getter]
    fn network(&self) -> &str {
        self.statistics.network()
    }

    /// The mean, float64 [d].
    #[getter]
    fn mean<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.statistics.mean().to_owned().into_pyarray(py)
    }

    /// The unbiased covariance, float64 [d, d].
    #[getter]
    fn covariance<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        Ok(self.statistics.gaussian().map_err(|e| raise(py, &e))?.covariance.into_pyarray(py))
    }

    /// The vectors, float32 [n, d]; None if they were not kept.
    #[getter(vectors)]
    fn all_vectors<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyArray2<f32>>> {
        self.vectors.as_ref().map(|vectors| vectors.clone().into_pyarray(py))
    }

    /// Notes on where they come from.
    #[getter]
    fn about(&self) -> BTreeMap<String, String> {
        self.statistics.about().clone()
    }

    fn __repr__(&self) -> String {
        format!("Features({} images, {} of {})", self.statistics.count(), self.dimensions(), self.network())
    }
}

/// Takes the features of images.
///
/// Args:
///     data: images, float [n, c, h, w] in −1..1 (scored as pictures: clamped, on 256 levels), or a data set by name or path.
///     features: "fashion-cnn", the built-in classifier, or "FILE.onnx:OUTPUT".
///     n: how many images of a data set, from the first [all]; split: "train" or "test".
///     keep: whether to keep the vectors, which kernel_distance and precision_recall need.
///
/// Returns:
///     Features.
#[pyfunction]
#[pyo3(signature = (data, features="fashion-cnn", *, n=None, split="train", keep=true, progress=None))]
pub fn fit(
    py: Python<'_>,
    data: &Bound<'_, PyAny>,
    features: &str,
    n: Option<usize>,
    split: &str,
    keep: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<Features> {
    let (spec, split) = (spec(py, features)?, self::split(split)?);
    let images = images_of(data)?;
    let given = match images {
        Some(_) => None,
        None => Some(given(data, None)?),
    };
    Watch::new(progress, None).run(py, move |watch| {
        let (images, note) = match (images, given) {
            (Some(images), _) => (images, None),
            (None, Some(given)) => {
                let data = given.load(split, &DataOptions::default())?;
                let n = n.unwrap_or(data.len()).clamp(1, data.len());
                let note = format!("{} (first {n})", data.name());
                (Dataset::batch(&data, 0..n)?, Some(note))
            }
            (None, None) => return Err(Error::argument("data: expected images or a data set")),
        };
        let mut found = Features::of(spec, &images, keep, watch)?;
        if let Some(note) = note {
            found.statistics.note("data", note);
        }
        Ok(found)
    })
}

/// Float images; None for names and paths.
fn images_of(data: &Bound<'_, PyAny>) -> PyResult<Option<Array4<f32>>> {
    if data.is_instance_of::<pyo3::types::PyString>() || data.hasattr("__fspath__")? {
        return Ok(None);
    }
    let numpy = data.py().import("numpy")?;
    let array = numpy.call_method1("asarray", (data,))?;
    if array.getattr("dtype")?.str()? == "uint8" {
        return Ok(None);
    }
    floats(&array, "images", "[n, c, h, w]").map(Some)
}

/// Both sides as features; arrays are taken to the network of the other side, or to `features`.
fn both<'py>(
    a: &Bound<'py, PyAny>,
    b: &Bound<'py, PyAny>,
    features: Option<&str>,
) -> PyResult<(Bound<'py, Features>, Bound<'py, Features>)> {
    let py = a.py();
    let known = [a, b].into_iter().find_map(|side| side.cast::<Features>().ok());
    let name = match (features, known.map(|known| &known.get().spec)) {
        (Some(name), _) => Some(name.to_owned()),
        (None, Some(Some(spec))) => Some(spec.to_string()),
        (None, Some(None)) => None,
        (None, None) => Some("fashion-cnn".to_owned()),
    };
    let side = |given: &Bound<'py, PyAny>| match given.cast::<Features>() {
        Ok(features) => Ok(features.clone()),
        Err(_) => {
            let wrong = "the features of the other side do not tell how to make more; say which network, features=";
            let name = name.as_deref().ok_or_else(|| PyTypeError::new_err(wrong))?;
            Bound::new(py, fit(py, given, name, None, "train", true, None)?)
        }
    };
    Ok((side(a)?, side(b)?))
}

/// The Fréchet distance between two sets of images.
///
/// Args:
///     a, b: Features, images or data sets; images are taken to the network of the other side.
///     features: the network, if neither side is Features ["fashion-cnn"].
#[pyfunction]
#[pyo3(signature = (a, b, features=None))]
pub fn frechet(py: Python<'_>, a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>, features: Option<&str>) -> PyResult<f64> {
    let (a, b) = both(a, b, features)?;
    let (a, b) = (a.get(), b.get());
    compute(py, || skipstone_eval::frechet(&a.statistics, &b.statistics))
}

/// The kernel distance (KID: unbiased squared MMD with a cubic kernel) between two sets of images.
///
/// Args:
///     a, b, features: as for `frechet`; Features with their vectors.
///     subsets, size, seed: means over random subsets, as in the paper (100 of 1000), instead of all vectors.
///
/// Returns:
///     (value, standard_error).
#[pyfunction]
#[pyo3(signature = (a, b, features=None, *, subsets=None, size=1000, seed=0))]
pub fn kernel_distance(
    py: Python<'_>,
    a: &Bound<'_, PyAny>,
    b: &Bound<'_, PyAny>,
    features: Option<&str>,
    subsets: Option<usize>,
    size: usize,
    seed: u64,
) -> PyResult<(f64, f64)> {
    let (a, b) = both(a, b, features)?;
    let (a, b) = (a.get(), b.get());
    same(a, b)?;
    let (a, b) = (a.vectors()?, b.vectors()?);
    room("subsets", &[subsets.unwrap_or(1)])?;
    let found = compute(py, || match subsets {
        None => kid_full(a.view(), b.view()),
        Some(count) => kid(a.view(), b.view(), Subsets { count, size, seed }),
    })?;
    Ok((found.value, found.standard_error))
}

/// Improved precision and recall of generated images against real ones, which should be as many.
///
/// Args:
///     generated, real, features: as for `frechet`; Features with their vectors.
///     neighbours: k of the balls that make up a manifold.
///
/// Returns:
///     (precision, recall), both in 0..1.
#[pyfunction]
#[pyo3(signature = (generated, real, features=None, *, neighbours=3))]
pub fn precision_recall(
    py: Python<'_>,
    generated: &Bound<'_, PyAny>,
    real: &Bound<'_, PyAny>,
    features: Option<&str>,
    neighbours: usize,
) -> PyResult<(f64, f64)> {
    let (a, b) = both(generated, real, features)?;
    let (a, b) = (a.get(), b.get());
    same(a, b)?;
    let (a, b) = (a.vectors()?, b.vectors()?);
    let found = compute(py, || skipstone_eval::precision_recall(b.view(), a.view(), neighbours))?;
    Ok((found.precision, found.recall))
}

fn same(a: &Features, b: &Features) -> PyResult<()> {
    if a.network() == b.network() {
        return Ok(());
    }
    Err(value(format!("features of different networks cannot be compared: {} and {}", a.network(), b.network())))
}
