//! What a reader sees of work under way.

use std::sync::Arc;

use ndarray::Array4;
use serde::Serialize;
use skipstone::schedule::Time;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use utoipa::ToSchema;

use crate::api::{Cell, ComparePlan, InterpolatePlan, PlanEvent, ReconstructPlan, Reconstructed};

/// Bytes of frames that may wait for a reader.
const WAITING: usize = 32 << 20;
/// Most frames that may wait.
const MOST_FRAMES: usize = 1024;

/// What will be done: a stream's first event.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Plan {
    /// Of sampling.
    Sample(PlanEvent),
    /// Of interpolating.
    Interpolate(InterpolatePlan),
    /// Of encoding and decoding.
    Reconstruct(ReconstructPlan),
    /// Of comparing.
    Compare(ComparePlan),
}

/// Something to see.
#[derive(Debug)]
pub enum News {
    /// What the network takes the images for.
    Step(Frame),
    /// An image that came back.
    Row(Box<Reconstructed>),
    /// A cell of a comparison.
    Cell(Box<Cell>),
}

/// What the network takes the images for, after a step.
#[derive(Debug)]
pub struct Frame {
    /// Network calls made so far.
    pub call: usize,
    /// The step's time.
    pub t: Time,
    /// x̂₀, `[n, c, h, w]`.
    pub x0: Array4<f32>,
    /// Columns of its grid.
    pub columns: usize,
    /// Seconds since the work began.
    pub seconds: f64,
    /// Free again when the frame has been told.
    _place: OwnedSemaphorePermit,
}

/// The way to a reader. Whoever reads too slowly misses frames, and nothing else; the work never waits.
#[derive(Clone, Debug)]
pub struct Show {
    to: mpsc::UnboundedSender<News>,
    places: Arc<Semaphore>,
}

impl Show {
    /// A way for frames of `bytes` each and whatever else there is to see, and its end.
    pub fn channel(bytes: usize) -> (Self, mpsc::UnboundedReceiver<News>) {
        let (to, from) = mpsc::unbounded_channel();
        let places = Arc::new(Semaphore::new((WAITING / bytes.max(1)).clamp(4, MOST_FRAMES)));
        (Self { to, places }, from)
    }

    /// Shows a frame, where there is a place for one more.
    pub fn step(&self, call: usize, t: Time, x0: &Array4<f32>, columns: usize, seconds: f64) {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            self.tell(News::Step(Frame { call, t, x0: x0.clone(), columns, seconds, _place: place }));
        }
    }

    /// Shows an image that came back.
    pub fn row(&self, row: Reconstructed) {
        self.tell(News::Row(Box::new(row)));
    }

    /// Shows a cell.
    pub fn cell(&self, cell: Cell) {
        self.tell(News::Cell(Box::new(cell)));
    }

    fn tell(&self, news: News) {
        // A reader that has gone has cancelled the task.
        let _ = self.to.send(news);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_misses_frames_but_no_rows() {
        let (show, mut news) = Show::channel(WAITING / 4);
        let x0 = Array4::zeros((1, 1, 1, 1));
        for call in 1..=10 {
            show.step(call, Time::new(1), &x0, 1, 0.0);
        }
        let row =
            || Reconstructed { steps: 1, png: crate::api::Png(vec![]), latent_png: crate::api::Png(vec![]), mse: 0.0 };
        (0..10).for_each(|_| show.row(row()));
        let calls = |news: &mut mpsc::UnboundedReceiver<News>| {
            let mut calls = Vec::new();
            while let Ok(News::Step(frame)) = news.try_recv() {
                calls.push(frame.call);
            }
            calls
        };
        assert_eq!(calls(&mut news), [1, 2, 3, 4]);
        // One row ended the loop above; its frames, now dropped, have made room.
        assert_eq!((0..20).filter(|_| news.try_recv().is_ok()).count(), 9);
        show.step(11, Time::new(1), &x0, 1, 0.0);
        assert_eq!(calls(&mut news), [11]);
    }
}
