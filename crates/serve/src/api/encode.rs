use serde::{Deserialize, Serialize};
use skipstone::Result;
use skipstone::generate::Request;
use utoipa::ToSchema;

use super::command::flag;
use super::inversion::unclipped;
use super::png::Png;

/// Default number of steps.
const STEPS: usize = 50;

/// What to encode. The predicted image is not clipped.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EncodeRequest {
    /// The model's id; the first of `/v1/models` unless given.
    pub model: Option<String>,
    /// Which of the test images; see `/v1/test-images`.
    #[schema(example = 0)]
    pub test_image: usize,
    /// Steps S; 50.
    #[schema(minimum = 1, example = 10)]
    pub steps: Option<usize>,
    /// Which S of the model's times; the model's own, else linear.
    pub spacing: Option<String>,
    /// Class of the image, for a class-conditional model.
    pub class: Option<usize>,
}

/// The same with a picture of one's own.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EncodeForm {
    /// The model's id.
    #[schema(nullable = false)]
    pub model: Option<String>,
    /// A PNG, JPEG or WebP file; cropped and resized to the model's size.
    #[schema(value_type = String, format = Binary)]
    pub image: Vec<u8>,
    /// Steps S; 50.
    #[schema(nullable = false, minimum = 1)]
    pub steps: Option<usize>,
    /// Which S of the model's times; the model's own, else linear.
    #[schema(nullable = false)]
    pub spacing: Option<String>,
    /// Class of the image, for a class-conditional model.
    #[schema(nullable = false)]
    pub class: Option<usize>,
}

impl EncodeRequest {
    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.steps.unwrap_or(STEPS)
    }

    /// The library's request.
    ///
    /// # Errors
    /// `spacing` names none.
    pub fn request(&self) -> Result<Request> {
        unclipped(self.steps(), self.spacing.as_deref(), self.class)
    }

    /// The command that does the same; `model` is its flag, empty or beginning with a space.
    pub fn command(&self, model: &str, file: &str) -> String {
        let (spacing, class) = (flag("spacing", self.spacing.as_ref()), flag("class", self.class));
        format!("skipstone encode{model} --images {file} --steps {}{spacing}{class} -o x_T.npy", self.steps())
    }
}

/// The latent of an image.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Encoded {
    /// A `.npy` file, float32 `[1, channels, height, width]`: what `skipstone sample --latents` takes.
    #[schema(content_encoding = "base64")]
    pub latent: String,
    /// The image as the model sees it.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub png: Png,
    /// Network calls.
    pub calls: usize,
    /// Seconds at work, without waiting.
    pub seconds: f64,
    /// The command that does the same with the picture in a file.
    pub command: String,
}
