//! Likelihood and calibration.

use std::f64::consts::LN_2;
use std::ops::Range;

use ndarray::{Array4, Axis, Slice};
use numpy::{IntoPyArray, PyArray1, PyArrayDyn};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::json;
use skipstone::Error;
use skipstone::io::checkpoint::{Model, process_hash};
use skipstone::math::noise::{Purpose, Seeded};
use skipstone::math::schedule::Schedule;
use skipstone::math::trajectory::{Spacing, Trajectory};
use skipstone::objective::calibration::{MOST_LATENTS, Origin, path_work};
use skipstone::objective::likelihood::{
    FlowOptions, Flowed, ProbeKind, bits_per_dim, dequantised, flow, standard_error,
};
use skipstone::objective::{Elbo, ElboOptions, ElboTerm, default_sigma_1, elbo};
use skipstone::sampling::denoiser::Condition;
use skipstone::sampling::generate::{Settings, batches};
use skipstone::sampling::options::{LAYOUT, Noise, Request, SEED};

use crate::arrays::{images, labels, out, room};
use crate::calibration::PyCalibration;
use crate::denoiser::{Watched, WatchedGradient};
use crate::errors::{raise, value};
use crate::options::Keywords;
use crate::sampler::{Core, PySampler};
use crate::watch::Watch;

/// Batch size: fixed as the command's, so that sums have the same order.
const BATCH: usize = 32;

/// The likelihood of images under a sampler, in bits per dimension of an 8-bit image.
///
/// Attributes:
///     bits_per_dim: the mean over images; for "elbo" an upper bound.
///     images: of each image, float64 [n].
///     standard_error: of the mean over images; None for one image.
///     probe_error: the part of it that the trace estimator adds ("ode" with two or more probes); else None.
///     method: "elbo" or "ode".
///     terms: for "elbo" a dict per step: t, s, bits, squared_error; else empty.
///     prior_bits: for "elbo", the part of the prior; else None.
///     latents: for "ode" x_T of every image, float32 [n, c, h, w]; else None.
#[pyclass(module = "skipstone", frozen, get_all)]
pub struct Likelihood {
    bits_per_dim: f64,
    images: Py<PyArray1<f64>>,
    standard_error: Option<f64>,
    probe_error: Option<f64>,
    method: &'static str,
    terms: Py<PyAny>,
    prior_bits: Option<f64>,
    latents: Option<Py<PyArrayDyn<f32>>>,
}

#[pymethods]
impl Likelihood {
    fn __float__(&self) -> f64 {
        self.bits_per_dim
    }

    fn __repr__(&self) -> String {
        let error = self.standard_error.map_or(String::new(), |error| format!(" ± {error:.4}"));
        let most = if self.method == "elbo" { "at most " } else { "" };
        format!("Likelihood({}: {most}{:.4}{error} bits per dimension)", self.method, self.bits_per_dim)
    }
}

/// The conditions of images with these labels, or with the null class.
fn conditions(model: &Model, labels: Option<&[u32]>, n: usize) -> skipstone::Result<Vec<Condition>> {
    let Some(known) = model.config.num_class_embeds else {
        return match labels {
            None => Ok(Vec::new()),
            Some(_) => Err(Error::argument("labels: the network is unconditional and has no classes; leave them out")),
        };
    };
    match (labels, model.null_class) {
        (Some(labels), _) => match labels.iter().find(|&&label| label as usize >= known) {
            Some(label) => Err(Error::argument(format!("labels: expected 0 to {}, found {label}", known - 1))),
            None => Ok(labels.iter().map(|&label| Condition::Class(label as usize)).collect()),
        },
        (None, Some(null)) => Ok(vec![Condition::Class(null); n]),
        (None, None) => Err(Error::argument(format!("labels: the network needs one of its {known} classes per image"))),
    }
}

/// Images whose likelihood is asked for.
struct Images<'a> {
    core: &'a Core,
    request: &'a Request,
    x0: Array4<f32>,
    labels: Option<Vec<u32>>,
}

impl Images<'_> {
    /// Values of an image.
    fn dims(&self) -> usize {
        self.core.shape().iter().product()
    }

    /// Bits per dimension of an image's nats.
    fn bits(&self, nats: f64) -> f64 {
        nats / (self.dims() as f64 * LN_2)
    }

    /// The likelihood of the deterministic sampler.
    fn flow(&self, probes: usize, kind: ProbeKind, dequantise: bool, watch: &mut Watch) -> skipstone::Result<Flowed> {
        let network = WatchedGradient(&**self.core.gradient()?);
        let parts = self.in_batches("integrating", watch, |batch, watch| {
            let Batch { settings, schedule, tau, first, conditions, x0 } = batch;
            let x0 = if dequantise { dequantised(&x0, settings.seed, first) } else { x0 };
            let options = FlowOptions { probes, kind, seed: settings.seed, first_image: first };
            flow(&network, schedule, tau, &options, &x0, conditions, &mut |_| watch.advance())
        })?;
        Flowed::merged(parts)?.ok_or_else(|| Error::argument("images: there are none"))
    }

    /// The evidence lower bound of the sampler with noise.
    fn elbo(&self, sigma_1: Option<f64>, watch: &mut Watch) -> skipstone::Result<Elbo> {
        let network = Watched(self.core.network.clone());
        let parts = self.in_batches("evaluating", watch, |batch, watch| {
            let Batch { settings, schedule, tau, first, conditions, x0 } = batch;
            let sigma_1 = sigma_1.map_or_else(|| default_sigma_1(schedule), Ok)?;
            let options = ElboOptions { scale: settings.scale.clone(), sigma_1: Some(sigma_1), clip: settings.clip };
            let mut noise = Seeded { purpose: Purpose::Likelihood, ..Seeded::new(settings.seed, first) };
            elbo(&network, schedule, tau, &options, &x0, &mut noise, conditions, &mut |_| watch.advance())
        })?;
        Elbo::merged(parts).ok_or_else(|| Error::argument("images: there are none"))
    }

    /// What `measure` finds for each batch.
    fn in_batches<T>(
        &self,
        label: &str,
        watch: &mut Watch,
        measure: impl Fn(Batch<'_>, &mut Watch) -> skipstone::Result<T>,
    ) -> skipstone::Result<Vec<T>> {
        let (model, n) = (self.core.model(), self.x0.dim().0);
        let all = conditions(&model, self.labels.as_deref(), n)?;
        let (settings, _) = self.core.resolve(self.request)?;
        let schedule = model.scheduler.schedule()?;
        let tau = settings.trajectory(&schedule)?;
        watch.begin(label, n.div_ceil(BATCH) * tau.calls());
        let of = |range: Range<u64>| {
            let (first, range) = (range.start, range.start as usize..range.end as usize);
            let conditions = if all.is_empty() { &all } else { &all[range.clone()] };
            let x0 = self.x0.slice_axis(Axis(0), Slice::from(range)).to_owned();
            measure(Batch { settings: &settings, schedule: &schedule, tau: &tau, first, conditions, x0 }, watch)
        };
        batches(0..n as u64, BATCH).map(of).collect()
    }
}

/// A batch of images and what is computed on it.
struct Batch<'a> {
    settings: &'a Settings,
    schedule: &'a Schedule,
    tau: &'a Trajectory,
    /// Index of the first image.
    first: u64,
    conditions: &'a [Condition],
    x0: Array4<f32>,
}

#[pymethods]
impl PySampler {
    /// The likelihood of images.
    ///
    /// "elbo" is the evidence lower bound of the sampler with noise, eta 1 unless `eta` or `sigma` says otherwise. "ode" is the
    /// likelihood of the deterministic sampler by Heun's method and Hutchinson's trace estimator; it needs the network's
    /// vector-Jacobian product, and its default spacing is quadratic. Its errors are those of discretisation (double `steps` to
    /// see it) and of the estimator (`probe_error`).
    ///
    /// Args:
    ///     images: float [n, c, h, w], 8-bit images in −1..1.
    ///     method: "elbo" or "ode".
    ///     labels: class of every image, for a conditional network.
    ///     sigma_1: σ of the decoder ("elbo") [that of DDPM's posterior at t = 2].
    ///     probes: per image ("ode"); probe: "rademacher" or "gaussian".
    ///     dequantise: whether "ode" adds the uniform noise that makes bytes a density.
    ///     steps, eta, spacing, seed, …: as for `sample`.
    ///
    /// Returns:
    ///     Likelihood.
    #[pyo3(signature = (images, *, method="elbo", labels=None, sigma_1=None, probes=1, probe="rademacher",
        dequantise=true, progress=None, **options),
        text_signature = "($self, images, *, method='elbo', labels=None, sigma_1=None, probes=1, probe='rademacher', dequantise=True, steps=None, eta=1, sigma=None, spacing=None, times=None, clip=None, threshold=None, seed=0, progress=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn likelihood<'py>(
        &self,
        py: Python<'py>,
        images: &Bound<'py, PyAny>,
        method: &str,
        labels: Option<&Bound<'py, PyAny>>,
        sigma_1: Option<f64>,
        probes: usize,
        probe: &str,
        dequantise: bool,
        progress: Option<Py<PyAny>>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Likelihood> {
        let ode = match method {
            "elbo" => false,
            "ode" => true,
            _ => return Err(value(format!("method: expected elbo or ode, found {method:?}"))),
        };
        let mut keywords = Keywords::new("likelihood", options)?;
        let noisy = keywords.has(&["eta", "sigma"]);
        if keywords.has(&["final_sigma"]) {
            return Err(value("final_sigma: here the decoder sets the noise of the last step; use sigma_1"));
        }
        if ode && (noisy || keywords.has(&["clip", "threshold"]) || sigma_1.is_some()) {
            return Err(value("method ode: the deterministic sampler takes neither noise nor clipping nor sigma_1"));
        }
        let spaced = keywords.has(&["times", "spacing"]);
        let mut request = keywords.request(py, LAYOUT | SEED)?;
        keywords.end()?;
        if !noisy {
            request.noise = Noise::Eta(1.0);
        }
        if ode && !spaced {
            request.spacing = Some(Spacing::Quadratic.into());
        }
        let kind: ProbeKind = probe.parse().map_err(|e| raise(py, &e))?;
        let x0 = crate::arrays::images(images, "images", self.core.shape())?;
        let labels = crate::arrays::labels(labels, x0.dim().0)?;
        let watch = Watch::new(progress, None);
        let images = Images { core: &self.core, request: &request, x0, labels };
        if ode {
            let [c, h, w] = self.core.shape();
            room("probes", &[probes, images.x0.dim().0.min(BATCH), c, h, w])?;
            let found = watch.run(py, |watch| images.flow(probes, kind, dequantise, watch))?;
            let all: Vec<f64> = found.means().iter().map(|&log| bits_per_dim(log, images.dims())).collect();
            return Ok(Likelihood {
                bits_per_dim: all.iter().sum::<f64>() / all.len() as f64,
                standard_error: standard_error(&all),
                probe_error: found.probe_error().map(|nats| images.bits(nats)),
                images: all.into_pyarray(py).unbind(),
                method: "ode",
                terms: pyo3::types::PyList::empty(py).into_any().unbind(),
                prior_bits: None,
                latents: Some(out(py, found.x_t).unbind()),
            });
        }
        let found = watch.run(py, |watch| images.elbo(sigma_1, watch))?;
        let term = |term: &ElboTerm| {
            json!({
                "t": term.t.index(), "s": term.s.index(), "bits": images.bits(term.nats),
                "squared_error": term.squared_error / images.dims() as f64,
            })
        };
        let terms: serde_json::Value = found.terms.iter().map(term).collect();
        let all: Vec<f64> = found.image_nats.iter().map(|&nats| images.bits(nats)).collect();
        Ok(Likelihood {
            bits_per_dim: found.bits_per_dim(),
            standard_error: found.standard_error(),
            probe_error: None,
            images: all.into_pyarray(py).unbind(),
            method: "elbo",
            terms: py.import("json")?.call_method1("loads", (terms.to_string(),))?.unbind(),
            prior_bits: Some(images.bits(found.prior_nats)),
            latents: None,
        })
    }

    /// Measures the network on images once, for sigma="analytic" and spacing="optimal": T network calls with n images each. With
    /// `fitted`, also for spacing="fitted": about 400 calls with so many latents each. The result is used by this object from
    /// then on.
    ///
    /// Args:
    ///     images: float [n, c, h, w], 8-bit images in −1..1; some tens are enough.
    ///     labels: class of every image, for a conditional network.
    ///     seed: of the noise and the latents.
    ///     fitted: number of latents on which to measure the steps of the deterministic process; 0 does not.
    ///     data: a name for the images, kept in the calibration.
    ///
    /// Returns:
    ///     Calibration; its `save` writes what the command `skipstone calibrate` writes.
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    #[pyo3(signature = (images, *, labels=None, seed=0, fitted=0, data="images", progress=None))]
    fn calibrate<'py>(
        &self,
        py: Python<'py>,
        images: &Bound<'py, PyAny>,
        labels: Option<&Bound<'py, PyAny>>,
        seed: u64,
        fitted: usize,
        data: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<PyCalibration> {
        let x0 = self::images(images, "images", self.core.shape())?;
        let labels = self::labels(labels, x0.dim().0)?;
        if fitted > usize::from(MOST_LATENTS) {
            return Err(value(format!("fitted: expected at most {MOST_LATENTS} latents, found {fitted}")));
        }
        let core = &self.core;
        let found = Watch::new(progress, None).run(py, |watch| {
            let model = core.model();
            let conditions = conditions(&model, labels.as_deref(), x0.dim().0)?;
            let schedule = model.scheduler.schedule()?;
            let origin = Origin {
                model: model.hash.clone(),
                process: process_hash(model.scheduler.prediction_type, &schedule),
                data: data.to_owned(),
                seed,
            };
            watch.begin("calibrating", schedule.train_steps() as usize);
            let network = Watched(core.network.clone());
            let mut found = origin.calibrate(&network, &schedule, &x0, &conditions, &mut |_| watch.advance())?;
            if fitted > 0 {
                watch.begin("fitting", path_work(schedule.train_steps())?.stages);
                let see = &mut |_, _| watch.advance();
                found.local_errors = Some(origin.fit(&network, &schedule, fitted, &conditions, see)?);
            }
            Ok(found)
        })?;
        self.core.calibrate(Some(found.clone()));
        Ok(PyCalibration(found))
    }
}
