//! Mean and scatter of feature vectors, accumulated in any number of parts.

use std::collections::BTreeMap;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use skipstone::error::{Error, Kind, Result};

use super::features::FeatureNetwork;
use super::frechet::Gaussian;

/// Count, mean and scatter matrix Σ (x − μ)(x − μ)ᵀ of feature vectors of one network, in f64.
///
/// Parts are joined by the pairwise update of Chan, Golub and LeVeque (1979). Sums of squares are always taken around the
/// mean, so nothing cancels, and parts from different machines can be [merged](Self::merge).
///
/// ```
/// use ndarray::array;
/// use skipstone_eval::Statistics;
/// let mut all = Statistics::new("two numbers", 2);
/// all.add(array![[0.0f32, 0.0], [2.0, 0.0]].view())?;
/// let mut rest = Statistics::new("two numbers", 2);
/// rest.add(array![[4.0f32, 3.0]].view())?;
/// all.merge(&rest)?;
/// assert_eq!((all.count(), all.mean().to_vec()), (3, vec![2.0, 1.0]));
/// assert_eq!(all.gaussian()?.covariance[[0, 1]], 3.0);
/// # Ok::<(), skipstone::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    network: String,
    count: u64,
    mean: Array1<f64>,
    scatter: Array2<f64>,
    about: BTreeMap<String, String>,
}

impl Statistics {
    /// Statistics of no vector yet.
    pub fn new(network: impl Into<String>, dimensions: usize) -> Self {
        let (mean, scatter) = (Array1::zeros(dimensions), Array2::zeros((dimensions, dimensions)));
        Self::from_parts(network.into(), 0, mean, scatter, BTreeMap::new())
    }

    /// Statistics of no vector of `network` yet.
    pub fn of(network: &dyn FeatureNetwork) -> Self {
        Self::new(network.name(), network.dimensions())
    }

    pub(super) fn from_parts(
        network: String,
        count: u64,
        mean: Array1<f64>,
        scatter: Array2<f64>,
        about: BTreeMap<String, String>,
    ) -> Self {
        Self { network, count, mean, scatter, about }
    }

    /// The network's name.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// Length of the vectors.
    pub fn dimensions(&self) -> usize {
        self.mean.len()
    }

    /// Number of vectors.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The mean; zeros if there are no vectors.
    pub fn mean(&self) -> ArrayView1<'_, f64> {
        self.mean.view()
    }

    /// Σ (x − μ)(x − μ)ᵀ.
    pub fn scatter(&self) -> ArrayView2<'_, f64> {
        self.scatter.view()
    }

    /// The caller's notes on where the vectors come from; kept in the file.
    pub fn about(&self) -> &BTreeMap<String, String> {
        &self.about
    }

    /// Adds a note on where the vectors come from, such as `("data", "fashion-mnist (train, first 5000)")`.
    pub fn note(&mut self, what: impl Into<String>, said: impl Into<String>) {
        self.about.insert(what.into(), said.into());
    }

    /// Adds vectors, `[n, dimensions]`.
    ///
    /// # Errors
    /// A vector has another length or is not finite. Nothing is added then.
    pub fn add(&mut self, features: ArrayView2<'_, f32>) -> Result<()> {
        let (n, d) = features.dim();
        if d != self.dimensions() {
            let (network, expected) = (&self.network, self.dimensions());
            return Err(Error::argument(format!("features of {network}: expected {expected} numbers each, found {d}")));
        }
        if let Some(i) = features.outer_iter().position(|x| x.iter().any(|v| !v.is_finite())) {
            let message = format!("features of {}: those of image {i} of the batch are not finite", self.network);
            return Err(Error::new(Kind::NonFinite, message));
        }
        if n == 0 {
            return Ok(());
        }
        let mut x = features.mapv(f64::from);
        let mean = x.mean_axis(Axis(0)).expect("n > 0");
        x -= &mean;
        let scatter = x.t().dot(&x);
        self.join(n as u64, &mean, &scatter);
        Ok(())
    }

    /// Adds the vectors of `other`. Notes that differ are joined.
    ///
    /// # Errors
    /// The statistics belong to another network. Nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.check_same(other)?;
        if other.count > 0 {
            self.join(other.count, &other.mean, &other.scatter);
        }
        for (what, said) in &other.about {
            let whole = self.about.entry(what.clone()).or_default();
            if whole != said {
                *whole = if whole.is_empty() { said.clone() } else { format!("{whole}; {said}") };
            }
        }
        Ok(())
    }

    /// M = M₁ + M₂ + δδᵀ·n₁n₂/n, μ = μ₁ + δ·n₂/n, with δ = μ₂ − μ₁.
    fn join(&mut self, count: u64, mean: &Array1<f64>, scatter: &Array2<f64>) {
        let (n1, n2) = (self.count as f64, count as f64);
        let n = n1 + n2;
        let delta = mean - &self.mean;
        self.scatter += scatter;
        let factor = n1 * n2 / n;
        for (mut row, &d) in self.scatter.outer_iter_mut().zip(&delta) {
            row.scaled_add(factor * d, &delta);
        }
        self.mean.scaled_add(n2 / n, &delta);
        self.count += count;
    }

    /// Refuses statistics of another network.
    pub(super) fn check_same(&self, other: &Self) -> Result<()> {
        if self.network == other.network && self.dimensions() == other.dimensions() {
            return Ok(());
        }
        let what = |s: &Self| format!("{} ({} numbers)", s.network, s.dimensions());
        Err(Error::argument(format!(
            "statistics of different feature networks cannot be mixed or compared: {} and {}",
            what(self),
            what(other)
        )))
    }

    /// The Gaussian with this mean and the unbiased covariance.
    ///
    /// # Errors
    /// Fewer than two vectors.
    pub fn gaussian(&self) -> Result<Gaussian> {
        if self.count < 2 {
            let (network, count) = (&self.network, self.count);
            let message = format!("features of {network}: a covariance needs at least 2 images, found {count}");
            return Err(Error::argument(message));
        }
        let covariance = &self.scatter / (self.count - 1) as f64;
        Ok(Gaussian { network: self.network.clone(), mean: self.mean.clone(), covariance })
    }
}
