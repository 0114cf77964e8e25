//! Tables of evaluations, as the paper's Table 1: for every combination of steps, noise, times and solver, images drawn,
//! kept and scored.
//!
//! [`Lists`] gives the [`Cell`]s. [`Samples`] keeps their images by what determines them and [`draw`] draws those that are
//! missing, so that nothing is ever drawn twice. A [`Reference`] is what they are scored against, a [`Row`] what came out,
//! [`Results`] the rows of a folder, [`report`] one page of all of it.

mod cell;
mod draw;
mod samples;

pub use cell::{Cell, Lists, Noise, Shard};
pub use draw::{Drawn, draw};
pub use samples::{Effort, Samples};
