//! Tables of evaluations, like the paper's Table 1: for every combination of steps, noise, spacing and solver, images are
//! drawn, kept and scored.
//!
//! [`Lists`] yields the [`Cell`]s, and [`Work`] does all that follows. [`Samples`] keeps the images of cells under the options
//! that determine them. [`draw`] draws only the missing ones, so no image is drawn twice. [`Judge`] scores images against a
//! [`Reference`], a [`Row`] holds the scores of a cell, [`Results`] the rows of a folder, and [`report`] makes a page of them.

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
mod variance;
mod work;

pub use cell::{Cell, Lists};
pub use draw::{Drawn, draw};
pub use evaluation::{Evaluation, Run};
pub use reference::{RealImages, Reference};
pub use report::report;
pub use results::Results;
pub use row::{Row, are_few};
pub use samples::{Effort, Samples};
pub use score::{Judge, MOST_QUERIES, Scores};
pub use variance::{PixelSums, Repeats, variance_within};
pub use work::{Task, Watcher, Work};
