//! Input images: uploads, and the test images of the data set.

use std::sync::{Arc, OnceLock};

use ndarray::{Array4, Axis};
use skipstone::io::data::{
    DataOptions, DataSpec, Dataset, Fit, PictureLimits, Split, WHITE, decode_image, network_values,
};
use skipstone::io::image::{Picture, encode_png};
use tokio::task::spawn_blocking;

use super::blocking_pool::BlockingPool;
use super::failure::Failure;
use super::served_model::ServedModel;

/// Files decoded at a time. Each may briefly need much memory.
const TOGETHER: usize = 2;
/// Files that may wait to be decoded. Each stays in memory meanwhile.
const WAITING: usize = 16;
/// Longest side, in pixels.
const MOST_SIDE: u32 = 1 << 14;
/// Bytes of a pixel while it is decoded: four values of sixteen bits.
const PER_PIXEL: u64 = 8;

/// Decodes image files within limits.
#[derive(Debug)]
pub struct InputImages {
    limits: PictureLimits,
    pool: BlockingPool,
    test_set: Arc<OnceLock<Option<Dataset>>>,
}

impl InputImages {
    /// A decoder of files of at most `pixels` pixels.
    pub fn new(pixels: u64) -> Self {
        let limits = PictureLimits { side: MOST_SIDE, pixels, memory: pixels.saturating_mul(PER_PIXEL) };
        Self { limits, pool: BlockingPool::new(TOGETHER, WAITING), test_set: Arc::default() }
    }

    /// The image in a PNG, JPEG or WebP file at the size of `model`, `[1, c, h, w]`.
    ///
    /// # Errors
    /// The bytes are not an image, the image exceeds the limits, or too many files wait to be decoded.
    pub async fn decode(
        &self,
        bytes: impl AsRef<[u8]> + Send + 'static,
        model: &ServedModel,
    ) -> Result<Array4<f32>, Failure> {
        let [channels, h, w] = model.shape();
        let (fit, limits) = (Fit { size: [h, w], channels, background: WHITE }, self.limits);
        let image = self.pool.run(move || decode_image(bytes.as_ref(), &fit, &limits)).await?;
        let image = image.map_err(|e| Failure::Refused(format!("image: {}", e.message())))?;
        Ok(network_values(&image).insert_axis(Axis(0)))
    }

    /// Number of test images of Fashion-MNIST, if the data set is installed. The first call reads it.
    ///
    /// # Errors
    /// Reading panicked.
    pub async fn test_count(&self) -> Result<Option<usize>, Failure> {
        let test_set = self.test_set.clone();
        let read = move || test_set.get_or_init(load).as_ref().map(Dataset::len);
        spawn_blocking(read).await.map_err(|e| Failure::Internal(format!("test images: {e}")))
    }

    /// The PNG file of test image `k`.
    ///
    /// # Errors
    /// There is no such test image.
    pub async fn test_png(&self, k: usize) -> Result<Vec<u8>, Failure> {
        let Some(count) = self.test_count().await? else {
            return Err(Failure::Missing(
                "test_image: the data set is not installed on the service's machine".to_owned(),
            ));
        };
        if k >= count {
            return Err(Failure::Missing(format!("test_image: expected 0 to {}, found {k}", count - 1)));
        }
        let data = self.test_set.get().and_then(Option::as_ref);
        let image = data.and_then(|data| data.image(k).ok()).map(|image| network_values(&image));
        let image = image.ok_or_else(|| Failure::Internal("test images vanished".to_owned()))?;
        Ok(encode_png(&Picture::from_image(image.view())?, &[])?)
    }

    /// Test image `k` at the size of `model`, `[1, c, h, w]`.
    ///
    /// # Errors
    /// As [`test_png`](Self::test_png).
    pub async fn test_image(&self, k: usize, model: &ServedModel) -> Result<Array4<f32>, Failure> {
        self.decode(self.test_png(k).await?, model).await
    }
}

fn load() -> Option<Dataset> {
    match DataSpec::FashionMnist.load(Split::Test, &DataOptions::default()) {
        Ok(data) => Some(data),
        Err(error) => {
            tracing::info!("no test images: {error}");
            None
        }
    }
}
