//! The nearest neighbour of each image, to tell whether a model memorises its training images.

use ndarray::ArrayView2;
use skipstone::error::Result;

use super::neighbours;

/// The nearest reference of each query.
#[derive(Clone, Debug, PartialEq)]
pub struct Nearest {
    /// Row of the reference; the first of several equally near ones.
    pub indices: Vec<usize>,
    /// Euclidean distance to it.
    pub distances: Vec<f64>,
}

/// The nearest row of `references` for each row of `queries`, `[n, d]`: [pixels](super::pixels) or features.
///
/// The distances of the test set to the training set are a yardstick for generated images: a model that memorises makes
/// images that are nearer to the training set than new data are.
///
/// # Errors
/// The rows differ in length or are not finite, or there is no reference.
pub fn nearest(queries: ArrayView2<'_, f32>, references: ArrayView2<'_, f32>) -> Result<Nearest> {
    let found = neighbours::nearest(queries, references, 1)?;
    Ok(Nearest {
        indices: found.iter().map(|found| found[0].index).collect(),
        distances: found.iter().map(|found| found[0].square.sqrt()).collect(),
    })
}

impl Nearest {
    /// The quantile `q` in 0..1 of the distances, by linear interpolation; `None` if there are none.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let mut sorted = self.distances.clone();
        sorted.sort_by(f64::total_cmp);
        let place = q.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
        let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        Some(below + (above - below) * place.fract())
    }

    /// Share of the queries nearer than `distance`.
    pub fn share_below(&self, distance: f64) -> f64 {
        self.distances.iter().filter(|d| **d < distance).count() as f64 / self.distances.len().max(1) as f64
    }

    /// The queries in order of distance, nearest first.
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.distances.len()).collect();
        order.sort_by(|&a, &b| self.distances[a].total_cmp(&self.distances[b]));
        order
    }
}
