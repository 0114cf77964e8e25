use serde::{Deserialize, Serialize};
use skipstone::Result;
use skipstone::generate::{ClipMode, Request};
use utoipa::ToSchema;

use super::Png;

/// Steps unless the request says.
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
pub struct EncodeForm {
    /// The model's id.
    pub model: Option<String>,
    /// A PNG, JPEG or WebP file; cropped and resized to the model's size.
    #[schema(value_type = String, format = Binary)]
    pub image: Vec<u8>,
    /// Steps S; 50.
    #[schema(minimum = 1)]
    pub steps: Option<usize>,
    /// Which S of the model's times; the model's own, else linear.
    pub spacing: Option<String>,
    /// Class of the image, for a class-conditional model.
    pub class: Option<usize>,
}

impl EncodeRequest {
    /// Number of steps asked for.
    pub fn steps(&self) -> usize {
        self.steps.unwrap_or(STEPS)
    }

    /// What the library is asked for.
    ///
    /// # Errors
    /// A name that is none.
    pub fn request(&self) -> Result<Request> {
        Ok(Request {
            steps: Some(self.steps()),
            spacing: self.spacing.as_deref().map(str::parse).transpose()?,
            clip: Some(ClipMode::Off),
            class: self.class,
            ..Request::default()
        })
    }

    /// The command that does the same.
    pub fn command(&self, model: &str, file: &str) -> String {
        let spacing = self.spacing.as_ref().map_or(String::new(), |name| format!(" --spacing {name}"));
        let class = self.class.map_or(String::new(), |class| format!(" --class {class}"));
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
