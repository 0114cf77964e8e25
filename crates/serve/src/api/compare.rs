use serde::Serialize;
use skipstone::Result;
use skipstone::sampling::options::{Description, Kind, NOISE, Noise, Request, SAMPLE, STEPS, Set, TIMES};
use utoipa::ToSchema;

use super::asked::{Asked, Fields, MODEL};
use super::png::{Png, Tile};
use super::sample::SampleRequest;

/// The same latents under every number of steps and every η.
#[derive(Clone, Debug, PartialEq)]
pub struct CompareRequest {
    /// The model's id; the first unless given.
    pub model: Option<String>,
    /// Numbers of steps.
    pub steps: Vec<usize>,
    /// η of each column.
    pub etas: Vec<f64>,
    /// Images of a cell.
    pub n: usize,
    /// What all cells share.
    pub options: Request,
}

impl Asked for CompareRequest {
    const NAME: &'static str = "CompareRequest";
    const ABOUT: &'static str =
        "The same latents under every number of steps and every η. In an address, lists are written `5,10,20`.";
    const OWN: &'static [Description] = &[
        MODEL,
        Description::new("steps", "S,…", Kind::Wholes([1, 64]))
            .help("Numbers of steps")
            .or("5,10,20,50")
            .such_as("[5, 10]"),
        Description::new("eta", "ETA,…", Kind::Numbers([1, 64]))
            .help("η of each column")
            .or("0,0.5,1")
            .such_as("[0.0, 1.0]"),
        Description::new("n", "N", Kind::Whole(1)).help("Images of a cell").or("4").such_as("1"),
    ];
    const OPTIONS: Set = SAMPLE & !(STEPS | TIMES | NOISE);

    fn read(fields: &mut Fields) -> Result<Self> {
        Ok(Self {
            model: fields.take("model")?,
            steps: fields.take("steps")?.unwrap_or_else(|| vec![5, 10, 20, 50]),
            etas: fields.take("eta")?.unwrap_or_else(|| vec![0.0, 0.5, 1.0]),
            n: fields.take("n")?.unwrap_or(4),
            options: fields.options(Self::OPTIONS)?,
        })
    }
}

impl CompareRequest {
    /// What a cell asks for.
    ///
    /// # Errors
    /// An η that is none.
    pub fn sample(&self, steps: usize, eta: f64) -> Result<SampleRequest> {
        let options = Request { steps: Some(steps), noise: Noise::eta(eta)?, ..self.options.clone() };
        Ok(SampleRequest { model: self.model.clone(), n: self.n, first: 0, options })
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
    /// Columns of the grid of a cell.
    pub columns: usize,
    /// Where an image lies in a grid.
    pub tile: Tile,
    /// Network calls in all, for each image.
    pub calls: usize,
}

/// All cells.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Comparison {
    /// Row by row: for each number of steps, each η. In a stream's `done` none: they have been sent.
    pub cells: Vec<Cell>,
    /// Columns of the grid of a cell.
    pub columns: usize,
    /// Images of a cell.
    pub n: usize,
    /// Network calls in all, for each image.
    pub calls: usize,
    /// The model's id.
    pub model: String,
    /// Seconds at work, without waiting.
    pub seconds: f64,
}

/// The images of one number of steps and one η; event `cell` of a stream.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Cell {
    /// Number of steps.
    pub steps: usize,
    /// η.
    pub eta: f64,
    /// The grid that the command line writes, pixel for pixel.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub png: Png,
    /// Network calls for each image.
    pub calls: usize,
    /// Seconds at work.
    pub seconds: f64,
    /// The command that makes the same picture.
    pub command: String,
}
