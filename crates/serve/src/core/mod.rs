//! The service without HTTP: one network asked by many, a bounded queue, tasks, kept results.

mod aside;
mod cancel;
mod deal;
mod failure;
mod ids;
mod jobs;
mod network;
mod pictures;
mod served;
mod task;
mod worker;

pub use aside::Aside;
pub use cancel::Cancel;
pub use failure::Failure;
pub use ids::Ids;
pub use jobs::{Jobs, Keep};
pub use network::{Asker, Inside, Network, OnCall, SharedNetwork};
pub use pictures::Pictures;
pub use served::{Capacity, Served, name_of, quoted};
pub use task::{Phase, Task};
pub use worker::{OnOver, Refusal, Worker};
