//! A served model: its network on a thread, and its queue.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skipstone::engine::{self, Cost, EngineOptions, Precision, bench};
use skipstone::io::checkpoint::{Guide, Model};
use skipstone::io::image::is_picture;
use skipstone::sampling::generate::{Generator, Inputs, Settings};
use skipstone::sampling::options::Request;
use skipstone::sampling::sampler::Plan;
use skipstone::{Error, Result};

use super::cancel::Cancel;
use super::failure::Failure;
use super::metrics::Metrics;
use super::names::ModelId;
use super::network::SharedNetwork;
use super::optimal_times::{Explicit, OptimalTimes, is_calibrated};
use super::task::{Phase, Task};
use super::worker::Worker;
use crate::api::Limits;

/// Most bytes of activations of one network call.
const MOST_ACTIVATIONS: usize = 1 << 28;

/// A model that answers requests.
pub struct ServedModel {
    /// The id that requests use.
    pub id: String,
    /// Its parts.
    pub named: ModelId,
    /// The model without its parameters, which are in the network.
    pub model: Model,
    /// Number of parameters.
    pub parameters: usize,
    /// The cost of a network call.
    pub cost: Cost,
    /// Number of training timesteps T.
    pub timesteps: u32,
    /// The device that computes the network.
    pub device: String,
    /// The precision in which it computes.
    pub precision: Precision,
    /// Milliseconds of a network call for one image, measured at the start.
    pub ms_per_call: f64,
    /// Whether it can be sampled with the analytic variance and at optimal timesteps.
    pub calibrated: bool,
    /// Its queue.
    pub worker: Worker,
    network: SharedNetwork,
    /// Recent milliseconds per row, as the bits of an f64.
    row_ms: Arc<AtomicU64>,
    optimal_times: OptimalTimes,
}

impl ServedModel {
    /// Loads `model` under the id `named` and starts its threads, which process `runners` requests at a time.
    ///
    /// # Errors
    /// The network cannot be made, or the system cannot start threads.
    pub fn start(
        named: ModelId,
        mut model: Model,
        runners: usize,
        limits: &Limits,
        engine: &EngineOptions,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Self>> {
        let (id, channels) = (named.text.clone(), model.config.image_channels());
        if !is_picture(channels) {
            return Err(Error::unsupported(format!(
                "model {id}: its images have {channels} channels; the service sends pictures, which have 1 or 3"
            )));
        }
        let count = model.parameter_count();
        let timesteps = model.scheduler.schedule()?.train_steps();
        let network = model.open(engine)?;
        let cost = network.cost();
        let precision = engine::precision(engine)?;
        let ms_per_call = bench::calls(&*network, 1, 3)?.into_iter().min().unwrap_or_default().as_secs_f64() * 1e3;
        let row_ms = Arc::new(AtomicU64::new(ms_per_call.to_bits()));
        let (counters, recent, name) = (metrics.clone(), row_ms.clone(), id.clone());
        let on_call = move |rows: usize, took: Duration| {
            counters.call(&name, rows, took);
            let (was, now) = (f64::from_bits(recent.load(Ordering::Relaxed)), took.as_secs_f64() * 1e3 / rows as f64);
            recent.store((was + (now - was) / 16.0).to_bits(), Ordering::Relaxed);
        };
        let network = SharedNetwork::start(network, most_rows(&cost), Box::new(on_call))?;
        let counters = metrics.clone();
        let on_finished = move |task: &Task, phase: &Phase, seconds: f64| {
            counters.task(task.kind, phase.name(), seconds);
            tracing::info!(task = %task.id, kind = task.kind, state = phase.name(), seconds, "task over");
        };
        let worker = Worker::start(runners, limits.queue, Arc::new(on_finished))?;
        Ok(Arc::new(Self {
            id,
            named,
            parameters: count,
            cost,
            timesteps,
            device: engine.device.to_string(),
            precision,
            ms_per_call,
            calibrated: is_calibrated(&model),
            worker,
            network,
            row_ms,
            optimal_times: OptimalTimes::new(limits.steps),
            model,
        }))
    }

    /// `[channels, height, width]` of an image.
    pub fn shape(&self) -> [usize; 3] {
        self.network.shape()
    }

    /// Its network, which all requests share.
    pub fn network(&self) -> &SharedNetwork {
        &self.network
    }

    /// The precision of its network. All requests share that network, so one that states another precision is refused.
    ///
    /// # Errors
    /// `stated` is another precision.
    pub fn check_precision(&self, stated: Option<Precision>) -> std::result::Result<Precision, Failure> {
        match stated.filter(|stated| *stated != self.precision) {
            None => Ok(self.precision),
            Some(other) => Err(Failure::Refused(format!(
                "precision: {other} is not available here: all requests share one network, which computes in {}",
                self.precision
            ))),
        }
    }

    /// A generator of `n` images from index `first` that calls the shared network until `cancel` is set. The first
    /// request for optimal timesteps takes long.
    ///
    /// # Errors
    /// Options that are not valid for this model.
    pub fn generator(
        &self,
        request: &Request,
        guide: Option<&Self>,
        inputs: Inputs,
        (first, n): (u64, usize),
        cancel: &Cancel,
        check: impl FnOnce(&Plan) -> std::result::Result<(), Failure>,
    ) -> std::result::Result<Generator, Failure> {
        let denoiser = self.network.denoiser(cancel.clone());
        let model = match guide {
            Some(guide) => {
                let weak = Arc::new(guide.network.denoiser(cancel.clone()));
                Cow::Owned(self.model.clone().guided_by(Guide::over(&guide.model, weak, guide.cost))?)
            }
            None => Cow::Borrowed(&self.model),
        };
        // A generator rehearses its run, so the plan is checked before.
        let Some(Explicit { request, run }) = self.optimal_times.resolve(&model, request)? else {
            check(&Settings::resolve(&model, request)?.1)?;
            return Ok(Generator::over(denoiser, self.cost, &model, request, inputs, (first, n))?);
        };
        check(&run.1)?;
        let generator = Generator::over(denoiser, self.cost, &model, &request, inputs, (first, n))?;
        Ok(generator.with_run(run, n)?)
    }

    /// Estimated seconds until all waiting and running tasks are done.
    pub fn seconds_left(&self) -> f64 {
        self.worker.rows_left() as f64 * f64::from_bits(self.row_ms.load(Ordering::Relaxed)) / 1e3
    }

    /// The flags that select this model on a command line.
    pub fn model_flag(&self) -> String {
        self.named.flags()
    }
}

impl std::fmt::Debug for ServedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServedModel").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Most rows of a network call: enough to occupy every thread and to read the weights seldom, and few enough that their
/// activations fit into a quarter of a gigabyte and nobody waits long for the next call.
fn most_rows(cost: &Cost) -> usize {
    (MOST_ACTIVATIONS / cost.activation_bytes.max(1)).clamp(1, 32)
}
