use serde::Serialize;
use skipstone::Result;
use skipstone::math::schedule::Index;
use skipstone::sampling::options::{DECODE, Description, Kind, Set};
use utoipa::ToSchema;

use super::asked::{ApiRequest, Fields, RequestKind};
use super::list;
use super::png::{Png, Tile};

/// The fields of a request to interpolate.
#[derive(Clone, Debug, PartialEq)]
pub struct InterpolateFields {
    /// Two ends of a line, or four corners of a square; empty where images are uploaded.
    pub seeds: Vec<u64>,
    /// Points of the line, or of each side of the square.
    pub points: usize,
    /// A single point in place of the line or square.
    pub at: Option<Vec<f64>>,
}

impl RequestKind for InterpolateFields {
    const NAME: &'static str = "interpolate";
    const ABOUT: &'static str = "What to interpolate between.";
    const OWN: &'static [Description] = &[
        Description::new("seeds", "A,B[,C,D]", Kind::Wholes { least: 0, lengths: [2, 4] })
            .help("Two ends of a line, or four corners of a square: top left, top right, bottom left, bottom right")
            .such_as("[1, 2]"),
        Description::new("points", "N", Kind::Whole(2))
            .help("Points of the line, or of each side of the square")
            .or("7")
            .such_as("5"),
        Description::new("at", "X[,Y]", Kind::Numbers { most: 1.0, lengths: [1, 2] })
            .help("A single point instead: λ on a line, or column and row in a square, from 0 to 1"),
    ];
    const OPTIONS: Set = DECODE;
    const SUBJECT: Option<&'static str> = Some("seeds");
    const IMAGES: (&'static [usize], &'static str) = (&[2, 4], "two files (a line) or four (a square)");

    fn read(fields: &mut Fields) -> Result<Self> {
        Ok(Self {
            seeds: fields.take("seeds")?.unwrap_or_default(),
            points: fields.take("points")?.unwrap_or(7),
            at: fields.take("at")?,
        })
    }
}

impl ApiRequest<InterpolateFields> {
    /// The command that makes the same picture, between the images in `files` or, without files, between the seeds.
    /// `model` is the model's flag, empty or with a space before it.
    pub fn command(&self, model: &str, files: &[String]) -> String {
        let ends = match files {
            [] => format!("--seeds {}", list(&self.own.seeds)),
            files => format!("--images {}", list(files)),
        };
        let options = self.options.to_flags(DECODE);
        format!("skipstone interpolate{model} {ends} --points {}{options}", self.own.points)
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
    /// The place of an image in a grid.
    pub tile: Tile,
    /// The network index of each step's timestep.
    #[schema(value_type = Vec<f64>)]
    pub times: Vec<Index>,
    /// Network calls for each image, including those that encode the ends.
    pub calls: usize,
    /// The command that makes the same picture; null for a single point.
    pub command: Option<String>,
}

/// Interpolated images.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Interpolation {
    /// The images as a grid, identical to the one that the command line writes.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub png: Png,
    /// Columns of the grid.
    pub columns: usize,
    /// Rows of the grid.
    pub rows: usize,
    /// Every image at its own size, row by row.
    #[schema(value_type = Vec<String>)]
    pub tiles: Vec<Png>,
    /// Network calls for each image, including those that encode the ends.
    pub calls: usize,
    /// Seconds of work, without waiting.
    pub seconds: f64,
    /// The model's id.
    pub model: String,
    /// The command that makes the same picture; null for a single point.
    pub command: Option<String>,
}
