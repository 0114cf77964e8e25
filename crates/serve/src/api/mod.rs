//! What goes over the wire: requests, answers, events.

mod answer;
mod asked;
mod command;
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

pub use answer::Answer;
pub use asked::{Asked, of_json, of_text};
pub use compare::{Cell, ComparePlan, CompareRequest, Comparison};
pub use encode::{EncodeForm, EncodeRequest, Encoded};
pub use error::{ErrorBody, ErrorInfo};
pub use events::{
    CompareEvent, InterpolateEvent, Plan, PlanEvent, PlanRow, QueuedEvent, ReconstructEvent, SampleEvent, StepEvent,
};
pub use interpolate::{InterpolateForm, InterpolatePlan, InterpolateRequest, Interpolation};
pub use job::{Accepted, Job, JobRequest};
pub use limits::Limits;
pub use models::{Defaults, ModelInfo, Models, OptionInfo, TestImages};
pub use png::{Png, Tile, base64, grid_png, image_png};
pub use reconstruct::{ReconstructForm, ReconstructPlan, ReconstructRequest, Reconstructed, Reconstruction};
pub use sample::{Sample, SampleRequest};
