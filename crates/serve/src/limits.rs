use serde::Serialize;
use utoipa::ToSchema;

use crate::core::Failure;

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

impl Limits {
    /// Refuses more images than one request may have, or none.
    pub(crate) fn check_images(&self, n: usize, [_, h, w]: [usize; 3]) -> Result<(), Failure> {
        if n == 0 || n > self.n {
            return Err(Failure::Refused(format!("n: expected 1 to {}, found {n}", self.n)));
        }
        let most = self.most_images([1, h, w]);
        if n > most {
            return Err(Failure::Refused(format!("n: expected at most {most} images of {h}×{w} pixels, found {n}")));
        }
        Ok(())
    }

    /// Most images of this shape that one request may have.
    pub(crate) fn most_images(&self, [_, h, w]: [usize; 3]) -> usize {
        let of_pixels = self.pixels / (h * w).max(1) as u64;
        self.n.min(usize::try_from(of_pixels).unwrap_or(usize::MAX))
    }

    /// Refuses more steps than a run may have, or none.
    pub(crate) fn check_steps(&self, steps: usize) -> Result<(), Failure> {
        if steps == 0 || steps > self.steps {
            return Err(Failure::Refused(format!("steps: expected 1 to {}, found {steps}", self.steps)));
        }
        Ok(())
    }
}
