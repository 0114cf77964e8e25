//! `load` and `Model`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use skipstone::engine::{EngineOptions, Precision};
use skipstone::io::checkpoint::{self, LoadOptions, Model, SchedulerConfig, WeightsChoice, is_onnx};

use crate::errors::{compute, raise, value};
use crate::pickle::{Reduced, reduced};
use crate::process;
use crate::sampler::{Core, PySampler};
use crate::schedule::PySchedule;

/// Everything that decides what is loaded.
#[derive(Clone)]
pub struct Origin {
    path: Option<PathBuf>,
    options: LoadOptions,
    onnx: Option<String>,
    engine: EngineOptions,
}

impl Origin {
    /// A teacher: a loaded model, the path of one, or the built-in model.
    pub fn of_teacher(teacher: Option<&Bound<'_, PyAny>>, weights: WeightsChoice) -> PyResult<Self> {
        let options = LoadOptions { weights, ..LoadOptions::default() };
        let path = match teacher.map(|teacher| (teacher, teacher.cast::<PyModel>())) {
            Some((_, Ok(_))) if weights != WeightsChoice::Auto => {
                return Err(value("weights: the model is loaded already; give weights to load"));
            }
            Some((_, Ok(model))) => return Ok(model.get().origin.clone()),
            Some((path, Err(_))) => Some(path.extract()?),
            None => None,
        };
        Ok(Self { path, options, onnx: None, engine: EngineOptions::default() })
    }

    /// Reads the model.
    pub fn read(&self) -> skipstone::Result<Model> {
        match &self.path {
            None => checkpoint::load_embedded(skipstone_model::FILES, &self.options),
            Some(path) if is_onnx(path) => {
                if self.options.weights != WeightsChoice::Auto {
                    return Err(skipstone::Error::argument("weights: an ONNX file has one set; leave weights out"));
                }
                let names = self.onnx.as_deref().map(str::parse).transpose()?;
                let mut names: skipstone_onnx::Names = names.unwrap_or_default();
                names.size = names.size.or(self.options.size);
                let scheduler = self.options.scheduler.clone();
                skipstone_onnx::load(path, &skipstone_onnx::Options { names, scheduler })
            }
            Some(path) => checkpoint::load(path, &self.options),
        }
    }
}

/// A loaded model: a Sampler over its network, with its own schedule and defaults. Made by `load`.
#[pyclass(name = "Model", module = "skipstone", frozen, extends = PySampler)]
pub struct PyModel {
    pub origin: Origin,
    /// What `load` was called with, for pickling.
    arguments: Py<PyDict>,
    parameters: usize,
}

#[pymethods]
impl PyModel {
    /// The file or folder; None for the built-in model.
    #[getter]
    fn path(&self) -> Option<PathBuf> {
        self.origin.path.clone()
    }

    /// Number of parameters.
    #[getter]
    fn parameters(&self) -> usize {
        self.parameters
    }

    /// SHA-256 of architecture and weights, as in manifests.
    #[getter]
    fn hash(slf: PyRef<'_, Self>) -> String {
        slf.as_super().core.model().hash.clone()
    }

    /// Which weights these are: "ema", "raw" or "unspecified".
    #[getter]
    fn weights(slf: PyRef<'_, Self>) -> String {
        slf.as_super().core.model().weights.to_string()
    }

    /// "f32", "f16" or "bf16".
    #[getter]
    fn precision(&self) -> String {
        self.origin.engine.precision.to_string()
    }

    /// The number of classes; None for an unconditional model.
    #[getter]
    fn classes(slf: PyRef<'_, Self>) -> Option<usize> {
        slf.as_super().core.model().config.num_class_embeds
    }

    /// What the model's creator recorded: data, recipe, …
    #[getter]
    fn provenance(slf: PyRef<'_, Self>) -> std::collections::BTreeMap<String, String> {
        slf.as_super().core.model().provenance.clone()
    }

    fn __repr__(slf: PyRef<'_, Self>) -> String {
        let path = slf.origin.path.as_ref().map_or("built-in".to_owned(), |path| path.display().to_string());
        let [c, h, w] = slf.as_super().core.shape();
        format!("Model({path}, shape=({c}, {h}, {w}), {} parameters)", slf.parameters)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let py = slf.py();
        let load = py.import("skipstone")?.getattr("load")?;
        reduced(load, slf.get().arguments.bind(py).clone())
    }
}

/// Loads a model.
///
/// Args:
///     path: a diffusers folder, a .safetensors, .ckpt, .pth, .pt or .onnx file, or "org/name[@revision]" in the Hugging Face
///         cache; nothing for the built-in model (28×28 garments).
///     weights: "ema" or "raw" [ema if the model has both].
///     size: height and width of the images, one number or two, if not those that the network has learnt.
///     scheduler: prediction type and schedule, if not the model's: a Schedule, a diffusers scheduler config, or its path.
///     onnx: names of an ONNX network's inputs and output, such as "sample=x,timestep=t".
///     precision: "f32", or "f16" or "bf16" (faster where the hardware computes in them; two to three digits).
///     device: "cpu", or a graphics processor by a name that `devices` lists, "gpu" or "auto" [$SKIPSTONE_DEVICE, else "cpu"].
///     threads: of the engine [$SKIPSTONE_THREADS, else all processors]. Results do not depend on it.
///
/// Returns:
///     Model.
///
/// Raises:
///     FileNotFoundError: there is no such file, folder or cached model. ValueError: it is damaged or unsupported; the
///     message names file and field.
#[pyfunction]
#[pyo3(signature = (path=None, *, weights=None, size=None, scheduler=None, onnx=None, precision="f32", device=None, threads=None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments")]
pub fn load<'py>(
    py: Python<'py>,
    path: Option<PathBuf>,
    weights: Option<&str>,
    size: Option<&Bound<'py, PyAny>>,
    scheduler: Option<&Bound<'py, PyAny>>,
    onnx: Option<String>,
    precision: &str,
    device: Option<&str>,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyModel>> {
    let arguments = PyDict::new(py);
    arguments.set_item("path", &path)?;
    arguments.set_item("weights", weights)?;
    arguments.set_item("size", size)?;
    arguments.set_item("onnx", &onnx)?;
    arguments.set_item("precision", precision)?;
    arguments.set_item("device", device)?;
    arguments.set_item("threads", threads)?;
    let scheduler = scheduler.map(PySchedule::read).transpose()?;
    let scheduler: Option<SchedulerConfig> = scheduler.map(|schedule| schedule.config);
    arguments.set_item("scheduler", scheduler.as_ref().map(SchedulerConfig::to_json))?;
    let size = match size {
        None => None,
        Some(size) => Some(match size.extract::<usize>() {
            Ok(side) => [side, side],
            Err(_) => {
                size.extract::<[usize; 2]>().map_err(|_| value("size: expected one number or (height, width)"))?
            }
        }),
    };
    if onnx.is_some() && !path.as_deref().is_some_and(is_onnx) {
        return Err(value("onnx: the model is not an ONNX file; leave onnx out"));
    }
    let library = |e| raise(py, &e);
    let options = LoadOptions { weights: choice(weights)?, size, scheduler, ..LoadOptions::default() };
    let precision = precision.parse::<Precision>().map_err(library)?;
    let engine = EngineOptions { precision, ..process::engine(device, threads).map_err(library)? };
    let origin = Origin { path, options, onnx, engine };
    let (core, parameters) = compute(py, || {
        let mut model = origin.read()?;
        let parameters = model.parameter_count();
        let network = model.open(&engine)?;
        let again = origin.clone();
        let reopen = move || Ok(Arc::from(again.read()?.open_differentiable(&again.engine)?));
        Ok((Core::new(model, network.into(), engine, true, reopen), parameters))
    })?;
    let model = PyModel { origin, arguments: arguments.unbind(), parameters };
    Bound::new(py, PyClassInitializer::from(PySampler::of(core)).add_subclass(model))
}

/// A choice of weights by name.
pub fn choice(name: Option<&str>) -> PyResult<WeightsChoice> {
    match name {
        None => Ok(WeightsChoice::Auto),
        Some("ema") => Ok(WeightsChoice::Ema),
        Some("raw") => Ok(WeightsChoice::Raw),
        Some(other) => Err(value(format!("weights: expected ema or raw, found {other:?}"))),
    }
}

/// The weights and the hash of the model in `path`, to train on.
pub fn initial(path: &Path, weights: WeightsChoice) -> skipstone::Result<(skipstone::unet::Parameters, String)> {
    let model = checkpoint::load(path, &LoadOptions { weights, ..LoadOptions::default() })?;
    model.check_gradient()?;
    Ok((model.parameters, model.hash))
}
