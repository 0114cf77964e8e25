use std::sync::Arc;

use super::task::Task;
use super::worker::Worker;

/// Cancels its task when it is dropped: its caller has gone.
pub struct CancelOnDrop {
    task: Arc<Task>,
    worker: Worker,
}

impl CancelOnDrop {
    /// Watches over a task that `worker` has accepted.
    pub fn new(task: Arc<Task>, worker: Worker) -> Self {
        Self { task, worker }
    }

    /// The task.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// How many tasks wait before this one, while it waits.
    pub fn position(&self) -> Option<usize> {
        self.worker.position(&self.task)
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if !self.task.phase().is_finished() {
            self.worker.cancel(&self.task);
        }
    }
}
