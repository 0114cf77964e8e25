//! The register tile that all matrix products here are built from.
//!
//! A tile is up to [`Simd::ROWS`] rows of A times a panel of B two vectors wide. Each element of the result is one
//! chain of fused multiply-adds in the order of k, whatever the number of rows of the tile. The grouping of rows into
//! tiles therefore never changes a result.

use crate::half::{Element, Packed};
use crate::isa::{Simd, kernel};

/// Begins to bring the cache line of `p` into the second-level cache. `p` need not be valid.
#[inline(always)]
pub(crate) fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, which accepts any address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Brings a panel of `k` rows of `width` elements closer while tile `tile` of `tiles` is computed: an `ahead` for
/// [`accumulate`]. The first two tiles share the panel, because one cache line at a time disturbs the products least.
#[inline(always)]
pub(crate) fn fetch<T>(panel: *const T, k: usize, width: usize, tile: usize, tiles: usize) -> impl Fn(usize) {
    let step = width / 2;
    let halves = [(tile == 0).then_some(0), (tile == 1 || tiles == 1).then_some(k * step)];
    move |p| halves.into_iter().flatten().for_each(|half| prefetch(panel.wrapping_add(half + p * step)))
}

/// Rows ahead of a product over rows that lie far apart, which processors do not load early by themselves.
const AHEAD: usize = 12;

/// The sums of a tile: two vectors per row.
pub(crate) type Tile<S, const M: usize> = [[<S as Simd>::V; 2]; M];

/// acc\[i\] += Σ_p a(i, p)·b\[p\] for p in 0..k; row p of the panel begins at `b + p·b_row`. `ahead(p)` is
/// called before row p, to bring closer what is needed soon.
///
/// # Safety
/// `a(i, p)` is readable for i < M and p < k, and so are two vectors at each `b + p·b_row`.
#[inline(always)]
pub(crate) unsafe fn accumulate<S: Simd, E: Element, const M: usize>(
    s: S,
    k: usize,
    a: impl Fn(usize, usize) -> *const f32,
    b: *const E,
    b_row: usize,
    ahead: impl Fn(usize),
    acc: &mut Tile<S, M>,
) {
    let mut p = 0;
    while p + E::at_once::<S>() <= k {
        for p in p..p + E::at_once::<S>() {
            ahead(p);
        }
        for p in p..p + E::at_once::<S>() {
            // SAFETY: guaranteed by the caller.
            unsafe { add_row(s, |i| a(i, p), b.add(p * b_row), acc) };
        }
        p += E::at_once::<S>();
    }
    for p in p..k {
        ahead(p);
        // SAFETY: guaranteed by the caller.
        unsafe { add_row(s, |i| a(i, p), b.add(p * b_row), acc) };
    }
}

/// acc\[i\] += a(i)·row.
///
/// # Safety
/// `a(i)` is readable for i < M, and so are two vectors at `row`.
#[inline(always)]
unsafe fn add_row<S: Simd, const M: usize>(
    s: S,
    a: impl Fn(usize) -> *const f32,
    row: *const impl Element,
    acc: &mut Tile<S, M>,
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let (b0, b1) = (Element::load(s, row), Element::load(s, row.add(S::LANES)));
        for (i, sums) in acc.iter_mut().enumerate() {
            let x = s.splat(*a(i));
            sums[0] = s.fma(x, b0, sums[0]);
            sums[1] = s.fma(x, b1, sums[1]);
        }
    }
}

/// Splits `rows` into as few tiles as possible, as evenly as possible: (first, count) of each.
#[inline(always)]
pub(crate) fn tiles<S: Simd>(rows: usize) -> Tiles {
    Tiles { rows, count: rows.div_ceil(S::ROWS), next: 0 }
}

/// See [`tiles`]. It is an iterator because the body of a closure would not be compiled for the caller's instruction
/// set.
pub(crate) struct Tiles {
    rows: usize,
    count: usize,
    next: usize,
}

impl Iterator for Tiles {
    type Item = (usize, usize);

    #[inline(always)]
    fn next(&mut self) -> Option<(usize, usize)> {
        if self.next == self.count {
            return None;
        }
        let first = self.rows * self.next / self.count;
        self.next += 1;
        Some((first, self.rows * self.next / self.count - first))
    }
}

/// Calls `$f::<S, M>($args)` with M equal to `$rows`, at most 14.
macro_rules! with_rows {
    ($rows:expr, $f:ident::<$S:ident>($($arg:expr),* $(,)?)) => {
        match $rows {
            1 => $f::<$S, 1>($($arg),*),
            2 => $f::<$S, 2>($($arg),*),
            3 => $f::<$S, 3>($($arg),*),
            4 => $f::<$S, 4>($($arg),*),
            5 => $f::<$S, 5>($($arg),*),
            6 => $f::<$S, 6>($($arg),*),
            // Sets with fewer registers never ask for more than ROWS rows and need no code for them.
            7 if $S::ROWS >= 7 => $f::<$S, 7>($($arg),*),
            8 if $S::ROWS >= 8 => $f::<$S, 8>($($arg),*),
            9 if $S::ROWS >= 9 => $f::<$S, 9>($($arg),*),
            10 if $S::ROWS >= 10 => $f::<$S, 10>($($arg),*),
            11 if $S::ROWS >= 11 => $f::<$S, 11>($($arg),*),
            12 if $S::ROWS >= 12 => $f::<$S, 12>($($arg),*),
            13 if $S::ROWS >= 13 => $f::<$S, 13>($($arg),*),
            14 if $S::ROWS >= 14 => $f::<$S, 14>($($arg),*),
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}

pub(crate) use with_rows;

kernel! {
    /// C = A·B for `rows` rows of A, `a_row` apart, and a packed panel of B (`k` rows of two vectors). Each row of C is
    /// two vectors; rows are `c_row` apart. The caller needs the panel `next` elements further on soon.
    ///
    /// # Safety
    /// k elements of each row of A and the whole panel are readable, two vectors of each row of C are writable.
    pub(crate) unsafe fn rows_times_panel<S>(
        s, rows: usize, k: usize, a: *const f32, a_row: usize, b: Packed, next: usize, c: *mut f32, c_row: usize,
    ) {
        let all = tiles::<S>(rows).count();
        for (tile, (first, count)) in tiles::<S>(rows).enumerate() {
            let (a, c) = (a.wrapping_add(first * a_row), c.wrapping_add(first * c_row));
            let at = |i: usize, p: usize| a.wrapping_add(i * a_row + p);
            // SAFETY: guaranteed by the caller, for a part of the rows.
            unsafe {
                match b {
                    Packed::Single(b) => {
                        let ahead = fetch(b.wrapping_add(next), k, 2 * S::LANES, tile, all);
                        with_rows!(count, sums::<S>(s, k, at, b, 2 * S::LANES, ahead, c, c_row, true));
                    }
                    Packed::Half(b) => {
                        let ahead = fetch(b.wrapping_add(next), k, 2 * S::LANES, tile, all);
                        with_rows!(count, sums::<S>(s, k, at, b, 2 * S::LANES, ahead, c, c_row, true));
                    }
                }
            }
        }
    }
}

kernel! {
    /// C = AᵀB if `replace`, else C += AᵀB: c\[i\] = Σ_p a\[p\]\[i\]·b\[p\] over `k` rows p, for i < `columns` columns
    /// of A. The rows of C are two vectors, `c_row` apart.
    ///
    /// # Safety
    /// `columns` elements of each row of A and two vectors of each row of B are readable, two vectors of each row of C
    /// are writable.
    pub(crate) unsafe fn columns_times_rows<S>(
        s, k: usize, columns: usize, a: *const f32, a_row: usize, b: *const f32, b_row: usize, c: *mut f32, c_row: usize,
        replace: bool,
    ) {
        for (first, count) in tiles::<S>(columns) {
            let (a, c) = (a.wrapping_add(first), c.wrapping_add(first * c_row));
            let at = |i: usize, p: usize| a.wrapping_add(p * a_row + i);
            let ahead = |p| {
                prefetch(at(0, p + AHEAD));
                if first == 0 {
                    let row = b.wrapping_add((p + AHEAD) * b_row);
                    prefetch(row);
                    prefetch(row.wrapping_add(S::LANES));
                }
            };
            // SAFETY: guaranteed by the caller, for a part of the columns.
            unsafe { with_rows!(count, sums::<S>(s, k, at, b, b_row, ahead, c, c_row, replace)) };
        }
    }
}

/// C = Σ_p a(i, p)·b\[p\] for p in 0..k if `replace`, else C += that sum. C has M rows of two vectors, `c_row` apart.
///
/// # Safety
/// As [`accumulate`]; two vectors of each row of C are writable, and readable unless `replace`.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // the operands of a product
pub(crate) unsafe fn sums<S: Simd, const M: usize>(
    s: S,
    k: usize,
    a: impl Fn(usize, usize) -> *const f32,
    b: *const impl Element,
    b_row: usize,
    ahead: impl Fn(usize),
    c: *mut f32,
    c_row: usize,
    replace: bool,
) {
    let mut acc = [[s.zero(); 2]; M];
    // SAFETY: guaranteed by the caller.
    unsafe {
        if !replace {
            for (i, acc) in acc.iter_mut().enumerate() {
                *acc = [s.load(c.add(i * c_row)), s.load(c.add(i * c_row + S::LANES))];
            }
        }
        accumulate(s, k, a, b, b_row, ahead, &mut acc);
        for (i, [c0, c1]) in acc.into_iter().enumerate() {
            s.store(c.add(i * c_row), c0);
            s.store(c.add(i * c_row + S::LANES), c1);
        }
    }
}
