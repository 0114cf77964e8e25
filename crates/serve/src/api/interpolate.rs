use serde::{Deserialize, Serialize};
use skipstone::Result;
use skipstone::generate::Request;
use skipstone::schedule::Index;
use utoipa::ToSchema;

use super::command::{flag, list};
use super::inversion::unclipped;
use super::png::{Png, Tile};

/// Default number of points.
const POINTS: usize = 7;
/// Default number of steps.
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
#[serde(deny_unknown_fields)]
pub struct InterpolateForm {
    /// The model's id.
    #[schema(nullable = false)]
    pub model: Option<String>,
    /// Two or four PNG, JPEG or WebP files.
    #[schema(value_type = Vec<String>, format = Binary, min_items = 2, max_items = 4)]
    pub image: Vec<Vec<u8>>,
    /// Points of the line, or of each side; 7.
    #[schema(nullable = false, minimum = 2)]
    pub points: Option<usize>,
    /// A single point instead: λ of a line, or column and row of a square, as `0.3,0.5`.
    #[schema(nullable = false, pattern = "^(0([.][0-9]+)?|1)(,(0([.][0-9]+)?|1))?$")]
    pub at: Option<String>,
    /// Steps S; 20.
    #[schema(nullable = false, minimum = 1)]
    pub steps: Option<usize>,
    /// Which S of the model's times; the model's own, else linear.
    #[schema(nullable = false)]
    pub spacing: Option<String>,
    /// Class of the images, for a class-conditional model.
    #[schema(nullable = false)]
    pub class: Option<usize>,
}

impl InterpolateRequest {
    /// Points of the line, or of each side.
    pub fn points(&self) -> usize {
        self.points.unwrap_or(POINTS)
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.steps.unwrap_or(STEPS)
    }

    /// The library's request; nothing is clipped where images are encoded.
    ///
    /// # Errors
    /// `spacing` names none.
    pub fn request(&self, from_images: bool) -> Result<Request> {
        let request = unclipped(self.steps(), self.spacing.as_deref(), self.class)?;
        Ok(Request { clip: request.clip.filter(|_| from_images), guidance: self.guidance, ..request })
    }

    /// The command that makes the same picture between the seeds, or between the images in `files` where there are any;
    /// `model` is its flag, empty or beginning with a space.
    pub fn command(&self, model: &str, files: &[String]) -> String {
        let ends = match files {
            [] => format!("--seeds {}", list(&self.seeds)),
            files => format!("--images {}", list(files)),
        };
        let (points, steps) = (self.points(), self.steps());
        let (spacing, class) = (flag("spacing", self.spacing.as_ref()), flag("class", self.class));
        let guidance = flag("guidance", self.guidance);
        format!("skipstone interpolate{model} {ends} --points {points} --steps {steps}{spacing}{class}{guidance}")
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
    #[schema(value_type = Vec<f64>)]
    pub times: Vec<Index>,
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
