use serde::Serialize;
use skipstone::io::image::near_square;
use skipstone::math::schedule::Index;
use skipstone::sampling::generate::Generator;
use utoipa::ToSchema;

use super::compare::{ComparePlan, Comparison, ComparisonCell};
use super::error::ErrorBody;
use super::interpolate::{InterpolatePlan, Interpolation};
use super::png::{Png, Tile};
use super::reconstruct::{ReconstructPlan, Reconstructed, Reconstruction};
use super::sample::Sample;

/// The first event of a stream: what will be done.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Plan {
    /// For sampling.
    Sample(PlanEvent),
    /// For interpolation.
    Interpolate(InterpolatePlan),
    /// For encoding and decoding.
    Reconstruct(ReconstructPlan),
    /// For a comparison.
    Compare(ComparePlan),
}

/// Event `plan` of sampling.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PlanEvent {
    /// The network index of each step's timestep.
    #[schema(value_type = Vec<f64>)]
    pub times: Vec<Index>,
    /// The steps with their coefficients.
    pub rows: Vec<PlanRow>,
    /// Network calls for each image.
    pub calls: usize,
    /// The command that makes the same picture.
    pub command: String,
    /// What a person should know about the run before it begins, such as that a distilled model has not learnt its times; null
    /// if there is nothing.
    pub note: Option<String>,
    /// Columns of every grid.
    pub columns: usize,
    /// Number of images.
    pub n: usize,
    /// The place of an image in a grid.
    pub tile: Tile,
}

/// A step t → s: x_s = x0·x̂₀ + eps·ε̂ + z·z.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct PlanRow {
    /// Network index of t.
    #[schema(value_type = Option<f64>)]
    pub t: Option<Index>,
    /// Network index of s; null for clean data.
    #[schema(value_type = Option<f64>)]
    pub s: Option<Index>,
    /// a_t, the paper's α_t.
    pub alpha_t: f64,
    /// a_s.
    pub alpha_s: f64,
    /// σ in the direction term √(1 − a_s − σ²).
    pub sigma: f64,
    /// Coefficient of x̂₀.
    pub x0: f64,
    /// Coefficient of ε̂.
    pub eps: f64,
    /// Coefficient of fresh noise.
    pub z: f64,
}

impl PlanEvent {
    /// The plan of `n` images; `command` makes the same picture.
    pub fn of(generator: &Generator, n: usize, command: &str) -> Self {
        let row = |step: &skipstone::math::sigma::Step| PlanRow {
            t: step.t.index(),
            s: step.s.index(),
            alpha_t: step.from.alpha_bar,
            alpha_s: step.to.alpha_bar,
            sigma: step.sigma,
            x0: step.coefficients.x0,
            eps: step.coefficients.eps,
            z: step.coefficients.z,
        };
        Self {
            times: generator.settings().times.clone(),
            rows: generator.plan().steps().iter().map(row).collect(),
            calls: generator.evaluations(),
            command: command.to_owned(),
            note: generator.note().map(str::to_owned),
            columns: near_square(n),
            n,
            tile: Tile::of(generator.shape()),
        }
    }
}

/// Event `queued`, sent once a second while other requests come first.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct QueuedEvent {
    /// How many requests come first.
    pub position: usize,
}

/// Event `step`: the predicted images.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StepEvent {
    /// Network calls made so far.
    pub call: usize,
    /// Network calls in total.
    pub of: usize,
    /// Network index of the step's timestep.
    #[schema(value_type = Option<f64>)]
    pub t: Option<Index>,
    /// x̂₀ of every image as a grid.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub png: Png,
    /// Seconds since the work began.
    pub seconds: f64,
}

/// Declares the events of streams: plan, what there is to see, answer.
macro_rules! events {
    ($($name:ident: $plan:ident, $(#[$about:meta])* $seen:ident($data:ident), $answer:ident;)*) => {$(
        /// An event of a stream: `event` is its `event:` line, `data` the JSON of its `data:` line. An empty line ends an
        /// event; a line that begins with a colon is a comment. A slow reader misses `step` events, and no others.
        #[derive(Debug, ToSchema)]
        #[serde(tag = "event", content = "data", rename_all = "lowercase")]
        pub enum $name {
            /// What will be done; comes first.
            Plan($plan),
            /// Other requests come first; sent once a second.
            Queued(QueuedEvent),
            $(#[$about])*
            $seen($data),
            /// The answer; comes last. Cells are left out, because they have been sent.
            Done($answer),
            /// The work failed; comes last.
            Error(ErrorBody),
        }
    )*};
}

events! {
    SampleEvent: PlanEvent,
    /// A step was made.
    Step(StepEvent), Sample;

    InterpolateEvent: InterpolatePlan,
    /// A step was made.
    Step(StepEvent), Interpolation;

    ReconstructEvent: ReconstructPlan,
    /// The image was decoded with one number of steps.
    Row(Reconstructed), Reconstruction;

    CompareEvent: ComparePlan,
    /// A cell is finished.
    Cell(ComparisonCell), Comparison;
}
