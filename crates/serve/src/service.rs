//! Everything the routes share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use skipstone::Result;
use skipstone::checkpoint::Model;
use skipstone::engine::EngineOptions;

use crate::core::{Aside, Cancel, Capacity, Failure, Ids, Jobs, Keep, Pictures, Refusal, Served, Task};
use crate::http::Guard;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::work::Work;

/// Requests whose options are looked at at a time.
const PREPARED: usize = 4;
/// Requests that may wait for that: more than there are connections.
const UNPREPARED: usize = 4096;

/// The service, as handlers have it.
pub type App = Arc<Service>;

/// How a service is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What one request may ask for.
    pub limits: Limits,
    /// Requests of one model that are worked on together.
    pub runners: usize,
    /// How long results of jobs are kept.
    pub keep: Keep,
    /// Who may ask.
    pub guard: Guard,
    /// How networks are computed.
    pub engine: EngineOptions,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            runners: 8,
            keep: Keep::default(),
            guard: Guard::open(),
            engine: EngineOptions::default(),
        }
    }
}

/// The models, their queues, kept results, counters.
#[derive(Debug)]
pub struct Service {
    /// The models; the first is the default.
    pub models: Vec<Arc<Served>>,
    /// Tasks kept by name.
    pub jobs: Jobs,
    /// Pictures from outside.
    pub pictures: Pictures,
    /// Where options are looked at: optimal times take long to find.
    prepare: Aside,
    /// What one request may ask for.
    pub limits: Limits,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Names of tasks and requests.
    pub ids: Ids,
    /// Who may ask.
    pub guard: Guard,
    draining: AtomicBool,
}

impl Service {
    /// Loads the networks of these models, named, and starts their threads.
    ///
    /// # Errors
    /// No model; a name given twice; a network that cannot be made.
    pub fn start(models: Vec<(String, Model)>, setup: Setup) -> Result<App> {
        let metrics = Arc::new(Metrics::new());
        let capacity = Capacity { runners: setup.runners, queue: setup.limits.queue, steps: setup.limits.steps };
        let mut served: Vec<Arc<Served>> = Vec::new();
        for (id, model) in models {
            if served.iter().any(|other| other.id == id) {
                return Err(skipstone::Error::argument(format!("model {id}: two models have this name")));
            }
            served.push(Served::start(id, model, capacity, &setup.engine, &metrics)?);
        }
        if served.is_empty() {
            return Err(skipstone::Error::argument("model: expected at least one to serve"));
        }
        Ok(Arc::new(Self {
            models: served,
            jobs: Jobs::new(setup.keep),
            pictures: Pictures::new(setup.limits.pixels),
            prepare: Aside::new(PREPARED, UNPREPARED),
            limits: setup.limits,
            metrics,
            ids: Ids::default(),
            guard: setup.guard,
            draining: AtomicBool::new(false),
        }))
    }

    /// The model a request means.
    ///
    /// # Errors
    /// A name that no model has; the nearest is told.
    pub fn model(&self, id: Option<&str>) -> std::result::Result<Arc<Served>, Failure> {
        let Some(id) = id else { return Ok(self.models[0].clone()) };
        self.models.iter().find(|model| model.id == id).cloned().ok_or_else(|| {
            let nearest = self.models.iter().map(|model| &model.id);
            let nearest = nearest.min_by_key(|known| strsim::damerau_levenshtein(known, id));
            Failure::Refused(format!(
                "model \"{id}\": not served here; the nearest is \"{}\"",
                nearest.map_or("", |n| n)
            ))
        })
    }

    /// Checks a request to `served`, beside the connections, and makes work of it.
    ///
    /// # Errors
    /// Those of `make`.
    pub async fn prepare<W: Send + 'static>(
        &self,
        served: &Arc<Served>,
        cancel: &Cancel,
        make: impl FnOnce(Arc<Served>, &Limits, &Cancel) -> std::result::Result<W, Failure> + Send + 'static,
    ) -> std::result::Result<W, Failure> {
        let (served, limits, cancel) = (served.clone(), self.limits, cancel.clone());
        self.prepare.run(move || make(served, &limits, &cancel)).await?
    }

    /// Queues work for a model.
    ///
    /// # Errors
    /// The queue is full, or the service going down.
    pub fn submit(
        &self,
        served: &Served,
        work: Box<dyn Work>,
        cancel: Cancel,
    ) -> std::result::Result<Arc<Task>, Refusal> {
        let task = Task::new(self.ids.next(), work, cancel);
        served.worker.submit(task.clone())?;
        tracing::info!(task = %task.id, kind = task.kind, rows = task.rows, "accepted");
        Ok(task)
    }

    /// Takes no more work; what has been accepted goes on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.models.iter().for_each(|model| model.worker.close());
    }

    /// Whether it still takes work.
    pub fn is_open(&self) -> bool {
        !self.draining.load(Ordering::SeqCst)
    }

    /// Whether nothing waits and nothing runs.
    pub fn is_idle(&self) -> bool {
        self.models.iter().all(|model| model.worker.load() == (0, 0))
    }
}
