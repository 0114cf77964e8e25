//! One network for many requests: a thread owns it and batches their rows into shared calls.
//!
//! Every request runs the library's own loop (`sample`, `encode`, …) on a thread of its own. It calls a
//! [`SharedDenoiser`], which is a [`Denoiser`] like any other. Requests need not agree in anything, because a row of a call
//! has its own time and class and its result depends on nothing else. So a request joins at the next call, leaves at
//! the next call, and gets the bytes it would have got alone.

mod batcher;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::thread;
use std::time::Duration;

use ndarray::Array4;
use skipstone::denoiser::{Denoiser, Prediction};
use skipstone::schedule::Time;
use skipstone::{Error, Kind, Result};

use super::cancel::Cancel;
use batcher::Batcher;

/// A network that takes rows with a time and a class each.
pub trait Network: Send + 'static {
    /// `[channels, height, width]` of one image.
    fn shape(&self) -> [usize; 3];

    /// The kind of prediction that [`forward`](Self::forward) returns.
    fn prediction(&self) -> Prediction;

    /// The prediction for each row of `x_t`, `[n, c, h, w]`, row i at `times[i]` and of class `classes[i]`; a row's
    /// result depends on that row alone.
    ///
    /// # Errors
    /// Whatever the network refuses.
    fn forward(&self, x_t: &Array4<f32>, times: &[Time], classes: Option<&[usize]>) -> Result<Array4<f32>>;

    /// Announces the times of the calls to come.
    fn prepare(&self, times: &[Time], classes: Option<&[usize]>) {
        let _ = (times, classes);
    }
}

impl Network for skipstone::unet::UNet {
    fn shape(&self) -> [usize; 3] {
        Denoiser::shape(self)
    }

    fn prediction(&self) -> Prediction {
        Denoiser::prediction(self)
    }

    fn forward(&self, x_t: &Array4<f32>, times: &[Time], classes: Option<&[usize]>) -> Result<Array4<f32>> {
        self.forward(x_t, times, classes)
    }

    fn prepare(&self, times: &[Time], classes: Option<&[usize]>) {
        Denoiser::prepare(self, times, classes);
    }
}

/// Called after every network call with its rows and how long it took.
pub type OnCall = Box<dyn Fn(usize, Duration) + Send>;

/// A network on a thread of its own. The thread ends when the last handle and the last denoiser are dropped.
#[derive(Clone, Debug)]
pub struct SharedNetwork {
    to: Sender<Message>,
    shape: [usize; 3],
    prediction: Prediction,
    /// Requests in the middle of their loop: as many can call together.
    active: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Message {
    Predict(Box<PendingRows>),
    Prepare(Vec<Time>, Option<Vec<usize>>),
}

/// The rows of one request's call, some of them answered.
#[derive(Debug)]
struct PendingRows {
    x_t: Array4<f32>,
    time: Time,
    classes: Option<Vec<usize>>,
    cancel: Cancel,
    /// How many rows are answered; their predictions are in `out`.
    done: usize,
    out: Array4<f32>,
    reply: SyncSender<Result<Array4<f32>>>,
}

impl SharedNetwork {
    /// Starts the thread of `network`; a call takes at most `most` rows.
    ///
    /// # Errors
    /// The system grants no thread.
    pub fn start(network: impl Network, most: usize, on_call: OnCall) -> Result<Self> {
        let (to, from) = mpsc::channel();
        let active = Arc::new(AtomicUsize::new(0));
        let (shape, prediction) = (network.shape(), network.prediction());
        let batcher = Batcher::new(from, active.clone(), network, most, on_call);
        let thread = thread::Builder::new().name("skipstone-model".to_owned()).spawn(move || batcher.run());
        thread.map_err(|e| Error::io("the model's thread", e))?;
        Ok(Self { to, shape, prediction, active })
    }

    /// `[channels, height, width]` of an image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The network as one request's denoiser, until `cancel` is set.
    pub fn denoiser(&self, cancel: Cancel) -> SharedDenoiser {
        SharedDenoiser { network: self.clone(), cancel }
    }

    /// Notes that a request has begun its loop. Calls wait a moment for its rows until the result is dropped.
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

    /// Waits until the network has seen every row, or the request is cancelled.
    fn predict(&self, x_t: &Array4<f32>, time: Time, classes: Option<&[usize]>) -> Result<Array4<f32>> {
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        let (reply, answer) = mpsc::sync_channel(1);
        let (out, classes) = (Array4::zeros(x_t.dim()), classes.map(<[usize]>::to_vec));
        let rows = PendingRows { x_t: x_t.clone(), time, classes, cancel: self.cancel.clone(), done: 0, out, reply };
        self.network.to.send(Message::Predict(Box::new(rows))).map_err(|_| broken())?;
        answer.recv().map_err(|_| broken())?
    }

    fn prepare(&self, times: &[Time], classes: Option<&[usize]>) {
        // If the thread has ended, the next prediction reports it.
        let _ = self.network.to.send(Message::Prepare(times.to_vec(), classes.map(<[usize]>::to_vec)));
    }
}

#[cfg(test)]
mod tests;
