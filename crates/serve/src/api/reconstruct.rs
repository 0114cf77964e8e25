use serde::{Deserialize, Serialize};
use skipstone::Result;
use skipstone::generate::Request;
use utoipa::ToSchema;

use super::command::{flag, list};
use super::inversion::unclipped;
use super::png::Png;

/// Default numbers of steps, as far as the model was trained.
const STEPS: [usize; 4] = [10, 20, 50, 100];

/// What to encode and decode again, with each number of steps. The predicted image is not clipped.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReconstructRequest {
    /// The model's id; the first of `/v1/models` unless given.
    pub model: Option<String>,
    /// Which of the test images; see `/v1/test-images`.
    #[schema(example = 0)]
    pub test_image: usize,
    /// Numbers of steps; 10, 20, 50, 100.
    #[schema(example = json!([5, 10]), min_items = 1, max_items = 12)]
    pub steps: Option<Vec<usize>>,
    /// Which of the model's times; the model's own, else linear.
    pub spacing: Option<String>,
    /// Class of the image, for a class-conditional model.
    pub class: Option<usize>,
}

/// The same with a picture of one's own.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReconstructForm {
    /// The model's id.
    #[schema(nullable = false)]
    pub model: Option<String>,
    /// A PNG, JPEG or WebP file; cropped and resized to the model's size.
    #[schema(value_type = String, format = Binary)]
    pub image: Vec<u8>,
    /// Numbers of steps, as `10,20,50`.
    #[schema(nullable = false, pattern = "^[1-9][0-9]*(,[1-9][0-9]*)*$")]
    pub steps: Option<String>,
    /// Which of the model's times; the model's own, else linear.
    #[schema(nullable = false)]
    pub spacing: Option<String>,
    /// Class of the image, for a class-conditional model.
    #[schema(nullable = false)]
    pub class: Option<usize>,
}

impl ReconstructRequest {
    /// The numbers of steps, for a model of `trained` times.
    pub fn steps(&self, trained: usize) -> Vec<usize> {
        match &self.steps {
            Some(steps) => steps.clone(),
            None => STEPS.into_iter().filter(|&steps| steps <= trained).collect(),
        }
    }

    /// The library's request for so many steps.
    ///
    /// # Errors
    /// `spacing` names none.
    pub fn request(&self, steps: usize) -> Result<Request> {
        unclipped(steps, self.spacing.as_deref(), self.class)
    }

    /// The command that measures the same; `model` is its flag, empty or beginning with a space.
    pub fn command(&self, model: &str, steps: &[usize], file: &str) -> String {
        let (spacing, class) = (flag("spacing", self.spacing.as_ref()), flag("class", self.class));
        format!("skipstone reconstruct{model} --images {file} --steps {}{spacing}{class}", list(steps))
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
