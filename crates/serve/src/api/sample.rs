use serde::Serialize;
use skipstone::Result;
use skipstone::math::schedule::Index;
use skipstone::sampling::options::{Description, Kind, Request, SAMPLE, Set};
use utoipa::ToSchema;

use super::asked::{Asked, Fields, MODEL};
use super::png::Png;

/// What to sample. Every field may be left out; the same fields mean the same pixels, always.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleRequest {
    /// The model's id; the first unless given.
    pub model: Option<String>,
    /// Number of images.
    pub n: usize,
    /// Index of the first image.
    pub first: u64,
    /// How.
    pub options: Request,
}

impl Asked for SampleRequest {
    const NAME: &'static str = "SampleRequest";
    const ABOUT: &'static str =
        "What to sample. Every field may be left out; the same fields mean the same pixels, always.";
    const OWN: &'static [Description] = &[
        MODEL,
        Description::new("n", "N", Kind::Whole(1)).help("Number of images").or("16").such_as("4"),
        Description::new("first", "I", Kind::Whole(0))
            .help("Index of the first image; image i depends on the options, the seed and i alone")
            .or("0"),
    ];
    const OPTIONS: Set = SAMPLE;

    fn read(fields: &mut Fields) -> Result<Self> {
        Ok(Self {
            model: fields.take("model")?,
            n: fields.take("n")?.unwrap_or(16),
            first: fields.take("first")?.unwrap_or(0),
            options: fields.options(Self::OPTIONS)?,
        })
    }
}

impl SampleRequest {
    /// The command that makes the same picture; `model` is its flag, empty or beginning with a space.
    pub fn command(&self, model: &str) -> String {
        let first = if self.first == 0 { String::new() } else { format!(" --first {}", self.first) };
        format!("skipstone sample{model} -n {}{}{first}", self.n, self.options.to_flags(SAMPLE))
    }
}

/// Images made.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Sample {
    /// The task's name.
    pub id: String,
    /// The grid that the command line writes, pixel for pixel.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub png: Png,
    /// Columns of the grid.
    pub columns: usize,
    /// Number of images.
    pub n: usize,
    /// Network calls for each image.
    pub calls: usize,
    /// Seconds at work, without waiting.
    pub seconds: f64,
    /// What a call for every trained time would have taken at the same pace: DDPM.
    pub ddpm_seconds: f64,
    /// The index of each network call's time.
    #[schema(value_type = Vec<f64>)]
    pub times: Vec<Index>,
    /// The model's id.
    pub model: String,
    /// The command that makes the same picture.
    pub command: String,
}
