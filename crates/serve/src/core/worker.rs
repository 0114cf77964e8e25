//! A bounded queue and its threads.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use skipstone::{Error, Result};

use super::failure::Failure;
use super::task::{Phase, Task};

/// Called when a task has ended, with the task, its last phase and the seconds of work.
pub type OnFinished = Arc<dyn Fn(&Task, &Phase, f64) + Send + Sync>;

/// The queue of one model. Its threads end when the queue is closed and empty.
#[derive(Clone)]
pub struct Worker {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
    on_finished: OnFinished,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Arc<Task>>,
    running: Vec<Arc<Task>>,
    closed: bool,
}

impl Worker {
    /// A queue of at most `capacity` waiting tasks, and `runners` threads.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn start(runners: usize, capacity: usize, on_finished: OnFinished) -> Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), capacity, on_finished });
        for i in 0..runners.max(1) {
            let shared = shared.clone();
            let thread = thread::Builder::new().name(format!("skipstone-run-{i}"));
            thread.spawn(move || shared.run()).map_err(|e| Error::io("a runner's thread", e))?;
        }
        Ok(Self { shared })
    }

    /// Puts a task at the end of the queue.
    ///
    /// # Errors
    /// The queue is full or closed. The task never starts.
    pub fn submit(&self, task: Arc<Task>) -> std::result::Result<(), Failure> {
        let mut state = self.shared.state();
        if state.closed {
            return Err(Failure::ShuttingDown);
        }
        if state.queue.len() >= self.shared.capacity {
            return Err(Failure::Busy { retry_after: 1 });
        }
        state.queue.push_back(task);
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Ends a task: at once if it waits, at its next step if it runs.
    pub(super) fn cancel(&self, task: &Task) {
        task.cancel.cancel();
        let mut state = self.shared.state();
        let before = state.queue.len();
        state.queue.retain(|other| other.id != task.id);
        let was_queued = state.queue.len() < before;
        drop(state);
        if was_queued {
            self.shared.finish(task, Phase::Cancelled, 0.0);
        }
    }

    /// How many tasks wait before this one; `None` unless it waits.
    pub(super) fn position(&self, task: &Task) -> Option<usize> {
        self.shared.state().queue.iter().position(|other| other.id == task.id)
    }

    /// Number of waiting and of running tasks.
    pub fn load(&self) -> (usize, usize) {
        let state = self.shared.state();
        (state.queue.len(), state.running.len())
    }

    /// Rows of all tasks that are not through the network yet.
    pub fn rows_left(&self) -> u64 {
        let state = self.shared.state();
        state.queue.iter().chain(&state.running).map(|task| task.rows_left()).sum()
    }

    /// Accepts no more tasks.
    pub fn close(&self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_all();
    }

    /// Ends every task that waits or runs because the service is shutting down, and returns them.
    pub fn abandon(&self) -> Vec<Arc<Task>> {
        let mut state = self.shared.state();
        state.closed = true;
        let waiting: Vec<_> = state.queue.drain(..).collect();
        let running = state.running.clone();
        drop(state);
        let mut ended: Vec<_> = waiting.into_iter().chain(running).collect();
        // Callers learn the reason. When the runner stops, it finds that the task has ended.
        ended.retain(|task| {
            let ended = self.shared.finish(task, Phase::Failed(Failure::ShuttingDown), 0.0);
            task.cancel.cancel();
            ended
        });
        self.shared.changed.notify_all();
        ended
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while let Some(task) = self.next() {
            let begun = Instant::now();
            task.set(Phase::Running);
            let phase = match task.take_run() {
                None => Phase::Cancelled,
                Some(_) if task.is_cancelled() => Phase::Cancelled,
                Some((run, events)) => match catch_unwind(AssertUnwindSafe(|| run(&task, events.as_ref()))) {
                    _ if task.is_cancelled() => Phase::Cancelled,
                    Ok(Ok(answer)) => Phase::Done(Arc::new(answer)),
                    Ok(Err(failure)) => Phase::Failed(failure),
                    Err(_) => Phase::Failed(Failure::Internal("the work panicked".to_owned())),
                },
            };
            // The task ends before it leaves the list, so an empty list means that every task has ended.
            self.finish(&task, phase, begun.elapsed().as_secs_f64());
            self.state().running.retain(|other| other.id != task.id);
        }
    }

    /// Waits for the next task. Returns `None` when the queue is closed and empty.
    fn next(&self) -> Option<Arc<Task>> {
        let mut state = self.state();
        loop {
            if let Some(task) = state.queue.pop_front() {
                state.running.push(task.clone());
                return Some(task);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends a task. Returns false if it had already ended.
    fn finish(&self, task: &Task, phase: Phase, seconds: f64) -> bool {
        // A task that never began must drop its event sink, so that its reader sees the end.
        drop(task.take_run());
        let ended = task.set(phase.clone());
        if ended {
            (self.on_finished)(task, &phase, seconds);
        }
        ended
    }
}
