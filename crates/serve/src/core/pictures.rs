//! Pictures that come from outside, and the test images of the data set.

use std::sync::{Arc, OnceLock};

use ndarray::{Array4, Axis};
use skipstone::data::{DataSpec, Dataset, Fit, LoadOptions, PictureLimits, Split, WHITE, decode_image, network_values};
use skipstone::image::{Picture, encode_png};
use tokio::task::spawn_blocking;

use super::aside::Aside;
use super::failure::Failure;
use super::served::Served;

/// Pictures decoded at a time: each may take much memory for a moment.
const TOGETHER: usize = 2;
/// Pictures that may wait for that; each is in memory meanwhile.
const WAITING: usize = 16;
/// Longest side of a picture.
const MOST_SIDE: u32 = 1 << 14;
/// Bytes a pixel may take while it is decoded: four values of sixteen bits.
const PER_PIXEL: u64 = 8;

/// Decodes pictures within limits.
#[derive(Debug)]
pub struct Pictures {
    limits: PictureLimits,
    aside: Aside,
    tests: Arc<OnceLock<Option<Dataset>>>,
}

impl Pictures {
    /// Of at most so many pixels.
    pub fn new(pixels: u64) -> Self {
        let limits = PictureLimits { side: MOST_SIDE, pixels, memory: pixels.saturating_mul(PER_PIXEL) };
        Self { limits, aside: Aside::new(TOGETHER, WAITING), tests: Arc::default() }
    }

    /// The picture in these bytes of a PNG, JPEG or WebP file as `served` sees it: `[1, c, h, w]`.
    ///
    /// # Errors
    /// Bytes that are no picture, or one beyond the limits; too many others are being decoded.
    pub async fn decode(
        &self,
        bytes: impl AsRef<[u8]> + Send + 'static,
        served: &Served,
    ) -> Result<Array4<f32>, Failure> {
        let [channels, h, w] = served.shape();
        let (fit, limits) = (Fit { size: [h, w], channels, background: WHITE }, self.limits);
        let image = self.aside.run(move || decode_image(bytes.as_ref(), &fit, &limits)).await?;
        let image = image.map_err(|e| Failure::Refused(format!("image: {}", e.message())))?;
        Ok(network_values(&image).insert_axis(Axis(0)))
    }

    /// The test images of Fashion-MNIST, if they are installed; read when they are first asked for.
    pub async fn tests(&self) -> Result<Option<usize>, Failure> {
        let tests = self.tests.clone();
        let read = move || tests.get_or_init(load).as_ref().map(Dataset::len);
        spawn_blocking(read).await.map_err(|e| Failure::Internal(format!("test images: {e}")))
    }

    /// The PNG of test image `k`.
    ///
    /// # Errors
    /// There is none of this number.
    pub async fn test_png(&self, k: usize) -> Result<Vec<u8>, Failure> {
        let Some(count) = self.tests().await? else {
            return Err(Failure::Missing(
                "test_image: the data set is not installed where this service runs".to_owned(),
            ));
        };
        if k >= count {
            return Err(Failure::Missing(format!("test_image: expected 0 to {}, found {k}", count - 1)));
        }
        let data = self.tests.get().and_then(Option::as_ref);
        let image = data.map(|data| network_values(&data.image(k).to_owned()));
        let image = image.ok_or_else(|| Failure::Internal("test images vanished".to_owned()))?;
        Ok(encode_png(&Picture::from_image(image.view())?, &[])?)
    }

    /// Test image `k` as `served` sees it.
    ///
    /// # Errors
    /// As [`test_png`](Self::test_png).
    pub async fn test(&self, k: usize, served: &Served) -> Result<Array4<f32>, Failure> {
        self.decode(self.test_png(k).await?, served).await
    }
}

fn load() -> Option<Dataset> {
    match DataSpec::FashionMnist.load(Split::Test, &LoadOptions::default()) {
        Ok(data) => Some(data),
        Err(error) => {
            tracing::info!("no test images: {error}");
            None
        }
    }
}
