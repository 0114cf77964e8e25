//! Passes over pixels and vectors in which each element depends on few others.

use cubecl::prelude::*;

use crate::buffer::{Buffer, View, instance};
use crate::device::Gpu;
use crate::grid;
use crate::math::{silu, silu_slope};

/// An activation, as PyTorch defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x·σ(x).
    Silu,
    /// x·Φ(x), with the normal distribution Φ (`torch.nn.GELU`, not its approximation by tanh).
    Gelu,
    /// x·tanh(ln(1 + e^x)) (`torch.nn.Mish`).
    Mish,
    /// max(x, 0).
    Relu,
}

/// Φ(−m) for m ≥ 0: erfc(m/√2)/2 by Abramowitz and Stegun 7.1.26, off by at most 1e-7.
#[cube]
fn upper_tail(magnitude: f32) -> f32 {
    let a = magnitude * 0.70710677f32;
    let t = 1.0 / fma(0.3275911f32, a, 1.0f32);
    let mut p = fma(1.0614054f32, t, -1.453152f32);
    p = fma(p, t, 1.4214137f32);
    p = fma(p, t, -0.28449672f32);
    p = fma(p, t, 0.2548296f32);
    p * t * 0.5 * (-(a * a)).exp()
}

/// e^x and the n of tanh(ln(1 + e^x)) = n/(n + 2). Beyond x = 20 the fraction is 1 in f32.
#[cube]
fn mish_exponential(x: f32) -> f32 {
    let bounded = f32::min(x, 20.0f32);
    bounded.exp()
}

#[cube]
fn activate(x: f32, #[comptime] kind: Activation) -> f32 {
    let mut y = 0.0f32;
    if comptime!(kind == Activation::Silu) {
        y = silu(x);
    }
    if comptime!(kind == Activation::Relu) {
        // Comparisons with NaN are false, and NaN stays.
        y = select(x < 0.0f32, 0.0f32, x);
    }
    if comptime!(kind == Activation::Gelu) {
        let tail = upper_tail(x.abs());
        y = select(x < 0.0f32, x * tail, x - x * tail);
    }
    if comptime!(kind == Activation::Mish) {
        let e = mish_exponential(x);
        let n = e * (e + 2.0);
        y = x * (n / (n + 2.0));
    }
    y
}

#[cube]
fn slope(x: f32, #[comptime] kind: Activation) -> f32 {
    let mut d = 0.0f32;
    if comptime!(kind == Activation::Silu) {
        d = silu_slope(x);
    }
    if comptime!(kind == Activation::Relu) {
        d = select(x > 0.0f32, 1.0f32, 0.0f32);
    }
    if comptime!(kind == Activation::Gelu) {
        // Φ(x) + x·φ(x)
        let tail = upper_tail(x.abs());
        let below = select(x < 0.0f32, tail, 1.0f32 - tail);
        let exponent = x * x * -0.5f32;
        d = fma(x * 0.3989423f32, exponent.exp(), below);
    }
    if comptime!(kind == Activation::Mish) {
        // t + x·(1 − t²)·σ(x), with 1 − t = 2/(n + 2)
        let e = mish_exponential(x);
        let n = e * (e + 2.0);
        let t = n / (n + 2.0);
        let rest = 2.0 / (n + 2.0);
        let fall = rest * (2.0 - rest);
        d = fma(f32::min(x, 20.0f32) * fall, e / (1.0 + e), t);
    }
    d
}

/// Strides and offsets of a pass over rows of channels.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Rows {
    elements: usize,
    channels: usize,
    x_stride: usize,
    x_offset: usize,
    y_stride: usize,
    y_offset: usize,
}

/// What a pass computes, and whether it adds to what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pass {
    /// factor·x
    Scale,
    /// act(x)
    Activate(Activation),
    /// x·act′(z), with z from a third operand
    Slope(Activation),
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn pass_kernel<A: Float>(
    x: &[A],
    z: &[A],
    y: &mut [A],
    r: Rows,
    z_stride: usize,
    z_offset: usize,
    factor: f32,
    #[comptime] pass: Pass,
    #[comptime] accumulate: bool,
) {
    if ABSOLUTE_POS < r.elements {
        let (row, channel) = (ABSOLUTE_POS / r.channels, ABSOLUTE_POS % r.channels);
        let value = f32::cast_from(x[row * r.x_stride + r.x_offset + channel]);
        let at = row * r.y_stride + r.y_offset + channel;
        let mut result = value * factor;
        match comptime!(pass) {
            Pass::Scale => {}
            Pass::Activate(kind) => {
                result = activate(value, kind);
            }
            Pass::Slope(kind) => {
                result = value * slope(f32::cast_from(z[row * z_stride + z_offset + channel]), kind);
            }
        }
        if comptime!(accumulate) {
            result += f32::cast_from(y[at]);
        }
        y[at] = A::cast_from(result);
    }
}

#[allow(clippy::too_many_arguments)] // operands and result
fn pass(
    gpu: &Gpu,
    rows: usize,
    channels: usize,
    x: &View,
    z: &View,
    factor: f32,
    pass: Pass,
    y: &View,
    accumulate: bool,
) {
    x.check(rows, channels, "input of a pass over rows");
    z.check(rows, channels, "second input of a pass over rows");
    y.check(rows, channels, "output of a pass over rows");
    assert!(x.element == y.element && z.element == y.element, "views of a pass over rows");
    let elements = rows * channels;
    let launch = instance!(pass_kernel, y.element);
    // SAFETY: rows and channels are within the views, which were checked.
    unsafe {
        launch(
            &gpu.client,
            grid::units(elements),
            grid::dim(),
            x.arg(),
            z.arg(),
            y.arg(),
            RowsLaunch::new(elements, channels, x.stride, x.offset, y.stride, y.offset),
            z.stride,
            z.offset,
            factor,
            pass,
            accumulate,
        );
    }
}

/// y = scale·x, or y += scale·x, over `rows` rows of `channels`.
///
/// # Panics
/// A view is too short.
pub fn add_rows(gpu: &Gpu, rows: usize, channels: usize, scale: f32, x: &View, y: &View, accumulate: bool) {
    pass(gpu, rows, channels, x, x, scale, Pass::Scale, y, accumulate);
}

/// y = act(x) over `rows` rows of `channels`.
///
/// # Panics
/// A view is too short.
pub fn activation(gpu: &Gpu, kind: Activation, rows: usize, channels: usize, x: &View, y: &View) {
    pass(gpu, rows, channels, x, x, 1.0, Pass::Activate(kind), y, false);
}

/// dx = dy·act′(x), or dx += dy·act′(x). The derivative of ReLU at 0 is 0.
///
/// # Panics
/// A view is too short.
#[allow(clippy::too_many_arguments)] // operands and result
pub fn activation_backward(
    gpu: &Gpu,
    kind: Activation,
    rows: usize,
    channels: usize,
    x: &View,
    dy: &View,
    dx: &View,
    accumulate: bool,
) {
    pass(gpu, rows, channels, dy, x, 1.0, Pass::Slope(kind), dx, accumulate);
}

/// How a pass changes the size of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Resize {
    /// Every pixel of x becomes 2×2, times the factor.
    Repeat,
    /// The sum of 2×2 pixels of x, times the factor.
    Sum,
}

#[cube(launch_unchecked)]
fn resize_kernel<A: Float>(
    x: &[A],
    y: &mut [A],
    r: Rows,
    height: usize,
    width: usize,
    factor: f32,
    #[comptime] resize: Resize,
    #[comptime] accumulate: bool,
) {
    if ABSOLUTE_POS < r.elements {
        let (row, channel) = (ABSOLUTE_POS / r.channels, ABSOLUTE_POS % r.channels);
        let (image, pixel) = (row / (height * width), row % (height * width));
        let (py, px) = (pixel / width, pixel % width);
        let mut value = 0.0f32;
        if comptime!(resize == Resize::Repeat) {
            let from = (image * (height / 2) + py / 2) * (width / 2) + px / 2;
            value += f32::cast_from(x[from * r.x_stride + r.x_offset + channel]);
        } else {
            let from = (image * (2 * height) + 2 * py) * (2 * width) + 2 * px;
            let at = from * r.x_stride + r.x_offset + channel;
            let below = at + 2 * width * r.x_stride;
            value += f32::cast_from(x[at]) + f32::cast_from(x[at + r.x_stride]);
            value += f32::cast_from(x[below]) + f32::cast_from(x[below + r.x_stride]);
        }
        value *= factor;
        let at = row * r.y_stride + r.y_offset + channel;
        if comptime!(accumulate) {
            value += f32::cast_from(y[at]);
        }
        y[at] = A::cast_from(value);
    }
}

/// `size` is that of the output.
#[allow(clippy::too_many_arguments)] // operands and result
fn resized(
    gpu: &Gpu,
    n: usize,
    [height, width]: [usize; 2],
    channels: usize,
    x: &View,
    factor: f32,
    resize: Resize,
    y: &View,
    accumulate: bool,
) {
    let rows = n * height * width;
    let x_rows = if resize == Resize::Repeat { n * (height / 2) * (width / 2) } else { 4 * rows };
    x.check(x_rows, channels, "input of a change of size");
    y.check(rows, channels, "output of a change of size");
    assert_eq!(x.element, y.element, "views of a change of size");
    let elements = rows * channels;
    let launch = instance!(resize_kernel, y.element);
    // SAFETY: each output pixel reads pixels of its own image within the size that was checked.
    unsafe {
        launch(
            &gpu.client,
            grid::units(elements),
            grid::dim(),
            x.arg(),
            y.arg(),
            RowsLaunch::new(elements, channels, x.stride, x.offset, y.stride, y.offset),
            height,
            width,
            factor,
            resize,
            accumulate,
        );
    }
}

/// Upsamples images of `size` by 2, repeating every pixel.
///
/// # Panics
/// A view is too short.
pub fn upsample(gpu: &Gpu, n: usize, size: [usize; 2], channels: usize, x: &View, y: &View) {
    resized(gpu, n, size.map(|s| 2 * s), channels, x, 1.0, Resize::Repeat, y, false);
}

/// dx = the sum of the four pixels that each input pixel became in [`upsample`], or dx += that sum. `size` is that of dx.
///
/// # Panics
/// A view is too short.
pub fn upsample_backward(
    gpu: &Gpu,
    n: usize,
    size: [usize; 2],
    channels: usize,
    dy: &View,
    dx: &View,
    accumulate: bool,
) {
    resized(gpu, n, size, channels, dy, 1.0, Resize::Sum, dx, accumulate);
}

/// Downsamples images by 2, taking the mean of 2×2 pixels. `size` is that of the output.
///
/// # Panics
/// A view is too short.
pub fn average_pool(gpu: &Gpu, n: usize, size: [usize; 2], channels: usize, x: &View, y: &View) {
    resized(gpu, n, size, channels, x, 0.25, Resize::Sum, y, false);
}

/// dx = dy/4 at each of the four pixels that [`average_pool`] combined, or dx += dy/4. `size` is that of dy.
///
/// # Panics
/// A view is too short.
pub fn average_pool_backward(
    gpu: &Gpu,
    n: usize,
    size: [usize; 2],
    channels: usize,
    dy: &View,
    dx: &View,
    accumulate: bool,
) {
    resized(gpu, n, size.map(|s| 2 * s), channels, dy, 0.25, Resize::Repeat, dx, accumulate);
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn planes_kernel<A: Float>(
    planes: &mut [f32],
    pixels: &mut [A],
    elements: usize,
    channels: usize,
    per_image: usize,
    stride: usize,
    offset: usize,
    a: f32,
    b: f32,
    #[comptime] to_planes: bool,
) {
    if ABSOLUTE_POS < elements {
        let (row, channel) = (ABSOLUTE_POS / channels, ABSOLUTE_POS % channels);
        let (image, pixel) = (row / per_image, row % per_image);
        let plane = (image * channels + channel) * per_image + pixel;
        let at = row * stride + offset + channel;
        if comptime!(to_planes) {
            planes[plane] = a * f32::cast_from(pixels[at]);
        } else {
            pixels[at] = A::cast_from(fma(a, planes[plane], b));
        }
    }
}

#[allow(clippy::too_many_arguments)] // operands, in either direction
fn planes(
    gpu: &Gpu,
    n: usize,
    channels: usize,
    per_image: usize,
    (a, b): (f32, f32),
    planes: &Buffer,
    view: &View,
    to_planes: bool,
) {
    let elements = n * channels * per_image;
    assert!(planes.len() >= elements, "planes of {n} images");
    view.check(n * per_image, channels, "pixels of planes");
    let launch = instance!(planes_kernel, view.element);
    // SAFETY: planes and pixels were checked against the buffers.
    unsafe {
        launch(
            &gpu.client,
            grid::units(elements),
            grid::dim(),
            planes.arg(),
            view.arg(),
            elements,
            channels,
            per_image,
            view.stride,
            view.offset,
            a,
            b,
            to_planes,
        );
    }
}

/// y = a·x + b, from planes to channels-last pixels: `x` is `[n, channels, pixels]`.
///
/// # Panics
/// A buffer or view is too short.
pub fn from_planes(gpu: &Gpu, n: usize, channels: usize, pixels: usize, factors: (f32, f32), x: &Buffer, y: &View) {
    planes(gpu, n, channels, pixels, factors, x, y, false);
}

/// y = scale·x, from channels-last pixels to planes: `y` is `[n, channels, pixels]`.
///
/// # Panics
/// A buffer or view is too short.
pub fn to_planes(gpu: &Gpu, n: usize, channels: usize, pixels: usize, scale: f32, x: &View, y: &Buffer) {
    planes(gpu, n, channels, pixels, (scale, 0.0), y, x, true);
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn sum_kernel<A: Float>(
    x: &[A],
    sums: &mut [f32],
    tasks: usize,
    channels: usize,
    rows: usize,
    stride: usize,
    offset: usize,
    sums_offset: usize,
    #[comptime] accumulate: bool,
) {
    // A group is 8 lanes of 32 neighbouring channels.
    let blocks = channels.div_ceil(32usize);
    if CUBE_POS < tasks {
        let mut shared = Shared::<[f32]>::new_slice(grid::UNITS);
        let unit = UNIT_POS as usize;
        let (image, block) = (CUBE_POS / blocks, CUBE_POS % blocks);
        let (lane, channel) = (unit / 32, block * 32 + unit % 32);
        let mut sum = 0.0f32;
        if channel < channels {
            let mut row = lane;
            while row < rows {
                sum += f32::cast_from(x[(image * rows + row) * stride + offset + channel]);
                row += 8;
            }
        }
        shared[unit] = sum;
        sync_cube();
        if unit < 32 && channel < channels {
            let mut sum = 0.0f32;
            for lane in 0..8usize {
                sum += shared[lane * 32 + unit];
            }
            let at = sums_offset + image * channels + channel;
            if comptime!(accumulate) {
                sum += sums[at];
            }
            sums[at] = sum;
        }
    }
}

/// For each of `n` images, the sum over its `rows` rows of `channels`, or adds it: `sums` is `[n, channels]` from `at` on.
///
/// # Panics
/// A buffer or view is too short.
#[allow(clippy::too_many_arguments)] // operands and result
pub fn sum_rows(
    gpu: &Gpu,
    n: usize,
    rows: usize,
    channels: usize,
    x: &View,
    sums: &Buffer,
    at: usize,
    accumulate: bool,
) {
    x.check(n * rows, channels, "rows to sum");
    assert!(at + n * channels <= sums.len(), "sums of {n} images");
    let tasks = n * channels.div_ceil(32);
    let launch = instance!(sum_kernel, x.element);
    // SAFETY: rows and channels are within the view, and the sums within the buffer, as checked above.
    unsafe {
        launch(
            &gpu.client,
            grid::groups(tasks),
            grid::dim(),
            x.arg(),
            sums.arg(),
            tasks,
            channels,
            rows,
            x.stride,
            x.offset,
            at,
            accumulate,
        );
    }
}

#[cube(launch_unchecked)]
fn fill_kernel(x: &mut [f32], elements: usize, value: f32) {
    if ABSOLUTE_POS < elements {
        x[ABSOLUTE_POS] = value;
    }
}

/// Sets the first `len` elements.
///
/// # Panics
/// The buffer is shorter.
pub fn fill(gpu: &Gpu, x: &Buffer, len: usize, value: f32) {
    assert!(len <= x.len(), "{len} of {} elements", x.len());
    // SAFETY: the elements were checked.
    unsafe { fill_kernel::launch_unchecked(&gpu.client, grid::units(len), grid::dim(), x.arg(), len, value) }
}
