//! The Fréchet distance of two Gaussians.

use nalgebra::DMatrix;
use ndarray::{Array1, Array2};
use skipstone::error::{Error, Kind, Result};

use super::statistics::Statistics;

/// Mean and covariance of the features of a set of images.
#[derive(Clone, Debug, PartialEq)]
pub struct Gaussian {
    /// The feature network's name.
    pub network: String,
    /// μ.
    pub mean: Array1<f64>,
    /// Σ, symmetric.
    pub covariance: Array2<f64>,
}

/// The Fréchet distance d² = ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2·tr (Σ₁^½ Σ₂ Σ₁^½)^½ of the Gaussians fitted to two sets of
/// features (Dowson & Landau 1982; Heusel et al., arXiv 1706.08500).
///
/// With fewer images than dimensions the covariances do not have full rank. The distance is still defined, but its bias,
/// which falls as 1/n, is large.
///
/// # Errors
/// The statistics belong to different networks or to fewer than two images, or [`Gaussian::frechet`] fails.
pub fn frechet(a: &Statistics, b: &Statistics) -> Result<f64> {
    a.check_same(b)?;
    a.gaussian()?.frechet(&b.gaussian()?)
}

impl Gaussian {
    /// The Fréchet distance d² to `other`: see [`frechet()`].
    ///
    /// The last trace is the sum of the singular values of Σ₁^½ Σ₂^½. The roots come from real, non-negative eigenvalues, so
    /// no complex number can arise. Nothing is squared, so small values are not lost.
    ///
    /// # Errors
    /// The Gaussians belong to different networks or differ in size, a value is not finite, or a covariance is not symmetric
    /// or has eigenvalues clearly below 0.
    pub fn frechet(&self, other: &Self) -> Result<f64> {
        if self.network != other.network || self.mean.len() != other.mean.len() {
            return Err(Error::argument(format!(
                "statistics of different feature networks cannot be compared: {} and {}",
                self.network, other.network
            )));
        }
        let (root, other_root) = (self.root()?, other.root()?);
        let between = (&self.mean - &other.mean).mapv(|x| x * x).sum();
        let traces = self.covariance.diag().sum() + other.covariance.diag().sum();
        let shared: f64 = (root * other_root).singular_values().iter().sum();
        // Only rounding can make it negative.
        Ok((between + traces - 2.0 * shared).max(0.0))
    }

    /// Σ^½.
    fn root(&self) -> Result<DMatrix<f64>> {
        let (name, d) = (&self.network, self.mean.len());
        let sigma = &self.covariance;
        if d == 0 || sigma.dim() != (d, d) {
            return Err(Error::data(format!("{name}: a mean of {d} numbers, a covariance of {:?}", sigma.dim())));
        }
        if self.mean.iter().chain(sigma).any(|v| !v.is_finite()) {
            return Err(Error::new(Kind::NonFinite, format!("{name}: mean or covariance is not finite")));
        }
        let scale = sigma.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let skew = (sigma - &sigma.t()).iter().fold(0.0f64, |m, v| m.max(v.abs()));
        if skew > 1e-6 * scale {
            return Err(Error::data(format!("{name}: the covariance is not symmetric: elements differ by {skew:.3e}")));
        }
        let eigen = DMatrix::from_fn(d, d, |i, j| 0.5 * (sigma[[i, j]] + sigma[[j, i]])).symmetric_eigen();
        let least = eigen.eigenvalues.iter().fold(0.0f64, |m, &v| m.min(v));
        if least < -1e-6 * scale * d as f64 {
            return Err(Error::data(format!("{name}: not a covariance: its least eigenvalue is {least:.3e}")));
        }
        // A smaller eigenvalue is a rounding error, and its root would be a hundred million times as large.
        let rounding = d as f64 * f64::EPSILON * eigen.eigenvalues.amax();
        let roots = eigen.eigenvalues.map(|v| if v > rounding { v.sqrt() } else { 0.0 });
        let v = eigen.eigenvectors;
        Ok(&v * DMatrix::from_diagonal(&roots) * v.transpose())
    }
}
