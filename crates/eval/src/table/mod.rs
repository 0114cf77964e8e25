//! Tables of evaluations, as the paper's Table 1: for every combination of steps, noise, times and solver, images drawn,
//! kept and scored.
//!
//! [`Lists`] gives the [`Cell`]s. [`Samples`] keeps their images by what determines them and [`draw`] draws those that are
//! missing, so that nothing is ever drawn twice. A [`Reference`] is what they are scored against, a [`Row`] what came out,
//! [`Results`] the rows of a folder, [`report`] one page of all of it.

mod cell;
mod draw;
mod evaluation;
mod pictures;
mod reference;
mod report;
mod results;
mod row;
mod samples;
mod score;
mod shard;
mod variance;

pub use cell::{Cell, Lists};
pub use draw::{Drawn, draw};
pub use evaluation::{Evaluation, Run};
pub use reference::{RealImages, Reference};
pub use report::report;
pub use results::Results;
pub use row::{Row, are_few};
pub use samples::{Effort, Samples};
pub use score::{Judge, MOST_QUERIES, Scores};
pub use shard::Shard;
pub use variance::{PixelSums, Repeats, variance_within};
