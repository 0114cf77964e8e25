use serde::Serialize;
use skipstone::Result;
use skipstone::sampling::options::{DECODE, Description, NOISE, Request, Set};
use utoipa::ToSchema;

use super::asked::{Asked, Fields, FormOf, MODEL, TEST_IMAGE};
use super::png::Png;

/// What to encode.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodeRequest {
    /// The model's id; the first unless given.
    pub model: Option<String>,
    /// Which of the test images.
    pub test_image: usize,
    /// How.
    pub options: Request,
}

/// The same with a picture of one's own.
pub type EncodeForm = FormOf<EncodeRequest>;

impl Asked for EncodeRequest {
    const NAME: &'static str = "EncodeRequest";
    const ABOUT: &'static str = "What to encode. The predicted image is not clipped unless `clip` says so.";
    const OWN: &'static [Description] = &[MODEL, TEST_IMAGE];
    const OPTIONS: Set = DECODE & !NOISE;
    const SUBJECT: Option<&'static str> = Some(TEST_IMAGE.name);

    fn read(fields: &mut Fields) -> Result<Self> {
        Ok(Self {
            model: fields.take("model")?,
            test_image: fields.take(TEST_IMAGE.name)?.unwrap_or(0),
            options: fields.options(Self::OPTIONS)?,
        })
    }
}

impl EncodeRequest {
    /// The command that does the same; `model` is its flag, empty or beginning with a space.
    pub fn command(&self, model: &str, file: &str) -> String {
        format!("skipstone encode{model} --images {file}{} -o x_T.npy", self.options.to_flags(DECODE))
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
