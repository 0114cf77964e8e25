use serde::Serialize;
use skipstone::generate::Generator;
use skipstone::image::{Layout, near_square};
use utoipa::ToSchema;

use super::Png;

/// Event `plan` of sampling.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PlanEvent {
    /// The index of each step's time.
    pub times: Vec<u32>,
    /// The steps with their scalars.
    pub rows: Vec<PlanRow>,
    /// Network calls for each image.
    pub calls: usize,
    /// The command that makes the same picture.
    pub command: String,
    /// Columns of every grid.
    pub columns: usize,
    /// Number of images.
    pub n: usize,
    /// Where an image lies in a grid.
    pub tile: Tile,
}

/// Image i of a grid begins `gutter + (i mod columns)·(width + gutter)` pixels from the left, and so from the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Tile {
    /// Width of an image in the grid.
    pub width: usize,
    /// Its height.
    pub height: usize,
    /// Pixels between images and around them.
    pub gutter: usize,
    /// How many pixels of the grid are one of the image, each way.
    pub scale: usize,
}

impl Tile {
    /// Of a grid of images of this shape.
    pub fn of([_, h, w]: [usize; 3]) -> Self {
        let Layout { gutter, scale, .. } = Layout::magnified(h, w);
        Self { width: w * scale, height: h * scale, gutter: gutter * scale, scale }
    }
}

/// A step t → s: x_s = x0·x̂₀ + eps·ε̂ + z·z.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct PlanRow {
    /// Network index of t.
    pub t: Option<u32>,
    /// Network index of s; null for clean data.
    pub s: Option<u32>,
    /// a_t, the paper's α_t.
    pub alpha_t: f64,
    /// a_s.
    pub alpha_s: f64,
    /// σ under the direction's root.
    pub sigma: f64,
    /// Coefficient of x̂₀.
    pub x0: f64,
    /// Coefficient of ε̂.
    pub eps: f64,
    /// Coefficient of fresh noise.
    pub z: f64,
}

impl PlanEvent {
    /// The plan of `n` images.
    pub fn of(generator: &Generator, n: usize, command: &str) -> Self {
        let row = |step: &skipstone::sigma::Step| PlanRow {
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
            calls: generator.calls() * generator.calls_per_step(),
            command: command.to_owned(),
            columns: near_square(n),
            n,
            tile: Tile::of(generator.shape()),
        }
    }
}

/// Event `queued`: others are before this request. Sent once a second while that is so.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct QueuedEvent {
    /// How many.
    pub position: usize,
}

/// Event `step`: what the network takes the images for.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StepEvent {
    /// Network calls made so far.
    pub call: usize,
    /// Of so many.
    pub of: usize,
    /// Network index of the step's time.
    pub t: Option<u32>,
    /// x̂₀ of every image, as a grid.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub png: Png,
    /// Seconds since the work began.
    pub seconds: f64,
}
