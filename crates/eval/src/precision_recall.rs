//! Improved precision and recall: the share of generated images that look real, and of real images that are covered.

use ndarray::ArrayView2;
use skipstone::error::{Error, Result};

use super::neighbours;

/// The number of neighbours that the paper uses.
pub const DEFAULT_NEIGHBOURS: usize = 3;

/// The result of [`precision_recall`], both in 0..1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrecisionRecall {
    /// Share of the generated images within the manifold of the real ones: quality.
    pub precision: f64,
    /// Share of the real images within the manifold of the generated ones: variety.
    pub recall: f64,
}

/// Precision and recall (Kynkäänniemi et al., arXiv 1904.06991) of `generated` feature vectors against `real` ones, `[n, d]`.
///
/// The manifold of a set is the union of a ball around each vector that reaches to its `k`-th nearest neighbour in the set.
/// Compare only sets of equal size, because more vectors make smaller balls.
///
/// # Errors
/// The vectors differ in length or are not finite, k = 0, or a set has no more than k vectors.
pub fn precision_recall(
    real: ArrayView2<'_, f32>,
    generated: ArrayView2<'_, f32>,
    k: usize,
) -> Result<PrecisionRecall> {
    if k == 0 {
        return Err(Error::argument("precision and recall: expected at least 1 neighbour, found 0"));
    }
    let share = |x: ArrayView2<'_, f32>, of: ArrayView2<'_, f32>| -> Result<f64> {
        let radii: Vec<f64> = neighbours::within(of, k)?.iter().map(|found| found[k - 1].square).collect();
        let inside = neighbours::covered(x, of, &radii)?;
        Ok(inside.iter().filter(|inside| **inside).count() as f64 / inside.len() as f64)
    };
    Ok(PrecisionRecall { precision: share(generated, real)?, recall: share(real, generated)? })
}
