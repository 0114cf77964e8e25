//! One network, asked by many at once: one thread owns it and takes what waits into one call.
//!
//! Every request runs the library's own loop (`sample`, `encode`, …) on a thread of its own and asks through an
//! [`Asker`], which is a [`Denoiser`] like any other. Requests need not agree in anything: a row of a call has its own
//! time and class, and its result depends on nothing else. So a request joins at the next call, leaves at the next
//! call, and gets the bytes it would have got alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use ndarray::{Array4, Axis, Slice};
use skipstone::denoiser::{Denoiser, Prediction};
use skipstone::schedule::Time;
use skipstone::{Error, Kind, Result};

use super::cancel::Cancel;
use super::deal::deal;

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
        let hall = Hall { from, asking: asking.clone(), network, most, on_call, last: Duration::ZERO };
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

/// Where questions wait for the network.
struct Hall<N> {
    from: Receiver<Message>,
    asking: Arc<AtomicUsize>,
    network: N,
    most: usize,
    on_call: OnCall,
    /// How long the last call took.
    last: Duration,
}

impl<N: Network> Hall<N> {
    fn run(mut self) {
        let mut waiting: Vec<Question> = Vec::new();
        while self.gather(&mut waiting) {
            waiting.retain(|question| {
                let stays = !question.cancel.is_cancelled();
                if !stays {
                    let _ = question.reply.send(Err(cancelled()));
                }
                stays
            });
            if !waiting.is_empty() {
                self.call(&mut waiting);
            }
        }
    }

    /// Takes in what has arrived; waits for a first question, and a moment for those of everybody else in the middle
    /// of a loop. False when nobody can ask any more.
    fn gather(&self, waiting: &mut Vec<Question>) -> bool {
        if waiting.is_empty() {
            match self.from.recv() {
                Ok(message) => self.take(message, waiting),
                Err(_) => return false,
            }
        }
        // Between two of its questions a request only adds up a few arrays. Who takes longer joins the next call.
        let patience = (self.last / 8).clamp(Duration::from_micros(100), Duration::from_millis(5));
        let until = Instant::now() + patience;
        while waiting.len() < self.asking.load(Ordering::SeqCst) {
            match self.from.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(message) => self.take(message, waiting),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        while let Ok(message) = self.from.try_recv() {
            self.take(message, waiting);
        }
        true
    }

    fn take(&self, message: Message, waiting: &mut Vec<Question>) {
        match message {
            Message::Ask(question) => waiting.push(*question),
            Message::Prepare(times, classes) => self.network.prepare(&times, classes.as_deref()),
        }
    }

    /// One call of the network with rows of all who wait; answers those whose rows are complete.
    fn call(&mut self, waiting: &mut Vec<Question>) {
        let missing: Vec<usize> = waiting.iter().map(|question| question.x_t.dim().0 - question.done).collect();
        let dealt = deal(&missing, self.most);
        let begun = Instant::now();
        if let Err(error) = self.rows(waiting, &dealt) {
            self.blame(waiting, &dealt, error);
        }
        self.last = begun.elapsed();
        (self.on_call)(dealt.iter().sum(), self.last);
        let mut kept = Vec::with_capacity(waiting.len());
        for question in waiting.drain(..) {
            if question.done < question.x_t.dim().0 {
                kept.push(question);
            } else {
                // Nobody listens where the request has been dropped.
                let _ = question.reply.send(Ok(question.out));
            }
        }
        // Who was served waits behind who was not.
        kept.sort_by_key(|question| question.done > 0);
        *waiting = kept;
    }

    /// Runs the network on the first `dealt[i]` missing rows of question i.
    fn rows(&self, waiting: &mut [Question], dealt: &[usize]) -> Result<()> {
        let n: usize = dealt.iter().sum();
        let [c, h, w] = self.network.shape();
        let mut x_t = Array4::zeros((n, c, h, w));
        let (mut times, mut classes, mut at) = (Vec::with_capacity(n), None, 0);
        for (question, &rows) in waiting.iter().zip(dealt) {
            let part = question.done..question.done + rows;
            x_t.slice_axis_mut(Axis(0), Slice::from(at..at + rows))
                .assign(&question.x_t.slice_axis(Axis(0), Slice::from(part.clone())));
            times.extend(std::iter::repeat_n(question.time, rows));
            if let Some(of) = &question.classes {
                classes.get_or_insert_with(Vec::new).extend_from_slice(&of[part]);
            }
            at += rows;
        }
        let network = AssertUnwindSafe(&self.network);
        let out = catch_unwind(|| network.forward(&x_t, &times, classes.as_deref()));
        let out = out.unwrap_or_else(|_| Err(Error::new(Kind::Io, "the network's call panicked")))?;
        let mut at = 0;
        for (question, &rows) in waiting.iter_mut().zip(dealt) {
            let part = question.done..question.done + rows;
            question
                .out
                .slice_axis_mut(Axis(0), Slice::from(part))
                .assign(&out.slice_axis(Axis(0), Slice::from(at..at + rows)));
            (question.done, at) = (question.done + rows, at + rows);
        }
        Ok(())
    }

    /// A call failed: each question is asked alone, so that the error meets the one that caused it.
    fn blame(&self, waiting: &mut Vec<Question>, dealt: &[usize], error: Error) {
        let alone = dealt.iter().filter(|&&rows| rows > 0).count() == 1;
        let mut first = Some(error);
        let mut i = 0;
        waiting.retain_mut(|question| {
            let rows = dealt[i];
            i += 1;
            if rows == 0 {
                return true;
            }
            let error = if alone { first.take() } else { self.rows(std::slice::from_mut(question), &[rows]).err() };
            match error {
                None => true,
                Some(error) => {
                    let _ = question.reply.send(Err(error));
                    false
                }
            }
        });
    }
}

#[cfg(test)]
mod tests;
