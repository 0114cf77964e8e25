//! What watches a run: the progress bar, the caller's function, Ctrl-C.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::errors::compute;

/// How often a bar is drawn.
const OFTEN: Duration = Duration::from_millis(100);

/// A run's watcher. An exception of the caller's function stays here, while the library is told to stop.
pub struct Watch {
    progress: Option<Py<PyAny>>,
    callback: Option<Py<PyAny>>,
    bar: Option<Py<PyAny>>,
    drawn: Option<Instant>,
    done: usize,
    raised: Option<PyErr>,
}

impl Watch {
    /// A watcher with the arguments `progress` and `callback` of a method.
    pub fn new(progress: Option<Py<PyAny>>, callback: Option<Py<PyAny>>) -> Self {
        Self { progress, callback, bar: None, drawn: None, done: 0, raised: None }
    }

    /// Computes under this watcher. What the caller's function raised comes first.
    pub fn run<T: Send>(
        mut self,
        py: Python<'_>,
        work: impl FnOnce(&mut Self) -> skipstone::Result<T> + Send,
    ) -> PyResult<T> {
        let watch = &mut self;
        let result = compute(py, move || work(watch));
        if let Some(bar) = &self.bar {
            let closed = bar.call_method1(py, "close", (self.done,));
            if let (Err(error), None, Ok(_)) = (closed, &self.raised, &result) {
                self.raised = Some(error);
            }
        }
        match self.raised {
            Some(raised) => Err(raised),
            None => result,
        }
    }

    /// Begins a bar of `total` parts.
    pub fn begin(&mut self, label: &str, total: usize) {
        let made = Python::attach(|py| {
            let bar = py.import("skipstone._progress")?.call_method1("bar", (label, total, &self.progress))?;
            Ok((!bar.is_none()).then(|| bar.unbind()))
        });
        match made {
            Ok(bar) => (self.bar, self.done) = (bar, 0),
            Err(error) => self.raised = Some(error),
        }
    }

    /// Counts parts that were done before.
    pub fn skip(&mut self, parts: usize) {
        self.done += parts;
    }

    /// Handles the pending signals, for work that calls no network of ours.
    pub fn poll(&mut self) -> ControlFlow<()> {
        if self.raised.is_none() {
            self.raised = Python::attach(|py| py.check_signals()).err();
        }
        if self.raised.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Reports one more part.
    pub fn advance(&mut self) -> ControlFlow<()> {
        self.advance_by(1, |_, _| Ok(()))
    }

    /// Reports `parts` more, and calls the caller's function by `call`.
    pub fn advance_by(
        &mut self,
        parts: usize,
        call: impl FnOnce(Python<'_>, &Py<PyAny>) -> PyResult<()>,
    ) -> ControlFlow<()> {
        self.done += parts;
        let draws = self.bar.is_some() && self.drawn.is_none_or(|drawn| drawn.elapsed() > OFTEN);
        if self.raised.is_none() && (draws || self.callback.is_some()) {
            let seen = Python::attach(|py| {
                if let Some(bar) = self.bar.as_ref().filter(|_| draws) {
                    bar.call_method1(py, "set", (self.done,))?;
                }
                self.callback.as_ref().map_or(Ok(()), |callback| call(py, callback))
            });
            if draws {
                self.drawn = Some(Instant::now());
            }
            self.raised = seen.err();
        }
        if self.raised.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
