//! The loss, and single passes over flat parameter buffers: Adam, the moving average, norms.

use cubecl::prelude::*;

use crate::buffer::{Buffer, View};
use crate::device::Gpu;
use crate::error::Result;
use crate::grid::{self, UNITS};
use crate::math::sum_units;

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn loss_kernel(
    y: &[f32],
    target: &[f32],
    factors: &[f32],
    dy: &mut [f32],
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
            let difference = y[row * y_stride + y_offset + channel] - aim;
            dy[row * dy_stride + dy_offset + channel] = factors[image] * difference;
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
    // SAFETY: images, pixels and channels were checked against the buffers.
    unsafe {
        loss_kernel::launch_unchecked(
            &gpu.client,
            grid::groups(n),
            grid::dim(),
            y.buffer.arg(),
            target.arg(),
            factors.arg(),
            dy.buffer.arg(),
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

/// Parameters of an Adam step (Kingma & Ba, arXiv 1412.6980; decoupled decay: Loshchilov & Hutter, 1711.05101).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Learning rate.
    pub lr: f64,
    /// Decay rate of the first moment, β₁.
    pub beta1: f64,
    /// Decay rate of the second moment, β₂.
    pub beta2: f64,
    /// ε, added to the square root of the second moment.
    pub eps: f64,
    /// Weight decay: applied to the weights if `decoupled` (AdamW), otherwise added to the gradient.
    pub weight_decay: f64,
    /// Whether this is AdamW rather than Adam.
    pub decoupled: bool,
    /// A factor applied to the gradient first.
    pub shrink: f32,
    /// Decay of the moving average, per step.
    pub ema_decay: f64,
}

/// The precomputed factors of a step.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Factors {
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
    f: Factors,
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

impl Adam {
    /// Applies step `step` (counted from 1), then updates the moving average.
    ///
    /// # Panics
    /// The buffers differ in length.
    pub fn step(&self, gpu: &Gpu, step: u64, gradient: &Buffer, state: State<'_>) {
        let State { weights, ema, first, second } = state;
        let elements = gradient.len();
        assert!([weights, ema, first, second].iter().all(|buffer| buffer.len() == elements), "buffers of one length");
        let exponent = step.min(i32::MAX as u64) as i32;
        let correction1 = 1.0 - self.beta1.powi(exponent);
        let correction2 = 1.0 - self.beta2.powi(exponent);
        let (shrink, decay) = if self.decoupled {
            ((1.0 - self.lr * self.weight_decay) as f32, 0.0)
        } else {
            (1.0, self.weight_decay as f32)
        };
        let factors = FactorsLaunch::new(
            self.shrink,
            self.beta1 as f32,
            self.beta2 as f32,
            (1.0 - self.beta1) as f32,
            (1.0 - self.beta2) as f32,
            (self.lr / correction1) as f32,
            (1.0 / correction2.sqrt()) as f32,
            self.eps as f32,
            shrink,
            decay,
            (1.0 - self.ema_decay) as f32,
        );
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
}
