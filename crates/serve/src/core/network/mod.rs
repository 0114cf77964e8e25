//! One network for many requests: a thread owns it and batches their rows into shared calls.
//!
//! Every request runs the library's own loop (`sample`, `encode`, …) on a thread of its own. It calls a
//! [`SharedDenoiser`], which is a [`Denoiser`] like any other. Requests need not agree in anything, because a row of a call
//! has its own time and condition and its result depends on nothing else. So a request joins at the next call, leaves at
//! the next call, and gets the bytes it would have got alone.

mod batcher;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::thread;
use std::time::Duration;

use ndarray::Array4;
use skipstone::math::schedule::Time;
use skipstone::sampling::denoiser::{Condition, Denoiser, Prediction};
use skipstone::{Error, Kind, Result};

use super::cancel::Cancel;
use batcher::Batcher;

/// Called after every network call with the number of rows and the time it took.
pub type OnCall = Box<dyn Fn(usize, Duration) + Send>;

/// A network on a thread of its own. The thread ends when the last handle and the last denoiser are dropped.
#[derive(Clone, Debug)]
pub struct SharedNetwork {
    to: Sender<Message>,
    shape: [usize; 3],
    output_channels: usize,
    prediction: Prediction,
    fractional: bool,
    /// Requests in the middle of their loop, which may join a call.
    active: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Message {
    Predict(Box<PendingRows>),
    Prepare(Vec<Time>, Vec<Condition>),
}

/// The rows of a request's call, some of which are answered.
#[derive(Debug)]
struct PendingRows {
    x_t: Array4<f32>,
    times: Vec<Time>,
    conditions: Vec<Condition>,
    cancel: Cancel,
    /// Number of answered rows; their predictions are in `out`.
    done: usize,
    out: Array4<f32>,
    reply: SyncSender<Result<Array4<f32>>>,
}

impl SharedNetwork {
    /// Starts the thread of `network`; a call takes at most `most` rows.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn start(network: impl Denoiser + Send + 'static, most: usize, on_call: OnCall) -> Result<Self> {
        let (to, from) = mpsc::channel();
        let active = Arc::new(AtomicUsize::new(0));
        let (shape, prediction) = (network.shape(), network.prediction());
        let output_channels = network.output_channels();
        let fractional = network.takes_fractional_times();
        let batcher = Batcher::new(from, active.clone(), network, most, on_call);
        let thread = thread::Builder::new().name("skipstone-model".to_owned()).spawn(move || batcher.run());
        thread.map_err(|e| Error::io("the model's thread", e))?;
        Ok(Self { to, shape, output_channels, prediction, fractional, active })
    }

    /// `[channels, height, width]` of an image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The network as one request's denoiser, until `cancel` is set.
    pub fn denoiser(&self, cancel: Cancel) -> SharedDenoiser {
        SharedDenoiser { network: self.clone(), cancel }
    }

    /// Records that a request has begun its loop. Until the result is dropped, calls wait briefly for its rows.
    pub fn begin_request(&self) -> ActiveRequest {
        self.active.fetch_add(1, Ordering::SeqCst);
        ActiveRequest(self.active.clone())
    }
}

/// A request in the middle of its loop.
#[derive(Debug)]
pub struct ActiveRequest(Arc<AtomicUsize>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The network as one request sees it.
#[derive(Clone, Debug)]
pub struct SharedDenoiser {
    network: SharedNetwork,
    cancel: Cancel,
}

/// The error of a request that was cancelled.
fn cancelled() -> Error {
    Error::argument("cancelled")
}

/// The network's thread has ended: our own bug.
fn broken() -> Error {
    Error::new(Kind::Io, "the network's thread ended")
}

impl Denoiser for SharedDenoiser {
    fn shape(&self) -> [usize; 3] {
        self.network.shape
    }

    fn prediction(&self) -> Prediction {
        self.network.prediction
    }

    fn output_channels(&self) -> usize {
        self.network.output_channels
    }

    fn takes_fractional_times(&self) -> bool {
        self.network.fractional
    }

    /// Waits until the network has seen every row, or the request is cancelled.
    fn predict(&self, x_t: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Array4<f32>> {
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        let n = x_t.dim().0;
        if times.len() != n || !(conditions.is_empty() || conditions.len() == n) {
            let (times, conditions) = (times.len(), conditions.len());
            return Err(Error::argument(format!("{times} times and {conditions} conditions for {n} images")));
        }
        let (reply, answer) = mpsc::sync_channel(1);
        let mut conditions = conditions.to_vec();
        conditions.resize(n, Condition::Null);
        let rows = PendingRows {
            x_t: x_t.clone(),
            times: times.to_vec(),
            conditions,
            cancel: self.cancel.clone(),
            done: 0,
            out: Array4::zeros((n, self.network.output_channels, x_t.dim().2, x_t.dim().3)),
            reply,
        };
        self.network.to.send(Message::Predict(Box::new(rows))).map_err(|_| broken())?;
        answer.recv().map_err(|_| broken())?
    }

    fn prepare(&self, times: &[Time], conditions: &[Condition]) {
        // If the thread has ended, the next prediction reports it.
        let _ = self.network.to.send(Message::Prepare(times.to_vec(), conditions.to_vec()));
    }
}

#[cfg(test)]
mod tests;
