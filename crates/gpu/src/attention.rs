//! Multi-head self-attention over the pixels of an image.
//!
//! Queries, keys and values are contiguous: each pixel has 3·channels elements. Head h uses channels h·d to (h+1)·d of each.
//!
//! Scores are matrices in scratch memory, for as many images at once as fit it ([`Shape::images_at_once`]). Kernels that keep them
//! on chip need a head's keys and values there, and the heads of pixel-space networks have up to 512 channels. Scores are in
//! single precision, however pixels are stored.

use cubecl::prelude::*;

use crate::buffer::{Buffer, Element, View};
use crate::device::Gpu;
use crate::grid::{self, UNITS};
use crate::math::{max_units, sum_units};
use crate::matmul::{self, Matrix};

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

/// Elements of scores that are held at once, if one image does not need more: 64 MiB.
const SCORES: usize = 1 << 24;

impl Shape {
    fn head_dim(&self) -> usize {
        self.channels / self.heads
    }

    /// 1/√d.
    fn scale(&self) -> f32 {
        (1.0 / (self.head_dim() as f64).sqrt()) as f32
    }

    /// Elements of one image's scores.
    pub fn scores(&self) -> usize {
        self.heads * self.pixels * self.pixels
    }

    /// Of `n` images, how many are computed at once.
    pub fn images_at_once(&self, n: usize) -> usize {
        (SCORES / self.scores().max(1)).clamp(1, n.max(1))
    }

    fn check(&self, n: usize, qkv: &View, what: &str) {
        assert!(self.heads > 0 && self.channels.is_multiple_of(self.heads), "heads of {self:?}");
        qkv.check(n * self.pixels, 3 * self.channels, what);
    }

    /// Queries, keys or values (`which` 0, 1, 2) of the images from `first` on, `[pixels][d]` for each head.
    fn operand(&self, view: &View, first: usize, which: usize) -> Matrix {
        Matrix {
            buffer: view.buffer.clone(),
            offset: view.offset + first * self.pixels * view.stride + which * self.channels,
            by_image: self.pixels * view.stride,
            by_head: self.head_dim(),
            by_row: view.stride,
            by_column: 1,
            element: view.element,
        }
    }

    fn scores_in(&self, scratch: &Buffer) -> Matrix {
        let square = self.pixels * self.pixels;
        Matrix {
            buffer: scratch.clone(),
            offset: 0,
            by_image: self.heads * square,
            by_head: square,
            by_row: self.pixels,
            by_column: 1,
            element: Element::F32,
        }
    }

    fn product(&self, images: usize, columns: usize, depth: usize) -> matmul::Shape {
        matmul::Shape { images, heads: self.heads, rows: self.pixels, columns, depth, rows_are_images: false }
    }
}

/// Replaces each row of scores by its softmax.
#[cube(launch_unchecked)]
fn softmax(scores: &mut [f32], rows: usize, len: usize) {
    if CUBE_POS < rows {
        let mut shared = Shared::<[f32]>::new_slice(UNITS);
        let unit = UNIT_POS as usize;
        let first = CUBE_POS * len;
        let mut largest = scores[first];
        let mut i = unit;
        while i < len {
            largest = max(largest, scores[first + i]);
            i += UNITS;
        }
        let largest = max_units(largest, &mut shared);
        let mut sum = 0.0f32;
        let mut i = unit;
        while i < len {
            sum += (scores[first + i] - largest).exp();
            i += UNITS;
        }
        let factor = 1.0 / sum_units(sum, &mut shared);
        let mut i = unit;
        while i < len {
            scores[first + i] = (scores[first + i] - largest).exp() * factor;
            i += UNITS;
        }
    }
}

/// Replaces the gradient of each row of weights p by that of its scores: p·(dp − Σ p·dp).
#[cube(launch_unchecked)]
fn softmax_backward(weights: &[f32], slopes: &mut [f32], rows: usize, len: usize) {
    if CUBE_POS < rows {
        let mut shared = Shared::<[f32]>::new_slice(UNITS);
        let unit = UNIT_POS as usize;
        let first = CUBE_POS * len;
        let mut sum = 0.0f32;
        let mut i = unit;
        while i < len {
            sum = fma(weights[first + i], slopes[first + i], sum);
            i += UNITS;
        }
        let mean = sum_units(sum, &mut shared);
        let mut i = unit;
        while i < len {
            slopes[first + i] = weights[first + i] * (slopes[first + i] - mean);
            i += UNITS;
        }
    }
}

/// The attention weights of `images` images, in `scratch`.
fn weigh(gpu: &Gpu, shape: &Shape, images: usize, qkv: &View, first: usize, scratch: &Buffer) {
    let (q, k) = (shape.operand(qkv, first, 0), shape.operand(qkv, first, 1));
    let product = shape.product(images, shape.pixels, shape.head_dim());
    matmul::multiply(gpu, &product, shape.scale(), &q, &k.transpose(), None, &shape.scores_in(scratch), false);
    let rows = images * shape.heads * shape.pixels;
    // SAFETY: the product above checked that the scores, `rows` rows of `pixels`, fit the scratch memory.
    unsafe {
        softmax::launch_unchecked(&gpu.client, grid::groups(rows), grid::dim(), scratch.arg(), rows, shape.pixels);
    }
}

/// y = softmax(q·kᵀ/√d)·v for each head and image. `scratch` holds the scores of
/// [`images_at_once`](Shape::images_at_once) images.
///
/// # Panics
/// A buffer or view is too short for the shape.
pub fn forward(gpu: &Gpu, shape: &Shape, n: usize, qkv: &View, scratch: &Buffer, y: &View) {
    shape.check(n, qkv, "input of attention");
    y.check(n * shape.pixels, shape.channels, "output of attention");
    let at_once = shape.images_at_once(n);
    for first in (0..n).step_by(at_once) {
        let images = at_once.min(n - first);
        weigh(gpu, shape, images, qkv, first, scratch);
        let (weights, v) = (shape.scores_in(scratch), shape.operand(qkv, first, 2));
        let product = shape.product(images, shape.head_dim(), shape.pixels);
        matmul::multiply(gpu, &product, 1.0, &weights, &v, None, &shape.operand(y, first, 0), false);
    }
}

/// The gradient of queries, keys and values, given the output's. Computes the weights again. `scratch` are two buffers as in
/// [`forward`].
///
/// # Panics
/// A buffer or view is too short for the shape.
pub fn backward(gpu: &Gpu, shape: &Shape, n: usize, qkv: &View, dy: &View, scratch: [&Buffer; 2], dqkv: &View) {
    shape.check(n, qkv, "input of attention");
    shape.check(n, dqkv, "gradient by the input of attention");
    dy.check(n * shape.pixels, shape.channels, "gradient of attention");
    let [weights, slopes] = scratch;
    let at_once = shape.images_at_once(n);
    for first in (0..n).step_by(at_once) {
        let images = at_once.min(n - first);
        weigh(gpu, shape, images, qkv, first, weights);
        let [q, k, v] = [0, 1, 2].map(|which| shape.operand(qkv, first, which));
        let [dq, dk, dv] = [0, 1, 2].map(|which| shape.operand(dqkv, first, which));
        let dy = shape.operand(dy, first, 0);
        let (p, dp) = (shape.scores_in(weights), shape.scores_in(slopes));
        let by_pixels = shape.product(images, shape.pixels, shape.head_dim());
        let by_channels = shape.product(images, shape.head_dim(), shape.pixels);
        matmul::multiply(gpu, &by_channels, 1.0, &p.transpose(), &dy, None, &dv, false);
        matmul::multiply(gpu, &by_pixels, 1.0, &dy, &v.transpose(), None, &dp, false);
        let rows = images * shape.heads * shape.pixels;
        // SAFETY: the products above checked that both scratch buffers hold `rows` rows of `pixels`.
        unsafe {
            softmax_backward::launch_unchecked(
                &gpu.client,
                grid::groups(rows),
                grid::dim(),
                weights.arg(),
                slopes.arg(),
                rows,
                shape.pixels,
            );
        }
        matmul::multiply(gpu, &by_channels, shape.scale(), &dp, &k, None, &dq, false);
        matmul::multiply(gpu, &by_channels, shape.scale(), &dp.transpose(), &q, None, &dk, false);
    }
}
