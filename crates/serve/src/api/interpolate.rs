use serde::{Deserialize, Serialize};
use skipstone::Result;
use skipstone::generate::{ClipMode, Request};
use utoipa::ToSchema;

use super::{Png, Tile};

/// Points unless the request says.
const POINTS: usize = 7;
/// Steps unless the request says.
const STEPS: usize = 20;

/// What to interpolate between.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InterpolateRequest {
    /// The model's id; the first of `/v1/models` unless given.
    pub model: Option<String>,
    /// Two ends of a line, or four corners of a square: top left, top right, bottom left, bottom right.
    #[schema(example = json!([1, 2]), min_items = 2, max_items = 4)]
    pub seeds: Vec<u64>,
    /// Points of the line, or of each side; 7.
    #[schema(minimum = 2, example = 5)]
    pub points: Option<usize>,
    /// A single point instead: λ of a line, or column and row of a square, from 0 to 1.
    #[schema(example = json!(null), min_items = 1, max_items = 2)]
    pub at: Option<Vec<f64>>,
    /// Steps S; 20.
    #[schema(minimum = 1, example = 10)]
    pub steps: Option<usize>,
    /// Which S of the model's times; the model's own, else linear.
    pub spacing: Option<String>,
    /// Class of the images, for a class-conditional model.
    pub class: Option<usize>,
    /// Weight of classifier-free guidance; needs `class`.
    pub guidance: Option<f64>,
}

/// The same between two or four pictures of one's own: they are encoded first, so the ends are their reconstructions.
#[derive(Debug, ToSchema)]
pub struct InterpolateForm {
    /// The model's id.
    pub model: Option<String>,
    /// Two or four PNG, JPEG or WebP files.
    #[schema(value_type = Vec<String>, format = Binary)]
    pub image: Vec<Vec<u8>>,
    /// Points of the line, or of each side; 7.
    #[schema(minimum = 2)]
    pub points: Option<usize>,
    /// A single point instead: λ of a line, or column and row of a square, as `0.3,0.5`.
    pub at: Option<String>,
    /// Steps S; 20.
    #[schema(minimum = 1)]
    pub steps: Option<usize>,
    /// Which S of the model's times; the model's own, else linear.
    pub spacing: Option<String>,
    /// Class of the images, for a class-conditional model.
    pub class: Option<usize>,
}

impl InterpolateRequest {
    /// Points of the line, or of each side.
    pub fn points(&self) -> usize {
        self.points.unwrap_or(POINTS)
    }

    /// Number of steps asked for.
    pub fn steps(&self) -> usize {
        self.steps.unwrap_or(STEPS)
    }

    /// What the library is asked for; nothing is clipped where images are encoded.
    ///
    /// # Errors
    /// A name that is none.
    pub fn request(&self, from_images: bool) -> Result<Request> {
        Ok(Request {
            steps: Some(self.steps()),
            spacing: self.spacing.as_deref().map(str::parse).transpose()?,
            clip: from_images.then_some(ClipMode::Off),
            class: self.class,
            guidance: self.guidance,
            ..Request::default()
        })
    }

    /// The command that makes the same picture between `ends`.
    pub fn command(&self, model: &str, ends: &str) -> String {
        let mut command =
            format!("skipstone interpolate{model} {ends} --points {} --steps {}", self.points(), self.steps());
        let mut flag = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                command += &format!(" --{name} {value}");
            }
        };
        flag("spacing", self.spacing.clone());
        flag("class", self.class.map(|class| class.to_string()));
        flag("guidance", self.guidance.map(|weight| weight.to_string()));
        command
    }
}

/// Event `plan` of an interpolation.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct InterpolatePlan {
    /// Columns of the grid.
    pub columns: usize,
    /// Rows of the grid.
    pub rows: usize,
    /// Number of images.
    pub n: usize,
    /// Where an image lies in a grid.
    pub tile: Tile,
    /// The index of each step's time.
    pub times: Vec<u32>,
    /// Network calls for each image; those that encode the ends among them.
    pub calls: usize,
    /// The command that makes the same picture; null for a single point.
    pub command: Option<String>,
}

/// Images between images.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Interpolation {
    /// The grid that the command line writes, pixel for pixel.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub png: Png,
    /// Columns of the grid.
    pub columns: usize,
    /// Rows of the grid.
    pub rows: usize,
    /// Every image at its own size, row by row.
    #[schema(value_type = Vec<String>)]
    pub tiles: Vec<Png>,
    /// Network calls for each image; those that encode the ends among them.
    pub calls: usize,
    /// Seconds at work, without waiting.
    pub seconds: f64,
    /// The model's id.
    pub model: String,
    /// The command that makes the same picture; null for a single point.
    pub command: Option<String>,
}
