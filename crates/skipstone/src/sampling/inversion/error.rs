use ndarray::Array4;

use crate::error::{Error, Result};

/// Table 2's measure for each image: the mean over its values of (x − x′)²/4, that is the squared error with values
/// scaled to [0, 1]; nothing is clamped. Both arrays `[n, c, h, w]` of network values.
///
/// ```
/// let (x, y) = (ndarray::Array4::from_elem((1, 1, 2, 2), 1.0f32), ndarray::Array4::from_elem((1, 1, 2, 2), 0.8f32));
/// let errors = skipstone::sampling::inversion::squared_errors(&x, &y)?;
/// assert!((errors[0] - 0.01).abs() < 1e-8);
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// Shapes that differ, or images without values.
pub fn squared_errors(x: &Array4<f32>, back: &Array4<f32>) -> Result<Vec<f64>> {
    if x.dim() != back.dim() || x.is_empty() {
        let (a, b) = (x.shape(), back.shape());
        return Err(Error::argument(format!("reconstruction: expected images of one shape, found {a:?} and {b:?}")));
    }
    let of_image = |(x, back): (ndarray::ArrayView3<'_, f32>, ndarray::ArrayView3<'_, f32>)| {
        let sum: f64 = x.iter().zip(back).map(|(&a, &b)| ((f64::from(a) - f64::from(b)) / 2.0).powi(2)).sum();
        sum / x.len() as f64
    };
    Ok(x.outer_iter().zip(back.outer_iter()).map(of_image).collect())
}
