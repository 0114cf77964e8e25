//! Group normalisation with an optional scale and shift per image, and SiLU.
//!
//! Normalisation is a·x + b, with a and b per channel and image. [`coefficients`] computes a and b. Convolutions apply
//! them while reading their input ([`conv::Source`](crate::conv::Source)); [`apply`] applies them on its own.

use crate::isa::{Isa, kernel};
use crate::math;
use crate::shared::Shared;
use crate::sums::{ROWS, sum_columns, sum_squares};
use crate::team::Team;
use crate::view::{View, ViewMut};

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

impl Shape {
    fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    /// Channels per task. With enough images for the threads, a task takes all channels. Otherwise it takes whole
    /// groups and, if possible, whole vectors.
    fn block(&self, lanes: usize, n: usize, team: &Team) -> usize {
        if n >= team.threads() {
            return self.channels;
        }
        let group = self.group_channels();
        let block = (group..=self.channels).step_by(group).find(|block| block.is_multiple_of(lanes));
        block.unwrap_or(self.channels)
    }
}

/// Mean and 1/√(variance + ε) of each group of each image, `[n, groups, 2]`. The backward pass needs them.
pub type Statistics = [f32];

/// The learned scale γ and offset β, and the scales and shifts per image.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// γ, one per channel.
    pub gamma: &'a [f32],
    /// β, one per channel.
    pub beta: &'a [f32],
    /// Scales s and shifts h for each image (2·channels): y = normalised·(1 + s) + h.
    pub scale_shift: Option<View<'a>>,
}

impl Affine<'_> {
    /// (γ, β, 1 + s, h) of a channel of an image.
    fn channel(&self, image: usize, channels: usize, channel: usize) -> (f32, f32, f32, f32) {
        let (scale, shift) = match self.scale_shift {
            Some(v) => {
                let v = v.row(image, 2 * channels);
                (1.0 + v[channel], v[channels + channel])
            }
            None => (1.0, 0.0),
        };
        (self.gamma[channel], self.beta[channel], scale, shift)
    }

    fn check(&self, shape: &Shape, n: usize) {
        assert_eq!((self.gamma.len(), self.beta.len()), (shape.channels, shape.channels), "γ, β of {shape:?}");
        if let Some(v) = self.scale_shift {
            v.check(n, 2 * shape.channels, "scales and shifts");
        }
    }
}

/// Computes a and b, `[n, 2, channels]`, such that a·x + b is the normalised, scaled and shifted x, and the statistics.
///
/// # Panics
/// A slice has another length than the shape implies.
#[allow(clippy::too_many_arguments)] // operands and results
pub fn coefficients(
    shape: &Shape,
    isa: Isa,
    team: &Team,
    n: usize,
    x: View<'_>,
    affine: Affine<'_>,
    ab: &mut [f32],
    statistics: &mut Statistics,
) {
    let channels = shape.channels;
    affine.check(shape, n);
    x.check(n * shape.pixels, channels, "input of a normalisation");
    assert_eq!((ab.len(), statistics.len()), (n * 2 * channels, n * shape.groups * 2), "results of {shape:?}");
    let (block, group) = (shape.block(isa.lanes(), n, team), shape.group_channels());
    let blocks = channels.div_ceil(block);
    let len = (group * shape.pixels) as f64;
    let (ab, statistics) = (Shared::new(ab), Shared::new(statistics));
    team.run(n * blocks, |task| {
        let (image, first) = (task / blocks, task % blocks * block);
        let block = block.min(channels - first);
        let begin = image * shape.pixels;
        let mut sums = vec![0.0f64; block];
        let mut centre = vec![0.0f32; block];
        let rows = &x.data[begin * x.stride + x.offset + first..];
        // SAFETY: `pixels` rows of the block's channels lie in `rows`, as checked above.
        unsafe { sum_columns(isa, shape.pixels, block, rows.as_ptr(), x.stride, &mut sums) };
        for (centre, sums) in centre.chunks_exact_mut(group).zip(sums.chunks_exact(group)) {
            centre.fill((sums.iter().sum::<f64>() / len) as f32);
        }
        // Around the mean: Σx² − (Σx)² would cancel where the mean is large.
        sums.fill(0.0);
        // SAFETY: as above.
        unsafe { sum_squares(isa, shape.pixels, block, rows.as_ptr(), x.stride, &centre, &mut sums) };
        for (g, sums) in sums.chunks_exact(group).enumerate() {
            let mean = centre[g * group];
            let variance = sums.iter().sum::<f64>() / len;
            let rstd = (1.0 / (variance + f64::from(shape.eps)).sqrt()) as f32;
            let index = (image * shape.groups + first / group + g) * 2;
            // SAFETY: only this task accesses the group's statistics and its channels' coefficients.
            unsafe {
                statistics.part(index, 2).copy_from_slice(&[mean, rstd]);
                for channel in first + g * group..first + (g + 1) * group {
                    let (gamma, beta, scale, shift) = affine.channel(image, channels, channel);
                    ab.part(image * 2 * channels + channel, 1)[0] = rstd * gamma * scale;
                    ab.part((image * 2 + 1) * channels + channel, 1)[0] = (beta - mean * rstd * gamma) * scale + shift;
                }
            }
        }
    });
}

/// y = act(a·x + b), for outputs that no convolution normalises while reading.
///
/// # Panics
/// A slice or view has another length than the shape implies.
#[allow(clippy::too_many_arguments)] // operands and result
pub fn apply(shape: &Shape, isa: Isa, team: &Team, n: usize, x: View<'_>, ab: &[f32], y: &mut ViewMut<'_>) {
    let channels = shape.channels;
    x.check(n * shape.pixels, channels, "input of a normalisation");
    assert_eq!(ab.len(), n * 2 * channels, "coefficients of {shape:?}");
    let y = y.share(n * shape.pixels, channels, "output of a normalisation");
    let parts = shape.pixels.div_ceil(ROWS);
    team.run(n * parts, |task| {
        let (image, begin) = (task / parts, task % parts * ROWS);
        let count = ROWS.min(shape.pixels - begin);
        let pixel = image * shape.pixels + begin;
        let (a, b) = (&ab[image * 2 * channels..], &ab[(image * 2 + 1) * channels..]);
        let x_rows = &x.data[pixel * x.stride + x.offset..];
        // SAFETY: only this task accesses these pixels; both views were checked.
        unsafe {
            let y_rows = y.pointer().add(pixel * y.stride);
            let (x, x_stride) = (x_rows.as_ptr(), x.stride);
            scale_rows(isa, count, channels, x, x_stride, a.as_ptr(), b.as_ptr(), shape.silu, y_rows, y.stride);
        }
    });
}

kernel! {
    /// y = act(a·x + b) for `rows` rows of `channels`.
    unsafe fn scale_rows<S>(
        s, rows: usize, channels: usize, x: *const f32, x_stride: usize, a: *const f32, b: *const f32, silu: bool,
        y: *mut f32, y_stride: usize,
    ) {
        for c in (0..channels).step_by(S::LANES) {
            let len = (channels - c).min(S::LANES);
            // SAFETY: guaranteed by the caller; partial vectors touch existing channels only.
            unsafe {
                let (a, b) = (s.load_first(a.add(c), len), s.load_first(b.add(c), len));
                for row in 0..rows {
                    let z = s.fma(a, s.load_first(x.add(row * x_stride + c), len), b);
                    let z = if silu { math::silu(s, z) } else { z };
                    s.store_first(y.add(row * y_stride + c), z, len);
                }
            }
        }
    }
}

/// The gradients that [`backward`] adds to.
#[derive(Debug)]
pub struct Gradients<'a, 'b> {
    /// Gradient of the input.
    pub dx: &'a mut ViewMut<'b>,
    /// Whether to add to `dx` rather than overwrite it.
    pub accumulate: bool,
    /// Gradient of γ.
    pub dgamma: &'a mut [f32],
    /// Gradient of β.
    pub dbeta: &'a mut [f32],
    /// Gradient of the scales and shifts per image, `[n, 2·channels]`, if there are any.
    pub dscale_shift: Option<&'a mut [f32]>,
}

/// Computes the gradients of normalisation and activation. `dy` is dense and is overwritten as scratch memory.
///
/// # Panics
/// A slice or view has another length than the shape implies.
#[allow(clippy::too_many_arguments)] // operands and results
pub fn backward(
    shape: &Shape,
    isa: Isa,
    team: &Team,
    n: usize,
    x: View<'_>,
    affine: Affine<'_>,
    ab: &[f32],
    statistics: &Statistics,
    dy: &mut [f32],
    gradients: Gradients<'_, '_>,
) {
    let (channels, pixels) = (shape.channels, shape.pixels);
    affine.check(shape, n);
    x.check(n * pixels, channels, "input of a normalisation");
    assert_eq!((ab.len(), statistics.len()), (n * 2 * channels, n * shape.groups * 2), "statistics of {shape:?}");
    assert_eq!(dy.len(), n * pixels * channels, "gradient of {shape:?}");
    let Gradients { dx, accumulate, dgamma, dbeta, dscale_shift } = gradients;
    let dx = dx.share(n * pixels, channels, "gradient by the input of a normalisation");
    let (block, group) = (shape.block(isa.lanes(), n, team), shape.group_channels());
    let blocks = channels.div_ceil(block);
    let len = (group * pixels) as f64;
    // Σ dz and Σ dz·x̂ of each channel of each image.
    let mut sums = vec![0.0f64; n * 2 * channels];
    let shared_sums = Shared::new(&mut sums);
    let dy = Shared::new(dy);
    team.run(n * blocks, |task| {
        let (image, first) = (task / blocks, task % blocks * block);
        let block = block.min(channels - first);
        let group_of = |c: usize| (image * shape.groups + (first + c) / group) * 2;
        let centre: Vec<f32> = (0..block).map(|c| statistics[group_of(c)]).collect();
        let x_rows = &x.data[image * pixels * x.stride + x.offset + first..];
        // SAFETY: only this task accesses the block's channels of this image in `dy`, `dx` and the sums; rows of the
        // block's channels lie in the views, which were checked.
        unsafe {
            let dy = dy.pointer().add(image * pixels * channels + first);
            let dz = shared_sums.part(image * 2 * channels + first, block);
            let dz_x = shared_sums.part((image * 2 + 1) * channels + first, block);
            let (a, b) = (&ab[image * 2 * channels + first..], &ab[(image * 2 + 1) * channels + first..]);
            let operands = Operands {
                rows: pixels,
                channels: block,
                x: x_rows.as_ptr(),
                x_stride: x.stride,
                dy,
                dy_stride: channels,
                a: a.as_ptr(),
                b: b.as_ptr(),
            };
            derive(isa, &operands, shape.silu, &centre, dz, dz_x);
            // dx = A·dz + B·(x − mean) + C
            let mut abc = vec![[0.0f32; 3]; block];
            for g in 0..block / group {
                let rstd = f64::from(statistics[group_of(g * group) + 1]);
                let (mut sum, mut sum_x) = (0.0, 0.0);
                for c in g * group..(g + 1) * group {
                    let (gamma, _, scale, _) = affine.channel(image, channels, first + c);
                    dz_x[c] *= rstd;
                    let weight = f64::from(gamma) * f64::from(scale);
                    sum += weight * dz[c];
                    sum_x += weight * dz_x[c];
                    abc[c][0] = (rstd * weight) as f32;
                }
                for abc in &mut abc[g * group..(g + 1) * group] {
                    abc[1] = (-rstd * rstd * sum_x / len) as f32;
                    abc[2] = (-rstd * sum / len) as f32;
                }
            }
            let column = |i: usize| abc.iter().map(|abc| abc[i]).collect::<Vec<f32>>();
            let factors = [column(0), column(1), column(2), centre];
            let dx_at = dx.pointer().add(image * pixels * dx.stride + first);
            combine(isa, &operands, &factors, dx_at, dx.stride, accumulate);
        }
    });
    // One image after the other, so that the order of summation is fixed.
    let mut dscale_shift = dscale_shift;
    for (image, sums) in sums.chunks_exact(2 * channels).enumerate() {
        let (dz, dz_x) = sums.split_at(channels);
        for c in 0..channels {
            let (gamma, beta, scale, _) = affine.channel(image, channels, c);
            if let Some(d) = dscale_shift.as_deref_mut() {
                let d = &mut d[image * 2 * channels..(image + 1) * 2 * channels];
                d[c] += (f64::from(gamma) * dz_x[c] + f64::from(beta) * dz[c]) as f32;
                d[channels + c] += dz[c] as f32;
            }
            dgamma[c] += (f64::from(scale) * dz_x[c]) as f32;
            dbeta[c] += (f64::from(scale) * dz[c]) as f32;
        }
    }
}

/// The operands for a block of channels of an image.
struct Operands {
    rows: usize,
    channels: usize,
    x: *const f32,
    x_stride: usize,
    dy: *mut f32,
    dy_stride: usize,
    a: *const f32,
    b: *const f32,
}

kernel! {
    /// Replaces dy by dz = dy·act′(a·x + b), and adds Σ dz and Σ dz·(x − centre) to the sums.
    unsafe fn derive<S>(s, o: &Operands, silu: bool, centre: &[f32], dz_sums: &mut [f64], dz_x_sums: &mut [f64]) {
        let mut lanes = [0.0f32; 16];
        for c in (0..o.channels).step_by(S::LANES) {
            let len = (o.channels - c).min(S::LANES);
            // SAFETY: guaranteed by the caller; partial vectors touch existing channels only.
            unsafe {
                let (a, b) = (s.load_first(o.a.add(c), len), s.load_first(o.b.add(c), len));
                let mean = s.load_first(centre.as_ptr().add(c), len);
                for begin in (0..o.rows).step_by(ROWS) {
                    let (mut sum, mut sum_x) = (s.zero(), s.zero());
                    for row in begin..(begin + ROWS).min(o.rows) {
                        let (x, dy) = (o.x.add(row * o.x_stride + c), o.dy.add(row * o.dy_stride + c));
                        let (x, mut dz) = (s.load_up_to(x, len), s.load_up_to(dy, len));
                        if silu {
                            dz = s.mul(dz, math::silu_derivative(s, s.fma(a, x, b)));
                            s.store_up_to(dy, dz, len);
                        }
                        sum = s.add(sum, dz);
                        sum_x = s.fma(dz, s.sub(x, mean), sum_x);
                    }
                    for (acc, sums) in [(sum, &mut *dz_sums), (sum_x, &mut *dz_x_sums)] {
                        s.store(lanes.as_mut_ptr(), acc);
                        for (sum, lane) in sums[c..c + len].iter_mut().zip(&lanes) {
                            *sum += f64::from(*lane);
                        }
                    }
                }
            }
        }
    }
}

kernel! {
    /// dx = A·dz + B·(x − mean) + C, or dx += that, with `[A, B, C, mean]` for each channel.
    unsafe fn combine<S>(s, o: &Operands, factors: &[Vec<f32>; 4], dx: *mut f32, dx_stride: usize, accumulate: bool) {
        for c in (0..o.channels).step_by(S::LANES) {
            let len = (o.channels - c).min(S::LANES);
            // SAFETY: guaranteed by the caller; partial vectors touch existing channels only.
            unsafe {
                let (a, b) = (s.load_first(factors[0].as_ptr().add(c), len), s.load_first(factors[1].as_ptr().add(c), len));
                let (k, mean) = (s.load_first(factors[2].as_ptr().add(c), len), s.load_first(factors[3].as_ptr().add(c), len));
                // Masks for whole vectors too: a branch here made a training step 1 % slower.
                for row in 0..o.rows {
                    let x = s.load_first(o.x.add(row * o.x_stride + c), len);
                    let dz = s.load_first(o.dy.add(row * o.dy_stride + c), len);
                    let dx = dx.add(row * dx_stride + c);
                    let mut v = s.fma(a, dz, s.fma(b, s.sub(x, mean), k));
                    if accumulate {
                        v = s.add(v, s.load_first(dx, len));
                    }
                    s.store_first(dx, v, len);
                }
            }
        }
    }
}
