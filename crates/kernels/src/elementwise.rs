//! Elementwise operations and resampling, with their gradients, and conversions between memory layouts.

use crate::isa::{Isa, kernel};
use crate::math;
use crate::shared::Shared;
use crate::sums::row_sums;
use crate::team::Team;
use crate::view::{View, ViewMut};

/// Elements per task.
const PART: usize = 16 * 1024;

/// Runs `f(begin, count)` on consecutive parts of `len` elements.
pub(crate) fn parts(team: &Team, len: usize, f: impl Fn(usize, usize) + Sync) {
    team.run(len.div_ceil(PART), |part| f(part * PART, PART.min(len - part * PART)));
}

/// y\[i\] = f(x\[i\], y\[i\]), one vector after the other, for slices of equal length. It is a macro because the body
/// of a closure would not be compiled for the caller's instruction set.
macro_rules! map {
    ($S:ident, $s:ident, $xs:ident, $ys:ident, ($x:ident, $y:ident) => $f:expr) => {{
        let (len, x, y) = ($ys.len(), $xs.as_ptr(), $ys.as_mut_ptr());
        let whole = len / $S::LANES * $S::LANES;
        // SAFETY: the vectors lie within the slices; the last one touches only the elements that remain.
        unsafe {
            for i in (0..whole).step_by($S::LANES) {
                let ($x, $y) = ($s.load(x.add(i)), $s.load(y.add(i)));
                $s.store(y.add(i), $f);
            }
            let rest = len - whole;
            if rest > 0 {
                let ($x, $y) = ($s.load_first(x.add(whole), rest), $s.load_first(y.add(whole), rest));
                $s.store_first(y.add(whole), $f, rest);
            }
        }
    }};
}

kernel! {
    /// y = x·σ(x). The slices have equal length.
    unsafe fn silu_kernel<S>(s, x: &[f32], y: &mut [f32]) {
        map!(S, s, x, y, (x, _y) => math::silu(s, x));
    }
}

kernel! {
    /// `y` holds dy and becomes dx. The slices have equal length.
    unsafe fn silu_backward_kernel<S>(s, x: &[f32], y: &mut [f32]) {
        map!(S, s, x, y, (x, dy) => s.mul(dy, math::silu_derivative(s, x)));
    }
}

kernel! {
    /// y += a·x. The slices have equal length.
    pub(crate) unsafe fn axpy_kernel<S>(s, a: f32, x: &[f32], y: &mut [f32]) {
        let a = s.splat(a);
        map!(S, s, x, y, (x, y) => s.fma(a, x, y));
    }
}

/// y = x·σ(x).
///
/// # Panics
/// The slices differ in length.
pub fn silu(isa: Isa, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    // SAFETY: the slices have equal length.
    unsafe { silu_kernel(isa, x, y) }
}

/// Replaces dy by dy·silu′(x).
///
/// # Panics
/// The slices differ in length.
pub fn silu_backward(isa: Isa, x: &[f32], dy: &mut [f32]) {
    assert_eq!(x.len(), dy.len());
    // SAFETY: the slices have equal length.
    unsafe { silu_backward_kernel(isa, x, dy) }
}

/// y += a·x.
///
/// # Panics
/// The slices differ in length.
pub fn axpy(isa: Isa, team: &Team, a: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    let y = Shared::new(y);
    parts(team, x.len(), |begin, len| {
        // SAFETY: only this task accesses its part; the slices have equal length.
        unsafe { axpy_kernel(isa, a, &x[begin..begin + len], y.part(begin, len)) }
    });
}

/// y = scale·x, or y += scale·x, over `rows` rows of `channels`.
///
/// # Panics
/// A view is too short.
#[allow(clippy::too_many_arguments)] // operands and result
pub fn add_rows(
    isa: Isa,
    team: &Team,
    rows: usize,
    channels: usize,
    scale: f32,
    x: View<'_>,
    y: &mut ViewMut<'_>,
    accumulate: bool,
) {
    x.check(rows, channels, "operand");
    let y = y.share(rows, channels, "sum");
    let step = (PART / channels).max(1);
    team.run(rows.div_ceil(step), |part| {
        for row in part * step..((part + 1) * step).min(rows) {
            // SAFETY: only this task accesses its rows; the slices have equal length.
            unsafe {
                let y = y.part(row, 0, channels);
                if !accumulate {
                    y.fill(0.0);
                }
                axpy_kernel(isa, scale, x.row(row, channels), y);
            }
        }
    });
}

/// Upsamples images of `size` by 2, repeating every pixel.
///
/// # Panics
/// A view is too short.
pub fn upsample(team: &Team, n: usize, [height, width]: [usize; 2], channels: usize, x: View<'_>, y: &mut ViewMut<'_>) {
    x.check(n * height * width, channels, "images to double");
    let y = y.share(4 * n * height * width, channels, "doubled images");
    team.run(2 * n * height, |row| {
        for column in 0..2 * width {
            let from = x.row(row / 2 * width + column / 2, channels);
            // SAFETY: only this task accesses the row of pixels.
            unsafe { y.part(row * 2 * width + column, 0, channels) }.copy_from_slice(from);
        }
    });
}

/// Adds the sum over the pixels of each image to `sums`, `[n, channels]`.
///
/// # Panics
/// The lengths do not fit.
pub fn sum_pixels(isa: Isa, team: &Team, n: usize, pixels: usize, channels: usize, x: View<'_>, sums: &mut [f32]) {
    x.check(n * pixels, channels, "images to sum");
    assert_eq!(sums.len(), n * channels, "sums of images");
    let mut images = sums.chunks_exact_mut(channels);
    row_sums(isa, team, n, pixels, n * pixels, channels, x, |exact| {
        let sums = images.next().expect("a row of sums for every image");
        sums.iter_mut().zip(exact).for_each(|(sum, exact)| *sum += *exact as f32);
    });
}

/// dx = the sum of the four pixels that each input pixel became in [`upsample`], or dx += that sum. `size` is that of
/// dx.
///
/// # Panics
/// The lengths do not fit.
#[allow(clippy::too_many_arguments)] // operands and result
pub fn upsample_backward(
    team: &Team,
    isa: Isa,
    n: usize,
    size: [usize; 2],
    channels: usize,
    dy: View<'_>,
    dx: &mut ViewMut<'_>,
    accumulate: bool,
) {
    sum_of_four(team, isa, n, size, channels, 1.0, dy, dx, accumulate);
}

/// Downsamples images by 2, taking the mean of 2×2 pixels. `size` is that of the output.
///
/// # Panics
/// A view is too short.
pub fn average_pool(
    team: &Team,
    isa: Isa,
    n: usize,
    size: [usize; 2],
    channels: usize,
    x: View<'_>,
    y: &mut ViewMut<'_>,
) {
    sum_of_four(team, isa, n, size, channels, 0.25, x, y, false);
}

#[allow(clippy::too_many_arguments)]
fn sum_of_four(
    team: &Team,
    isa: Isa,
    n: usize,
    [height, width]: [usize; 2],
    channels: usize,
    scale: f32,
    x: View<'_>,
    y: &mut ViewMut<'_>,
    accumulate: bool,
) {
    x.check(4 * n * height * width, channels, "images to halve");
    let y = y.share(n * height * width, channels, "halved images");
    team.run(n * height, |row| {
        for column in 0..width {
            // SAFETY: only this task accesses the row of pixels; the slices have equal length.
            unsafe {
                let y = y.part(row * width + column, 0, channels);
                if !accumulate {
                    y.fill(0.0);
                }
                for corner in 0..4 {
                    let pixel = (2 * row + corner / 2) * 2 * width + 2 * column + corner % 2;
                    axpy_kernel(isa, scale, x.row(pixel, channels), y);
                }
            }
        }
    });
}

/// dx = dy/4 at each of the four pixels that [`average_pool`] combined, or dx += dy/4. `size` is that of dy.
///
/// # Panics
/// A view is too short.
#[allow(clippy::too_many_arguments)] // operands and result
pub fn average_pool_backward(
    team: &Team,
    isa: Isa,
    n: usize,
    [height, width]: [usize; 2],
    channels: usize,
    dy: View<'_>,
    dx: &mut ViewMut<'_>,
    accumulate: bool,
) {
    dy.check(n * height * width, channels, "gradient of halved images");
    let dx = dx.share(4 * n * height * width, channels, "gradient of images");
    team.run(2 * n * height, |row| {
        for column in 0..2 * width {
            // SAFETY: only this task accesses the row of pixels; the slices have equal length.
            unsafe {
                let dx = dx.part(row * 2 * width + column, 0, channels);
                if !accumulate {
                    dx.fill(0.0);
                }
                axpy_kernel(isa, 0.25, dy.row(row / 2 * width + column / 2, channels), dx);
            }
        }
    });
}

/// y = a·x + b, from planes to channels-last pixels: `x` is `[n, channels, pixels]`.
///
/// # Panics
/// A slice or view is too short.
pub fn from_planes(n: usize, channels: usize, (a, b): (f32, f32), x: &[f32], y: &mut ViewMut<'_>) {
    let pixels = x.len() / (n * channels).max(1);
    assert_eq!(x.len(), n * channels * pixels);
    for (image, x) in x.chunks_exact((channels * pixels).max(1)).enumerate() {
        for (channel, x) in x.chunks_exact(pixels).enumerate() {
            for (pixel, x) in x.iter().enumerate() {
                y.row(image * pixels + pixel, channels)[channel] = a * x + b;
            }
        }
    }
}

/// y = scale·x, from channels-last pixels to planes: `y` is `[n, channels, pixels]`.
///
/// # Panics
/// A slice or view is too short.
pub fn to_planes(n: usize, channels: usize, scale: f32, x: View<'_>, y: &mut [f32]) {
    let pixels = y.len() / (n * channels).max(1);
    assert_eq!(y.len(), n * channels * pixels);
    for (image, y) in y.chunks_exact_mut((channels * pixels).max(1)).enumerate() {
        for (channel, y) in y.chunks_exact_mut(pixels).enumerate() {
            for (pixel, y) in y.iter_mut().enumerate() {
                *y = scale * x.row(image * pixels + pixel, channels)[channel];
            }
        }
    }
}
