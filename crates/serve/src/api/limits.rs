use serde::Serialize;
use utoipa::ToSchema;

/// What one request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Limits {
    /// Images of one request (points of a line or a square, cells times images of a comparison).
    #[schema(example = 64)]
    pub n: usize,
    /// Steps of one run.
    #[schema(example = 1000)]
    pub steps: usize,
    /// Pixels, width times height: of an uploaded picture, and of all images of one request together.
    #[schema(example = 16_777_216)]
    pub pixels: u64,
    /// Bytes of an upload.
    #[schema(example = 8_388_608)]
    pub upload_bytes: usize,
    /// Requests that may wait for one model.
    #[schema(example = 64)]
    pub queue: usize,
    /// Images times network calls up to which an answer comes at once; above, it is a job.
    #[schema(example = 2048)]
    pub sync: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { n: 64, steps: 1000, pixels: 1 << 24, upload_bytes: 8 << 20, queue: 64, sync: 2048 }
    }
}
