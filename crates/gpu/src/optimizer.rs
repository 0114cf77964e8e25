//! The loss, and single passes over flat parameter buffers: Adam, the moving average, norms.

use cubecl::prelude::*;
use skipstone_kernels::optimizer::Factors;

use crate::buffer::{Buffer, View, instance};
use crate::device::Gpu;
use crate::error::Result;
use crate::grid::{self, UNITS};
use crate::math::sum_units;

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn loss_kernel<A: Float>(
    y: &[A],
    target: &[f32],
    factors: &[f32],
    dy: &mut [A],
    sums: &mut [f32],
    n: usize,
    channels: usize,
    pixels: usize,
    y_stride: usize,
    y_offset: usize,
    dy_stride: usize,
    dy_offset: usize,
) {
    if CUBE_POS < n {
        let mut shared = Shared::<[f32]>::new_slice(UNITS);
        let image = CUBE_POS;
        let mut sum = 0.0f32;
        let mut i = UNIT_POS as usize;
        while i < channels * pixels {
            let (pixel, channel) = (i / channels, i % channels);
            let row = image * pixels + pixel;
            let aim = target[(image * channels + channel) * pixels + pixel];
            let difference = f32::cast_from(y[row * y_stride + y_offset + channel]) - aim;
            dy[row * dy_stride + dy_offset + channel] = A::cast_from(factors[image] * difference);
            sum = fma(difference, difference, sum);
            i += UNITS;
        }
        let total = sum_units(sum, &mut shared);
        if UNIT_POS == 0 {
            sums[image] = total;
        }
    }
}

/// dy = factorᵢ·(y − target) for each image i, and Σ (y − target)² in `sums`. `target` is `[n, channels, pixels]`.
///
/// # Panics
/// A buffer or view is too short.
#[allow(clippy::too_many_arguments)] // operands and results
pub fn squared_error(
    gpu: &Gpu,
    n: usize,
    channels: usize,
    pixels: usize,
    y: &View,
    target: &Buffer,
    factors: &Buffer,
    dy: &View,
    sums: &Buffer,
) {
    y.check(n * pixels, channels, "output");
    dy.check(n * pixels, channels, "gradient of the output");
    assert!(target.len() >= n * channels * pixels && factors.len() >= n && sums.len() >= n, "targets of {n} images");
    assert_eq!(y.element, dy.element, "output and its gradient");
    let launch = instance!(loss_kernel, y.element);
    // SAFETY: images, pixels and channels were checked against the buffers.
    unsafe {
        launch(
            &gpu.client,
            grid::groups(n),
            grid::dim(),
            y.arg(),
            target.arg(),
            factors.arg(),
            dy.arg(),
            sums.arg(),
            n,
            channels,
            pixels,
            y.stride,
            y.offset,
            dy.stride,
            dy.offset,
        );
    }
}

/// Elements whose squares are summed by one group.
const CHUNK: usize = 1 << 14;

#[cube(launch_unchecked)]
fn squares_kernel(x: &[f32], sums: &mut [f32], elements: usize, tasks: usize) {
    if CUBE_POS < tasks {
        let mut shared = Shared::<[f32]>::new_slice(UNITS);
        let end = min((CUBE_POS + 1) * CHUNK, elements);
        let mut sum = 0.0f32;
        let mut i = CUBE_POS * CHUNK + UNIT_POS as usize;
        while i < end {
            sum = fma(x[i], x[i], sum);
            i += UNITS;
        }
        let total = sum_units(sum, &mut shared);
        if UNIT_POS == 0 {
            sums[CUBE_POS] = total;
        }
    }
}

/// Elements of scratch memory that [`squared_norm`] needs.
pub fn scratch(len: usize) -> usize {
    len.div_ceil(CHUNK)
}

/// Σ x², summed in f64 over parts. Not finite if any element is not. `scratch` has [`scratch`] elements.
///
/// # Errors
/// The device fails.
///
/// # Panics
/// The scratch memory is too short.
pub fn squared_norm(gpu: &Gpu, x: &Buffer, scratch: &Buffer) -> Result<f64> {
    let tasks = self::scratch(x.len());
    let sums = scratch.slice(0, tasks);
    // SAFETY: elements end with the buffer, and there is a sum for each part.
    unsafe {
        squares_kernel::launch_unchecked(
            &gpu.client,
            grid::groups(tasks),
            grid::dim(),
            x.arg(),
            sums.arg(),
            x.len(),
            tasks,
        );
    }
    Ok(gpu.read(&sums)?.iter().map(|sum| f64::from(*sum)).sum())
}

/// The factors of a step: those of Adam, the gradient's and the moving average's.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct StepFactors {
    clip: f32,
    b1: f32,
    b2: f32,
    c1: f32,
    c2: f32,
    rate: f32,
    root: f32,
    eps: f32,
    shrink: f32,
    decay: f32,
    rest: f32,
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn adam_kernel(
    gradient: &[f32],
    weights: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    ema: &mut [f32],
    elements: usize,
    f: StepFactors,
) {
    let i = ABSOLUTE_POS;
    if i < elements {
        let p = weights[i];
        let g = f.clip * gradient[i] + f.decay * p;
        let m = f.b1 * first[i] + f.c1 * g;
        let v = f.b2 * second[i] + f.c2 * g * g;
        let next = p * f.shrink - f.rate * m / (v.sqrt() * f.root + f.eps);
        first[i] = m;
        second[i] = v;
        weights[i] = next;
        // Unlike decay·ema + …, this form leaves the average exactly unchanged where the weight equals it.
        ema[i] += f.rest * (next - ema[i]);
    }
}

/// What a step of the optimiser changes, all of one length.
#[derive(Clone, Copy, Debug)]
pub struct State<'a> {
    /// The trained weights.
    pub weights: &'a Buffer,
    /// Their moving average.
    pub ema: &'a Buffer,
    /// The first moment.
    pub first: &'a Buffer,
    /// The second moment.
    pub second: &'a Buffer,
}

/// Applies a step of Adam with the gradient times `clip`, then updates the moving average.
///
/// # Panics
/// The buffers differ in length.
pub fn step(gpu: &Gpu, adam: &Factors, clip: f32, ema_decay: f64, gradient: &Buffer, state: State<'_>) {
    let State { weights, ema, first, second } = state;
    let elements = gradient.len();
    assert!([weights, ema, first, second].iter().all(|buffer| buffer.len() == elements), "buffers of one length");
    let Factors { b1, b2, c1, c2, rate, root, eps, shrink, decay } = *adam;
    let rest = (1.0 - ema_decay) as f32;
    let factors = StepFactorsLaunch::new(clip, b1, b2, c1, c2, rate, root, eps, shrink, decay, rest);
    // SAFETY: all buffers have `elements` elements.
    unsafe {
        adam_kernel::launch_unchecked(
            &gpu.client,
            grid::units(elements),
            grid::dim(),
            gradient.arg(),
            weights.arg(),
            first.arg(),
            second.arg(),
            ema.arg(),
            elements,
            factors,
        );
    }
}
