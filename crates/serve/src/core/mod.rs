//! The service without HTTP: shared networks, bounded queues, tasks, kept results.

mod blocking_pool;
mod cancel;
mod cancel_on_drop;
mod event_sink;
mod failure;
mod fair_shares;
mod ids;
mod input_images;
mod jobs;
mod metrics;
mod model_info;
mod names;
mod network;
mod optimal_times;
mod served_model;
mod task;
mod worker;

pub use blocking_pool::BlockingPool;
pub use cancel::Cancel;
pub use cancel_on_drop::CancelOnDrop;
pub use event_sink::{Event, EventReceiver, EventSink, Frame};
pub use failure::Failure;
pub use ids::Ids;
pub use input_images::InputImages;
pub use jobs::{Jobs, Retention};
pub use metrics::Metrics;
pub use names::{CARRIED, ModelId, name_of, split_name};
pub use network::{ActiveRequest, OnCall, SharedDenoiser, SharedNetwork};
pub use served_model::ServedModel;
pub use task::{Phase, Run, Task, Work};
pub use worker::{OnFinished, Worker};
