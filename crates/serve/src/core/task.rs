//! A task: work that was accepted, from the queue to its end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::cancel::Cancel;
use super::event_sink::EventSink;
use super::failure::Failure;
use crate::api::{Answer, Plan};

/// Work that has been checked and can begin.
pub trait Work: Send {
    /// Its kind, as metrics name it.
    fn kind(&self) -> &'static str;

    /// Network calls in all, for each image.
    fn calls(&self) -> u64;

    /// Rows it puts through the network in all: images times calls.
    fn rows(&self) -> u64;

    /// The first event of its stream; `None` for work that cannot be watched.
    fn plan(&self) -> Option<Plan> {
        None
    }

    /// Bytes of one frame of its events.
    fn frame_bytes(&self) -> usize {
        1
    }

    /// Does the work on a runner's thread, and sends `events` if somebody watches.
    ///
    /// # Errors
    /// Whatever could not be seen when the request was checked.
    fn run(self: Box<Self>, task: &Task, events: Option<&EventSink>) -> Result<Answer, Failure>;
}

/// Work, and where it sends its events if somebody watches.
type Watched = (Box<dyn Work>, Option<EventSink>);

/// Where a task stands. A task that has ended never changes again.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Waits for a runner.
    Queued,
    /// Runs.
    Running,
    /// Ended with this answer.
    Done(Arc<Answer>),
    /// Ended with this failure.
    Failed(Failure),
    /// Ended because its caller cancelled it.
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
    /// Network calls in all, for each image.
    pub calls: u64,
    /// Rows it puts through the network in all: its cost.
    pub rows: u64,
    cancel: Cancel,
    work: Mutex<Option<Watched>>,
    phase: watch::Sender<Phase>,
    done_calls: AtomicU64,
}

impl Task {
    /// A task that is not queued yet. `cancel` is the flag that the work's denoisers watch.
    pub fn new(id: String, work: Box<dyn Work>, cancel: Cancel, events: Option<EventSink>) -> Arc<Self> {
        Arc::new(Self {
            id,
            kind: work.kind(),
            calls: work.calls(),
            rows: work.rows(),
            cancel,
            work: Mutex::new(Some((work, events))),
            phase: watch::Sender::new(Phase::Queued),
            done_calls: AtomicU64::new(0),
        })
    }

    /// Where it stands.
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

    /// Rows that have yet to go through the network.
    pub fn rows_left(&self) -> u64 {
        let left = self.calls.saturating_sub(self.done_calls());
        self.rows.checked_div(self.calls).unwrap_or(0) * left
    }

    /// Whether the work should end at its next step.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// The flag that ends the work.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Moves to `phase`; false if the task has ended before.
    pub(super) fn set(&self, phase: Phase) -> bool {
        self.phase.send_if_modified(|now| {
            let changes = !now.is_finished();
            if changes {
                *now = phase;
            }
            changes
        })
    }

    /// Takes the work out; `None` once it is taken.
    pub(super) fn take_work(&self) -> Option<Watched> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("id", &self.id).field("kind", &self.kind).finish_non_exhaustive()
    }
}
