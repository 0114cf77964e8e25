use serde::Serialize;
use utoipa::ToSchema;

/// The limits of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Limits {
    /// Images (for an interpolation its points, for a comparison cells times images).
    #[schema(example = 64)]
    pub n: usize,
    /// Steps of a run.
    #[schema(example = 1000)]
    pub steps: usize,
    /// Pixels (width times height) of an uploaded image, and of all images of a request together.
    #[schema(example = 16_777_216)]
    pub pixels: u64,
    /// Bytes of an upload.
    #[schema(example = 8_388_608)]
    pub upload_bytes: usize,
    /// Requests that may wait for one model.
    #[schema(example = 64)]
    pub queue: usize,
    /// Images times network calls that are answered at once. Larger requests become jobs.
    #[schema(example = 2048)]
    pub sync: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { n: 64, steps: 1000, pixels: 1 << 24, upload_bytes: 8 << 20, queue: 64, sync: 2048 }
    }
}
