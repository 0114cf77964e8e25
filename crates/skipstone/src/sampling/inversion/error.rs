use ndarray::Array4;

use crate::error::{Error, Result};

/// The reconstruction error of DDIM Table 2 for each image: the mean of (x − x′)²/4 over its values, which is the squared
/// error with values scaled to [0, 1]. Values are not clamped. Both arrays are `[n, c, h, w]` in network values.
///
/// ```
/// let (x, y) = (ndarray::Array4::from_elem((1, 1, 2, 2), 1.0f32), ndarray::Array4::from_elem((1, 1, 2, 2), 0.8f32));
/// let errors = skipstone::sampling::inversion::squared_errors(&x, &y)?;
/// assert!((errors[0] - 0.01).abs() < 1e-8);
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// The shapes differ, or the images are empty.
pub fn squared_errors(x: &Array4<f32>, back: &Array4<f32>) -> Result<Vec<f64>> {
    if x.dim() != back.dim() || x.is_empty() {
        let (a, b) = (x.shape(), back.shape());
        return Err(Error::argument(format!(
            "reconstruction: expected non-empty images of the same shape, found {a:?} and {b:?}"
        )));
    }
    let of_image = |(x, back): (ndarray::ArrayView3<'_, f32>, ndarray::ArrayView3<'_, f32>)| {
        let sum: f64 = x.iter().zip(back).map(|(&a, &b)| ((f64::from(a) - f64::from(b)) / 2.0).powi(2)).sum();
        sum / x.len() as f64
    };
    Ok(x.outer_iter().zip(back.outer_iter()).map(of_image).collect())
}
