//! The variance of images: of all images, and of images from one latent.

use std::fmt;
use std::str::FromStr;

use ndarray::{Array4, ArrayView4, Axis, Slice};
use skipstone::error::{Error, Result};

/// The size of the measurement of the variance between images of one latent.
///
/// ```
/// use skipstone_eval::table::Repeats;
/// let repeats: Repeats = "32x5".parse()?;
/// assert_eq!((repeats.latents, repeats.draws), (32, 5));
/// # Ok::<(), skipstone::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeats {
    /// Number of latents.
    pub latents: u64,
    /// Draws for each latent, including the sample that is scored; at least 2.
    pub draws: u64,
}

impl fmt::Display for Repeats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.latents, self.draws)
    }
}

impl FromStr for Repeats {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once('x').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match numbers {
            Some((latents @ 1..=100_000, draws @ 2..=1000)) => Ok(Self { latents, draws }),
            _ => Err(Error::argument(format!(
                "repeats: expected LATENTSxDRAWS with 1 to 100000 latents and 2 to 1000 draws, for example 32x5, found \
                 \"{text}\""
            ))),
        }
    }
}

/// Exact sums of pixels. The order and grouping of the images does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PixelSums {
    n: u64,
    sums: Vec<u64>,
    squares: Vec<u64>,
}

impl PixelSums {
    /// Adds images, `[n, channels, height, width]`, all of one shape.
    pub fn add(&mut self, images: ArrayView4<'_, u8>) {
        for image in images.outer_iter() {
            self.sums.resize(image.len(), 0);
            self.squares.resize(image.len(), 0);
            for ((sum, square), &byte) in self.sums.iter_mut().zip(&mut self.squares).zip(image) {
                *sum += u64::from(byte);
                *square += u64::from(byte) * u64::from(byte);
            }
            self.n += 1;
        }
    }

    /// The unbiased variance of a pixel over the images, averaged over pixels, for values in [0, 1]; `None` for fewer than two
    /// images.
    pub fn variance(&self) -> Option<f64> {
        let n = u128::from(self.n);
        if n < 2 || self.sums.is_empty() {
            return None;
        }
        // n·Σx² − (Σx)² is an integer and never negative.
        let total: u128 = self
            .sums
            .iter()
            .zip(&self.squares)
            .fold(0, |total, (&sum, &square)| total + n * u128::from(square) - u128::from(sum) * u128::from(sum));
        Some(total as f64 / (n * (n - 1)) as f64 / self.sums.len() as f64 / (255.0 * 255.0))
    }
}

/// The variance of a pixel over images that start from one latent and differ in the noise of their steps, averaged over
/// pixels and latents, for values in [0, 1].
///
/// Each of `draws` holds one image of each latent, `[latents, channels, height, width]`. If the variance is 0, as with
/// η = 0, the latent alone decides the image.
///
/// # Errors
/// There are fewer than two draws, or they differ in shape.
pub fn variance_within(draws: &[Array4<u8>]) -> Result<f64> {
    let shape = draws.first().map(Array4::dim).unwrap_or_default();
    if draws.len() < 2 || shape.0 == 0 || draws.iter().any(|draw| draw.dim() != shape) {
        let found: Vec<_> = draws.iter().map(Array4::shape).collect();
        return Err(Error::argument(format!(
            "variance of draws: expected at least 2 of one shape with at least 1 latent, found {found:?}"
        )));
    }
    let mut total = 0.0;
    for latent in 0..shape.0 {
        let mut sums = PixelSums::default();
        for draw in draws {
            sums.add(draw.slice_axis(Axis(0), Slice::from(latent..latent + 1)));
        }
        total += sums.variance().unwrap_or(0.0);
    }
    Ok(total / shape.0 as f64)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn the_variance_is_that_of_the_definition_whatever_the_parts() {
        // Pixels 0, 51, 102 are 0, 0.2, 0.4: variance 0.04. Pixels 255, 255, 0: (1/3·1/3·2 + 4/9)/2 = 1/3.
        let images = array![[[[0u8, 255]]], [[[51, 255]]], [[[102, 0]]]];
        let mut all = PixelSums::default();
        all.add(images.view());
        assert!((all.variance().unwrap() - (0.04 + 1.0 / 3.0) / 2.0).abs() < 1e-15);
        let mut parts = PixelSums::default();
        for i in [2, 0, 1] {
            parts.add(images.slice_axis(Axis(0), Slice::from(i..i + 1)));
        }
        assert_eq!(parts, all);
        let mut one = PixelSums::default();
        one.add(images.slice_axis(Axis(0), Slice::from(..1)));
        assert_eq!((one.variance(), PixelSums::default().variance()), (None, None));
    }

    #[test]
    fn within_latents_only_the_noise_counts() {
        // The latents differ, the draws do not.
        let same = array![[[[0u8, 9]]], [[[255, 7]]]];
        assert_eq!(variance_within(&[same.clone(), same.clone(), same.clone()]).unwrap(), 0.0);
        // One pixel of one of two latents is 0 or 255: variance 1/2 there.
        let other = array![[[[255u8, 9]]], [[[255, 7]]]];
        assert!((variance_within(&[same.clone(), other]).unwrap() - 0.5 / 4.0).abs() < 1e-15);
        assert!(variance_within(std::slice::from_ref(&same)).is_err());
        assert!(variance_within(&[same, Array4::zeros((1, 1, 1, 2))]).is_err());
        assert!(variance_within(&[]).is_err());
    }
}
