//! Noise schedules.

use std::path::PathBuf;

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use skipstone::io::checkpoint::SchedulerConfig;
use skipstone::math::schedule::{BetaSchedule, Schedule, Time};
use skipstone::sampling::denoiser::Prediction;

use crate::errors::{raise, value};

/// The noise schedule that a network was trained with: beta_t and a_t for t = 1..T.
///
/// a_t is alpha_t of the DDIM paper and the cumulative product of DDPM, so that x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps.
/// Network index i stands for t = i + 1. Made by `linear`, `scaled_linear`, `cosine`, `sigmoid`, `from_betas` and
/// `from_config`.
#[pyclass(name = "Schedule", module = "skipstone", frozen)]
pub struct PySchedule {
    pub config: SchedulerConfig,
    /// The prediction type that a config stated.
    pub stated: Option<Prediction>,
    schedule: Schedule,
}

impl PySchedule {
    /// The schedule of a config.
    pub fn new(py: Python<'_>, config: SchedulerConfig, stated: Option<Prediction>) -> PyResult<Self> {
        let schedule = config.schedule().map_err(|e| raise(py, &e))?;
        Ok(Self { config, stated, schedule })
    }

    fn family(py: Python<'_>, family: BetaSchedule, ends: Option<(f64, f64)>, steps: usize) -> PyResult<Self> {
        let default = SchedulerConfig::default();
        let (beta_start, beta_end) = ends.unwrap_or((default.beta_start, default.beta_end));
        let config =
            SchedulerConfig { beta_schedule: family, beta_start, beta_end, num_train_timesteps: steps, ..default };
        Self::new(py, config, None)
    }

    /// As Python's `from_config`.
    pub fn read(given: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = given.py();
        if let Ok(schedule) = given.cast::<Self>() {
            let this = schedule.get();
            return Self::new(py, this.config.clone(), this.stated);
        }
        let text: Option<String> = if given.is_instance_of::<PyString>() || given.hasattr("__fspath__")? {
            let text = given.str()?.to_string();
            if text.trim_start().starts_with('{') { Some(text) } else { None }
        } else {
            let plain = py.import("builtins")?.getattr("dict")?.call1((given,))?;
            let default = py.import("skipstone._pickle")?.getattr("jsonable")?;
            let keywords = PyDict::new(py);
            keywords.set_item("default", default)?;
            Some(py.import("json")?.getattr("dumps")?.call((plain,), Some(&keywords))?.extract()?)
        };
        let (config, text) = match text {
            Some(text) => (SchedulerConfig::from_json(&text).map_err(|e| raise(py, &e))?, text),
            None => {
                let path: PathBuf = given.extract()?;
                let config = SchedulerConfig::read(&path).map_err(|e| raise(py, &e))?;
                (config, std::fs::read_to_string(path).unwrap_or_default())
            }
        };
        let stated = text.contains("\"prediction_type\"").then_some(config.prediction_type);
        Self::new(py, config, stated)
    }
}

#[pymethods]
impl PySchedule {
    /// beta from `beta_start` to `beta_end` in `steps` equal steps: DDPM's.
    #[staticmethod]
    #[pyo3(signature = (beta_start=1e-4, beta_end=0.02, steps=1000))]
    fn linear(py: Python<'_>, beta_start: f64, beta_end: f64, steps: usize) -> PyResult<Self> {
        Self::family(py, BetaSchedule::Linear, Some((beta_start, beta_end)), steps)
    }

    /// sqrt(beta) from sqrt(`beta_start`) to sqrt(`beta_end`) in `steps` equal steps: latent diffusion's.
    #[staticmethod]
    #[pyo3(signature = (beta_start=0.00085, beta_end=0.012, steps=1000))]
    fn scaled_linear(py: Python<'_>, beta_start: f64, beta_end: f64, steps: usize) -> PyResult<Self> {
        Self::family(py, BetaSchedule::ScaledLinear, Some((beta_start, beta_end)), steps)
    }

    /// The cosine schedule of improved DDPM (diffusers' "squaredcos_cap_v2").
    #[staticmethod]
    #[pyo3(signature = (steps=1000))]
    fn cosine(py: Python<'_>, steps: usize) -> PyResult<Self> {
        Self::family(py, BetaSchedule::SquaredCosCapV2, None, steps)
    }

    /// A sigmoid of the index between `beta_start` and `beta_end`.
    #[staticmethod]
    #[pyo3(signature = (beta_start=1e-4, beta_end=0.02, steps=1000))]
    fn sigmoid(py: Python<'_>, beta_start: f64, beta_end: f64, steps: usize) -> PyResult<Self> {
        Self::family(py, BetaSchedule::Sigmoid, Some((beta_start, beta_end)), steps)
    }

    /// The schedule of a list beta_1..beta_T, each between 0 and 1.
    #[staticmethod]
    fn from_betas(py: Python<'_>, betas: Vec<f64>) -> PyResult<Self> {
        let config = SchedulerConfig {
            num_train_timesteps: betas.len(),
            trained_betas: Some(betas),
            ..SchedulerConfig::default()
        };
        Self::new(py, config, None)
    }

    /// The schedule of a diffusers scheduler config: a mapping such as `dict(pipe.scheduler.config)`, its JSON text, or the path
    /// of a scheduler_config.json. Spacing, clipping and the last level that it states become the defaults of a run.
    #[staticmethod]
    fn from_config(config: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::read(config)
    }

    /// The same schedule, rescaled so that a_T = 0 (zero terminal SNR). Needs a network that predicts x0 or v.
    fn with_zero_snr(&self, py: Python<'_>) -> PyResult<Self> {
        Self::new(py, SchedulerConfig { rescale_betas_zero_snr: true, ..self.config.clone() }, self.stated)
    }

    /// T, the number of trained timesteps.
    #[getter]
    fn steps(&self) -> u32 {
        self.schedule.train_steps()
    }

    fn __len__(&self) -> usize {
        self.schedule.train_steps() as usize
    }

    /// beta_1..beta_T, float64 [T].
    #[getter]
    fn betas<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.schedule.betas().to_vec().into_pyarray(py)
    }

    /// a_1..a_T, float64 [T]: `alphas_cumprod` of diffusers.
    #[getter]
    fn alpha_bars<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let levels = (1..=self.schedule.train_steps()).map(|t| self.schedule.level(Time::new(t)));
        let levels = levels.map(|level| level.map(|level| level.alpha_bar)).collect::<Result<Vec<_>, _>>();
        Ok(levels.map_err(|e| raise(py, &e))?.into_pyarray(py))
    }

    /// The config, under diffusers' names.
    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("json")?.call_method1("loads", (self.config.to_json(),))
    }

    fn __repr__(&self) -> String {
        let (first, last) = (self.schedule.betas()[0], self.schedule.betas()[self.schedule.betas().len() - 1]);
        format!("Schedule(T={}, beta {first} to {last})", self.schedule.train_steps())
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| other.get().config == self.config)
    }

    fn __hash__(&self) -> isize {
        self.config.num_train_timesteps as isize
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (String,))> {
        let text = slf.get().config.to_json();
        let text = match slf.get().stated {
            Some(_) => text,
            // An unstated type stays unstated.
            None => text.lines().filter(|line| !line.contains("\"prediction_type\"")).collect::<Vec<_>>().join("\n"),
        };
        Ok((slf.get_type().getattr("from_config")?, (text,)))
    }
}

/// The schedule given to a sampler, with the network's prediction type.
pub fn scheduler(given: Option<&Bound<'_, PySchedule>>, prediction: Prediction) -> PyResult<SchedulerConfig> {
    let Some(schedule) = given else {
        return Ok(SchedulerConfig { prediction_type: prediction, ..SchedulerConfig::default() });
    };
    let schedule = schedule.get();
    if let Some(stated) = schedule.stated.filter(|&stated| stated != prediction) {
        return Err(value(format!(
            "schedule: its config says that the network predicts {stated}, the denoiser {prediction}"
        )));
    }
    Ok(SchedulerConfig { prediction_type: prediction, ..schedule.config.clone() })
}
