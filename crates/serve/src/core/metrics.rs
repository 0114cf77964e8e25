//! The service's counters, for Prometheus.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// Names and values of labels.
type Labels = Vec<(&'static str, String)>;

fn of_model(model: &str) -> Labels {
    vec![("model", model.to_owned())]
}

/// All counters.
pub struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    refused: Counter,
    request_seconds: Histogram,
    calls: Family<Labels, Counter>,
    rows: Family<Labels, Counter>,
    rows_per_call: Family<Labels, Histogram>,
    call_seconds: Family<Labels, Counter<f64, AtomicU64>>,
    tasks: Family<Labels, Counter>,
    task_seconds: Family<Labels, Histogram>,
    queued: Family<Labels, Gauge>,
    running: Family<Labels, Gauge>,
    jobs: Gauge,
    memory: Gauge,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn seconds() -> Histogram {
    Histogram::new([0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0])
}

impl Default for Metrics {
    /// Counters at zero.
    fn default() -> Self {
        let mut registry = Registry::with_prefix("skipstone");
        let r = &mut registry;
        let rows: fn() -> Histogram = || Histogram::new([1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0]);
        let rows = Family::new_with_constructor(rows);
        let task_seconds = Family::new_with_constructor(seconds as fn() -> Histogram);
        Self {
            requests: add(r, "http_requests", "Requests answered", Family::default()),
            request_seconds: add(r, "http_request_seconds", "Time to the head of the response", seconds()),
            refused: add(r, "refused", "Requests refused because too many were waiting (429)", Counter::default()),
            calls: add(r, "network_calls", "Network calls", Family::default()),
            rows: add(r, "network_rows", "Images put through the network, counted once per call", Family::default()),
            rows_per_call: add(r, "network_rows_per_call", "Images in one network call", rows),
            call_seconds: add(r, "network_busy_seconds", "Time spent in network calls", Family::default()),
            tasks: add(r, "tasks", "Tasks that have ended", Family::default()),
            task_seconds: add(r, "task_seconds", "Time of work, without waiting", task_seconds),
            queued: add(r, "queued", "Tasks waiting", Family::default()),
            running: add(r, "running", "Tasks running", Family::default()),
            jobs: add(r, "jobs", "Jobs kept, with or without a result", Gauge::default()),
            memory: add(r, "resident_memory_bytes", "Memory of the process (Linux; 0 elsewhere)", Gauge::default()),
            registry,
        }
    }
}

/// Registers a metric; its clones share its value.
fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// Counts an answered request, and records the time until the head of its response.
    pub fn request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let labels = [("method", method.to_owned()), ("route", route.to_owned()), ("status", status.to_string())];
        self.requests.get_or_create(&labels.into()).inc();
        if status == 429 {
            self.refused.inc();
        }
        self.request_seconds.observe(took.as_secs_f64());
    }

    /// Counts a network call of `rows` rows.
    pub fn call(&self, model: &str, rows: usize, took: Duration) {
        let model = of_model(model);
        self.calls.get_or_create(&model).inc();
        self.rows.get_or_create(&model).inc_by(rows as u64);
        self.rows_per_call.get_or_create(&model).observe(rows as f64);
        self.call_seconds.get_or_create(&model).inc_by(took.as_secs_f64());
    }

    /// Counts a task of this kind that ended in this state after `seconds` of work.
    pub fn task(&self, kind: &'static str, state: &'static str, seconds: f64) {
        let kind = vec![("kind", kind.to_owned())];
        self.task_seconds.get_or_create(&kind).observe(seconds);
        self.tasks.get_or_create(&[kind, vec![("state", state.to_owned())]].concat()).inc();
    }

    /// The text that Prometheus reads. `loads` holds the current (model, waiting, running), `jobs` the number of jobs kept.
    pub fn text(&self, loads: &[(&str, usize, usize)], jobs: usize) -> String {
        for &(model, queued, running) in loads {
            let model = of_model(model);
            self.queued.get_or_create(&model).set(queued as i64);
            self.running.get_or_create(&model).set(running as i64);
        }
        self.jobs.set(jobs as i64);
        self.memory.set(resident_bytes());
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// The resident memory of this process as Linux reports it; 0 elsewhere.
fn resident_bytes() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|text| text.parse::<i64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
