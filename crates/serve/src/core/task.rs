//! A task: accepted work, from the queue to its end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::cancel::Cancel;
use super::event_sink::EventSink;
use super::failure::Failure;
use super::served_model::ServedModel;
use crate::api::{Answer, Plan};

/// What a runner's thread does with a task. It sends events if somebody watches.
pub type Run = Box<dyn FnOnce(&Task, Option<&EventSink>) -> Result<Answer, Failure> + Send>;

/// Work that has been checked and can begin.
pub struct Work {
    /// Its kind, as metrics name it.
    pub kind: &'static str,
    /// The model that does it.
    pub model: Arc<ServedModel>,
    /// The flag that its denoisers watch.
    pub cancel: Cancel,
    /// Network calls in total, for each image.
    pub calls: usize,
    /// Rows it puts through the network in total: images times calls.
    pub rows: usize,
    /// The first event of its stream; `None` for work that cannot be watched.
    pub plan: Option<Plan>,
    /// Bytes of one frame of its events.
    pub frame_bytes: usize,
    /// A hash of everything that its answer depends on, where the answer can be cached.
    pub fingerprint: Option<String>,
    /// Does the work.
    pub run: Run,
}

/// The phase of a task. A task that has ended never changes again.
#[derive(Clone, Debug)]
pub enum Phase {
    /// It waits for a runner.
    Queued,
    /// It runs.
    Running,
    /// It ended with this answer.
    Done(Arc<Answer>),
    /// It ended with this failure.
    Failed(Failure),
    /// It ended because its caller cancelled it.
    Cancelled,
}

impl Phase {
    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Failed(_) | Self::Cancelled)
    }

    /// Its name in the API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done(_) => "done",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One request's work, shared by its caller, its runner and whoever may cancel it.
pub struct Task {
    /// Its id. It cannot be guessed, because knowing it is enough to read the result.
    pub id: String,
    /// The kind of work, as metrics name it.
    pub kind: &'static str,
    /// Network calls in total, for each image.
    pub calls: u64,
    /// Rows it puts through the network in total: its cost.
    pub rows: u64,
    model: Arc<ServedModel>,
    pub(super) cancel: Cancel,
    run: Mutex<Option<(Run, Option<EventSink>)>>,
    phase: watch::Sender<Phase>,
    done_calls: AtomicU64,
}

impl Task {
    /// A task that is not queued yet. It sends `events` if somebody watches.
    pub fn new(id: String, work: Work, events: Option<EventSink>) -> Arc<Self> {
        Arc::new(Self {
            id,
            kind: work.kind,
            calls: work.calls as u64,
            rows: work.rows as u64,
            model: work.model,
            cancel: work.cancel,
            run: Mutex::new(Some((work.run, events))),
            phase: watch::Sender::new(Phase::Queued),
            done_calls: AtomicU64::new(0),
        })
    }

    /// Ends it: at once if it waits, at its next step if it runs.
    pub fn cancel(&self) {
        self.model.worker.cancel(self);
    }

    /// How many tasks wait before this one; `None` unless it waits.
    pub fn position(&self) -> Option<usize> {
        self.model.worker.position(self)
    }

    /// Its phase.
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Waits until it has ended.
    pub async fn finished(&self) -> Phase {
        let mut phase = self.phase.subscribe();
        // The sender lives as long as the task.
        phase.wait_for(Phase::is_finished).await.map_or(Phase::Cancelled, |phase| phase.clone())
    }

    /// Network calls made so far.
    pub fn done_calls(&self) -> u64 {
        self.done_calls.load(Ordering::Relaxed)
    }

    /// Records how many network calls have been made.
    pub fn set_done_calls(&self, calls: u64) {
        self.done_calls.store(calls, Ordering::Relaxed);
    }

    /// Rows that are not through the network yet.
    pub fn rows_left(&self) -> u64 {
        let left = self.calls.saturating_sub(self.done_calls());
        self.rows.checked_div(self.calls).unwrap_or(0) * left
    }

    /// Whether the work should end at its next step.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Moves to `phase`. Returns false if the task had already ended.
    pub(super) fn set(&self, phase: Phase) -> bool {
        self.phase.send_if_modified(|now| {
            let changes = !now.is_finished();
            if changes {
                *now = phase;
            }
            changes
        })
    }

    /// Takes the work out; `None` if it has been taken.
    pub(super) fn take_run(&self) -> Option<(Run, Option<EventSink>)> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("id", &self.id).field("kind", &self.kind).finish_non_exhaustive()
    }
}
