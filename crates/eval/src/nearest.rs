//! The nearest neighbour of each image, to see whether a model remembers instead of inventing.

use ndarray::ArrayView2;
use skipstone::error::Result;

use super::neighbours;

/// The nearest reference of each query.
#[derive(Clone, Debug, PartialEq)]
pub struct Nearest {
    /// Row of the reference; of several equally near ones the first.
    pub indices: Vec<usize>,
    /// Euclidean distance to it.
    pub distances: Vec<f64>,
}

/// The nearest row of `references` for each row of `queries`, `[n, d]`: [pixels](super::pixels) or features.
///
/// As a yardstick for generated images take the same distances of the test set to the training set: a model that
/// remembers makes images that are nearer to the training set than new data are.
///
/// # Errors
/// Rows of different lengths or not finite, or no reference.
pub fn nearest(queries: ArrayView2<'_, f32>, references: ArrayView2<'_, f32>) -> Result<Nearest> {
    let found = neighbours::nearest(queries, references, 1)?;
    Ok(Nearest {
        indices: found.iter().map(|found| found[0].index).collect(),
        distances: found.iter().map(|found| found[0].square.sqrt()).collect(),
    })
}

impl Nearest {
    /// The quantile `q` in 0..1 of the distances, by linear interpolation; `None` where there is no distance.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let mut sorted = self.distances.clone();
        sorted.sort_by(f64::total_cmp);
        let place = q.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
        let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        Some(below + (above - below) * place.fract())
    }

    /// The share of queries nearer than `distance`.
    pub fn share_below(&self, distance: f64) -> f64 {
        self.distances.iter().filter(|d| **d < distance).count() as f64 / self.distances.len().max(1) as f64
    }

    /// The queries in order of distance, nearest first: what to show in a picture.
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.distances.len()).collect();
        order.sort_by(|&a, &b| self.distances[a].total_cmp(&self.distances[b]));
        order
    }
}
