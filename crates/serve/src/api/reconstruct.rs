use serde::Serialize;
use skipstone::Result;
use skipstone::sampling::options::{DECODE, Description, Kind, NOISE, Request, STEPS, Set, TIMES};
use utoipa::ToSchema;

use super::asked::{Asked, Fields, FormOf, MODEL, TEST_IMAGE};
use super::command::list;
use super::png::Png;

/// What to encode and decode again, with each number of steps.
#[derive(Clone, Debug, PartialEq)]
pub struct ReconstructRequest {
    /// The model's id; the first unless given.
    pub model: Option<String>,
    /// Which of the test images.
    pub test_image: usize,
    /// Numbers of steps.
    pub steps: Option<Vec<usize>>,
    /// How.
    pub options: Request,
}

/// The same with a picture of one's own.
pub type ReconstructForm = FormOf<ReconstructRequest>;

impl Asked for ReconstructRequest {
    const NAME: &'static str = "ReconstructRequest";
    const ABOUT: &'static str = "What to encode and decode again, with each number of steps. The predicted image is not \
                                 clipped unless `clip` says so.";
    const OWN: &'static [Description] = &[
        MODEL,
        TEST_IMAGE,
        Description::new("steps", "S,…", Kind::Wholes([1, 12]))
            .help("Numbers of steps")
            .or("10,20,50,100, as far as the model was trained")
            .such_as("[5, 10]"),
    ];
    const OPTIONS: Set = DECODE & !(STEPS | TIMES | NOISE);
    const SUBJECT: Option<&'static str> = Some(TEST_IMAGE.name);

    fn read(fields: &mut Fields) -> Result<Self> {
        Ok(Self {
            model: fields.take("model")?,
            test_image: fields.take(TEST_IMAGE.name)?.unwrap_or(0),
            steps: fields.take("steps")?,
            options: fields.options(Self::OPTIONS)?,
        })
    }
}

impl ReconstructRequest {
    /// The numbers of steps, for a model of `trained` times.
    pub fn steps(&self, trained: usize) -> Vec<usize> {
        match &self.steps {
            Some(steps) => steps.clone(),
            None => [10, 20, 50, 100].into_iter().filter(|&steps| steps <= trained).collect(),
        }
    }

    /// The command that measures the same; `model` is its flag, empty or beginning with a space.
    pub fn command(&self, model: &str, steps: &[usize], file: &str) -> String {
        let options = self.options.to_flags(DECODE);
        format!("skipstone reconstruct{model} --images {file} --steps {}{options}", list(steps))
    }
}

/// Event `plan` of a reconstruction.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ReconstructPlan {
    /// The image as the model sees it.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub original: Png,
    /// Numbers of steps; an event `row` will come for each.
    pub steps: Vec<usize>,
    /// Network calls in all.
    pub calls: usize,
    /// The command that measures the same with the picture in a file.
    pub command: String,
}

/// An image and what came back of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Reconstruction {
    /// The image as the model sees it.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub original: Png,
    /// For each number of steps.
    pub rows: Vec<Reconstructed>,
    /// Network calls in all.
    pub calls: usize,
    /// Seconds at work, without waiting.
    pub seconds: f64,
    /// The command that measures the same with the picture in a file.
    pub command: String,
}

/// What came back with one number of steps.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Reconstructed {
    /// The number.
    pub steps: usize,
    /// The image that came back.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub png: Png,
    /// The latent between: −3 is black, 3 is white.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub latent_png: Png,
    /// The paper's Table 2: the mean squared error with values scaled to 0..1.
    pub mse: f64,
}
