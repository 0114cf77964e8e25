//! Matrix products on strided views, through the `gemm` crate.
//!
//! `gemm` picks its blocking, and with it the order of its sums, from the matrices' shapes. Callers therefore hand it
//! tiles whose shapes follow from a layer's shape alone.

use crate::shared::SharedMut;

/// A read-only matrix: element (i, j) is `data[i·row + j·col]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    data: &'a [f32],
    row: usize,
    col: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix stored row after row, each `row` elements after the one before.
    pub fn rows(data: &'a [f32], row: usize) -> Self {
        Self { data, row, col: 1 }
    }

    /// The transpose.
    pub fn transposed(self) -> Self {
        Self { data: self.data, row: self.col, col: self.row }
    }

    fn check(&self, rows: usize, cols: usize) {
        let last = (rows - 1) * self.row + (cols - 1) * self.col;
        assert!(last < self.data.len(), "{rows}×{cols} by strides {},{} of {}", self.row, self.col, self.data.len());
    }
}

/// What becomes of the destination's old content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// C = α·A·B.
    Replace,
    /// C = C + α·A·B.
    Add,
}

/// C (m×n, rows `c_row` apart) becomes, or gains, α·A·B with A m×k and B k×n.
///
/// # Panics
/// A matrix does not fit its slice.
#[allow(clippy::too_many_arguments)] // the shape and operands of a product
pub fn matmul(
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: &mut [f32],
    c_row: usize,
    into: Into,
) {
    // SAFETY: `c` is borrowed uniquely for the whole call.
    unsafe { matmul_shared((m, n, k), alpha, a, b, &SharedMut::new(c), 0, c_row, into) }
}

/// [`matmul`] into the matrix that begins at element `begin` of a slice other tasks write too.
///
/// # Safety
/// No one else may access the m×n destination elements during the call.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn matmul_shared(
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: &SharedMut<'_>,
    begin: usize,
    c_row: usize,
    into: Into,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(k > 0 && n <= c_row || m == 1, "rows of the destination overlap");
    a.check(m, k);
    b.check(k, n);
    let c = c.matrix(begin, (m - 1) * c_row + (n - 1));
    // SAFETY: all three matrices lie inside their slices (checked above), the destination's rows do not overlap, and
    // the caller vouches that nobody else touches it; strides fit isize because slices do.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            1,
            c_row as isize,
            into == Into::Add,
            a.data.as_ptr(),
            a.col as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.col as isize,
            b.row as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
