mod cell;
mod draw;
mod samples;

pub use cell::{Cell, Lists, Noise, Shard};
pub use draw::{Drawn, draw};
pub use samples::{Effort, Samples};
