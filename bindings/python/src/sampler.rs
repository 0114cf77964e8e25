//! `Sampler`: everything that runs over a network and a schedule.

use std::ffi::CString;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ndarray::{Array4, Array5, Axis, Slice, concatenate};
use numpy::{IntoPyArray, PyArrayDyn};
use pyo3::exceptions::PyUserWarning;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::{Map, Value, json};
use skipstone::engine::{EngineOptions, Network};
use skipstone::io::checkpoint::{Guide, Model};
use skipstone::math::latent;
use skipstone::math::noise::{Purpose, Seeded, latents_of};
use skipstone::math::schedule::Time;
use skipstone::sampling::denoiser::DifferentiableDenoiser;
use skipstone::sampling::generate::{Generator, Inputs, Settings, batches, digest, note};
use skipstone::sampling::inpaint::{Region, Resampling};
use skipstone::sampling::inversion::{Calls, Draw, Latents, Method, encode_noise, squared_errors};
use skipstone::sampling::options::{DECODE, Noise, Request, SEED, SpacingChoice};
use skipstone::sampling::sampler::{Plan, Progress};
use skipstone::unet::Parameters;
use skipstone::{Error, Result};

use crate::arrays::{floats, image, images, mask, out, room};
use crate::calibration::PyCalibration;
use crate::denoiser::{PyDenoiser, Watched, index};
use crate::errors::{compute, raise, value};
use crate::options::{Keywords, SAMPLING};
use crate::pickle::{Reduced, reduced};
use crate::plan::PlanStep;
use crate::process;
use crate::schedule::{PySchedule, scheduler};
use crate::trajectory::Trajectory;
use crate::watch::Watch;

/// What a network with its vector-Jacobian product is opened with.
pub type Gradient = Arc<dyn DifferentiableDenoiser + Send + Sync>;

/// A network, its schedule and its engine.
pub struct Core {
    /// Without parameters, which the network holds.
    model: Mutex<Arc<Model>>,
    pub network: Arc<dyn Network>,
    pub engine: EngineOptions,
    gradient: OnceLock<Gradient>,
    /// Opens the network again, with its gradient.
    reopen: Box<dyn Fn() -> Result<Gradient> + Send + Sync>,
    /// Whether the model's hash stands for its weights.
    identified: bool,
    /// Whether the hash of the model that guides this one stands for its weights; true without one.
    guide_identified: AtomicBool,
}

impl Core {
    /// What methods run over.
    pub fn new(
        model: Model,
        network: Arc<dyn Network>,
        engine: EngineOptions,
        identified: bool,
        reopen: impl Fn() -> Result<Gradient> + Send + Sync + 'static,
    ) -> Self {
        let model = Mutex::new(Arc::new(model));
        let guide_identified = AtomicBool::new(true);
        Self {
            model,
            network,
            engine,
            gradient: OnceLock::new(),
            reopen: Box::new(reopen),
            identified,
            guide_identified,
        }
    }

    /// Whether hashes stand for the weights of the model and of its guide: then images can be told from others'.
    pub fn is_identified(&self) -> bool {
        self.identified && self.guide_identified.load(Ordering::Relaxed)
    }

    /// The model as it is now.
    pub fn model(&self) -> Arc<Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the calibration.
    pub fn calibrate(&self, calibration: Option<skipstone::objective::calibration::Calibration>) {
        let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        *model = Arc::new(Model { calibration, ..Model::clone(&model) });
    }

    /// Sets or removes the model that guides this one.
    pub fn guide(&self, by: Option<&Self>) -> Result<()> {
        let guided = match by {
            Some(by) => {
                let guide = Guide::over(&by.model(), Arc::new(Watched(by.network.clone())), by.network.cost());
                Model::clone(&self.model()).guided_by(guide)?
            }
            None => Model { guide: None, ..Model::clone(&self.model()) },
        };
        *self.model.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(guided);
        self.guide_identified.store(by.is_none_or(|by| by.identified), Ordering::Relaxed);
        Ok(())
    }

    /// The network with its vector-Jacobian product.
    pub fn gradient(&self) -> Result<&Gradient> {
        if let Some(gradient) = self.gradient.get() {
            return Ok(gradient);
        }
        let gradient = (self.reopen)()?;
        Ok(self.gradient.get_or_init(|| gradient))
    }

    /// (c, h, w) of an image.
    pub fn shape(&self) -> [usize; 3] {
        self.network.shape()
    }

    /// Resolves a request, at the network's precision.
    pub fn resolve(&self, request: &Request) -> Result<(Settings, Plan)> {
        Settings::resolve(&self.model(), &self.completed(request)?)
    }

    /// A request at the network's precision, for which there is a calibration if it needs one.
    pub fn completed(&self, request: &Request) -> Result<Request> {
        let analytic = matches!(request.noise, Noise::Analytic { .. });
        let spacing = request.spacing.as_ref().filter(|_| request.times.is_none());
        let fitted = spacing == Some(&SpacingChoice::Fitted);
        let needed = analytic || fitted || spacing == Some(&SpacingChoice::Optimal);
        let model = self.model();
        let found = model.calibration.as_ref();
        if needed && found.is_none_or(|found| fitted && found.local_errors.is_none()) {
            let (what, how) = match (analytic && found.is_none(), fitted) {
                (true, _) => ("sigma \"analytic\"", "images"),
                (false, false) => ("spacing \"optimal\"", "images"),
                (false, true) => ("spacing \"fitted\"", "images, fitted=32"),
            };
            return Err(Error::argument(format!("{what} needs a calibration; call calibrate({how}) first")));
        }
        Ok(Request { precision: self.engine.precision, ..request.clone() })
    }

    /// A generator of images from `first` on.
    pub fn generator(&self, request: &Request, inputs: Inputs, first: u64, n: usize) -> Result<Generator> {
        let network = Watched(self.network.clone());
        let cost = self.network.cost();
        Generator::over(network, cost, &self.model(), &self.completed(request)?, inputs, (first, n))
    }

    /// The batch size, unless it was given.
    pub fn batch(&self, generator: &Generator, n: usize, given: Option<usize>) -> Result<usize> {
        match given {
            Some(0) => Err(Error::argument("batch: expected at least 1, found 0")),
            Some(batch) => Ok(batch),
            None => Ok(generator.batch(n, self.engine.threads)),
        }
    }
}

/// An instance of skipstone.Samples.
pub fn samples<'py>(
    py: Python<'py>,
    array: Array4<f32>,
    options: &Map<String, Value>,
    first: u64,
    columns: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let options = Value::Object(options.clone()).to_string();
    let options = py.import("json")?.call_method1("loads", (options,))?;
    let class = py.import("skipstone._samples")?.getattr("Samples")?;
    class.call1((out(py, array), options, first, columns))
}

/// One step of a run, as callbacks and `trajectory` see it.
///
/// Attributes:
///     step: steps done, from 1.
///     steps: steps of the run.
///     t: network index of the call.
///     s: network index on which the step landed; None for clean data.
///     x: x_s, float32 [n, c, h, w].
///     x0: the prediction of clean data at t, float32 [n, c, h, w].
///     first: index of the first image.
#[pyclass(name = "Step", module = "skipstone", frozen, get_all)]
pub struct PyStep {
    step: usize,
    steps: usize,
    t: Py<PyAny>,
    s: Py<PyAny>,
    x: Py<PyArrayDyn<f32>>,
    x0: Py<PyArrayDyn<f32>>,
    first: u64,
}

#[pymethods]
impl PyStep {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Step({} of {}, t={}, s={})", self.step, self.steps, self.t.bind(py).str()?, self.s.bind(py).str()?))
    }
}

/// A step that owns its arrays.
pub struct Made {
    step: usize,
    steps: usize,
    t: Time,
    s: Time,
    x: Array4<f32>,
    x0: Array4<f32>,
    /// Index of the first image.
    first: u64,
}

impl Made {
    /// A copy of the state of a batch whose first image is `first`.
    pub fn of(progress: &Progress<'_>, first: u64) -> Self {
        let &Progress { step, steps, t, s, x, x0 } = progress;
        Self { step, steps, t, s, x: x.clone(), x0: x0.clone(), first }
    }

    /// The same for Python.
    pub fn step(self, py: Python<'_>) -> PyResult<PyStep> {
        let Self { step, steps, t, s, x, x0, first } = self;
        let (t, s) = (index(py, t.index())?, index(py, s.index())?);
        Ok(PyStep { step, steps, t, s, x: out(py, x).unbind(), x0: out(py, x0).unbind(), first })
    }
}

/// Reports a step to a watcher.
fn see(watch: &mut Watch, images: &Range<u64>, progress: &Progress<'_>) -> ControlFlow<()> {
    watch.advance_by(1, |py, callback| callback.call1(py, (Made::of(progress, images.start).step(py)?,)).map(drop))
}

/// Runs the paper's whole family of samplers, and what follows from them, over a network.
///
/// Args:
///     denoiser: the network; see Denoiser and skipstone.torch.wrap.
///     schedule: the noise schedule it was trained with [default: DDPM's linear one].
///     threads: threads for noise and solvers [default: $SKIPSTONE_THREADS, else all processors]. Results do not depend on it.
///
/// Methods take the options of a run by keyword, all with the meaning they have on the command line:
///
///     preset: "fast", "balanced" or "best": steps, spacing and solver for a purpose; options given beside it stand [none].
///     steps: S [50, or T if that is less].
///     eta: noise of each step: 0 is DDIM, 1 is DDPM [0].
///     sigma: noise by name (hat, analytic, learned), or one number per step.
///     spacing: how S of T timesteps are chosen [the schedule's, else "linear"].
///     times: explicit network indices, strictly decreasing, instead of steps and spacing.
///     solver: "ddim", "ve-euler", "heun", "dpm2", "ab2".."ab4", "dpm++2m", "dpm++2m-sde", "dpm++3m", "unipc", "unipc3", "deis2",
///         "deis", "sa" or "auto" ["ddim"].
///     restart: (low, high, k): at timestep low, return to high with fresh noise, k times.
///     clip: "off", "keep-eps" or "rederive-eps" [the schedule's, else off].
///     threshold: (ratio, max) of dynamic thresholding.
///     final_sigma: noise of the last step [none].
///     class_: class of the images, or a list to repeat; guidance: weight of classifier-free guidance.
///     guidance_interval: (low, high): guidance acts where sigma_ve is above low and at most high [everywhere].
///     seed: seed of latents and noise [0].
///
/// Image i depends on the network, the options, the seed and i only: not on n, batch or threads.
#[pyclass(name = "Sampler", module = "skipstone", frozen, subclass)]
pub struct PySampler {
    pub core: Core,
    /// What it was made of, for pickling; empty in a Model.
    parts: Option<Parts>,
}

/// The arguments of a Sampler.
struct Parts {
    denoiser: Py<PyDenoiser>,
    schedule: Option<Py<PySchedule>>,
    threads: Option<usize>,
}

impl PySampler {
    /// The sampler of a loaded model.
    pub fn of(core: Core) -> Self {
        Self { core, parts: None }
    }
}

/// The keywords of a method with its request.
fn sampling(py: Python<'_>, method: &'static str, given: Option<&Bound<'_, PyDict>>) -> PyResult<Request> {
    let mut keywords = Keywords::new(method, given)?;
    let request = keywords.request(py, SAMPLING)?;
    keywords.end()?;
    Ok(request)
}

/// The keywords of a method that encodes or decodes: its request, unclipped unless it says otherwise, and its method.
fn inverting(
    py: Python<'_>,
    method: &'static str,
    name: &str,
    given: Option<&Bound<'_, PyDict>>,
) -> PyResult<(Request, Method)> {
    let mut keywords = Keywords::new(method, given)?;
    let by = keywords.method(name)?;
    let request = keywords.request(py, DECODE | SEED)?;
    keywords.end()?;
    Ok((request.unclipped(), by))
}

fn observed(watch: &mut Watch, step: &mut usize, calls: Calls) -> ControlFlow<()> {
    let new = calls.step.saturating_sub(*step);
    *step = calls.step;
    watch.advance_by(new, |_, _| Ok(()))
}

fn rows(all: &Array4<f32>, range: &Range<u64>, first: u64) -> Array4<f32> {
    all.slice_axis(Axis(0), Slice::from((range.start - first) as usize..(range.end - first) as usize)).to_owned()
}

/// Encodes `x0` in batches.
fn encoded(
    generator: &Generator,
    x0: &Array4<f32>,
    by: &Method,
    (first, batch): (u64, usize),
    watch: &mut Watch,
) -> Result<Vec<Latents>> {
    let n = x0.dim().0 as u64;
    by.check(generator.plan())?;
    watch.begin("encoding", (n as usize).div_ceil(batch) * generator.plan().steps().len());
    let part = |range: Range<u64>| {
        let mut step = 0;
        let see = &mut |calls| observed(watch, &mut step, calls);
        let made = generator.encode(&rows(x0, &range, first), range, by, see)?;
        // The last step of a batch may end without a call.
        watch.skip(generator.plan().steps().len().saturating_sub(step));
        Ok(made.latents)
    };
    batches(first..first + n, batch).map(part).collect()
}

/// Decodes latents in batches.
fn decoded(
    generator: &Generator,
    latents: &Latents,
    by: &Method,
    (first, batch): (u64, usize),
    watch: &mut Watch,
) -> Result<Array4<f32>> {
    let n = latents.images() as u64;
    watch.begin("decoding", (n as usize).div_ceil(batch) * generator.plan().steps().len());
    let part = |range: Range<u64>| {
        let (mut step, all) = (0, (range.start - first) as usize..(range.end - first) as usize);
        let see = &mut |calls| observed(watch, &mut step, calls);
        Ok(generator.decode(&latents.rows(all), range, by, see)?.images)
    };
    let parts = batches(first..first + n, batch).map(part).collect::<Result<Vec<_>>>()?;
    joined(&parts)
}

fn joined(parts: &[Array4<f32>]) -> Result<Array4<f32>> {
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    concatenate(Axis(0), &views).map_err(|e| Error::argument(e.to_string()))
}

/// The latents of an array for a method, and the digest of the array.
fn latents(given: &Bound<'_, PyAny>, by: &Method, shape: [usize; 3]) -> PyResult<(Latents, String)> {
    if !by.is_paired() {
        let all = images(given, "latents", shape)?;
        let sum = digest(all.view());
        return Ok((Latents::One(all), sum));
    }
    let [c, h, w] = shape;
    let expected = format!("of pairs [2, n, {c}, {h}, {w}]");
    let all: Array5<f32> = floats(given, "latents", &expected)?;
    if all.shape()[0] != 2 || all.shape()[2..] != [c, h, w] || all.is_empty() {
        return Err(value(format!("latents: expected an array {expected}, found the shape {:?}", all.shape())));
    }
    let sum = digest(all.view());
    let pairs = Latents::from_pairs(&all).map_err(|e| raise(given.py(), &e))?;
    Ok((pairs, sum))
}

/// Warns the caller.
pub fn warn(py: Python<'_>, text: String) -> PyResult<()> {
    let text = CString::new(text)?;
    PyErr::warn(py, &py.get_type::<PyUserWarning>(), &text, 1)
}

#[pymethods]
impl PySampler {
    #[new]
    #[pyo3(signature = (denoiser, *, schedule=None, threads=None))]
    fn new(
        py: Python<'_>,
        denoiser: &Bound<'_, PyDenoiser>,
        schedule: Option<&Bound<'_, PySchedule>>,
        threads: Option<usize>,
    ) -> PyResult<Self> {
        let this = denoiser.get();
        let scheduler = scheduler(schedule, this.prediction)?;
        let steps = scheduler.num_train_timesteps;
        let network = Arc::new(this.network(py, steps));
        let gradient: Gradient = Arc::new(this.network(py, steps));
        let mut model = Model::new(network.config.clone(), Parameters::zeros(Arc::default()), scheduler);
        model.null_class = this.null_class;
        if let Some(name) = &this.name {
            model.hash = format!("denoiser {name}");
        }
        let engine = EngineOptions::on_threads(process::threads(threads).map_err(|e| raise(py, &e))?);
        let has_vjp = this.vjp.is_some();
        let reopen = move || {
            if has_vjp {
                return Ok(gradient.clone());
            }
            Err(Error::argument("the denoiser has no vector-Jacobian product; give it vjp=, or use method=\"elbo\""))
        };
        let network: Arc<dyn Network> = network;
        let core = Core::new(model, network, engine, this.name.is_some(), reopen);
        let (denoiser, schedule) = (denoiser.clone().unbind(), schedule.map(|schedule| schedule.clone().unbind()));
        Ok(Self { core, parts: Some(Parts { denoiser, schedule, threads }) })
    }

    /// (c, h, w) of an image.
    #[getter]
    fn shape(&self) -> (usize, usize, usize) {
        let [c, h, w] = self.core.shape();
        (c, h, w)
    }

    /// What the network predicts: "epsilon", "sample" or "v_prediction".
    #[getter]
    fn prediction(&self) -> String {
        self.core.network.prediction().to_string()
    }

    /// The noise schedule.
    #[getter]
    fn schedule(&self, py: Python<'_>) -> PyResult<PySchedule> {
        let config = self.core.model().scheduler.clone();
        let prediction = config.prediction_type;
        PySchedule::new(py, config, Some(prediction))
    }

    /// The denoiser it was made of; None in a Model.
    #[getter]
    fn denoiser(&self, py: Python<'_>) -> Option<Py<PyDenoiser>> {
        self.parts.as_ref().map(|parts| parts.denoiser.clone_ref(py))
    }

    /// Threads of the engine.
    #[getter]
    fn threads(&self) -> usize {
        self.core.engine.threads
    }

    /// The calibration, for sigma="analytic" and spacing="optimal"; None if there is none. May be set.
    #[getter]
    fn calibration(&self) -> Option<PyCalibration> {
        self.core.model().calibration.clone().map(PyCalibration)
    }

    #[setter]
    fn set_calibration(&self, calibration: Option<&Bound<'_, PyCalibration>>) {
        self.core.calibrate(calibration.map(|calibration| calibration.get().0.clone()));
    }

    /// Sets or removes (None) a weaker Model or Sampler that guides this one: `guidance` is then the weight of autoguidance, for
    /// models without classes, too.
    ///
    /// Raises:
    ///     ValueError: it has images of another shape, other classes or another noise schedule.
    #[pyo3(signature = (by), text_signature = "($self, by)")]
    fn guide_by(&self, py: Python<'_>, by: Option<PyRef<'_, Self>>) -> PyResult<()> {
        self.core.guide(by.as_ref().map(|by| &by.core)).map_err(|error| raise(py, &error))
    }

    /// Makes images.
    ///
    /// Args:
    ///     n: how many [1, or the rows of `latents`].
    ///     first: index of the first one.
    ///     batch: images per network call [suits the threads]; the images do not depend on it.
    ///     latents: x_T, float32 [n, c, h, w], instead of seeded ones.
    ///     noise: z of every step, float32 [steps, n, c, h, w], instead of seeded noise.
    ///     progress: a bar on stderr: True, False, or None for one on terminals and in notebooks.
    ///     callback: called with a Step after every step of every batch; what it raises ends the run.
    ///     steps, eta, …: the options of the run; see Sampler.
    ///
    /// Returns:
    ///     Samples: float32 [n, c, h, w], nominally in −1..1, not clamped.
    ///
    /// Raises:
    ///     ValueError: an option or an array does not fit. KeyboardInterrupt: Ctrl-C, before the next network call.
    #[pyo3(signature = (n=None, *, first=0, batch=None, latents=None, noise=None, progress=None, callback=None, **options),
        text_signature = "($self, n=1, *, preset=None, steps=None, eta=0, sigma=None, spacing=None, times=None, solver=None, restart=None, clip=None, threshold=None, final_sigma=None, class_=None, guidance=None, guidance_interval=None, seed=0, first=0, batch=None, latents=None, noise=None, progress=None, callback=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn sample<'py>(
        &self,
        py: Python<'py>,
        n: Option<usize>,
        first: u64,
        batch: Option<usize>,
        latents: Option<&Bound<'py, PyAny>>,
        noise: Option<&Bound<'py, PyAny>>,
        progress: Option<Py<PyAny>>,
        callback: Option<Py<PyAny>>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let request = sampling(py, "sample", options)?;
        let (inputs, n) = self.inputs(n, latents, noise)?;
        self.run(py, &request, inputs, (first, n), batch, Watch::new(progress, callback))
    }

    /// The steps of a run, one by one: an iterator of Step, which makes each step when it is asked for it.
    ///
    /// Args and options as for `sample`; all images are one batch.
    #[pyo3(signature = (n=None, *, first=0, latents=None, noise=None, **options),
        text_signature = "($self, n=1, *, preset=None, steps=None, eta=0, sigma=None, spacing=None, times=None, solver=None, restart=None, clip=None, threshold=None, final_sigma=None, class_=None, guidance=None, guidance_interval=None, seed=0, first=0, latents=None, noise=None)")]
    fn trajectory(
        &self,
        py: Python<'_>,
        n: Option<usize>,
        first: u64,
        latents: Option<&Bound<'_, PyAny>>,
        noise: Option<&Bound<'_, PyAny>>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Trajectory> {
        let request = sampling(py, "trajectory", options)?;
        let (inputs, n) = self.inputs(n, latents, noise)?;
        let core = &self.core;
        self.warn(py, &request)?;
        compute(py, || Trajectory::new(core.generator(&request, inputs.clone(), first, n)?, inputs, n))
    }

    /// The steps of a run with their coefficients in float64, without calling the network: a list of PlanStep.
    ///
    /// Each step of DDIM is x_s = x0·x̂0 + eps·ε̂ + z·z, with x̂0 and ε̂ after clipping.
    ///
    /// Raises:
    ///     ValueError: an option does not fit, the solver is not ddim, or the run has restarts.
    #[pyo3(signature = (**options),
        text_signature = "($self, *, preset=None, steps=None, eta=0, sigma=None, spacing=None, times=None, solver=None, clip=None, threshold=None, final_sigma=None, class_=None, guidance=None, guidance_interval=None, seed=0)")]
    fn plan(&self, py: Python<'_>, options: Option<&Bound<'_, PyDict>>) -> PyResult<Vec<PlanStep>> {
        let request = sampling(py, "plan", options)?;
        if request.restart.is_some() {
            // Its steps alone would leave out the returns to more noise.
            return Err(value("restart: a plan holds steps towards less noise only; leave it out, or use sample()"));
        }
        let core = &self.core;
        let plan = compute(py, || Ok(core.resolve(&request)?.1))?;
        PlanStep::all(py, &plan)
    }

    /// Encodes images to latents, from which `decode` with the same options makes them again.
    ///
    /// Args:
    ///     images: float [n, c, h, w] in −1..1.
    ///     method: "ddim" (error O(1/S)), "fixed-point", "bdia" or "edict" (exact).
    ///     gamma (bdia), mix (edict), tolerance and iterations (fixed-point): parameters of the method.
    ///     first: index of the first image, which chooses its class where classes alternate.
    ///     batch, progress, steps, spacing, …: as for `sample`; predictions are not clipped unless `clip` says so.
    ///
    /// Returns:
    ///     float32 [n, c, h, w]; [2, n, c, h, w] for bdia and edict.
    ///
    /// Raises:
    ///     ValueError: an array or an option does not fit; in particular eta above 0, for which there is `encode_noise`.
    #[pyo3(signature = (images, *, method="ddim", first=0, batch=None, progress=None, **options),
        text_signature = "($self, images, *, method='ddim', gamma=None, mix=None, tolerance=None, iterations=None, steps=None, spacing=None, times=None, clip=None, threshold=None, class_=None, guidance=None, guidance_interval=None, first=0, batch=None, progress=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        images: &Bound<'py, PyAny>,
        method: &str,
        first: u64,
        batch: Option<usize>,
        progress: Option<Py<PyAny>>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let (request, by) = inverting(py, "encode", method, options)?;
        let x0 = crate::arrays::images(images, "images", self.core.shape())?;
        let core = &self.core;
        let latents = Watch::new(progress, None).run(py, |watch| {
            let n = x0.dim().0;
            let generator = core.generator(&request, Inputs::default(), first, n)?;
            let batch = core.batch(&generator, n, batch)?;
            Latents::joined(&encoded(&generator, &x0, &by, (first, batch), watch)?)
        })?;
        Ok(out(py, latents))
    }

    /// Decodes latents of `encode` with the same options.
    ///
    /// Args:
    ///     latents: what `encode` returned.
    ///     others: as for `encode`.
    ///
    /// Returns:
    ///     Samples: float32 [n, c, h, w].
    #[pyo3(signature = (latents, *, method="ddim", first=0, batch=None, progress=None, **options),
        text_signature = "($self, latents, *, method='ddim', gamma=None, mix=None, tolerance=None, iterations=None, steps=None, spacing=None, times=None, clip=None, threshold=None, class_=None, guidance=None, guidance_interval=None, first=0, batch=None, progress=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn decode<'py>(
        &self,
        py: Python<'py>,
        latents: &Bound<'py, PyAny>,
        method: &str,
        first: u64,
        batch: Option<usize>,
        progress: Option<Py<PyAny>>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (request, by) = inverting(py, "decode", method, options)?;
        let (latents, sum) = self::latents(latents, &by, self.core.shape())?;
        let core = &self.core;
        let (images, mut settings) = Watch::new(progress, None).run(py, |watch| {
            let n = latents.images();
            let generator = core.generator(&request, Inputs::default(), first, n)?;
            by.check(generator.plan())?;
            let batch = core.batch(&generator, n, batch)?;
            Ok((decoded(&generator, &latents, &by, (first, batch), watch)?, generator.settings().clone()))
        })?;
        settings.latents = Some(sum);
        settings.extra.insert("method".to_owned(), json!(by.to_string()));
        samples(py, images, &settings.to_json(), first, None)
    }

    /// Encodes images and decodes them again.
    ///
    /// Returns:
    ///     (Samples, errors): the images again, and the mean squared error of each with values scaled to 0..1, float64 [n]: the
    ///     measure of the DDIM paper's Table 2.
    #[pyo3(signature = (images, *, method="ddim", first=0, batch=None, progress=None, **options),
        text_signature = "($self, images, *, method='ddim', gamma=None, mix=None, tolerance=None, iterations=None, steps=None, spacing=None, times=None, clip=None, threshold=None, class_=None, guidance=None, guidance_interval=None, first=0, batch=None, progress=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn reconstruct<'py>(
        &self,
        py: Python<'py>,
        images: &Bound<'py, PyAny>,
        method: &str,
        first: u64,
        batch: Option<usize>,
        progress: Option<Py<PyAny>>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, numpy::PyArray1<f64>>)> {
        let (request, by) = inverting(py, "reconstruct", method, options)?;
        let x0 = crate::arrays::images(images, "images", self.core.shape())?;
        let core = &self.core;
        let (images, errors, mut settings) = Watch::new(progress, None).run(py, |watch| {
            let n = x0.dim().0;
            let generator = core.generator(&request, Inputs::default(), first, n)?;
            let batch = core.batch(&generator, n, batch)?;
            let mut back = Vec::new();
            let parts = encoded(&generator, &x0, &by, (first, batch), watch)?;
            watch.begin("decoding", parts.len() * generator.plan().steps().len());
            for (range, latents) in batches(first..first + n as u64, batch).zip(parts) {
                let mut step = 0;
                let see = &mut |calls| observed(watch, &mut step, calls);
                back.push(generator.decode(&latents, range, &by, see)?.images);
            }
            let back = joined(&back)?;
            let errors = squared_errors(&x0, &back)?;
            Ok((back, errors, generator.settings().clone()))
        })?;
        settings.extra.insert("method".to_owned(), json!(by.to_string()));
        Ok((samples(py, images, &settings.to_json(), first, None)?, errors.into_pyarray(py)))
    }

    /// Encodes images together with the noise of a sampler that has some (eta above 0).
    ///
    /// Args:
    ///     images: float [n, c, h, w] in −1..1.
    ///     draw: how noisy states are drawn: "chain" or "independent".
    ///     eta, steps, seed, …: as for `sample`.
    ///
    /// Returns:
    ///     (x_T, z, final_sigma): `sample(latents=x_T, noise=z, final_sigma=final_sigma, …)` makes the images again. x_T is float32
    ///     [n, c, h, w], z float32 [steps, n, c, h, w].
    #[pyo3(signature = (images, *, draw="chain", first=0, batch=None, progress=None, **options),
        text_signature = "($self, images, *, draw='chain', steps=None, eta=0, sigma=None, spacing=None, times=None, clip=None, threshold=None, final_sigma=None, class_=None, guidance=None, guidance_interval=None, seed=0, first=0, batch=None, progress=None)")]
    #[expect(clippy::too_many_arguments, clippy::type_complexity, reason = "keyword arguments")]
    fn encode_noise<'py>(
        &self,
        py: Python<'py>,
        images: &Bound<'py, PyAny>,
        draw: &str,
        first: u64,
        batch: Option<usize>,
        progress: Option<Py<PyAny>>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<(Bound<'py, PyArrayDyn<f32>>, Bound<'py, PyArrayDyn<f32>>, f64)> {
        let draw = match draw {
            "chain" => Draw::Chain,
            "independent" => Draw::Independent,
            _ => return Err(value(format!("draw: expected chain or independent, found {draw:?}"))),
        };
        let (mut request, _) = inverting(py, "encode_noise", "ddim", options)?;
        if !request.is_stochastic() {
            return Err(value("eta: encoding noise needs some; set eta above 0, or use encode()"));
        }
        let x0 = crate::arrays::images(images, "images", self.core.shape())?;
        let core = &self.core;
        let (latents, noise, sigma) = Watch::new(progress, None).run(py, move |watch| {
            let n = x0.dim().0;
            if request.final_sigma.is_none() {
                request.final_sigma = Some(core.resolve(&request)?.1.usual_final_sigma());
            }
            let generator = core.generator(&request, Inputs::default(), first, n)?;
            let batch = core.batch(&generator, n, batch)?;
            watch.begin("encoding", n.div_ceil(batch) * generator.plan().steps().len());
            let (mut latents, mut noise) = (Vec::new(), Vec::new());
            for range in batches(first..first + n as u64, batch) {
                let conditions = generator.conditions(range.clone());
                let mut source = Seeded { purpose: Purpose::Encode, ..Seeded::new(request.seed, range.start) };
                let (mut step, x0) = (0, rows(&x0, &range, first));
                let see = &mut |calls| observed(watch, &mut step, calls);
                let found =
                    encode_noise(generator.network(), generator.plan(), &x0, draw, &mut source, &conditions, see)?;
                latents.push(found.x_t);
                noise.push(found.noise);
            }
            let views: Vec<_> = noise.iter().map(|z| z.view()).collect();
            let noise = concatenate(Axis(1), &views).map_err(|e| Error::argument(e.to_string()))?;
            Ok((joined(&latents)?, noise, request.final_sigma.unwrap_or(0.0)))
        })?;
        Ok((out(py, latents), out(py, noise), sigma))
    }

    /// Images between two, or among four, by their latents: spherical interpolation, the ends included.
    ///
    /// Args:
    ///     ends: two or four seeds, or images, float [2 or 4, c, h, w], which are encoded first.
    ///     points: on the line, or on each side of the square.
    ///     method: how images are encoded: "ddim" or "fixed-point".
    ///     steps, …: as for `sample`.
    ///
    /// Returns:
    ///     Samples: float32 [points or points², c, h, w].
    #[pyo3(signature = (ends, points=11, *, method="ddim", batch=None, progress=None, **options),
        text_signature = "($self, ends, points=11, *, method='ddim', tolerance=None, iterations=None, steps=None, spacing=None, times=None, clip=None, threshold=None, class_=None, guidance=None, guidance_interval=None, batch=None, progress=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn interpolate<'py>(
        &self,
        py: Python<'py>,
        ends: &Bound<'py, PyAny>,
        points: usize,
        method: &str,
        batch: Option<usize>,
        progress: Option<Py<PyAny>>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut keywords = Keywords::new("interpolate", options)?;
        let by = keywords.method(method)?;
        let mut request = keywords.request(py, DECODE)?;
        keywords.end()?;
        let seeds: Option<Vec<u64>> = ends.extract().ok();
        let given = match &seeds {
            Some(_) => None,
            None => {
                request = request.unclipped();
                Some(images(ends, "ends", self.core.shape())?)
            }
        };
        let [c, h, w] = self.core.shape();
        let square = seeds.as_ref().map_or(given.as_ref().map_or(0, |x0| x0.dim().0), Vec::len) == 4;
        room("points", &[if square { points.saturating_mul(points) } else { points }, c, h, w])?;
        let core = &self.core;
        let (images, settings) = Watch::new(progress, None).run(py, |watch| {
            let latents = match (seeds, given) {
                (_, Some(x0)) => {
                    if by.is_paired() {
                        return Err(Error::argument(format!(
                            "method: {by} has pairs of latents; use ddim or fixed-point"
                        )));
                    }
                    let n = x0.dim().0;
                    let generator = core.generator(&request, Inputs::default(), 0, n)?;
                    generator.settings().one_class("class_")?;
                    let parts = encoded(&generator, &x0, &by, (0, n), watch)?;
                    joined(&parts.into_iter().map(Latents::into_single).collect::<Result<Vec<_>>>()?)?
                }
                (seeds, None) => latents_of(&seeds.unwrap_or_default(), core.shape()),
            };
            let path = latent::between(&latents, points)?;
            let n = path.dim().0;
            let inputs = Inputs { latents: Some(path), ..Inputs::default() };
            let generator = core.generator(&request, inputs, 0, n)?;
            generator.settings().one_class("class_")?;
            let batch = core.batch(&generator, n, batch)?;
            watch.begin("sampling", n.div_ceil(batch) * generator.moves());
            let images = generator.generate_array(0..n as u64, batch, &mut |_, _| watch.advance())?;
            Ok((images, generator.settings().clone()))
        })?;
        samples(py, images, &settings.to_json(), 0, Some(points))
    }

    /// Fills part of an image, differently in each sample (RePaint).
    ///
    /// Args:
    ///     image: float [c, h, w] in −1..1.
    ///     mask: [h, w], true (or not 0) where the image is to be filled.
    ///     n: how many fillings.
    ///     resamples, jump: how often each stretch of `jump` steps is sampled; resamples=1 is plain projection.
    ///     others: as for `sample`. Works best with eta=1.
    ///
    /// Returns:
    ///     Samples: float32 [n, c, h, w]; outside the mask it is the image.
    #[pyo3(signature = (image, mask, n=1, *, resamples=5, jump=5, first=0, batch=None, latents=None, progress=None,
        callback=None, **options),
        text_signature = "($self, image, mask, n=1, *, resamples=5, jump=5, steps=None, eta=0, sigma=None, spacing=None, times=None, clip=None, threshold=None, final_sigma=None, class_=None, guidance=None, guidance_interval=None, seed=0, first=0, batch=None, latents=None, progress=None, callback=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn inpaint<'py>(
        &self,
        py: Python<'py>,
        image: &Bound<'py, PyAny>,
        mask: &Bound<'py, PyAny>,
        n: usize,
        resamples: usize,
        jump: usize,
        first: u64,
        batch: Option<usize>,
        latents: Option<&Bound<'py, PyAny>>,
        progress: Option<Py<PyAny>>,
        callback: Option<Py<PyAny>>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let request = sampling(py, "inpaint", options)?;
        let [c, h, w] = self.core.shape();
        let image = self::image(image, "image", [c, h, w])?;
        let fill = self::mask(mask, "mask", [h, w])?;
        let region = Region::new(image, fill).map_err(|e| raise(py, &e))?;
        let (inputs, n) = self.inputs(Some(n), latents, None)?;
        let inputs = Inputs { region: Some((region, Resampling { jump, resamples })), ..inputs };
        self.run(py, &request, inputs, (first, n), batch, Watch::new(progress, callback))
    }

    fn __repr__(&self) -> String {
        format!("Sampler(shape={:?}, prediction=\"{}\")", self.shape(), self.prediction())
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let py = slf.py();
        let keywords = PyDict::new(py);
        let Some(Parts { denoiser, schedule, threads }) = &slf.get().parts else {
            return Err(pyo3::exceptions::PyTypeError::new_err("this object cannot be pickled"));
        };
        keywords.set_item("denoiser", denoiser)?;
        keywords.set_item("schedule", schedule.as_ref().map(|schedule| schedule.clone_ref(py)))?;
        keywords.set_item("threads", threads)?;
        reduced(slf.get_type().into_any(), keywords)
    }
}

impl PySampler {
    fn inputs(
        &self,
        n: Option<usize>,
        latents: Option<&Bound<'_, PyAny>>,
        noise: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<(Inputs, usize)> {
        let shape @ [c, h, w] = self.core.shape();
        let latents = latents.map(|latents| images(latents, "latents", shape)).transpose()?;
        let noise: Option<Array5<f32>> =
            noise.map(|noise| floats(noise, "noise", &format!("[steps, n, {c}, {h}, {w}]"))).transpose()?;
        let n = match (&latents, n) {
            (Some(latents), Some(n)) if latents.dim().0 != n => {
                return Err(value(format!("n: {n}, but latents has {} rows, one per image", latents.dim().0)));
            }
            (Some(latents), _) => latents.dim().0,
            (None, n) => n.unwrap_or(1),
        };
        room("n", &[n, c, h, w])?;
        Ok((Inputs { latents, noise, ..Inputs::default() }, n))
    }

    /// Warns of what a person should know about this run before it begins.
    fn warn(&self, py: Python<'_>, request: &Request) -> PyResult<()> {
        self.note(py, request)?.map_or(Ok(()), |note| warn(py, note))
    }

    /// What a person should know about this run before it begins.
    pub fn note(&self, py: Python<'_>, request: &Request) -> PyResult<Option<String>> {
        let model = self.core.model();
        if model.scheduler.num_inference_steps.is_none() {
            return Ok(None);
        }
        let (_, plan) = self.core.resolve(request).map_err(|e| raise(py, &e))?;
        Ok(note(&model, &plan))
    }

    fn run<'py>(
        &self,
        py: Python<'py>,
        request: &Request,
        inputs: Inputs,
        (first, n): (u64, usize),
        batch: Option<usize>,
        watch: Watch,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = &self.core;
        self.warn(py, request)?;
        let (images, settings) = watch.run(py, move |watch| {
            let generator = core.generator(request, inputs, first, n)?;
            let batch = core.batch(&generator, n, batch)?;
            watch.begin("sampling", n.div_ceil(batch) * generator.moves());
            let seen = &mut |images: &Range<u64>, progress: &Progress<'_>| see(watch, images, progress);
            let images = generator.generate_array(first..first + n as u64, batch, seen)?;
            Ok((images, generator.settings().clone()))
        })?;
        samples(py, images, &settings.to_json(), first, None)
    }
}
