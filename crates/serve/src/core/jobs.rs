//! Jobs: tasks that run without a connection. They and their results are kept by id for a limited time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::task::{Phase, Task};

/// How long and how many jobs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How long a result is kept after the job has ended.
    pub time: Duration,
    /// Most jobs, including those that have not ended.
    pub count: usize,
    /// Most bytes of results.
    pub bytes: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self { time: Duration::from_secs(15 * 60), count: 1024, bytes: 256 << 20 }
    }
}

struct Entry {
    task: Arc<Task>,
    /// When the job was first seen to have ended.
    ended: Option<Instant>,
    fetched: bool,
}

/// The jobs by id.
pub struct Jobs {
    retention: Retention,
    entries: Mutex<HashMap<String, Entry>>,
}

impl Jobs {
    /// No jobs yet.
    pub fn new(retention: Retention) -> Self {
        Self { retention, entries: Mutex::default() }
    }

    /// Keeps a task.
    pub fn insert(&self, task: Arc<Task>) {
        let entry = Entry { task: task.clone(), ended: None, fetched: false };
        self.entries().insert(task.id.clone(), entry);
        self.evict();
    }

    /// The task of this id.
    pub fn get(&self, id: &str) -> Option<Arc<Task>> {
        self.evict();
        self.entries().get(id).map(|entry| entry.task.clone())
    }

    /// Records that a caller has received the outcome of a job.
    pub fn mark_fetched(&self, id: &str) {
        if let Some(entry) = self.entries().get_mut(id) {
            entry.fetched = true;
        }
    }

    /// Jobs with a result or an error that no caller has received.
    pub fn unfetched(&self) -> Vec<Arc<Task>> {
        let has_result = |task: &Task| matches!(task.phase(), Phase::Done(_) | Phase::Failed(_));
        let entries = self.entries();
        let unfetched = entries.values().filter(|entry| !entry.fetched && has_result(&entry.task));
        unfetched.map(|entry| entry.task.clone()).collect()
    }

    /// Number of jobs kept.
    pub fn count(&self) -> usize {
        self.entries().len()
    }

    /// Removes results that are too old or too many, the oldest first. Jobs that have not ended are kept.
    pub fn evict(&self) {
        let now = Instant::now();
        let mut entries = self.entries();
        for entry in entries.values_mut() {
            if entry.ended.is_none() && entry.task.phase().is_finished() {
                entry.ended = Some(now);
            }
        }
        let time = self.retention.time;
        entries.retain(|_, entry| entry.ended.is_none_or(|ended| now.duration_since(ended) <= time));
        let mut ended: Vec<(Instant, String, usize)> =
            entries.iter().filter_map(|(id, e)| Some((e.ended?, id.clone(), bytes(&e.task)))).collect();
        ended.sort();
        let mut total: usize = ended.iter().map(|(.., bytes)| bytes).sum();
        for (_, id, bytes) in ended {
            if entries.len() <= self.retention.count && total <= self.retention.bytes {
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
        f.debug_struct("Jobs").field("retention", &self.retention).field("count", &self.count()).finish()
    }
}

fn bytes(task: &Task) -> usize {
    match task.phase() {
        Phase::Done(answer) => answer.bytes(),
        _ => 0,
    }
}
