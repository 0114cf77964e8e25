use serde::Serialize;
use skipstone::Result;
use skipstone::math::schedule::Index;
use skipstone::sampling::options::{Description, Kind, SAMPLE, Set};
use utoipa::ToSchema;

use super::asked::{ApiRequest, Fields, RequestKind};
use super::png::Png;

/// The fields of a request to sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleFields {
    /// Number of images; `None` leaves it to the service.
    pub n: Option<usize>,
    /// Index of the first image.
    pub first: u64,
}

impl RequestKind for SampleFields {
    const NAME: &'static str = "sample";
    const ABOUT: &'static str =
        "What to sample. Every field is optional. The same request always gives the same pixels.";
    const OWN: &'static [Description] = &[
        Description::new("n", "N", Kind::Whole(1))
            .help("Number of images")
            .or("16, or the service's limit if that is less")
            .such_as("4"),
        Description::new("first", "I", Kind::Whole(0))
            .help("Index of the first image; image i depends only on the options, the seed and i")
            .or("0"),
    ];
    const OPTIONS: Set = SAMPLE;

    fn read(fields: &mut Fields) -> Result<Self> {
        Ok(Self { n: fields.take("n")?, first: fields.take("first")?.unwrap_or(0) })
    }
}

impl ApiRequest<SampleFields> {
    /// The command that makes the same picture of `n` images. `model` is the flag, empty or with a space before it.
    pub fn command(&self, model: &str, n: usize) -> String {
        let first = if self.own.first == 0 { String::new() } else { format!(" --first {}", self.own.first) };
        format!("skipstone sample{model} -n {n}{}{first}", self.options.to_flags(SAMPLE))
    }
}

/// Sampled images.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Sample {
    /// The task's id.
    pub id: String,
    /// The images as a grid, identical to the one that the command line writes.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub png: Png,
    /// Columns of the grid.
    pub columns: usize,
    /// Number of images.
    pub n: usize,
    /// Network calls for each image.
    pub calls: usize,
    /// Seconds of work, without waiting.
    pub seconds: f64,
    /// Estimated seconds for DDPM, with a network call for each training timestep.
    pub ddpm_seconds: f64,
    /// The network index of each call's timestep.
    #[schema(value_type = Vec<f64>)]
    pub times: Vec<Index>,
    /// The model's id.
    pub model: String,
    /// The command that makes the same picture.
    pub command: String,
    /// What a person should know about the run, such as that a distilled model has not learnt its times; null if there is
    /// nothing.
    pub note: Option<String>,
}
