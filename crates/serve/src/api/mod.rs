//! What goes over the wire: requests, answers, events.

mod asked;
mod compare;
mod encode;
mod image;
mod interpolate;
mod models;
mod reconstruct;
mod sample;
mod stream;

pub use asked::{Asked, of_json, of_text};
pub use compare::{Cell, ComparePlan, CompareRequest, Comparison};
pub use encode::{EncodeForm, EncodeRequest, Encoded};
pub use image::{Png, base64, grid_png, image_png};
pub use interpolate::{InterpolateForm, InterpolatePlan, InterpolateRequest, Interpolation};
pub use models::{Defaults, ModelInfo, Models, OptionInfo, TestImages};
pub use reconstruct::{ReconstructForm, ReconstructPlan, ReconstructRequest, Reconstructed, Reconstruction};
pub use sample::{Sample, SampleRequest};
pub use stream::{PlanEvent, PlanRow, QueuedEvent, StepEvent, Tile};
