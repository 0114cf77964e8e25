//! The kernel distance: the unbiased squared maximum mean discrepancy with a cubic kernel.

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;
use skipstone::error::{Error, Kind, Result};
use skipstone::math::noise::{KeyedRng, Purpose};

/// A value with its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Its standard error.
    pub standard_error: f64,
}

/// How [`kid`] draws its subsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subsets {
    /// Number of subsets.
    pub count: usize,
    /// Vectors of each set in a subset.
    pub size: usize,
    /// Seed of the choice.
    pub seed: u64,
}

impl Default for Subsets {
    /// 100 subsets of 1000, as Bińkowski et al. use.
    fn default() -> Self {
        Self { count: 100, size: 1000, seed: 0 }
    }
}

/// Rows multiplied at a time.
const BLOCK: usize = 256;

/// KID (Bińkowski et al., arXiv 1801.01401): the mean over random subsets of the unbiased estimator of MMD² with the
/// kernel (x·y/d + 1)³, between feature vectors `a` and `b`, `[n, d]`.
///
/// Subset i holds `size` vectors of each set, drawn without replacement, keyed by (seed, i). The standard error is that of
/// the mean over draws of subsets from these vectors. It does not cover the choice of the vectors; that of [`kid_full`]
/// does.
///
/// ```
/// use skipstone_eval::{Subsets, kid};
/// let a = ndarray::Array2::from_shape_fn((40, 2), |(i, j)| (i * (j + 1) % 7) as f32);
/// let far = &a + 9.0;
/// let subsets = Subsets { count: 10, size: 20, seed: 0 };
/// assert!(kid(a.view(), far.view(), subsets)?.value > 100.0);
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// The vectors differ in length or are not finite, or there are fewer than two subsets, or a subset has fewer than two
/// vectors or more than a set.
pub fn kid(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, subsets: Subsets) -> Result<Estimate> {
    check(a, b)?;
    let Subsets { count, size, seed } = subsets;
    let least = a.nrows().min(b.nrows());
    if count < 2 || size < 2 || size > least {
        return Err(Error::argument(format!(
            "kid: expected at least 2 subsets of 2 to {least} vectors (the smaller set), found {count} of {size}"
        )));
    }
    let values: Vec<f64> = (0..count as u64)
        .into_par_iter()
        .map(|subset| {
            let chosen = |x: ArrayView2<'_, f32>, side| {
                let mut rng = KeyedRng::new(seed, Purpose::Subset, subset, side);
                x.select(Axis(0), &choose(&mut rng, x.nrows(), size)).mapv(f64::from)
            };
            Sums::new(&chosen(a, 0), &chosen(b, 1)).mmd2()
        })
        .collect();
    let n = count as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    Ok(Estimate { value: mean, standard_error: (variance / n).sqrt() })
}

/// The unbiased estimator of MMD² on all vectors, with the standard error of the jackknife over the vectors of both sets.
///
/// # Errors
/// The vectors differ in length or are not finite, or a set has fewer than three.
pub fn kid_full(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> Result<Estimate> {
    check(a, b)?;
    if a.nrows().min(b.nrows()) < 3 {
        let (m, n) = (a.nrows(), b.nrows());
        return Err(Error::argument(format!("kid: expected at least 3 vectors in each set, found {m} and {n}")));
    }
    let sums = Sums::new(&a.mapv(f64::from), &b.mapv(f64::from));
    Ok(Estimate { value: sums.mmd2(), standard_error: sums.jackknife_variance().sqrt() })
}

fn check(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> Result<()> {
    if a.ncols() != b.ncols() || a.ncols() == 0 {
        let (a, b) = (a.ncols(), b.ncols());
        return Err(Error::argument(format!("kid: expected vectors of equal length, found {a} and {b} numbers")));
    }
    if a.iter().chain(&b).any(|v| !v.is_finite()) {
        return Err(Error::new(Kind::NonFinite, "kid: a feature is not finite"));
    }
    Ok(())
}

/// `size` of 0..n without replacement: the start of a Fisher–Yates shuffle.
fn choose(rng: &mut KeyedRng, n: usize, size: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    for i in 0..size {
        all.swap(i, i + rng.below((n - i) as u64) as usize);
    }
    all.truncate(size);
    all
}

/// Sums of the kernel for each vector, over the others of its own set and over the other set.
struct Sums {
    aa: Vec<f64>,
    bb: Vec<f64>,
    ab: Vec<f64>,
    ba: Vec<f64>,
}

impl Sums {
    fn new(a: &Array2<f64>, b: &Array2<f64>) -> Self {
        Self {
            aa: row_sums(a, a, true),
            bb: row_sums(b, b, true),
            ab: row_sums(a, b, false),
            ba: row_sums(b, a, false),
        }
    }

    fn sizes(&self) -> (f64, f64) {
        (self.aa.len() as f64, self.bb.len() as f64)
    }

    /// Σ_{i≠j} k(xᵢ, xⱼ)/(m(m−1)) + Σ_{i≠j} k(yᵢ, yⱼ)/(n(n−1)) − 2·Σ k(xᵢ, yⱼ)/(mn).
    fn mmd2(&self) -> f64 {
        let (m, n) = self.sizes();
        let [aa, bb, ab] = [&self.aa, &self.bb, &self.ab].map(|sums| sums.iter().sum::<f64>());
        aa / (m * (m - 1.0)) + bb / (n * (n - 1.0)) - 2.0 * ab / (m * n)
    }

    /// The jackknife's variance: (m−1)/m·Σ (Tᵢ − T̄)² of the estimates Tᵢ without vector i, for each set.
    fn jackknife_variance(&self) -> f64 {
        let (m, n) = self.sizes();
        // Only the terms that change with i, because constants cancel in Tᵢ − T̄.
        let of = |own: &[f64], other: &[f64], m: f64, n: f64| {
            let t: Vec<f64> = own
                .iter()
                .zip(other)
                .map(|(own, other)| -2.0 * own / ((m - 1.0) * (m - 2.0)) + 2.0 * other / ((m - 1.0) * n))
                .collect();
            let mean = t.iter().sum::<f64>() / m;
            (m - 1.0) / m * t.iter().map(|t| (t - mean).powi(2)).sum::<f64>()
        };
        of(&self.aa, &self.ab, m, n) + of(&self.bb, &self.ba, n, m)
    }
}

/// Σⱼ (xᵢ·yⱼ/d + 1)³ for each i, without j = i if the sets are the same.
fn row_sums(x: &Array2<f64>, y: &Array2<f64>, same: bool) -> Vec<f64> {
    let d = x.ncols() as f64;
    let chunks: Vec<_> = x.axis_chunks_iter(Axis(0), BLOCK).collect();
    let blocks: Vec<Vec<f64>> = chunks
        .into_par_iter()
        .enumerate()
        .map(|(block, rows)| {
            let begin = block * BLOCK;
            let mut sums = vec![0.0; rows.nrows()];
            for (first, columns) in (0..).step_by(BLOCK).zip(y.axis_chunks_iter(Axis(0), BLOCK)) {
                let products = rows.dot(&columns.t());
                for (i, (sum, row)) in sums.iter_mut().zip(products.outer_iter()).enumerate() {
                    for (j, product) in row.iter().enumerate() {
                        if !(same && begin + i == first + j) {
                            *sum += (product / d + 1.0).powi(3);
                        }
                    }
                }
            }
            sums
        })
        .collect();
    blocks.concat()
}
