//! Every kind of request: how it is checked and what it does.

mod compare;
mod context;
mod encode;
mod interpolate;
mod reconstruct;
mod request;
mod sample;
mod task_run;

pub use compare::CompareWork;
pub use context::Context;
pub use encode::EncodeWork;
pub use interpolate::InterpolateWork;
pub use reconstruct::ReconstructWork;
pub use request::{Prepared, SourceImages, WorkRequest, prepare};
pub use sample::SampleWork;
