//! A piece of work on its way: queued, running, over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::cancel::Cancel;
use super::failure::Failure;
use crate::work::{Answer, Work};

/// Where a task stands. What is over never changes again.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Waits for a runner.
    Queued,
    /// At work.
    Running,
    /// Over: what it made.
    Done(Arc<Answer>),
    /// Over: why it could not be done.
    Failed(Failure),
    /// Over: nobody wanted it any more.
    Cancelled,
}

impl Phase {
    /// Whether the task is over.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Failed(_) | Self::Cancelled)
    }

    /// The word of the API.
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

/// One request's work, shared by who waits for it, who runs it and who may cancel it.
pub struct Task {
    /// Cannot be guessed: whoever knows it may read the result.
    pub id: String,
    /// What kind of work it is, as metrics call it.
    pub kind: &'static str,
    /// Network calls it makes.
    pub calls: u64,
    /// Rows it puts through the network in all: what it costs.
    pub rows: u64,
    cancel: Cancel,
    work: Mutex<Option<Box<dyn Work>>>,
    phase: watch::Sender<Phase>,
    done_calls: AtomicU64,
    accepted: Instant,
}

impl Task {
    /// Work not yet queued. `cancel` is the one its network askers look at.
    pub fn new(id: String, work: Box<dyn Work>, cancel: Cancel) -> Arc<Self> {
        Arc::new(Self {
            id,
            kind: work.kind(),
            calls: work.calls(),
            rows: work.rows(),
            cancel,
            work: Mutex::new(Some(work)),
            phase: watch::Sender::new(Phase::Queued),
            done_calls: AtomicU64::new(0),
            accepted: Instant::now(),
        })
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Waits until it is over.
    pub async fn over(&self) -> Phase {
        let mut phase = self.phase.subscribe();
        // The sender lives as long as the task.
        phase.wait_for(Phase::is_over).await.map_or(Phase::Cancelled, |phase| phase.clone())
    }

    /// Network calls made so far.
    pub fn done_calls(&self) -> u64 {
        self.done_calls.load(Ordering::Relaxed)
    }

    /// Says how many network calls have been made.
    pub fn set_done_calls(&self, calls: u64) {
        self.done_calls.store(calls, Ordering::Relaxed);
    }

    /// Rows that are still to go through the network.
    pub fn rows_left(&self) -> u64 {
        let left = self.calls.saturating_sub(self.done_calls());
        self.rows.checked_div(self.calls).unwrap_or(0) * left
    }

    /// When it was accepted.
    pub fn accepted(&self) -> Instant {
        self.accepted
    }

    /// Whether the work should end at its next step.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// The flag that ends the work.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Moves on, unless it is over already; whether it was not.
    pub(super) fn set(&self, phase: Phase) -> bool {
        self.phase.send_if_modified(|now| {
            let changes = !now.is_over();
            if changes {
                *now = phase;
            }
            changes
        })
    }

    pub(super) fn take_work(&self) -> Option<Box<dyn Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("id", &self.id).field("kind", &self.kind).finish_non_exhaustive()
    }
}
