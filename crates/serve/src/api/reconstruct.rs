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
    /// The original image at the model's size.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub original: Png,
    /// Numbers of steps. Each gets an event `row`.
    pub steps: Vec<usize>,
    /// Network calls in total.
    pub calls: usize,
    /// The command that measures the same with the image in a file.
    pub command: String,
}

/// An image with its reconstructions.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Reconstruction {
    /// The original image at the model's size.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub original: Png,
    /// A reconstruction for each number of steps.
    pub rows: Vec<Reconstructed>,
    /// Network calls in total.
    pub calls: usize,
    /// Seconds of work, without waiting.
    pub seconds: f64,
    /// The command that measures the same with the image in a file.
    pub command: String,
}

/// The reconstruction with one number of steps.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Reconstructed {
    /// Number of steps.
    pub steps: usize,
    /// The reconstructed image.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub png: Png,
    /// The latent; −3 is black, 3 is white.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub latent_png: Png,
    /// Mean squared error of values scaled to 0..1, as in the paper's Table 2.
    pub mse: f64,
}
