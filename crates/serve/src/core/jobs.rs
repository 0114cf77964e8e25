//! Tasks that nobody holds a connection for: kept by name until they are fetched, or for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::task::{Phase, Task};
use super::worker::Worker;

/// How long and how many results are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How long a result is kept from the moment it is there.
    pub time: Duration,
    /// Most tasks kept by name, those not over among them.
    pub count: usize,
    /// Most bytes of results.
    pub bytes: usize,
}

impl Default for Keep {
    fn default() -> Self {
        Self { time: Duration::from_secs(15 * 60), count: 1024, bytes: 256 << 20 }
    }
}

struct Entry {
    task: Arc<Task>,
    worker: Worker,
    /// When it was first seen to be over.
    over: Option<Instant>,
    fetched: bool,
}

/// The tasks by name.
pub struct Jobs {
    keep: Keep,
    entries: Mutex<HashMap<String, Entry>>,
}

impl Jobs {
    /// None yet.
    pub fn new(keep: Keep) -> Self {
        Self { keep, entries: Mutex::default() }
    }

    /// Keeps a task that `worker` has taken.
    pub fn insert(&self, task: Arc<Task>, worker: Worker) {
        let entry = Entry { task: task.clone(), worker, over: None, fetched: false };
        self.entries().insert(task.id.clone(), entry);
        self.tidy();
    }

    /// A task and the worker it is with.
    pub fn get(&self, id: &str) -> Option<(Arc<Task>, Worker)> {
        self.tidy();
        self.entries().get(id).map(|entry| (entry.task.clone(), entry.worker.clone()))
    }

    /// Notes that somebody has been told how a task ended.
    pub fn fetched(&self, id: &str) {
        if let Some(entry) = self.entries().get_mut(id) {
            entry.fetched = true;
        }
    }

    /// Tasks whose end nobody has been told, but for those that somebody cancelled.
    pub fn unfetched(&self) -> Vec<Arc<Task>> {
        let has_result = |task: &Task| matches!(task.phase(), Phase::Done(_) | Phase::Failed(_));
        let entries = self.entries();
        let waits = entries.values().filter(|entry| !entry.fetched && has_result(&entry.task));
        waits.map(|entry| entry.task.clone()).collect()
    }

    /// How many are kept.
    pub fn kept(&self) -> usize {
        self.entries().len()
    }

    /// Forgets results that are too old, or too many; the oldest go first. What is not over is never forgotten.
    pub fn tidy(&self) {
        let now = Instant::now();
        let mut entries = self.entries();
        for entry in entries.values_mut() {
            if entry.over.is_none() && entry.task.phase().is_over() {
                entry.over = Some(now);
            }
        }
        let time = self.keep.time;
        entries.retain(|_, entry| entry.over.is_none_or(|over| now.duration_since(over) <= time));
        let mut over: Vec<(Instant, String, usize)> =
            entries.iter().filter_map(|(id, e)| Some((e.over?, id.clone(), bytes(&e.task)))).collect();
        over.sort();
        let mut total: usize = over.iter().map(|(.., bytes)| bytes).sum();
        for (_, id, bytes) in over {
            if entries.len() <= self.keep.count && total <= self.keep.bytes {
                break;
            }
            entries.remove(&id);
            total -= bytes;
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs").field("keep", &self.keep).field("kept", &self.kept()).finish()
    }
}

fn bytes(task: &Task) -> usize {
    match task.phase() {
        Phase::Done(answer) => answer.bytes(),
        _ => 0,
    }
}
