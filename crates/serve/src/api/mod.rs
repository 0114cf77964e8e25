//! What goes over the wire: requests, answers, events.

mod answer;
mod asked;
mod compare;
mod encode;
mod error;
mod events;
mod interpolate;
mod job;
mod limits;
mod models;
mod png;
mod reconstruct;
mod sample;
mod schema;

pub use answer::Answer;
pub use asked::{ApiRequest, Fields, RequestKind};
pub use compare::{CompareFields, ComparePlan, Comparison, ComparisonCell};
pub use encode::{EncodeFields, Encoded};
pub use error::{ErrorBody, ErrorInfo};
pub use events::{
    CompareEvent, InterpolateEvent, Plan, PlanEvent, PlanRow, QueuedEvent, ReconstructEvent, SampleEvent, StepEvent,
};
pub use interpolate::{InterpolateFields, InterpolatePlan, Interpolation};
pub use job::{Accepted, Job};
pub use limits::Limits;
pub use models::{Defaults, ModelInfo, Models, OptionInfo, TestImages};
pub use png::{Png, Tile, base64, grid_png, image_png};
pub use reconstruct::{ReconstructFields, ReconstructPlan, Reconstructed, Reconstruction};
pub use sample::{Sample, SampleFields};
pub use schema::{FormOf, JobRequest, parameters, part};

/// Values separated by commas, as flags take them.
fn list(values: &[impl ToString]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
