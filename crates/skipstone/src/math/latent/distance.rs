use ndarray::{Array4, ArrayView3, Axis, Slice};

use crate::error::{Error, Result};

/// Side in pixels of the squares that commands average over to compare images at low frequencies.
pub const SQUARE: usize = 4;

/// Root-mean-square distance between two sets of images, with pixels scaled to [0, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// Over all pixels.
    pub full: f64,
    /// Over the means of squares of pixels: the low frequencies, without fine detail.
    pub low: f64,
}

/// The distance between images `a` and `b`, `[n, c, h, w]` with network values in [−1, 1].
///
/// Low frequencies are means over squares of `side` × `side` pixels. Squares at the right and bottom edges may be smaller.
///
/// ```
/// use ndarray::array;
/// // A checkerboard against grey: every pixel differs by ½, every mean of four by 0.
/// let (a, b) = (array![[[[1.0f32, -1.0], [-1.0, 1.0]]]], ndarray::Array4::zeros((1, 1, 2, 2)));
/// let d = skipstone::math::latent::distance(&a, &b, 2)?;
/// assert_eq!((d.full, d.low), (0.5, 0.0));
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// The shapes differ, the images are empty, or `side` is 0.
pub fn distance(a: &Array4<f32>, b: &Array4<f32>, side: usize) -> Result<Distance> {
    if a.dim() != b.dim() || a.is_empty() || side == 0 {
        let (a, b) = (a.shape(), b.shape());
        return Err(Error::argument(format!(
            "distance: expected non-empty images of the same shape and squares of at least 1 pixel, found {a:?}, {b:?} \
             and {side}"
        )));
    }
    let rms = |pairs: &mut dyn Iterator<Item = (f64, f64)>| {
        let (mut sum, mut count) = (0.0, 0u64);
        for (a, b) in pairs {
            sum += ((a - b) / 2.0).powi(2); // [−1, 1] is twice as wide as [0, 1]
            count += 1;
        }
        (sum / count as f64).sqrt()
    };
    let full = rms(&mut a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b))));
    let mut low = a.outer_iter().zip(b.outer_iter()).flat_map(|(a, b)| means(a, side).into_iter().zip(means(b, side)));
    Ok(Distance { full, low: rms(&mut low) })
}

/// The mean of each square, channel by channel.
fn means(image: ArrayView3<'_, f32>, side: usize) -> Vec<f64> {
    let (_, h, w) = image.dim();
    let part = |i: usize, length: usize| Slice::from(i..(i + side).min(length));
    let mut means = Vec::new();
    for channel in image.outer_iter() {
        for y in (0..h).step_by(side) {
            let rows = channel.slice_axis(Axis(0), part(y, h));
            for x in (0..w).step_by(side) {
                let square = rows.slice_axis(Axis(1), part(x, w));
                means.push(square.iter().map(|&v| f64::from(v)).sum::<f64>() / square.len() as f64);
            }
        }
    }
    means
}
