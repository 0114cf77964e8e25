//! Every kind of request: how it is checked and what it does.

mod compare;
mod context;
mod encode;
mod interpolate;
mod reconstruct;
mod request;
mod sample;
mod task_run;

pub use context::Context;
pub use request::{SourceImages, WorkKind, prepare};
