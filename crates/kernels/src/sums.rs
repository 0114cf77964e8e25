//! Sums of each column (channel) over the rows (pixels). The order of summation does not depend on the threads.

use crate::isa::{Isa, Simd, kernel};
use crate::shared::Shared;
use crate::team::Team;
use crate::view::View;

/// Rows accumulated in f32 before the partial sum is added to an f64.
pub(crate) const ROWS: usize = 64;

/// Rows per task.
const PART: usize = 1024;

/// Adds the sum of each column over all rows to `sums`.
pub(crate) fn column_sums(isa: Isa, team: &Team, rows: usize, channels: usize, x: View<'_>, sums: &mut [f64]) {
    row_sums(isa, team, rows.div_ceil(PART), PART, rows, channels, x, |part| {
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    });
}

/// Calls `each` with the column sums of every group of `len` rows, in order. The last group may be shorter.
#[allow(clippy::too_many_arguments)] // a matrix and how it is cut
pub(crate) fn row_sums(
    isa: Isa,
    team: &Team,
    groups: usize,
    len: usize,
    rows: usize,
    channels: usize,
    x: View<'_>,
    each: impl FnMut(&[f64]),
) {
    x.check(rows, channels, "rows to sum");
    let mut parts = vec![0.0; groups * channels];
    let shared = Shared::new(&mut parts);
    team.run(groups, |group| {
        let (begin, end) = (group * len, ((group + 1) * len).min(rows));
        let from = &x.data[begin * x.stride + x.offset..];
        // SAFETY: only this task accesses the group's sums; the group's rows lie in the view, which was checked.
        unsafe {
            sum_columns(isa, end - begin, channels, from.as_ptr(), x.stride, shared.part(group * channels, channels));
        }
    });
    parts.chunks_exact(channels).for_each(each);
}

kernel! {
    /// Adds the sum of each of `channels` columns to `sums`.
    pub(crate) unsafe fn sum_columns<S>(s, rows: usize, channels: usize, x: *const f32, stride: usize, sums: &mut [f64]) {
        // SAFETY: guaranteed by the caller.
        unsafe { reduce::<S, false>(s, rows, channels, x, stride, &[], sums) }
    }
}

kernel! {
    /// Adds the sum of (x − centre)² of each of `channels` columns to `sums`.
    pub(crate) unsafe fn sum_squares<S>(
        s, rows: usize, channels: usize, x: *const f32, stride: usize, centre: &[f32], sums: &mut [f64],
    ) {
        // SAFETY: guaranteed by the caller; there is a centre for every column.
        unsafe { reduce::<S, true>(s, rows, channels, x, stride, centre, sums) }
    }
}

/// Adds Σ x or Σ (x − centre)² of each column to `sums`. Partial sums of a few rows are in f32, the totals in f64.
///
/// # Safety
/// `x` points to `rows` rows of `channels` elements, `stride` apart. With `SQUARES`, `centre` has a value per column.
#[inline(always)]
unsafe fn reduce<S: Simd, const SQUARES: bool>(
    s: S,
    rows: usize,
    channels: usize,
    x: *const f32,
    stride: usize,
    centre: &[f32],
    sums: &mut [f64],
) {
    /// Vectors processed together: enough independent chains of additions to hide their latency.
    const WIDE: usize = 8;
    let mut lanes = [0.0f32; 16];
    for first in (0..channels).step_by(WIDE * S::LANES) {
        let vectors = (channels - first).div_ceil(S::LANES).min(WIDE);
        let mut mean = [s.zero(); WIDE];
        if SQUARES {
            for (i, mean) in mean[..vectors].iter_mut().enumerate() {
                let c = first + i * S::LANES;
                // SAFETY: there is a centre for every column.
                *mean = unsafe { s.load_first(centre.as_ptr().add(c), (channels - c).min(S::LANES)) };
            }
        }
        let whole = (channels - first) / S::LANES >= WIDE;
        for begin in (0..rows).step_by(ROWS) {
            let mut acc = [s.zero(); WIDE];
            for row in begin..(begin + ROWS).min(rows) {
                // SAFETY: guaranteed by the caller; of the last vector, only existing columns are read.
                unsafe {
                    let p = x.add(row * stride + first);
                    if whole {
                        for i in 0..WIDE {
                            let d = s.sub(s.load(p.add(i * S::LANES)), mean[i]);
                            acc[i] = if SQUARES { s.fma(d, d, acc[i]) } else { s.add(acc[i], d) };
                        }
                    } else {
                        for i in 0..vectors {
                            let len = (channels - first - i * S::LANES).min(S::LANES);
                            let d = s.sub(s.load_first(p.add(i * S::LANES), len), mean[i]);
                            acc[i] = if SQUARES { s.fma(d, d, acc[i]) } else { s.add(acc[i], d) };
                        }
                    }
                }
            }
            for (i, acc) in acc.into_iter().enumerate().take(vectors) {
                let c = first + i * S::LANES;
                // SAFETY: no vector has more than 16 lanes.
                unsafe { s.store(lanes.as_mut_ptr(), acc) };
                for (sum, lane) in sums[c..channels.min(c + S::LANES)].iter_mut().zip(&lanes) {
                    *sum += f64::from(*lane);
                }
            }
        }
    }
}
