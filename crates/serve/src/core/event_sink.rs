//! Sends the events of running work from its thread to the connection.

use std::sync::Arc;

use ndarray::Array4;
use skipstone::math::schedule::Time;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::api::{ComparisonCell, Reconstructed};

/// Bytes of frames that may wait for a reader.
const WAITING: usize = 32 << 20;
/// Most frames that may wait.
const MOST_FRAMES: usize = 1024;

/// An event of running work.
#[derive(Debug)]
pub enum Event {
    /// A step is done.
    Step(Frame),
    /// An image has been encoded and decoded.
    Row(Box<Reconstructed>),
    /// A cell of a comparison is finished.
    Cell(Box<ComparisonCell>),
}

/// The predicted images after a step.
#[derive(Debug)]
pub struct Frame {
    /// Network calls made so far.
    pub call: usize,
    /// The step's timestep.
    pub t: Time,
    /// x̂₀, `[n, c, h, w]`.
    pub x0: Array4<f32>,
    /// Columns of its grid.
    pub columns: usize,
    /// Seconds since the work began.
    pub seconds: f64,
    /// The frame's place in the channel, freed when the frame has been written.
    _place: OwnedSemaphorePermit,
}

/// The receiving end of an [`EventSink`]'s channel. The channel closes when the sink is dropped.
pub type EventReceiver = mpsc::UnboundedReceiver<Event>;

/// The sending end of the channel. Sending never waits: a slow reader misses frames, but no other events.
#[derive(Clone, Debug)]
pub struct EventSink {
    to: mpsc::UnboundedSender<Event>,
    places: Arc<Semaphore>,
}

impl EventSink {
    /// A channel for events with frames of `frame_bytes` each.
    pub fn channel(frame_bytes: usize) -> (Self, EventReceiver) {
        let (to, from) = mpsc::unbounded_channel();
        let places = Arc::new(Semaphore::new((WAITING / frame_bytes.max(1)).clamp(4, MOST_FRAMES)));
        (Self { to, places }, from)
    }

    /// Sends a frame if there is a free place.
    pub fn step(&self, call: usize, t: Time, x0: &Array4<f32>, columns: usize, seconds: f64) {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            self.send(Event::Step(Frame { call, t, x0: x0.clone(), columns, seconds, _place: place }));
        }
    }

    /// Sends a reconstructed image.
    pub fn row(&self, row: Reconstructed) {
        self.send(Event::Row(Box::new(row)));
    }

    /// Sends a cell.
    pub fn cell(&self, cell: ComparisonCell) {
        self.send(Event::Cell(Box::new(cell)));
    }

    fn send(&self, event: Event) {
        // If the reader has gone, the task has been cancelled.
        let _ = self.to.send(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_misses_frames_but_no_rows() {
        let (sink, mut events) = EventSink::channel(WAITING / 4);
        let x0 = Array4::zeros((1, 1, 1, 1));
        for call in 1..=10 {
            sink.step(call, Time::new(1), &x0, 1, 0.0);
        }
        let row =
            || Reconstructed { steps: 1, png: crate::api::Png(vec![]), latent_png: crate::api::Png(vec![]), mse: 0.0 };
        (0..10).for_each(|_| sink.row(row()));
        let calls = |events: &mut EventReceiver| {
            let mut calls = Vec::new();
            while let Ok(Event::Step(frame)) = events.try_recv() {
                calls.push(frame.call);
            }
            calls
        };
        assert_eq!(calls(&mut events), [1, 2, 3, 4]);
        // One row ended the loop above; its frames, now dropped, have made room.
        assert_eq!((0..20).filter(|_| events.try_recv().is_ok()).count(), 9);
        sink.step(11, Time::new(1), &x0, 1, 0.0);
        assert_eq!(calls(&mut events), [11]);
    }
}
