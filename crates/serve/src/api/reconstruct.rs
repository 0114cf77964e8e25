use serde::Serialize;
use skipstone::Result;
use skipstone::sampling::options::{DECODE, Description, Kind, NOISE, STEPS, Set, TIMES};
use utoipa::ToSchema;

use super::asked::{ApiRequest, Fields, RequestKind, TEST_IMAGE};
use super::encode::EncodeFields;
use super::list;
use super::png::Png;

/// The fields of a request to reconstruct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReconstructFields {
    /// Numbers of steps.
    pub steps: Option<Vec<usize>>,
}

impl RequestKind for ReconstructFields {
    const NAME: &'static str = "reconstruct";
    const ABOUT: &'static str = "What to encode and decode, once with each number of steps. Predicted images are not \
                                 clipped unless `clip` says so.";
    const OWN: &'static [Description] = &[
        TEST_IMAGE,
        Description::new("steps", "S,…", Kind::Wholes { least: 1, lengths: [1, 12] })
            .help("Numbers of steps")
            .or("10,20,50,100, up to the model's T")
            .such_as("[5, 10]"),
    ];
    const OPTIONS: Set = DECODE & !(STEPS | TIMES | NOISE);
    const SUBJECT: Option<&'static str> = Some(TEST_IMAGE.name);
    const IMAGES: (&'static [usize], &'static str) = EncodeFields::IMAGES;

    fn read(fields: &mut Fields) -> Result<Self> {
        Ok(Self { steps: fields.take("steps")? })
    }
}

impl ApiRequest<ReconstructFields> {
    /// The numbers of steps, for a model trained with `trained` timesteps.
    pub fn steps(&self, trained: usize) -> Vec<usize> {
        let default = || [10, 20, 50, 100].into_iter().filter(|&steps| steps <= trained).collect();
        self.own.steps.clone().unwrap_or_else(default)
    }

    /// The command that measures the same. `model` is the model's flag, empty or with a space before it.
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
