//! What can be asked for: each kind of work checks a request, then does it.

mod compare;
mod encode;
mod interpolate;
mod reconstruct;
mod run;
mod sample;
mod show;

use serde::Serialize;
use utoipa::ToSchema;

pub use compare::CompareWork;
pub use encode::EncodeWork;
pub use interpolate::{Ends, InterpolateWork};
pub use reconstruct::ReconstructWork;
pub use sample::SampleWork;
pub use show::{Frame, News, Plan, Show};

use crate::api::{Comparison, Encoded, Interpolation, Reconstruction, Sample};
use crate::core::{Failure, Task};

/// Work that has been checked and can begin.
pub trait Work: Send {
    /// Its kind, as metrics call it.
    fn kind(&self) -> &'static str;

    /// Network calls in all.
    fn calls(&self) -> u64;

    /// Images put through the network in all, one for each call.
    fn rows(&self) -> u64;

    /// What will be done, for who watches; `None` where there is nothing to see.
    fn plan(&self) -> Option<Plan> {
        None
    }

    /// Bytes of a frame.
    fn frame_bytes(&self) -> usize {
        1
    }

    /// Shows from now on what becomes of it.
    fn watch(&mut self, show: Show) {
        drop(show);
    }

    /// Does it, on a runner's thread.
    ///
    /// # Errors
    /// Whatever could not be seen before.
    fn run(self: Box<Self>, task: &Task) -> Result<Answer, Failure>;
}

/// What came of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Answer {
    /// Images.
    Sample(Sample),
    /// A latent.
    Encoded(Encoded),
    /// Images encoded and decoded.
    Reconstruction(Reconstruction),
    /// Images between images.
    Interpolation(Interpolation),
    /// The same latents under several options.
    Comparison(Comparison),
}

impl Answer {
    /// Seconds at work, without waiting.
    pub fn seconds(&self) -> f64 {
        match self {
            Self::Sample(answer) => answer.seconds,
            Self::Encoded(answer) => answer.seconds,
            Self::Reconstruction(answer) => answer.seconds,
            Self::Interpolation(answer) => answer.seconds,
            Self::Comparison(answer) => answer.seconds,
        }
    }

    /// Bytes it holds, about.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Sample(answer) => answer.png.0.len() + 4 * answer.times.len(),
            Self::Encoded(answer) => answer.png.0.len() + answer.latent.len(),
            Self::Reconstruction(answer) => {
                answer.original.0.len()
                    + answer.rows.iter().map(|r| r.png.0.len() + r.latent_png.0.len()).sum::<usize>()
            }
            Self::Interpolation(answer) => {
                answer.png.0.len() + answer.tiles.iter().map(|tile| tile.0.len()).sum::<usize>()
            }
            Self::Comparison(answer) => answer.cells.iter().map(|cell| cell.png.0.len()).sum(),
        }
    }
}
