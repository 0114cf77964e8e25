//! The thread of a network: batches waiting rows into one call and returns their predictions.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ndarray::{Array4, Axis, Slice};
use skipstone::sampling::denoiser::Denoiser;
use skipstone::{Error, Kind, Result};

use super::super::fair_shares::fair_shares;
use super::{Message, OnCall, PendingRows, cancelled};

/// Batches the rows of all requests into calls of one network.
pub(super) struct Batcher<N> {
    from: Receiver<Message>,
    active: Arc<AtomicUsize>,
    network: N,
    most: usize,
    on_call: OnCall,
    /// How long the last call took.
    last_call: Duration,
}

impl<N: Denoiser> Batcher<N> {
    /// A batcher whose calls take at most `most` rows.
    pub(super) fn new(
        from: Receiver<Message>,
        active: Arc<AtomicUsize>,
        network: N,
        most: usize,
        on_call: OnCall,
    ) -> Self {
        Self { from, active, network, most, on_call, last_call: Duration::ZERO }
    }

    /// Runs until no handle to the network is left.
    pub(super) fn run(mut self) {
        let mut waiting: Vec<PendingRows> = Vec::new();
        while self.gather(&mut waiting) {
            waiting.retain(|pending| {
                let stays = !pending.cancel.is_cancelled();
                if !stays {
                    let _ = pending.reply.send(Err(cancelled()));
                }
                stays
            });
            if !waiting.is_empty() {
                self.call(&mut waiting);
            }
        }
    }

    /// Adds arrived rows to `waiting`. Waits for the first rows, then briefly for those of the other active requests.
    /// Returns false when no handle to the network is left.
    fn gather(&self, waiting: &mut Vec<PendingRows>) -> bool {
        if waiting.is_empty() {
            match self.from.recv() {
                Ok(message) => self.take(message, waiting),
                Err(_) => return false,
            }
        }
        // Between two calls, a request only combines a few arrays. A slower request joins the next call.
        let patience = (self.last_call / 8).clamp(Duration::from_micros(100), Duration::from_millis(5));
        let until = Instant::now() + patience;
        while waiting.len() < self.active.load(Ordering::SeqCst) {
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

    fn take(&self, message: Message, waiting: &mut Vec<PendingRows>) {
        match message {
            Message::Predict(rows) => waiting.push(*rows),
            Message::Prepare(times, conditions) => self.network.prepare(&times, &conditions),
        }
    }

    /// Makes one network call with rows of every waiting request, and answers the requests that are complete.
    fn call(&mut self, waiting: &mut Vec<PendingRows>) {
        let missing: Vec<usize> = waiting.iter().map(|pending| pending.x_t.dim().0 - pending.done).collect();
        let shares = fair_shares(&missing, self.most);
        let begun = Instant::now();
        if let Err(error) = self.predict(waiting, &shares) {
            self.retry_alone(waiting, &shares, error);
        }
        self.last_call = begun.elapsed();
        (self.on_call)(shares.iter().sum(), self.last_call);
        let mut kept = Vec::with_capacity(waiting.len());
        for pending in waiting.drain(..) {
            if pending.done < pending.x_t.dim().0 {
                kept.push(pending);
            } else {
                // The request may have been dropped.
                let _ = pending.reply.send(Ok(pending.out));
            }
        }
        // Requests with rows in this call queue behind those without.
        kept.sort_by_key(|pending| pending.done > 0);
        *waiting = kept;
    }

    /// Runs the network on the next `shares[i]` rows of request i.
    fn predict(&self, waiting: &mut [PendingRows], shares: &[usize]) -> Result<()> {
        let n: usize = shares.iter().sum();
        let [c, h, w] = self.network.shape();
        let mut x_t = Array4::zeros((n, c, h, w));
        let (mut times, mut conditions, mut at) = (Vec::with_capacity(n), Vec::with_capacity(n), 0);
        for (pending, &rows) in waiting.iter().zip(shares) {
            let part = pending.done..pending.done + rows;
            x_t.slice_axis_mut(Axis(0), Slice::from(at..at + rows))
                .assign(&pending.x_t.slice_axis(Axis(0), Slice::from(part.clone())));
            times.extend_from_slice(&pending.times[part.clone()]);
            conditions.extend_from_slice(&pending.conditions[part]);
            at += rows;
        }
        let network = AssertUnwindSafe(&self.network);
        let out = catch_unwind(|| network.predict(&x_t, &times, &conditions));
        let out = out.unwrap_or_else(|_| Err(Error::new(Kind::Io, "the network's call panicked")))?;
        let mut at = 0;
        for (pending, &rows) in waiting.iter_mut().zip(shares) {
            let part = pending.done..pending.done + rows;
            pending
                .out
                .slice_axis_mut(Axis(0), Slice::from(part))
                .assign(&out.slice_axis(Axis(0), Slice::from(at..at + rows)));
            (pending.done, at) = (pending.done + rows, at + rows);
        }
        Ok(())
    }

    /// After a failed call, runs each request's rows alone, so that the error reaches the request that caused it.
    fn retry_alone(&self, waiting: &mut Vec<PendingRows>, shares: &[usize], error: Error) {
        let alone = shares.iter().filter(|&&rows| rows > 0).count() == 1;
        let mut first = Some(error);
        let mut i = 0;
        waiting.retain_mut(|pending| {
            let rows = shares[i];
            i += 1;
            if rows == 0 {
                return true;
            }
            let error = if alone { first.take() } else { self.predict(std::slice::from_mut(pending), &[rows]).err() };
            match error {
                None => true,
                Some(error) => {
                    let _ = pending.reply.send(Err(error));
                    false
                }
            }
        });
    }
}
