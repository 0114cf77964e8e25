use serde::Serialize;
use skipstone::Result;
use skipstone::sampling::options::{DECODE, Description, NOISE, Set};
use utoipa::ToSchema;

use super::asked::{ApiRequest, Fields, RequestKind, TEST_IMAGE};
use super::png::Png;

/// The fields of a request to encode: none of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeFields;

impl RequestKind for EncodeFields {
    const NAME: &'static str = "encode";
    const ABOUT: &'static str = "What to encode. Predicted images are not clipped unless `clip` says so.";
    const OWN: &'static [Description] = &[TEST_IMAGE];
    const OPTIONS: Set = DECODE & !NOISE;
    const SUBJECT: Option<&'static str> = Some(TEST_IMAGE.name);
    const IMAGES: (&'static [usize], &'static str) = (&[1], "one file");

    fn read(_: &mut Fields) -> Result<Self> {
        Ok(Self)
    }
}

impl ApiRequest<EncodeFields> {
    /// The command that does the same. `model` is the model's flag, empty or with a space before it.
    pub fn command(&self, model: &str, file: &str) -> String {
        format!("skipstone encode{model} --images {file}{} -o x_T.npy", self.options.to_flags(DECODE))
    }
}

/// The latent of an image.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Encoded {
    /// A `.npy` file for `skipstone sample --latents`: float32, `[1, channels, height, width]`.
    #[schema(content_encoding = "base64")]
    pub latent: String,
    /// The original image at the model's size.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub png: Png,
    /// Network calls.
    pub calls: usize,
    /// Seconds of work, without waiting.
    pub seconds: f64,
    /// The command that does the same with the image in a file.
    pub command: String,
}
