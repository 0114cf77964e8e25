use serde::Serialize;
use skipstone::Result;
use skipstone::sampling::options::{Description, Kind, NOISE, Noise, PRESET, Request, SAMPLE, STEPS, Set, TIMES};
use utoipa::ToSchema;

use super::asked::{ApiRequest, Fields, RequestKind};
use super::png::{Png, Tile};
use super::sample::SampleFields;

/// The fields of a request to compare.
#[derive(Clone, Debug, PartialEq)]
pub struct CompareFields {
    /// Numbers of steps, one for each row.
    pub steps: Vec<usize>,
    /// η, one for each column.
    pub etas: Vec<f64>,
    /// Images of a cell.
    pub n: usize,
}

impl RequestKind for CompareFields {
    const NAME: &'static str = "compare";
    const ABOUT: &'static str = "Samples the same latents with every number of steps and every η. In an address, lists \
                                 are written `5,10,20`.";
    const OWN: &'static [Description] = &[
        Description::new("steps", "S,…", Kind::Wholes { least: 1, lengths: [1, 64] })
            .help("Numbers of steps, one for each row")
            .or("5,10,20,50")
            .such_as("[5, 10]"),
        Description::new("eta", "ETA,…", Kind::Numbers { most: f64::INFINITY, lengths: [1, 64] })
            .help("η, one for each column")
            .or("0,0.5,1")
            .such_as("[0.0, 1.0]"),
        Description::new("n", "N", Kind::Whole(1)).help("Images of a cell").or("4").such_as("1"),
    ];
    const OPTIONS: Set = SAMPLE & !(PRESET | STEPS | TIMES | NOISE);

    fn read(fields: &mut Fields) -> Result<Self> {
        Ok(Self {
            steps: fields.take("steps")?.unwrap_or_else(|| vec![5, 10, 20, 50]),
            etas: fields.take("eta")?.unwrap_or_else(|| vec![0.0, 0.5, 1.0]),
            n: fields.take("n")?.unwrap_or(4),
        })
    }
}

impl ApiRequest<CompareFields> {
    /// The request to sample the images of a cell.
    ///
    /// # Errors
    /// η is negative or not finite.
    pub fn sample(&self, steps: usize, eta: f64) -> Result<ApiRequest<SampleFields>> {
        let options = Request { steps: Some(steps), noise: Noise::eta(eta)?, ..self.options.clone() };
        let own = SampleFields { n: Some(self.own.n), first: 0 };
        Ok(ApiRequest { model: self.model.clone(), test_image: None, precision: self.precision, options, own })
    }
}

/// Event `plan` of a comparison.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ComparePlan {
    /// Numbers of steps: the rows.
    pub steps: Vec<usize>,
    /// η: the columns.
    pub eta: Vec<f64>,
    /// Images of a cell.
    pub n: usize,
    /// Columns of a cell's grid.
    pub columns: usize,
    /// The place of an image in a grid.
    pub tile: Tile,
    /// Network calls in total, for each image.
    pub calls: usize,
}

/// The cells of a comparison.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Comparison {
    /// Row by row: for each number of steps, every η. Empty in a stream's event `done`, because the cells have been sent.
    pub cells: Vec<ComparisonCell>,
    /// Columns of a cell's grid.
    pub columns: usize,
    /// Images of a cell.
    pub n: usize,
    /// Network calls in total, for each image.
    pub calls: usize,
    /// The model's id.
    pub model: String,
    /// Seconds of work, without waiting.
    pub seconds: f64,
}

/// The images for one number of steps and one η; event `cell` of a stream.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Cell)]
pub struct ComparisonCell {
    /// Number of steps.
    pub steps: usize,
    /// η.
    pub eta: f64,
    /// The images as a grid, identical to the one that the command line writes.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub png: Png,
    /// Network calls for each image.
    pub calls: usize,
    /// Seconds of work.
    pub seconds: f64,
    /// The command that makes the same picture.
    pub command: String,
}
