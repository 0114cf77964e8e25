//! A model as it is served: loaded once, its network on a thread, its queue.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use skipstone::Result;
use skipstone::bench;
use skipstone::calibration;
use skipstone::checkpoint::{Model, process_hash};
use skipstone::generate::{Cost, Generator, Inputs, Settings};
use skipstone::options::{Noise, Request, SpacingChoice};
use skipstone::sampler::Plan;
use skipstone::trajectory::BestTimes;
use skipstone::unet::{Parameters, Precision, UNet};

use super::{Cancel, Failure, SharedNetwork, Worker};
use crate::metrics::Metrics;

/// Activations of one network call stay below this.
const MOST_ACTIVATIONS: usize = 1 << 28;

/// How work is spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Requests that are worked on together; their images share network calls.
    pub runners: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// Most steps of a run.
    pub steps: usize,
}

/// A request for optimal times whose times are known.
struct Optimal {
    /// The same with explicit times.
    explicit: Request,
    /// As [`Settings::resolve`] has it.
    run: (Settings, Plan),
}

/// A model that can be asked.
pub struct Served {
    /// What requests call it.
    pub id: String,
    /// The model without its parameters, which the network has.
    pub model: Model,
    /// How many parameters that is.
    pub parameters: usize,
    /// What a call costs.
    pub cost: Cost,
    /// Trained times T.
    pub timesteps: u32,
    /// Milliseconds of one call for one image, measured when it was loaded.
    pub ms_per_call: f64,
    /// Whether it can be sampled with the analytic variance, and at its optimal times.
    pub calibrated: bool,
    /// Its queue.
    pub worker: Worker,
    network: SharedNetwork,
    /// Milliseconds a row took lately, as the bits of an f64.
    row_ms: Arc<AtomicU64>,
    most_steps: usize,
    /// The times of `spacing` = optimal for every number of steps, from the first request for them on.
    best_times: OnceLock<std::result::Result<BestTimes, Failure>>,
}

impl Served {
    /// Sets up `model` under the name `id`.
    ///
    /// # Errors
    /// The network cannot be made, or the system grants no threads.
    pub fn start(id: String, mut model: Model, capacity: Capacity, metrics: &Arc<Metrics>) -> Result<Arc<Self>> {
        let parameters = std::mem::replace(&mut model.parameters, Parameters::zeros(Arc::default()));
        let count = parameters.data().len();
        let timesteps = model.scheduler.schedule()?.train_steps();
        let unet = UNet::new(model.config.clone(), parameters, model.scheduler.prediction_type)?;
        let cost = Cost::of(&unet);
        let ms_per_call = bench::calls(&unet, 1, 3)?.into_iter().min().unwrap_or_default().as_secs_f64() * 1e3;
        let row_ms = Arc::new(AtomicU64::new(ms_per_call.to_bits()));
        let (heard, lately, name) = (metrics.clone(), row_ms.clone(), id.clone());
        let on_call = move |rows: usize, took: Duration| {
            heard.call(&name, rows, took);
            let (was, now) = (f64::from_bits(lately.load(Ordering::Relaxed)), took.as_secs_f64() * 1e3 / rows as f64);
            lately.store((was + (now - was) / 16.0).to_bits(), Ordering::Relaxed);
        };
        let network = SharedNetwork::start(unet, most_rows(&cost), Box::new(on_call))?;
        let heard = metrics.clone();
        let on_over = Arc::new(move |task: &super::Task, phase: &super::Phase, s: f64| heard.over(task, phase, s));
        let worker = Worker::start(capacity.runners, capacity.queue, on_over)?;
        let calibrated = {
            let request = Request {
                steps: Some(2),
                spacing: Some(SpacingChoice::Optimal),
                noise: Noise::Analytic { eta: 1.0 },
                ..Request::default()
            };
            model.calibration.is_some() && Settings::resolve(&model, &request).is_ok()
        };
        Ok(Arc::new(Self {
            id,
            model,
            parameters: count,
            cost,
            timesteps,
            ms_per_call,
            calibrated,
            worker,
            network,
            row_ms,
            most_steps: capacity.steps,
            best_times: OnceLock::new(),
        }))
    }

    /// `[channels, height, width]` of an image.
    pub fn shape(&self) -> [usize; 3] {
        self.network.shape()
    }

    /// The way to its network.
    pub fn network(&self) -> &SharedNetwork {
        &self.network
    }

    /// A generator of `n` images from index `first` on whose network is this one, until `cancel` says so. The first one
    /// of optimal times takes long.
    ///
    /// # Errors
    /// Options that mean nothing for this model.
    pub fn generator(
        &self,
        request: &Request,
        inputs: Inputs,
        (first, n): (u64, usize),
        cancel: &Cancel,
    ) -> std::result::Result<Generator, Failure> {
        if request.precision != Precision::F32 {
            return Err(Failure::Refused(format!(
                "precision: {} is not to be had here: all requests share one network, which computes in f32",
                request.precision
            )));
        }
        let asker = self.network.asker(cancel.clone());
        let Some(Optimal { explicit, run }) = self.optimal(request)? else {
            return Ok(Generator::over(asker, self.cost, &self.model, request, inputs, (first, n))?);
        };
        let generator = Generator::over(asker, self.cost, &self.model, &explicit, inputs, (first, n))?;
        Ok(generator.with_run(run, n)?)
    }

    /// What a request for optimal times comes to; the times come from a table that is made once. `None` for other
    /// requests, and for those that are refused.
    fn optimal(&self, request: &Request) -> std::result::Result<Option<Optimal>, Failure> {
        let most = self.timesteps as usize;
        let steps = request.steps_of(self.timesteps);
        let asked = request.times.is_none() && request.spacing == Some(SpacingChoice::Optimal);
        if !asked || !(1..=most.min(self.most_steps)).contains(&steps) {
            return Ok(None);
        }
        let (model, what) = (&self.model, "spacing optimal");
        let schedule = model.scheduler.schedule()?;
        let process = process_hash(model.scheduler.prediction_type, &schedule);
        let calibration =
            calibration::required(model.calibration.as_ref(), what, &model.hash, &process, self.timesteps)?;
        let make = || Ok(calibration.best_times(&schedule, most.min(self.most_steps))?);
        let table = self.best_times.get_or_init(make).as_ref().map_err(Clone::clone)?;
        let times = table.trajectory(steps)?.times().iter().filter_map(|t| t.index()).collect();
        let explicit = Request { times: Some(times), ..request.clone() };
        let (mut settings, plan) = Settings::resolve(model, &explicit)?;
        (settings.steps, settings.spacing) = (Some(steps), request.spacing);
        settings.calibration = Some(calibration.hash());
        Ok(Some(Optimal { explicit, run: (settings, plan) }))
    }

    /// Seconds until all that waits and runs here will be done, as things go.
    pub fn seconds_left(&self) -> f64 {
        self.seconds_of(self.worker.rows_left())
    }

    /// Seconds that so many rows take, as things go.
    pub fn seconds_of(&self, rows: u64) -> f64 {
        rows as f64 * f64::from_bits(self.row_ms.load(Ordering::Relaxed)) / 1e3
    }
}

/// Rows of one call: enough for every thread and to read the weights seldom, and no more than fit into a quarter of a
/// gigabyte; few enough that nobody waits long for the next call.
fn most_rows(cost: &Cost) -> usize {
    (MOST_ACTIVATIONS / cost.activation_bytes.max(1)).clamp(1, 32)
}

/// The name of the model in `path`: the file's or folder's own, of which nothing else is told.
pub fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    stem.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

impl Served {
    /// The flag that names it on a command line; empty, or beginning with a space.
    pub fn words(&self) -> String {
        if self.id == crate::CARRIED { String::new() } else { format!(" --model {}", quoted(&self.id)) }
    }
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A word as a shell reads it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
