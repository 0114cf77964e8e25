//! Two-dimensional convolution with square kernels, stride 1 or 2 and any padding, as matrix products on tiles.
//!
//! A tile is a band of output rows of one image. Its input patches are laid out as a matrix `[c_in·k·k, pixels]`
//! (im2col) that stays in the second-level cache; the weights `[c_out, c_in·k·k]` times it give the band. The height of
//! a band follows from the layer's shape, so an image's result does not depend on what is computed beside it.

use crate::matmul::{Into, Matrix, matmul, matmul_shared};
use crate::shared::SharedMut;
use crate::simd;
use crate::threads::{Threads, for_each, with_scratch};

/// Shape of a convolution layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Side of the kernel.
    pub kernel: usize,
    /// Step between outputs, in input pixels.
    pub stride: usize,
    /// Zeros before the first row and column.
    pub pad_before: usize,
    /// Zeros after the last row and column.
    pub pad_after: usize,
}

/// Elements of a patch matrix that stay in a second-level cache beside the weights.
const TILE_ELEMENTS: usize = 192 * 1024;

impl Shape {
    /// Height and width of the output.
    pub fn output(&self) -> [usize; 2] {
        self.input.map(|size| (size + self.pad_before + self.pad_after - self.kernel) / self.stride + 1)
    }

    /// Rows of the patch matrix, c_in·k·k.
    pub fn patch(&self) -> usize {
        self.c_in * self.kernel * self.kernel
    }

    /// Elements of one input image.
    pub fn input_len(&self) -> usize {
        self.c_in * self.input[0] * self.input[1]
    }

    /// Elements of one output image.
    pub fn output_len(&self) -> usize {
        let [height, width] = self.output();
        self.c_out * height * width
    }

    /// Floating-point operations for one image, a multiplication and an addition counted as two.
    pub fn flops(&self) -> u64 {
        (2 * self.patch() as u64).saturating_mul(self.output_len() as u64)
    }

    fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.pad_before == 0 && self.pad_after == 0
    }

    /// Output rows of a tile.
    fn band(&self) -> usize {
        let [height, width] = self.output();
        (TILE_ELEMENTS / (self.patch() * width)).clamp(1, height)
    }

    fn check(&self, n: usize, x: &[f32], w: &[f32], y: &[f32]) {
        assert_eq!(x.len(), n * self.input_len(), "input of {self:?}");
        assert_eq!(w.len(), self.c_out * self.patch(), "weights of {self:?}");
        assert_eq!(y.len(), n * self.output_len(), "output of {self:?}");
    }
}

/// The input columns that tap `kx` of each output meets: the outputs `first..last` lie inside the image.
fn inside(tap: usize, pad: usize, stride: usize, size: usize, outputs: usize) -> (usize, usize) {
    let first = pad.saturating_sub(tap).div_ceil(stride).min(outputs);
    // o·stride + tap − pad < size
    let last = if size + pad > tap { (size + pad - tap).div_ceil(stride).min(outputs) } else { 0 };
    (first, last.max(first))
}

/// Writes the patches of output rows `rows` of one image as a matrix `[patch, rows·width]`.
fn im2col(shape: &Shape, x: &[f32], rows: std::ops::Range<usize>, col: &mut [f32]) {
    let [height, width] = shape.input;
    let [_, out_width] = shape.output();
    let (stride, pad) = (shape.stride, shape.pad_before);
    let pixels = rows.len() * out_width;
    let mut lines = col.chunks_exact_mut(pixels);
    for channel in x.chunks_exact(height * width) {
        for ky in 0..shape.kernel {
            for kx in 0..shape.kernel {
                let line = lines.next().expect("a line for each tap");
                let (first, last) = inside(kx, pad, stride, width, out_width);
                for (out_y, out) in rows.clone().zip(line.chunks_exact_mut(out_width)) {
                    let Some(y) = (out_y * stride + ky).checked_sub(pad).filter(|y| *y < height) else {
                        out.fill(0.0);
                        continue;
                    };
                    let row = &channel[y * width..(y + 1) * width];
                    out[..first].fill(0.0);
                    out[last..].fill(0.0);
                    if first == last {
                        continue;
                    }
                    let begin = first * stride + kx - pad;
                    if stride == 1 {
                        out[first..last].copy_from_slice(&row[begin..begin + last - first]);
                    } else {
                        for (out, x) in out[first..last].iter_mut().zip(row[begin..].iter().step_by(stride)) {
                            *out = *x;
                        }
                    }
                }
            }
        }
    }
}

/// Adds a patch matrix back onto the image it was taken from: the transpose of [`im2col`].
fn col2im(shape: &Shape, col: &[f32], rows: std::ops::Range<usize>, x: &mut [f32]) {
    let [height, width] = shape.input;
    let [_, out_width] = shape.output();
    let (stride, pad) = (shape.stride, shape.pad_before);
    let pixels = rows.len() * out_width;
    let mut lines = col.chunks_exact(pixels);
    for channel in x.chunks_exact_mut(height * width) {
        for ky in 0..shape.kernel {
            for kx in 0..shape.kernel {
                let line = lines.next().expect("a line for each tap");
                let (first, last) = inside(kx, pad, stride, width, out_width);
                if first == last {
                    continue;
                }
                let begin = first * stride + kx - pad;
                for (out_y, out) in rows.clone().zip(line.chunks_exact(out_width)) {
                    let Some(y) = (out_y * stride + ky).checked_sub(pad).filter(|y| *y < height) else { continue };
                    let row = &mut channel[y * width..(y + 1) * width][begin..];
                    let out = &out[first..last];
                    if stride == 1 {
                        for (x, out) in row[..out.len()].iter_mut().zip(out) {
                            *x += out;
                        }
                    } else {
                        for (x, out) in row.iter_mut().step_by(stride).zip(out) {
                            *x += out;
                        }
                    }
                }
            }
        }
    }
}

/// y = w ∗ x + b for `n` images. `w` is `[c_out, c_in, k, k]`, `b` is `[c_out]`.
///
/// # Panics
/// A slice has another length than the shape says.
pub fn forward(shape: &Shape, n: usize, x: &[f32], w: &[f32], b: &[f32], y: &mut [f32], threads: Threads) {
    shape.check(n, x, w, y);
    assert_eq!(b.len(), shape.c_out, "bias of {shape:?}");
    let [height, width] = shape.output();
    let (band, patch, plane) = (shape.band(), shape.patch(), height * width);
    let bands = height.div_ceil(band);
    let y = SharedMut::new(y);
    for_each(threads, n * bands, |task| {
        let (image, band_index) = (task / bands, task % bands);
        let rows = band_index * band..((band_index + 1) * band).min(height);
        let pixels = rows.len() * width;
        let x = &x[image * shape.input_len()..(image + 1) * shape.input_len()];
        let begin = image * shape.output_len() + rows.start * width;
        for (channel, &bias) in b.iter().enumerate() {
            // SAFETY: (image, channel, rows) belongs to this task alone.
            unsafe { y.part(begin + channel * plane, pixels) }.fill(bias);
        }
        let product = |patches: Matrix<'_>| {
            // SAFETY: the pixels of this band, in every channel of this image, belong to this task alone.
            unsafe {
                matmul_shared(
                    (shape.c_out, pixels, patch),
                    1.0,
                    Matrix::rows(w, patch),
                    patches,
                    &y,
                    begin,
                    plane,
                    Into::Add,
                );
            }
        };
        if shape.is_pointwise() {
            product(Matrix::rows(&x[rows.start * width..], plane));
        } else {
            with_scratch(patch * pixels, |col| {
                simd::dispatch(|| im2col(shape, x, rows.clone(), col));
                product(Matrix::rows(col, pixels));
            });
        }
    });
}

/// dx += wᵀ ∗ dy for `n` images.
///
/// # Panics
/// A slice has another length than the shape says.
pub fn backward_data(shape: &Shape, n: usize, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    shape.check(n, dx, w, dy);
    let [height, width] = shape.output();
    let (band, patch, plane) = (shape.band(), shape.patch(), height * width);
    let weights = Matrix::rows(w, patch).transposed();
    for (dy, dx) in dy.chunks_exact(shape.output_len()).zip(dx.chunks_exact_mut(shape.input_len())).take(n) {
        for start in (0..height).step_by(band) {
            let rows = start..(start + band).min(height);
            let pixels = rows.len() * width;
            let dy = Matrix::rows(&dy[start * width..], plane);
            if shape.is_pointwise() {
                matmul((patch, pixels, shape.c_out), 1.0, weights, dy, &mut dx[start * width..], plane, Into::Add);
            } else {
                with_scratch(patch * pixels, |col| {
                    matmul((patch, pixels, shape.c_out), 1.0, weights, dy, col, pixels, Into::Replace);
                    simd::dispatch(|| col2im(shape, col, rows.clone(), dx));
                });
            }
        }
    }
}

/// dw += dy · im2col(x)ᵀ and db += Σ dy over `n` images, image after image.
///
/// # Panics
/// A slice has another length than the shape says.
pub fn backward_weights(shape: &Shape, n: usize, x: &[f32], dy: &[f32], dw: &mut [f32], db: &mut [f32]) {
    shape.check(n, x, dw, dy);
    assert_eq!(db.len(), shape.c_out, "bias of {shape:?}");
    let [height, width] = shape.output();
    let (band, patch, plane) = (shape.band(), shape.patch(), height * width);
    for (x, dy) in x.chunks_exact(shape.input_len()).zip(dy.chunks_exact(shape.output_len())) {
        simd::dispatch(|| {
            for (db, dy) in db.iter_mut().zip(dy.chunks_exact(plane)) {
                *db += simd::sum(dy) as f32;
            }
        });
        for start in (0..height).step_by(band) {
            let rows = start..(start + band).min(height);
            let pixels = rows.len() * width;
            let dy = Matrix::rows(&dy[start * width..], plane);
            let mut product = |patches: Matrix<'_>| {
                matmul((shape.c_out, patch, pixels), 1.0, dy, patches.transposed(), dw, patch, Into::Add);
            };
            if shape.is_pointwise() {
                product(Matrix::rows(&x[start * width..], plane));
            } else {
                with_scratch(patch * pixels, |col| {
                    simd::dispatch(|| im2col(shape, x, rows.clone(), col));
                    product(Matrix::rows(col, pixels));
                });
            }
        }
    }
}
