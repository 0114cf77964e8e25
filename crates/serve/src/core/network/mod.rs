//! One network, asked by many at once: one thread owns it and takes what waits into one call.
//!
//! Every request runs the library's own loop (`sample`, `encode`, …) on a thread of its own and asks through an
//! [`Asker`], which is a [`Denoiser`] like any other. Requests need not agree in anything: a row of a call has its own
//! time and class, and its result depends on nothing else. So a request joins at the next call, leaves at the next
//! call, and gets the bytes it would have got alone.

mod hall;

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
use hall::Hall;

/// What is batched: rows, each with its own time and class.
pub trait Network: Send + 'static {
    /// `[channels, height, width]` of one image.
    fn shape(&self) -> [usize; 3];

    /// What [`forward`](Self::forward) returns.
    fn prediction(&self) -> Prediction;

    /// The prediction for each row of `x_t`, `[n, c, h, w]`, row i at `times[i]` and of class `classes[i]`; a row's
    /// result depends on that row alone.
    ///
    /// # Errors
    /// Whatever the network refuses.
    fn forward(&self, x_t: &Array4<f32>, times: &[Time], classes: Option<&[usize]>) -> Result<Array4<f32>>;

    /// Hears at which times it is about to be asked.
    fn prepare(&self, times: &[Time], classes: Option<&[usize]>) {
        let _ = (times, classes);
    }
}

impl Network for Box<dyn skipstone::engine::Network> {
    fn shape(&self) -> [usize; 3] {
        Denoiser::shape(self)
    }

    fn prediction(&self) -> Prediction {
        Denoiser::prediction(self)
    }

    fn forward(&self, x_t: &Array4<f32>, times: &[Time], classes: Option<&[usize]>) -> Result<Array4<f32>> {
        (**self).forward(x_t, times, classes)
    }

    fn prepare(&self, times: &[Time], classes: Option<&[usize]>) {
        Denoiser::prepare(self, times, classes);
    }
}

/// Hears of every call: its rows, and how long it took.
pub type OnCall = Box<dyn Fn(usize, Duration) + Send>;

/// The way to a network on a thread of its own. The thread ends when the last asker is gone.
#[derive(Clone, Debug)]
pub struct SharedNetwork {
    to: Sender<Message>,
    shape: [usize; 3],
    prediction: Prediction,
    /// Requests in the middle of their loop: so many questions can come together.
    asking: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Message {
    Ask(Box<Question>),
    Prepare(Vec<Time>, Option<Vec<usize>>),
}

#[derive(Debug)]
struct Question {
    x_t: Array4<f32>,
    time: Time,
    classes: Option<Vec<usize>>,
    cancel: Cancel,
    /// Rows answered so far, and their answers.
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
        let asking = Arc::new(AtomicUsize::new(0));
        let (shape, prediction) = (network.shape(), network.prediction());
        let hall = Hall::new(from, asking.clone(), network, most, on_call);
        let thread = thread::Builder::new().name("skipstone-model".to_owned()).spawn(move || hall.run());
        thread.map_err(|e| Error::io("the model's thread", e))?;
        Ok(Self { to, shape, prediction, asking })
    }

    /// `[channels, height, width]` of an image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Somebody who asks, until `cancel` says so.
    pub fn asker(&self, cancel: Cancel) -> Asker {
        Asker { network: self.clone(), cancel }
    }

    /// Says that a request begins its loop: calls wait a moment for its rows as long as this lives.
    pub fn enter(&self) -> Inside {
        self.asking.fetch_add(1, Ordering::SeqCst);
        Inside(self.asking.clone())
    }
}

/// A request in the middle of its loop.
#[derive(Debug)]
pub struct Inside(Arc<AtomicUsize>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The network as one request sees it.
#[derive(Clone, Debug)]
pub struct Asker {
    network: SharedNetwork,
    cancel: Cancel,
}

/// What a request that was cancelled ends with.
fn cancelled() -> Error {
    Error::argument("cancelled")
}

/// The network's thread has gone, or a call panicked: our own bug.
fn broken() -> Error {
    Error::new(Kind::Io, "the network's thread ended")
}

impl Denoiser for Asker {
    fn shape(&self) -> [usize; 3] {
        self.network.shape
    }

    fn prediction(&self) -> Prediction {
        self.network.prediction
    }

    /// Waits until the network has seen every row; ends early where the request is cancelled meanwhile.
    fn predict(&self, x_t: &Array4<f32>, time: Time, classes: Option<&[usize]>) -> Result<Array4<f32>> {
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        let (reply, answer) = mpsc::sync_channel(1);
        let (out, classes) = (Array4::zeros(x_t.dim()), classes.map(<[usize]>::to_vec));
        let question = Question { x_t: x_t.clone(), time, classes, cancel: self.cancel.clone(), done: 0, out, reply };
        self.network.to.send(Message::Ask(Box::new(question))).map_err(|_| broken())?;
        answer.recv().map_err(|_| broken())?
    }

    fn prepare(&self, times: &[Time], classes: Option<&[usize]>) {
        // Whatever is wrong with the thread, the next question will say.
        let _ = self.network.to.send(Message::Prepare(times.to_vec(), classes.map(<[usize]>::to_vec)));
    }
}

#[cfg(test)]
mod tests;
