//! The state that all routes share: the models, the jobs, the counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use skipstone::engine::EngineOptions;
use skipstone::io::checkpoint::Model;
use skipstone::{Error, Result};

use crate::api::Limits;
use crate::core::{
    BlockingPool, EventSink, Failure, Ids, InputImages, Jobs, Metrics, ModelId, Retention, ServedModel, Task, Work,
};
use crate::guard::Guard;

/// Requests checked at a time. Checking can take long, because it may compute optimal timesteps.
const CHECKED: usize = 4;
/// Requests that may wait to be checked, more than there are connections.
const UNCHECKED: usize = 4096;

/// The service, as handlers hold it.
pub type App = Arc<Service>;

/// The configuration of a service.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The limits of one request.
    pub limits: Limits,
    /// Requests of one model that are processed together.
    pub runners: usize,
    /// How long and how many results of jobs are kept.
    pub retention: Retention,
    /// Who may use the service.
    pub guard: Guard,
    /// The engine of the networks.
    pub engine: EngineOptions,
    /// Further engines, on each of which the models are served as well, under the names ID@DEVICE.
    pub also_on: Vec<EngineOptions>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            runners: 8,
            retention: Retention::default(),
            guard: Guard::open(),
            engine: EngineOptions::default(),
            also_on: Vec::new(),
        }
    }
}

/// The models with their queues, the kept jobs, the counters.
#[derive(Debug)]
pub struct Service {
    /// The models; the first is the default.
    pub models: Vec<Arc<ServedModel>>,
    /// Jobs by id.
    pub jobs: Jobs,
    /// Uploads and test images.
    pub images: InputImages,
    /// The pool that checks requests.
    checks: BlockingPool,
    /// The limits of one request.
    pub limits: Limits,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Ids of tasks and requests.
    pub ids: Ids,
    /// Who may use the service.
    pub guard: Guard,
    draining: AtomicBool,
}

impl Service {
    /// Loads these models under their names and starts their threads.
    ///
    /// # Errors
    /// There is no model, two models have the same name, or a network cannot be made.
    pub fn start(models: Vec<(String, Model)>, setup: Setup) -> Result<App> {
        let metrics = Arc::<Metrics>::default();
        let again = setup.also_on.iter().flat_map(|engine| {
            models.iter().map(move |(name, model)| (ModelId::on(name, engine.device), model.clone(), engine))
        });
        let again: Vec<_> = again.collect();
        let first = models.into_iter().map(|(name, model)| (ModelId::new(name), model, &setup.engine));
        let mut served: Vec<Arc<ServedModel>> = Vec::new();
        for (id, model, engine) in first.chain(again) {
            if served.iter().any(|other| other.id == id.text) {
                let remedy = "name one of them differently: --model NAME=PATH";
                return Err(Error::argument(format!("model {}: two models have this name; {remedy}", id.text)));
            }
            served.push(ServedModel::start(id, model, setup.runners, &setup.limits, engine, &metrics)?);
        }
        if served.is_empty() {
            return Err(Error::argument("model: expected at least one to serve"));
        }
        Ok(Arc::new(Self {
            models: served,
            jobs: Jobs::new(setup.retention),
            images: InputImages::new(setup.limits.pixels),
            checks: BlockingPool::new(CHECKED, UNCHECKED),
            limits: setup.limits,
            metrics,
            ids: Ids::default(),
            guard: setup.guard,
            draining: AtomicBool::new(false),
        }))
    }

    /// The model of this id, or the default.
    ///
    /// # Errors
    /// No model has this id. The message names the nearest.
    pub fn model(&self, id: Option<&str>) -> std::result::Result<Arc<ServedModel>, Failure> {
        id.map_or_else(|| Ok(self.models[0].clone()), |id| self.named("model", id))
    }

    /// The model of this id. The message of the error begins with `field`.
    ///
    /// # Errors
    /// As [`model`](Self::model).
    pub fn named(&self, field: &str, id: &str) -> std::result::Result<Arc<ServedModel>, Failure> {
        self.models.iter().find(|model| model.id == id).cloned().ok_or_else(|| {
            let known = self.models.iter().map(|model| &model.id);
            let nearest = known.min_by_key(|known| strsim::damerau_levenshtein(known, id));
            let nearest = nearest.map_or("", |id| id);
            Failure::Refused(format!("{field} \"{id}\": not served here; the nearest is \"{nearest}\""))
        })
    }

    /// Checks a request without blocking connections, because this may take long.
    ///
    /// # Errors
    /// The check fails, or too many requests wait to be checked.
    pub async fn check<W: Send + 'static>(
        &self,
        check: impl FnOnce() -> std::result::Result<W, Failure> + Send + 'static,
    ) -> std::result::Result<W, Failure> {
        self.checks.run(check).await?
    }

    /// Queues work. It sends `events` if somebody watches.
    ///
    /// # Errors
    /// The service is shutting down, or the queue is full. `retry_after` is then the time that a place in the queue takes
    /// on average.
    pub fn submit(&self, work: Work, events: Option<EventSink>) -> std::result::Result<Arc<Task>, Failure> {
        let model = work.model.clone();
        let task = Task::new(self.ids.next(), work, events);
        model.worker.submit(task.clone()).map_err(|failure| match failure {
            Failure::Busy { .. } => {
                let seconds = model.seconds_left() / self.limits.queue.max(1) as f64;
                Failure::Busy { retry_after: (seconds.ceil() as u64).clamp(1, 600) }
            }
            failure => failure,
        })?;
        tracing::info!(task = %task.id, kind = task.kind, rows = task.rows, "accepted");
        Ok(task)
    }

    /// Stops accepting work. Accepted work goes on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.models.iter().for_each(|model| model.worker.close());
    }

    /// Whether the service accepts work.
    pub fn is_open(&self) -> bool {
        !self.draining.load(Ordering::SeqCst)
    }

    /// Whether nothing waits and nothing runs.
    pub fn is_idle(&self) -> bool {
        self.models.iter().all(|model| model.worker.load() == (0, 0))
    }
}
