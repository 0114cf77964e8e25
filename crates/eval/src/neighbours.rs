//! Exact nearest neighbours at the speed of a matrix product.
//!
//! ‖x − y‖² = ‖x‖² + ‖y‖² − 2·x·y costs one multiply-add per number, but its rounding error grows with the size of the
//! vectors, not with their distance. So the products only rule out candidates. Their error is bounded, and undecided pairs
//! are computed again as Σ (x − y)² in f64. The result is that of the definition on every processor.

use ndarray::{ArrayView2, CowArray, Ix2};
use rayon::prelude::*;
use skipstone::error::{Error, Kind, Result};
use skipstone_kernels::conv::{Algorithm, Epilogue, Layer, Shape, Source};
use skipstone_kernels::{Isa, Team, View, ViewMut};

/// A neighbour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Neighbour {
    /// The row of the references.
    pub index: usize,
    /// ‖x − y‖².
    pub square: f64,
}

/// References multiplied at a time.
const REFERENCES: usize = 1024;
/// Queries of a task.
const QUERIES: usize = 128;

/// The `k` nearest references of each query, nearest first; of equally near ones, the earlier comes first.
pub(super) fn nearest(
    queries: ArrayView2<'_, f32>,
    references: ArrayView2<'_, f32>,
    k: usize,
) -> Result<Vec<Vec<Neighbour>>> {
    search(queries, references, k, false)
}

/// The `k` nearest of the other vectors of the same set, for each.
pub(super) fn within(set: ArrayView2<'_, f32>, k: usize) -> Result<Vec<Vec<Neighbour>>> {
    search(set, set, k, true)
}

fn search(
    queries: ArrayView2<'_, f32>,
    references: ArrayView2<'_, f32>,
    k: usize,
    skip_self: bool,
) -> Result<Vec<Vec<Neighbour>>> {
    let (needed, available) = (k + usize::from(skip_self), references.nrows());
    if available < needed {
        return Err(Error::argument(format!("neighbours: expected at least {needed} vectors, found {available}")));
    }
    let mut found: Vec<Vec<Neighbour>> = vec![Vec::with_capacity(k + 1); queries.nrows()];
    visit(queries, references, &mut found, |found: &mut Vec<Neighbour>, pair: Pair<'_>| {
        if skip_self && pair.query == pair.reference {
            return;
        }
        let limit = if found.len() < k { f64::INFINITY } else { found[k - 1].square };
        if pair.at_least > limit {
            return;
        }
        let square = pair.exact();
        // References come in order, so one that is equally near stays behind.
        let place = found.partition_point(|other| other.square <= square);
        if place < k {
            found.insert(place, Neighbour { index: pair.reference, square });
            found.truncate(k);
        }
    })?;
    Ok(found)
}

/// For each query, whether it lies within a ball around some reference: ‖x − y‖² ≤ `squares[y]`.
pub(super) fn covered(
    queries: ArrayView2<'_, f32>,
    references: ArrayView2<'_, f32>,
    squares: &[f64],
) -> Result<Vec<bool>> {
    let mut inside = vec![false; queries.nrows()];
    visit(queries, references, &mut inside, |inside: &mut bool, pair: Pair<'_>| {
        let limit = squares[pair.reference];
        if !*inside && pair.at_least <= limit {
            *inside = pair.exact() <= limit;
        }
    })?;
    Ok(inside)
}

/// A query, a reference, and a bound on their distance.
struct Pair<'a> {
    query: usize,
    reference: usize,
    /// A lower bound of ‖x − y‖².
    at_least: f64,
    x: &'a [f32],
    y: &'a [f32],
}

impl Pair<'_> {
    /// Σ (x − y)² in f64, as eight sums that are added at the end.
    fn exact(&self) -> f64 {
        let mut sums = [0.0f64; 8];
        for (x, y) in self.x.chunks(8).zip(self.y.chunks(8)) {
            for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
                let difference = f64::from(*x) - f64::from(*y);
                *sum += difference * difference;
            }
        }
        sums.iter().sum()
    }
}

/// Calls `each` with the state of a query and every reference, references in order.
fn visit<T: Send>(
    queries: ArrayView2<'_, f32>,
    references: ArrayView2<'_, f32>,
    states: &mut [T],
    each: impl Fn(&mut T, Pair<'_>) + Sync,
) -> Result<()> {
    let d = references.ncols();
    if queries.ncols() != d || d == 0 {
        let found = queries.ncols();
        return Err(Error::argument(format!(
            "neighbours: expected vectors of equal length, found {found} and {d} numbers"
        )));
    }
    let (queries, references) = (Rows::new(queries)?, Rows::new(references)?);
    let isa = Isa::best();
    // |error of x·y| ≤ γ·‖x‖·‖y‖ with γ = d·u/(1 − d·u), u = 2⁻²⁴ for each of a multiplication and an addition (Higham,
    // Accuracy and Stability of Numerical Algorithms, §3.1); doubled for what the norms and the sum round.
    let gamma = 4.0 * d as f64 * f64::from(f32::EPSILON / 2.0);
    for (begin, block) in (0..).step_by(REFERENCES).zip(references.values().chunks(REFERENCES * d)) {
        let count = block.len() / d;
        let shape = Shape {
            c_in: d,
            c_out: count,
            input: [1, 1],
            kernel: 1,
            stride: 1,
            pad_before: 0,
            pad_after: 0,
            upsample: false,
        };
        let bias = vec![0.0; count];
        let layer = Layer::pack(Team::solo(), isa, shape, Algorithm::Direct, &[(block, &bias)]);
        states.par_chunks_mut(QUERIES).enumerate().for_each(|(task, states)| {
            let first = task * QUERIES;
            let mut products = vec![0.0f32; states.len() * count];
            let rows = &queries.values()[first * d..(first + states.len()) * d];
            let mut out = ViewMut::dense(&mut products, count);
            let source = Source::plain(View::dense(rows, d));
            layer.forward(Team::solo(), states.len(), source, Epilogue::default(), &mut out);
            for (i, (state, products)) in states.iter_mut().zip(products.chunks_exact(count)).enumerate() {
                let query = first + i;
                let x = queries.row(query);
                let norm = queries.norms[query];
                for (j, product) in products.iter().enumerate() {
                    let reference = begin + j;
                    let other = references.norms[reference];
                    // Products below the least normal number may be lost entirely.
                    let slack = 2.0 * gamma * norm * other + 2.0 * d as f64 * f64::from(f32::MIN_POSITIVE);
                    let at_least = norm * norm + other * other - 2.0 * f64::from(*product) - slack;
                    // Products too large for f32 give no bound.
                    let at_least = if at_least.is_finite() { at_least } else { 0.0 };
                    each(state, Pair { query, reference, at_least, x, y: references.row(reference) });
                }
            }
        });
    }
    Ok(())
}

/// Vectors side by side, and their lengths.
struct Rows<'a> {
    array: CowArray<'a, f32, Ix2>,
    norms: Vec<f64>,
}

impl<'a> Rows<'a> {
    fn new(rows: ArrayView2<'a, f32>) -> Result<Self> {
        if let Some(i) = rows.outer_iter().position(|row| row.iter().any(|v| !v.is_finite())) {
            return Err(Error::new(Kind::NonFinite, format!("neighbours: vector {i} is not finite")));
        }
        let norm = |row: ndarray::ArrayView1<'_, f32>| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let norms = rows.outer_iter().map(norm).collect();
        Ok(Self { array: CowArray::from(rows), norms }.dense())
    }

    fn dense(self) -> Self {
        if self.array.is_standard_layout() {
            return self;
        }
        let array = CowArray::from(self.array.as_standard_layout().into_owned());
        Self { array, norms: self.norms }
    }

    fn values(&self) -> &[f32] {
        self.array.as_slice().expect("dense")
    }

    fn row(&self, i: usize) -> &[f32] {
        let d = self.array.ncols();
        &self.values()[i * d..(i + 1) * d]
    }
}
