//! A bounded queue and the threads that work it off.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use skipstone::{Error, Result};

use super::failure::Failure;
use super::task::{Phase, Task};

/// Hears of every task that is over: the task, how it ended, seconds of work.
pub type OnOver = Arc<dyn Fn(&Task, &Phase, f64) + Send + Sync>;

/// Why a task was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As many wait as may.
    Full,
    /// The service is going down.
    Closed,
}

/// The queue of one model. Its runners end when it is closed and nothing is left in it.
#[derive(Clone)]
pub struct Worker {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    news: Condvar,
    most: usize,
    on_over: OnOver,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Arc<Task>>,
    running: Vec<Arc<Task>>,
    closed: bool,
}

impl Worker {
    /// A queue of at most `most` waiting tasks and `runners` threads.
    ///
    /// # Errors
    /// The system grants no thread.
    pub fn start(runners: usize, most: usize, on_over: OnOver) -> Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), news: Condvar::new(), most, on_over });
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
    /// The queue is full or closed; the task is not started.
    pub fn submit(&self, task: Arc<Task>) -> std::result::Result<(), Refusal> {
        let mut state = self.shared.state();
        if state.closed {
            return Err(Refusal::Closed);
        }
        if state.queue.len() >= self.shared.most {
            return Err(Refusal::Full);
        }
        state.queue.push_back(task);
        drop(state);
        self.shared.news.notify_one();
        Ok(())
    }

    /// Ends a task: at once where it waits, at its next step where it runs.
    pub fn cancel(&self, task: &Task) {
        task.cancel().cancel();
        let mut state = self.shared.state();
        let before = state.queue.len();
        state.queue.retain(|other| other.id != task.id);
        let waited = state.queue.len() < before;
        drop(state);
        if waited {
            self.shared.over(task, Phase::Cancelled, 0.0);
        }
    }

    /// How many wait before this task; `None` for one that does not wait.
    pub fn position(&self, task: &Task) -> Option<usize> {
        self.shared.state().queue.iter().position(|other| other.id == task.id)
    }

    /// Tasks that wait, and tasks at work.
    pub fn load(&self) -> (usize, usize) {
        let state = self.shared.state();
        (state.queue.len(), state.running.len())
    }

    /// Rows that all tasks here are still to put through the network.
    pub fn rows_left(&self) -> u64 {
        let state = self.shared.state();
        state.queue.iter().chain(&state.running).map(|task| task.rows_left()).sum()
    }

    /// Takes no more tasks.
    pub fn close(&self) {
        self.shared.state().closed = true;
        self.shared.news.notify_all();
    }

    /// Ends everything that waits or runs, as the service goes down; returns what that was.
    pub fn abandon(&self) -> Vec<Arc<Task>> {
        let mut state = self.shared.state();
        state.closed = true;
        let waiting: Vec<_> = state.queue.drain(..).collect();
        let running = state.running.clone();
        drop(state);
        let mut ended: Vec<_> = waiting.into_iter().chain(running).collect();
        // Who waits hears the reason; the runner, when it stops, finds the task over.
        ended.retain(|task| {
            let ended = self.shared.over(task, Phase::Failed(Failure::ShuttingDown), 0.0);
            task.cancel().cancel();
            ended
        });
        self.shared.news.notify_all();
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
            let phase = match task.take_work() {
                None => Phase::Cancelled,
                Some(_) if task.is_cancelled() => Phase::Cancelled,
                Some(work) => match catch_unwind(AssertUnwindSafe(|| work.run(&task))) {
                    _ if task.is_cancelled() => Phase::Cancelled,
                    Ok(Ok(answer)) => Phase::Done(Arc::new(answer)),
                    Ok(Err(failure)) => Phase::Failed(failure),
                    Err(_) => Phase::Failed(Failure::Internal("the work panicked".to_owned())),
                },
            };
            // Over first: whoever finds nothing running finds no task that is not over.
            self.over(&task, phase, begun.elapsed().as_secs_f64());
            self.state().running.retain(|other| other.id != task.id);
        }
    }

    /// The next task; waits for one. `None` when the queue is closed and empty.
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
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends a task; whether it was not over before.
    fn over(&self, task: &Task, phase: Phase, seconds: f64) -> bool {
        // What never began lets go of what it holds: its readers see that nothing will come.
        drop(task.take_work());
        let ended = task.set(phase.clone());
        if ended {
            (self.on_over)(task, &phase, seconds);
        }
        ended
    }
}
