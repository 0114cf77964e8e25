//! Multi-head self-attention over the pixels of an image.
//!
//! Queries, keys and values are contiguous: each pixel has 3·channels elements. Head h uses channels h·d to (h+1)·d of
//! each. Scores are computed for one tile of queries at a time and never stored; the backward pass recomputes them.

#[cfg(target_arch = "x86_64")]
mod units;

use crate::half::Packed;
use crate::isa::{Isa, kernel};
use crate::math;
use crate::micro::{columns_times_rows, rows_times_panel};
use crate::shared::SharedMut;
use crate::team::{Team, with_scratch};
use crate::view::{View, ViewMut};

/// Shape of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Channels of the queries (also of the keys and of the values), over all heads.
    pub channels: usize,
    /// Number of heads; must divide `channels`.
    pub heads: usize,
    /// Number of pixels that attend to each other.
    pub pixels: usize,
}

/// Queries whose scores are held at once.
const TILE: usize = 56;
/// Heads per thread from which on each head is processed by a single thread.
const HEADS_EACH: usize = 4;

impl Shape {
    fn head_dim(&self) -> usize {
        self.channels / self.heads
    }

    /// 1/√d.
    fn scale(&self) -> f32 {
        (1.0 / (self.head_dim() as f64).sqrt()) as f32
    }

    /// Floating-point operations for one image; a multiply-add counts as two.
    pub fn flops(&self) -> u64 {
        let (channels, pixels) = (self.channels as u64, self.pixels as u64);
        // Saturates: a config may ask for more than a u64 can count.
        pixels.saturating_mul(pixels).saturating_mul(4 * channels)
    }

    /// Splits a view that holds queries, keys and values side by side.
    fn split<'a>(&self, qkv: View<'a>) -> [View<'a>; 3] {
        [0, 1, 2].map(|i| View { offset: qkv.offset + i * self.channels, ..qkv })
    }
}

/// How rows of a view are packed for matrix products.
#[derive(Clone, Copy)]
enum Pack {
    /// Columns `first..first + width` of every row: \[panel of columns\]\[row\]\[two vectors\].
    Rows,
    /// Their transpose: \[panel of rows\]\[column\]\[two vectors\].
    Transposed,
}

/// Elements that `rows` packed rows of `columns` take.
fn packed_len(pack: Pack, rows: usize, columns: usize, width: usize) -> usize {
    match pack {
        Pack::Rows => columns.next_multiple_of(width) * rows,
        Pack::Transposed => rows.next_multiple_of(width) * columns,
    }
}

/// Rows transposed together, which keeps stores close to each other.
const TOGETHER: usize = 8;

/// Packs `rows` rows starting at `begin`, channels `first..first + columns`.
#[allow(clippy::too_many_arguments)] // a matrix and its packing
fn pack(
    how: Pack,
    x: View<'_>,
    begin: usize,
    rows: usize,
    first: usize,
    columns: usize,
    width: usize,
    out: &mut [f32],
) {
    let channels = first + columns;
    match how {
        Pack::Rows => {
            for (panel, out) in out.chunks_exact_mut(rows * width).enumerate() {
                let at = first + panel * width;
                let len = width.min(channels - at);
                for (row, out) in out.chunks_exact_mut(width).enumerate() {
                    out[..len].copy_from_slice(&x.row(begin + row, channels)[at..at + len]);
                    out[len..].fill(0.0);
                }
            }
        }
        Pack::Transposed => {
            for (panel, out) in out.chunks_exact_mut(columns * width).enumerate() {
                let len = width.min(rows - panel * width);
                if len < width {
                    out.fill(0.0);
                }
                let row = |lane: usize| &x.row(begin + panel * width + lane, channels)[first..];
                let whole = len / TOGETHER * TOGETHER;
                for lane in (0..whole).step_by(TOGETHER) {
                    let rows: [&[f32]; TOGETHER] = std::array::from_fn(|i| row(lane + i));
                    for (column, out) in out.chunks_exact_mut(width).enumerate() {
                        for (out, row) in out[lane..lane + TOGETHER].iter_mut().zip(rows) {
                            *out = row[column];
                        }
                    }
                }
                for lane in whole..len {
                    for (out, x) in out[lane..].iter_mut().step_by(width).zip(row(lane)) {
                        *out = *x;
                    }
                }
            }
        }
    }
}

kernel! {
    /// Replaces each row's `len` scores by exp(scale·(score − max)) in place; `inverse[row]` becomes 1/Σ.
    unsafe fn exponentials<S>(s, len: usize, row: usize, scale: f32, p: &mut [f32], inverse: &mut [f32]) {
        for (p, inverse) in p.chunks_exact_mut(row).zip(inverse) {
            let p = p.as_mut_ptr();
            let mut max = s.splat(f32::NEG_INFINITY);
            let whole = len / S::LANES * S::LANES;
            // SAFETY: each row has `row ≥ len` elements; the last vector is read and written only up to `len`.
            unsafe {
                for i in (0..whole).step_by(S::LANES) {
                    max = s.max(s.load(p.add(i)), max);
                }
                let mut lanes = [f32::NEG_INFINITY; 16];
                s.store(lanes.as_mut_ptr(), max);
                for i in whole..len {
                    lanes[0] = if *p.add(i) > lanes[0] { *p.add(i) } else { lanes[0] };
                }
                let max = lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let (factor, shift) = (s.splat(scale), s.splat(-max * scale));
                let mut sum = s.zero();
                for i in (0..whole).step_by(S::LANES) {
                    let e = math::exp(s, s.fma(s.load(p.add(i)), factor, shift));
                    s.store(p.add(i), e);
                    sum = s.add(sum, e);
                }
                let mut total = math::total(s, sum);
                if whole < len {
                    let e = math::exp(s, s.fma(s.load_first(p.add(whole), len - whole), factor, shift));
                    s.store_first(p.add(whole), e, len - whole);
                    for i in whole..len {
                        total += f64::from(*p.add(i));
                    }
                }
                *inverse = (1.0 / total) as f32;
            }
        }
    }
}

/// The position of a head's queries, keys and values.
#[derive(Clone, Copy)]
struct Head {
    /// First row (pixel, counted over all images) and first channel.
    row: usize,
    channel: usize,
}

/// What all tiles of a call share.
struct Call {
    shape: Shape,
    isa: Isa,
    /// Columns per panel.
    width: usize,
}

impl Call {
    fn head(&self, index: usize) -> Head {
        let Shape { heads, pixels, .. } = self.shape;
        Head { row: index / heads * pixels, channel: index % heads * self.shape.head_dim() }
    }

    /// Elements per row of scores: a whole number of panels.
    fn score_row(&self) -> usize {
        self.shape.pixels.next_multiple_of(self.width)
    }

    /// C = A·B, with B packed in panels of `k` rows. `columns` is rounded up to whole panels.
    ///
    /// # Safety
    /// `a` points to `rows` rows of `k` elements; the rows of `c` hold whole panels.
    #[allow(clippy::too_many_arguments)] // the operands of a product
    unsafe fn product(&self, rows: usize, k: usize, a: *const f32, a_row: usize, b: &[f32], c: *mut f32, c_row: usize) {
        for (panel, b) in b.chunks_exact(k * self.width).enumerate() {
            // SAFETY: guaranteed by the caller.
            unsafe {
                rows_times_panel(
                    self.isa,
                    rows,
                    k,
                    a,
                    a_row,
                    Packed::Single(b.as_ptr()),
                    b.len(),
                    c.add(panel * self.width),
                    c_row,
                )
            };
        }
    }

    /// Computes unnormalised probabilities of `rows` queries starting at row `query`, `[rows, score_row]`, and 1/Σ of
    /// each.
    fn probabilities(&self, q: View<'_>, head: Head, query: usize, keys: &[f32], p: &mut [f32], inverse: &mut [f32]) {
        let (d, row) = (self.shape.head_dim(), self.score_row());
        let rows = inverse.len();
        // SAFETY: the queries have rows of d channels, the keys are packed and the score rows hold whole panels.
        unsafe {
            let a = q.pointer().add((head.row + query) * q.stride + head.channel);
            self.product(rows, d, a, q.stride, keys, p.as_mut_ptr(), row);
            exponentials(self.isa, self.shape.pixels, row, self.shape.scale(), p, inverse);
        }
    }
}

/// y = softmax(q·kᵀ/√d)·v for each head of each of `n` images. With `units`, products are in bf16 on matrix units, if the
/// processor has them.
///
/// # Panics
/// A view is too short for the shape.
pub fn forward(shape: &Shape, isa: Isa, units: bool, team: &Team, n: usize, qkv: View<'_>, y: &mut ViewMut<'_>) {
    qkv.check(n * shape.pixels, 3 * shape.channels, "input of attention");
    #[cfg(target_arch = "x86_64")]
    if let Some(units) = if units { crate::conv::matrix_units(isa) } else { None } {
        return units::forward(shape, units, isa, team, n, qkv, y);
    }
    let _ = units;
    let [q, k, v] = shape.split(qkv);
    let (d, pixels) = (shape.head_dim(), shape.pixels);
    let call = Call { shape: *shape, isa, width: 2 * isa.lanes() };
    let y = y.share(n * pixels, shape.channels, "output of attention");
    let (keys_len, values_len) =
        (packed_len(Pack::Transposed, pixels, d, call.width), packed_len(Pack::Rows, pixels, d, call.width));
    let heads = n * shape.heads;
    let tiles = pixels.div_ceil(TILE);
    let (row, d_row) = (call.score_row(), d.next_multiple_of(call.width));
    let pack_keys = |head: Head, keys: &mut [f32]| {
        pack(Pack::Transposed, k, head.row, pixels, head.channel, d, call.width, keys);
    };
    let pack_values =
        |head: Head, values: &mut [f32]| pack(Pack::Rows, v, head.row, pixels, head.channel, d, call.width, values);
    let attend = |head: Head, tile: usize, keys: &[f32], values: &[f32]| {
        let (begin, end) = (pixels * tile / tiles, pixels * (tile + 1) / tiles);
        let rows = end - begin;
        with_scratch(rows * (row + d_row), |scratch| {
            let (p, out) = scratch.split_at_mut(rows * row);
            let mut inverse = [0.0; TILE];
            let inverse = &mut inverse[..rows];
            call.probabilities(q, head, begin, keys, p, inverse);
            // SAFETY: `p` has rows of `pixels` probabilities, the values are packed and output rows hold whole panels.
            unsafe { call.product(rows, pixels, p.as_ptr(), row, values, out.as_mut_ptr(), d_row) };
            for ((i, out), inverse) in out.chunks_exact(d_row).enumerate().zip(&*inverse) {
                // SAFETY: only this task accesses the head's channels of these queries.
                let y = unsafe { y.part(head.row + begin + i, head.channel, d) };
                for (y, x) in y.iter_mut().zip(out) {
                    *y = x * inverse;
                }
            }
        });
    };
    if heads >= HEADS_EACH * team.threads() {
        // One task per head keeps its packed keys and values in that thread's cache.
        return team.run(heads, |index| {
            let head = call.head(index);
            with_scratch(keys_len + values_len, |packed| {
                let (keys, values) = packed.split_at_mut(keys_len);
                pack_keys(head, keys);
                pack_values(head, values);
                (0..tiles).for_each(|tile| attend(head, tile, keys, values));
            });
        });
    }
    with_scratch(heads * (keys_len + values_len), |packed| {
        let shared = SharedMut::new(packed);
        team.run(2 * heads, |task| {
            let head = call.head(task / 2);
            let begin = task / 2 * (keys_len + values_len);
            // SAFETY: only its own task accesses a head's keys and values.
            unsafe {
                if task % 2 == 0 {
                    pack_keys(head, shared.part(begin, keys_len));
                } else {
                    pack_values(head, shared.part(begin + keys_len, values_len));
                }
            }
        });
        let packed = &*packed;
        team.run(heads * tiles, |task| {
            let packed = &packed[task / tiles * (keys_len + values_len)..][..keys_len + values_len];
            let (keys, values) = packed.split_at(keys_len);
            attend(call.head(task / tiles), task % tiles, keys, values);
        });
    });
}

/// Writes the gradients of [`forward`] with respect to queries, keys and values, side by side. Overwrites `dqkv`.
///
/// # Panics
/// A view is too short for the shape.
pub fn backward(shape: &Shape, isa: Isa, team: &Team, n: usize, qkv: View<'_>, dy: View<'_>, dqkv: &mut ViewMut<'_>) {
    let (d, pixels, channels) = (shape.head_dim(), shape.pixels, shape.channels);
    qkv.check(n * pixels, 3 * channels, "input of attention");
    dy.check(n * pixels, channels, "gradient of attention");
    let [q, k, v] = shape.split(qkv);
    let call = Call { shape: *shape, isa, width: 2 * isa.lanes() };
    let out = dqkv.share(n * pixels, 3 * channels, "gradient by the input of attention");
    let (row, d_row, width) = (call.score_row(), d.next_multiple_of(call.width), call.width);
    let (across, down) = (packed_len(Pack::Transposed, pixels, d, width), packed_len(Pack::Rows, pixels, d, width));
    team.run(n * shape.heads, |task| {
        let head = call.head(task);
        let lengths =
            [across, across, down, pixels * d_row, pixels * d_row, TILE * row, TILE * row, TILE * d_row, TILE * d_row];
        with_scratch(lengths.iter().sum(), |scratch| {
            let mut rest = scratch;
            let [keys, values, key_rows, dk, dv, p, dp, tile, dq] = lengths.map(|len| {
                let (part, others) = std::mem::take(&mut rest).split_at_mut(len);
                rest = others;
                part
            });
            pack(Pack::Transposed, k, head.row, pixels, head.channel, d, width, keys);
            pack(Pack::Transposed, v, head.row, pixels, head.channel, d, width, values);
            pack(Pack::Rows, k, head.row, pixels, head.channel, d, width, key_rows);
            for begin in (0..pixels).step_by(TILE) {
                let rows = TILE.min(pixels - begin);
                let first = begin == 0;
                let mut inverse = [0.0; TILE];
                let inverse = &mut inverse[..rows];
                let (p, dp) = (&mut p[..rows * row], &mut dp[..rows * row]);
                call.probabilities(q, head, begin, keys, p, inverse);
                // SAFETY: `dy` has rows of d channels, the values are packed and the rows of `dp` hold whole panels.
                unsafe {
                    let a = dy.pointer().add((head.row + begin) * dy.stride + head.channel);
                    call.product(rows, d, a, dy.stride, values, dp.as_mut_ptr(), row);
                }
                // SAFETY: `p` and `dp` have as many rows as there are queries, each of `pixels ≤ row` scores.
                unsafe { scores_gradient(isa, pixels, row, shape.scale(), p, dp, inverse) };
                // dv += pᵀ·dy; dk += dsᵀ·q; dq = ds·k
                let mut add = |x: View<'_>, weights: &[f32], into: &mut [f32]| {
                    for (i, tile) in tile.chunks_exact_mut(d_row).take(rows).enumerate() {
                        tile[..d].copy_from_slice(&x.row(head.row + begin + i, head.channel + d)[head.channel..]);
                        tile[d..].fill(0.0);
                    }
                    for panel in (0..d_row).step_by(width) {
                        // SAFETY: the weights have `rows` rows of `pixels`, the tile has rows of whole panels, and the
                        // sums have a row of whole panels for each key.
                        unsafe {
                            let (a, b) = (weights.as_ptr(), tile.as_ptr().add(panel));
                            let c = into.as_mut_ptr().add(panel);
                            columns_times_rows(isa, rows, pixels, a, row, b, d_row, c, d_row, first);
                        }
                    }
                };
                add(dy, p, dv);
                add(q, dp, dk);
                // SAFETY: `dp` has rows of `pixels` gradients, the keys are packed and the rows of `dq` hold whole
                // panels.
                unsafe { call.product(rows, pixels, dp.as_ptr(), row, key_rows, dq.as_mut_ptr(), d_row) };
                for (i, dq) in dq.chunks_exact(d_row).take(rows).enumerate() {
                    // SAFETY: only this task accesses this head's channels of these pixels.
                    unsafe { out.part(head.row + begin + i, head.channel, d) }.copy_from_slice(&dq[..d]);
                }
            }
            for (i, (dk, dv)) in dk.chunks_exact(d_row).zip(dv.chunks_exact(d_row)).enumerate() {
                // SAFETY: only this task accesses this head's channels of these pixels.
                unsafe {
                    out.part(head.row + i, channels + head.channel, d).copy_from_slice(&dk[..d]);
                    out.part(head.row + i, 2 * channels + head.channel, d).copy_from_slice(&dv[..d]);
                }
            }
        });
    });
}

kernel! {
    /// Normalises rows of `len` probabilities, `row` apart, and replaces `dp` (their gradient) by the gradient of the
    /// unscaled scores: scale·p·(dp − Σ dp·p).
    unsafe fn scores_gradient<S>(
        s, len: usize, row: usize, scale: f32, p: &mut [f32], dp: &mut [f32], inverse: &[f32],
    ) {
        for ((p, dp), inverse) in p.chunks_exact_mut(row).zip(dp.chunks_exact_mut(row)).zip(inverse) {
            let (p, dp, inverse) = (p.as_mut_ptr(), dp.as_mut_ptr(), s.splat(*inverse));
            let mut inner = s.zero();
            // SAFETY: each row has `row ≥ len` elements; the last vector is read and written only up to `len`.
            unsafe {
                for i in (0..len).step_by(S::LANES) {
                    let here = (len - i).min(S::LANES);
                    let normalised = s.mul(s.load_up_to(p.add(i), here), inverse);
                    s.store_up_to(p.add(i), normalised, here);
                    inner = s.fma(normalised, s.load_up_to(dp.add(i), here), inner);
                }
                let (inner, scale) = (s.splat(math::total(s, inner) as f32), s.splat(scale));
                for i in (0..len).step_by(S::LANES) {
                    let here = (len - i).min(S::LANES);
                    let d = s.sub(s.load_up_to(dp.add(i), here), inner);
                    s.store_up_to(dp.add(i), s.mul(s.mul(scale, s.load_up_to(p.add(i), here)), d), here);
                }
            }
        }
    }
}
