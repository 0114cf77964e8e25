//! The thread of a network: takes what waits into one call, and answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ndarray::{Array4, Axis, Slice};
use skipstone::{Error, Kind, Result};

use super::super::deal::deal;
use super::{Message, Network, OnCall, Question, cancelled};

/// Where questions wait for the network.
pub(super) struct Hall<N> {
    from: Receiver<Message>,
    asking: Arc<AtomicUsize>,
    network: N,
    most: usize,
    on_call: OnCall,
    /// How long the last call took.
    last: Duration,
}

impl<N: Network> Hall<N> {
    /// Before the first question; a call takes at most `most` rows.
    pub(super) fn new(
        from: Receiver<Message>,
        asking: Arc<AtomicUsize>,
        network: N,
        most: usize,
        on_call: OnCall,
    ) -> Self {
        Self { from, asking, network, most, on_call, last: Duration::ZERO }
    }

    /// Answers until nobody can ask any more.
    pub(super) fn run(mut self) {
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
