use ndarray::Array4;
use skipstone::schedule::Time;
use tokio::sync::mpsc;

/// What the network takes the images for, after a step.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Network calls made so far.
    pub call: usize,
    /// The step's time.
    pub t: Time,
    /// x̂₀, `[n, c, h, w]`.
    pub x0: Array4<f32>,
    /// Seconds since the work began.
    pub seconds: f64,
}

/// Where frames go. Whoever reads too slowly misses frames; the work never waits.
#[derive(Clone, Debug)]
pub struct Frames(mpsc::Sender<Frame>);

/// Bytes of frames that may wait for a reader.
const WAITING: usize = 32 << 20;

impl Frames {
    /// A way for frames of `bytes` each, and its end.
    pub fn channel(bytes: usize) -> (Self, mpsc::Receiver<Frame>) {
        let (to, from) = mpsc::channel((WAITING / bytes.max(1)).clamp(4, 1024));
        (Self(to), from)
    }

    /// Shows a frame.
    pub fn show(&self, frame: impl FnOnce() -> Frame) {
        if let Ok(place) = self.0.try_reserve() {
            place.send(frame());
        }
    }
}
