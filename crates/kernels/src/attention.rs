//! Self-attention over the pixels of an image, with any number of heads.
//!
//! Queries, keys and values are `[n, channels, pixels]`; head h has channels h·d to (h+1)·d. Scores are made a tile of
//! queries at a time and never stored: backward makes them again.

use crate::matmul::{Into, Matrix, matmul, matmul_shared};
use crate::shared::SharedMut;
use crate::simd;
use crate::threads::{Threads, for_each, with_scratch};

/// Shape of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Channels of queries, keys and values together over all heads.
    pub channels: usize,
    /// Heads; divides the channels.
    pub heads: usize,
    /// Pixels that attend to each other.
    pub pixels: usize,
}

/// Queries whose scores are held at once.
const TILE: usize = 128;

impl Shape {
    fn head_dim(&self) -> usize {
        self.channels / self.heads
    }

    /// 1/√d.
    fn scale(&self) -> f32 {
        (1.0 / (self.head_dim() as f64).sqrt()) as f32
    }

    /// Floating-point operations for one image, a multiplication and an addition counted as two.
    pub fn flops(&self) -> u64 {
        let (channels, pixels) = (self.channels as u64, self.pixels as u64);
        // A config may ask for more than can be counted.
        pixels.saturating_mul(pixels).saturating_mul(4 * channels)
    }

    fn check(&self, n: usize, slices: &[&[f32]]) {
        for slice in slices {
            assert_eq!(slice.len(), n * self.channels * self.pixels, "{self:?}");
        }
    }

    /// Probabilities of queries `begin..begin + rows` of one head: softmax of qᵀk/√d, `[rows, pixels]`.
    fn probabilities(&self, q: &[f32], k: &[f32], begin: usize, rows: usize, p: &mut [f32]) {
        let (d, pixels) = (self.head_dim(), self.pixels);
        let queries = Matrix::rows(&q[begin..], pixels).transposed();
        matmul((rows, pixels, d), self.scale(), queries, Matrix::rows(k, pixels), p, pixels, Into::Replace);
        simd::dispatch(|| p.chunks_exact_mut(pixels).for_each(softmax));
    }
}

/// Replaces a row by its softmax.
#[inline(always)]
fn softmax(row: &mut [f32]) {
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in row.chunks(16) {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    let max = lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for x in row.iter_mut() {
        *x = simd::exp(*x - max);
    }
    let inverse = (1.0 / simd::sum(row)) as f32;
    for x in row.iter_mut() {
        *x *= inverse;
    }
}

/// y = softmax(qᵀk/√d)·v, for each head of each of `n` images.
///
/// # Panics
/// A slice has another length than the shape says.
pub fn forward(shape: &Shape, n: usize, q: &[f32], k: &[f32], v: &[f32], y: &mut [f32], threads: Threads) {
    shape.check(n, &[q, k, v, y]);
    let (d, pixels) = (shape.head_dim(), shape.pixels);
    let head_len = d * pixels;
    let tiles = pixels.div_ceil(TILE);
    let y = SharedMut::new(y);
    for_each(threads, n * shape.heads * tiles, |task| {
        let head = task / tiles * head_len..(task / tiles + 1) * head_len;
        let begin = task % tiles * TILE;
        let rows = TILE.min(pixels - begin);
        with_scratch(rows * pixels, |p| {
            shape.probabilities(&q[head.clone()], &k[head.clone()], begin, rows, p);
            let (values, weights) = (Matrix::rows(&v[head.clone()], pixels), Matrix::rows(p, pixels).transposed());
            // SAFETY: columns `begin..begin + rows` of this head of this image belong to this task alone.
            unsafe {
                let at = head.start + begin;
                matmul_shared((d, rows, pixels), 1.0, values, weights, &y, at, pixels, Into::Replace);
            }
        });
    });
}

/// Adds the gradients of [`forward`] to `dq`, `dk` and `dv`.
///
/// # Panics
/// A slice has another length than the shape says.
#[allow(clippy::too_many_arguments)] // three operands and their gradients
pub fn backward(
    shape: &Shape,
    n: usize,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    dy: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    shape.check(n, &[q, k, v, dy, dq, dk, dv]);
    let (d, pixels) = (shape.head_dim(), shape.pixels);
    let head_len = d * pixels;
    for head in 0..n * shape.heads {
        let head = head * head_len..(head + 1) * head_len;
        let (q, k, v, dy) = (&q[head.clone()], &k[head.clone()], &v[head.clone()], &dy[head.clone()]);
        let (dq, dk, dv) = (&mut dq[head.clone()], &mut dk[head.clone()], &mut dv[head]);
        for begin in (0..pixels).step_by(TILE) {
            let rows = TILE.min(pixels - begin);
            with_scratch(2 * rows * pixels, |scratch| {
                let (p, dp) = scratch.split_at_mut(rows * pixels);
                shape.probabilities(q, k, begin, rows, p);
                let dy = Matrix::rows(&dy[begin..], pixels);
                // dv[d, j] += Σ_i dy[d, i]·p[i, j]
                matmul((d, pixels, rows), 1.0, dy, Matrix::rows(p, pixels), dv, pixels, Into::Add);
                // dp[i, j] = Σ_d dy[d, i]·v[d, j]
                matmul((rows, pixels, d), 1.0, dy.transposed(), Matrix::rows(v, pixels), dp, pixels, Into::Replace);
                // ds = p·(dp − Σ_j dp·p), in place of dp
                simd::dispatch(|| {
                    for (p, dp) in p.chunks_exact(pixels).zip(dp.chunks_exact_mut(pixels)) {
                        let inner = simd::dot(p, dp) as f32;
                        for (dp, p) in dp.iter_mut().zip(p) {
                            *dp = p * (*dp - inner);
                        }
                    }
                });
                let ds = Matrix::rows(dp, pixels);
                // dq[d, i] += Σ_j k[d, j]·ds[i, j]/√d;  dk[d, j] += Σ_i q[d, i]·ds[i, j]/√d
                let keys = Matrix::rows(k, pixels);
                matmul((d, rows, pixels), shape.scale(), keys, ds.transposed(), &mut dq[begin..], pixels, Into::Add);
                let queries = Matrix::rows(&q[begin..], pixels);
                matmul((d, pixels, rows), shape.scale(), queries, ds, dk, pixels, Into::Add);
            });
        }
    }
}
