//! Group normalisation with an optional scale and shift per image, and SiLU.
//!
//! Normalisation is a·x + b, with a and b per channel and image. [`coefficients`] computes a and b in the pass that finds
//! mean and variance. Convolutions apply them while reading ([`conv::Norm`](crate::conv::Norm)), [`apply`] on its own.

use cubecl::prelude::*;

use crate::buffer::{Buffer, View, instance};
use crate::conv::Vectors;
use crate::device::Gpu;
use crate::grid::{self, UNITS};
use crate::math::{silu, silu_slope, sum_units};

/// Shape and options of a group normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Number of channels.
    pub channels: usize,
    /// Pixels per channel.
    pub pixels: usize,
    /// Number of groups; must divide `channels`.
    pub groups: usize,
    /// ε, added to the variance.
    pub eps: f32,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// The learned scale γ and offset β among other parameters, and the scales and shifts per image.
#[derive(Clone, Debug)]
pub struct Affine {
    /// The parameters.
    pub parameters: Buffer,
    /// Place of γ.
    pub gamma: usize,
    /// Place of β.
    pub beta: usize,
    /// Scales s and shifts h for each image (2·channels): y = normalised·(1 + s) + h.
    pub scale_shift: Option<Vectors>,
}

/// What a and b of a channel are made of.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Factors {
    gamma: usize,
    beta: usize,
    vector_rows: usize,
    vector_stride: usize,
    vector_offset: usize,
}

impl Affine {
    fn check(&self, shape: &Shape, n: usize) {
        let end = shape.channels + self.gamma.max(self.beta);
        assert!(end <= self.parameters.len(), "γ, β of {shape:?}");
        if let Some(v) = &self.scale_shift {
            v.check(2 * shape.channels, n);
        }
    }

    fn launch(&self) -> FactorsLaunch {
        let v = self.scale_shift.as_ref();
        let view = v.map(|v| &v.view);
        FactorsLaunch::new(
            self.gamma,
            self.beta,
            v.map_or(1, |v| v.rows),
            view.map_or(0, |v| v.stride),
            view.map_or(0, |v| v.offset),
        )
    }

    fn vectors(&self) -> (&Buffer, &Buffer) {
        self.scale_shift.as_ref().map_or((&self.parameters, &self.parameters), |v| (&v.view.buffer, &v.row_of))
    }
}

/// The place of an image's scales among the vectors.
#[cube]
fn vector_place(f: &Factors, row_of: &[u32], image: usize) -> usize {
    min(row_of[image] as usize, f.vector_rows - 1) * f.vector_stride + f.vector_offset
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn statistics_kernel<A: Float>(
    x: &[A],
    parameters: &[f32],
    vectors: &[f32],
    row_of: &[u32],
    ab: &mut [f32],
    statistics: &mut [f32],
    f: Factors,
    tasks: usize,
    channels: usize,
    pixels: usize,
    groups: usize,
    stride: usize,
    offset: usize,
    eps: f32,
    #[comptime] scale_shift: bool,
) {
    if CUBE_POS < tasks {
        let mut shared = Shared::<[f32]>::new_slice(UNITS);
        let unit = UNIT_POS as usize;
        let (image, group) = (CUBE_POS / groups, CUBE_POS % groups);
        let width = channels / groups;
        let len = pixels * width;
        let first = image * pixels * stride + offset + group * width;
        let mut sum = 0.0f32;
        let mut i = unit;
        while i < len {
            sum += f32::cast_from(x[first + i / width * stride + i % width]);
            i += UNITS;
        }
        let mean = sum_units(sum, &mut shared) / len as f32;
        // Around the mean: Σx² − (Σx)² would cancel where the mean is large.
        let mut squares = 0.0f32;
        let mut i = unit;
        while i < len {
            let d = f32::cast_from(x[first + i / width * stride + i % width]) - mean;
            squares = fma(d, d, squares);
            i += UNITS;
        }
        let variance = sum_units(squares, &mut shared) / len as f32;
        let rstd = 1.0 / (variance + eps).sqrt();
        if unit == 0 {
            statistics[2 * CUBE_POS] = mean;
            statistics[2 * CUBE_POS + 1] = rstd;
        }
        let mut c = unit;
        while c < width {
            let channel = group * width + c;
            let mut scale = 1.0f32;
            let mut shift = 0.0f32;
            if comptime!(scale_shift) {
                let at = vector_place(&f, row_of, image) + channel;
                scale += vectors[at];
                shift += vectors[at + channels];
            }
            let a = rstd * parameters[f.gamma + channel];
            ab[image * 2 * channels + channel] = a * scale;
            ab[(image * 2 + 1) * channels + channel] = (parameters[f.beta + channel] - mean * a) * scale + shift;
            c += UNITS;
        }
    }
}

/// Computes a and b, `[n, 2, channels]`, such that a·x + b is the normalised, scaled and shifted x, and the statistics:
/// mean and 1/√(variance + ε) of each group of each image, `[n, groups, 2]`.
///
/// # Panics
/// A buffer or view is too short for the shape.
pub fn coefficients(gpu: &Gpu, shape: &Shape, n: usize, x: &View, affine: &Affine, ab: &Buffer, statistics: &Buffer) {
    let Shape { channels, pixels, groups, eps, .. } = *shape;
    assert!(groups > 0 && channels.is_multiple_of(groups), "groups of {shape:?}");
    affine.check(shape, n);
    x.check(n * pixels, channels, "input of a normalisation");
    assert!(ab.len() >= n * 2 * channels && statistics.len() >= n * groups * 2, "results of {shape:?}");
    let (vectors, row_of) = affine.vectors();
    let launch = instance!(statistics_kernel, x.element);
    // SAFETY: images are below n, groups and channels within the shape; all was checked against the buffers. Rows of vectors
    // are clamped.
    unsafe {
        launch(
            &gpu.client,
            grid::groups(n * groups),
            grid::dim(),
            x.arg(),
            affine.parameters.arg(),
            vectors.arg(),
            row_of.arg(),
            ab.arg(),
            statistics.arg(),
            affine.launch(),
            n * groups,
            channels,
            pixels,
            groups,
            x.stride,
            x.offset,
            eps,
            affine.scale_shift.is_some(),
        );
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn apply_kernel<A: Float>(
    x: &[A],
    ab: &[f32],
    y: &mut [A],
    elements: usize,
    channels: usize,
    pixels: usize,
    x_stride: usize,
    x_offset: usize,
    y_stride: usize,
    y_offset: usize,
    #[comptime] activate: bool,
) {
    if ABSOLUTE_POS < elements {
        let (row, channel) = (ABSOLUTE_POS / channels, ABSOLUTE_POS % channels);
        let at = row / pixels * 2 * channels + channel;
        let mut value = f32::cast_from(x[row * x_stride + x_offset + channel]);
        value = fma(ab[at], value, ab[at + channels]);
        if comptime!(activate) {
            value = silu(value);
        }
        y[row * y_stride + y_offset + channel] = A::cast_from(value);
    }
}

/// y = act(a·x + b), for outputs that no convolution normalises while reading.
///
/// # Panics
/// A buffer or view is too short for the shape.
pub fn apply(gpu: &Gpu, shape: &Shape, n: usize, x: &View, ab: &Buffer, y: &View) {
    let Shape { channels, pixels, silu, .. } = *shape;
    x.check(n * pixels, channels, "input of a normalisation");
    y.check(n * pixels, channels, "output of a normalisation");
    assert!(ab.len() >= n * 2 * channels, "coefficients of {shape:?}");
    assert_eq!(x.element, y.element, "views of a normalisation");
    let elements = n * pixels * channels;
    let launch = instance!(apply_kernel, y.element);
    // SAFETY: rows and channels are within the views, which were checked.
    unsafe {
        launch(
            &gpu.client,
            grid::units(elements),
            grid::dim(),
            x.arg(),
            ab.arg(),
            y.arg(),
            elements,
            channels,
            pixels,
            x.stride,
            x.offset,
            y.stride,
            y.offset,
            silu,
        );
    }
}

/// Channels of a group that are summed side by side.
const BESIDE: usize = 64;

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn backward_kernel<A: Float>(
    x: &[A],
    dy: &[A],
    ab: &[f32],
    statistics: &[f32],
    parameters: &[f32],
    vectors: &[f32],
    row_of: &[u32],
    dx: &mut [A],
    sums: &mut [f32],
    f: Factors,
    tasks: usize,
    channels: usize,
    pixels: usize,
    groups: usize,
    x_stride: usize,
    x_offset: usize,
    dy_stride: usize,
    dy_offset: usize,
    dx_stride: usize,
    dx_offset: usize,
    #[comptime] activate: bool,
    #[comptime] scale_shift: bool,
    #[comptime] accumulate: bool,
) {
    if CUBE_POS < tasks {
        let mut shared = Shared::<[f32]>::new_slice(UNITS);
        let mut plain = Shared::<[f32]>::new_slice(UNITS);
        let mut weighted = Shared::<[f32]>::new_slice(UNITS);
        let unit = UNIT_POS as usize;
        let (image, group) = (CUBE_POS / groups, CUBE_POS % groups);
        let width = channels / groups;
        let (mean, rstd) = (statistics[2 * CUBE_POS], statistics[2 * CUBE_POS + 1]);
        let x_first = image * pixels * x_stride + x_offset + group * width;
        let dy_first = image * pixels * dy_stride + dy_offset + group * width;
        // Σ γ·s·dz and Σ γ·s·dz·x̂ over the group, of the channels that this unit finishes.
        let mut total = 0.0f32;
        let mut total_x = 0.0f32;
        let mut block = 0usize;
        while block < width {
            let beside = min(width - block, BESIDE);
            let lanes = UNITS / beside;
            let (lane, c) = (unit / beside, unit % beside);
            let channel = group * width + block + c;
            let mut sum = 0.0f32;
            let mut sum_x = 0.0f32;
            if lane < lanes {
                let at = image * 2 * channels + channel;
                let (a, b) = (ab[at], ab[at + channels]);
                let mut pixel = lane;
                while pixel < pixels {
                    let value = f32::cast_from(x[x_first + pixel * x_stride + block + c]);
                    let mut dz = f32::cast_from(dy[dy_first + pixel * dy_stride + block + c]);
                    if comptime!(activate) {
                        dz *= silu_slope(fma(a, value, b));
                    }
                    sum += dz;
                    sum_x = fma(dz, value - mean, sum_x);
                    pixel += lanes;
                }
            }
            plain[unit] = sum;
            weighted[unit] = sum_x;
            sync_cube();
            if unit < beside {
                let mut sum = 0.0f32;
                let mut sum_x = 0.0f32;
                for lane in 0..lanes {
                    sum += plain[lane * beside + unit];
                    sum_x += weighted[lane * beside + unit];
                }
                sum_x *= rstd;
                let at = image * 2 * channels + channel;
                sums[at] = sum;
                sums[at + channels] = sum_x;
                let mut weight = parameters[f.gamma + channel];
                if comptime!(scale_shift) {
                    weight *= 1.0 + vectors[vector_place(&f, row_of, image) + channel];
                }
                total = fma(weight, sum, total);
                total_x = fma(weight, sum_x, total_x);
            }
            sync_cube();
            block += BESIDE;
        }
        let len = (pixels * width) as f32;
        let constant = -rstd * sum_units(total, &mut shared) / len;
        let slope = -rstd * rstd * sum_units(total_x, &mut shared) / len;
        // dx = rstd·γ·s·dz + slope·(x − mean) + constant
        let mut i = unit;
        while i < pixels * width {
            let (pixel, c) = (i / width, i % width);
            let mut weight = rstd * parameters[f.gamma + group * width + c];
            if comptime!(scale_shift) {
                weight *= 1.0 + vectors[vector_place(&f, row_of, image) + group * width + c];
            }
            let value = f32::cast_from(x[x_first + pixel * x_stride + c]);
            let mut dz = f32::cast_from(dy[dy_first + pixel * dy_stride + c]);
            if comptime!(activate) {
                // Again, rather than from memory: other units computed it above.
                let at = image * 2 * channels + group * width + c;
                dz *= silu_slope(fma(ab[at], value, ab[at + channels]));
            }
            let mut d = fma(weight, dz, fma(slope, value - mean, constant));
            let at = (image * pixels + pixel) * dx_stride + dx_offset + group * width + c;
            if comptime!(accumulate) {
                d += f32::cast_from(dx[at]);
            }
            dx[at] = A::cast_from(d);
            i += UNITS;
        }
    }
}

/// Adds the gradients of γ and β, and those of scales and shifts. One image after the other: the order of summation is fixed.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn factors_kernel(
    sums: &[f32],
    parameters: &[f32],
    vectors: &[f32],
    row_of: &[u32],
    gradient: &mut [f32],
    by_vector: &mut [f32],
    f: Factors,
    n: usize,
    channels: usize,
    #[comptime] scale_shift: bool,
) {
    let c = ABSOLUTE_POS;
    if c < channels {
        let mut dgamma = gradient[f.gamma + c];
        let mut dbeta = gradient[f.beta + c];
        for image in 0..n {
            let at = image * 2 * channels + c;
            let (dz, dz_x) = (sums[at], sums[at + channels]);
            let mut scale = 1.0f32;
            if comptime!(scale_shift) {
                scale += vectors[vector_place(&f, row_of, image) + c];
                by_vector[at] += parameters[f.gamma + c] * dz_x + parameters[f.beta + c] * dz;
                by_vector[at + channels] += dz;
            }
            dgamma += scale * dz_x;
            dbeta += scale * dz;
        }
        gradient[f.gamma + c] = dgamma;
        gradient[f.beta + c] = dbeta;
    }
}

/// The gradients that [`backward`] computes.
#[derive(Clone, Debug)]
pub struct Gradients<'a> {
    /// Gradient of the input.
    pub dx: &'a View,
    /// Whether to add to `dx` rather than overwrite it.
    pub accumulate: bool,
    /// The parameters' gradient, laid out as the parameters. Those of γ and β are added to.
    pub parameters: &'a Buffer,
    /// Gradient of scales and shifts, `[n, 2·channels]`, which is added to.
    pub scale_shift: Option<&'a Buffer>,
}

/// Computes the gradients of normalisation and activation. `sums` is scratch memory of n·2·channels elements.
///
/// # Panics
/// A buffer or view is too short for the shape.
#[allow(clippy::too_many_arguments)] // operands and results
pub fn backward(
    gpu: &Gpu,
    shape: &Shape,
    n: usize,
    x: &View,
    affine: &Affine,
    ab: &Buffer,
    statistics: &Buffer,
    dy: &View,
    sums: &Buffer,
    into: Gradients<'_>,
) {
    let Shape { channels, pixels, groups, silu, .. } = *shape;
    assert!(groups > 0 && channels.is_multiple_of(groups), "groups of {shape:?}");
    affine.check(shape, n);
    x.check(n * pixels, channels, "input of a normalisation");
    into.dx.check(n * pixels, channels, "gradient by the input of a normalisation");
    assert!(ab.len() >= n * 2 * channels && statistics.len() >= n * groups * 2, "statistics of {shape:?}");
    dy.check(n * pixels, channels, "gradient of a normalisation");
    assert!(sums.len() >= n * 2 * channels, "sums of {shape:?}");
    assert!(into.parameters.len() >= channels + affine.gamma.max(affine.beta), "gradient of γ, β of {shape:?}");
    let by_vector = into.scale_shift.unwrap_or(sums);
    assert!(by_vector.len() >= n * 2 * channels, "gradient by scales and shifts of {shape:?}");
    assert_eq!(into.scale_shift.is_some(), affine.scale_shift.is_some(), "scales and shifts and their gradient");
    assert!(x.element == dy.element && into.dx.element == dy.element, "views of the gradient of {shape:?}");
    let (vectors, row_of) = affine.vectors();
    let launch = instance!(backward_kernel, dy.element);
    // SAFETY: images are below n, groups, channels and pixels within the shape; all was checked against the buffers. Rows of
    // vectors are clamped.
    unsafe {
        launch(
            &gpu.client,
            grid::groups(n * groups),
            grid::dim(),
            x.arg(),
            dy.arg(),
            ab.arg(),
            statistics.arg(),
            affine.parameters.arg(),
            vectors.arg(),
            row_of.arg(),
            into.dx.arg(),
            sums.arg(),
            affine.launch(),
            n * groups,
            channels,
            pixels,
            groups,
            x.stride,
            x.offset,
            dy.stride,
            dy.offset,
            into.dx.stride,
            into.dx.offset,
            silu,
            affine.scale_shift.is_some(),
            into.accumulate,
        );
        factors_kernel::launch_unchecked(
            &gpu.client,
            grid::units(channels),
            grid::dim(),
            sums.arg(),
            affine.parameters.arg(),
            vectors.arg(),
            row_of.arg(),
            into.parameters.arg(),
            by_vector.arg(),
            affine.launch(),
            n,
            channels,
            affine.scale_shift.is_some(),
        );
    }
}
