//! Group normalisation fused with what follows it in a U-Net: an optional scale and shift per channel, and SiLU.

use crate::shared::SharedMut;
use crate::simd::{self, sigmoid};
use crate::threads::{Threads, for_each};

/// Shape and options of a group normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Channels.
    pub channels: usize,
    /// Pixels of a channel.
    pub pixels: usize,
    /// Groups; divides the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether SiLU follows.
    pub silu: bool,
}

impl Shape {
    fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    fn group_len(&self) -> usize {
        self.group_channels() * self.pixels
    }

    /// Elements of one image.
    pub fn image_len(&self) -> usize {
        self.channels * self.pixels
    }
}

/// Mean and 1/√(variance + ε) of each group of each image, `[n, groups, 2]`: what backward needs again.
pub type Statistics = [f32];

/// The learned scale γ and offset β, and the per-image ones, `[n, 2·channels]`: scales, then shifts.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// γ, one per channel.
    pub gamma: &'a [f32],
    /// β, one per channel.
    pub beta: &'a [f32],
    /// Scales s and shifts h with y = normalised·(1 + s) + h.
    pub scale_shift: Option<&'a [f32]>,
}

impl Affine<'_> {
    /// (γ, β, 1 + s, h) of a channel of an image.
    fn channel(&self, image: usize, channels: usize, channel: usize) -> (f32, f32, f32, f32) {
        let (scale, shift) = match self.scale_shift {
            Some(v) => (1.0 + v[image * 2 * channels + channel], v[(image * 2 + 1) * channels + channel]),
            None => (1.0, 0.0),
        };
        (self.gamma[channel], self.beta[channel], scale, shift)
    }

    fn check(&self, shape: &Shape, n: usize) {
        assert_eq!(self.gamma.len(), shape.channels, "γ of {shape:?}");
        assert_eq!(self.beta.len(), shape.channels, "β of {shape:?}");
        assert!(self.scale_shift.is_none_or(|v| v.len() == n * 2 * shape.channels), "scale-shift of {shape:?}");
    }
}

/// y = act((x̂·γ + β)·(1 + s) + h), x̂ normalised over each group of channels of each image.
///
/// # Panics
/// A slice has another length than the shape says.
pub fn forward(
    shape: &Shape,
    n: usize,
    x: &[f32],
    affine: Affine<'_>,
    y: &mut [f32],
    statistics: &mut Statistics,
    threads: Threads,
) {
    affine.check(shape, n);
    assert_eq!((x.len(), y.len()), (n * shape.image_len(), n * shape.image_len()), "images of {shape:?}");
    assert_eq!(statistics.len(), n * shape.groups * 2, "statistics of {shape:?}");
    let (y, statistics) = (SharedMut::new(y), SharedMut::new(statistics));
    for_each(threads, n * shape.groups, |task| {
        let (image, group) = (task / shape.groups, task % shape.groups);
        let begin = task * shape.group_len();
        let x = &x[begin..begin + shape.group_len()];
        // SAFETY: task t alone has group t of `y` and entry t of `statistics`.
        let (y, statistics) = unsafe { (y.part(begin, shape.group_len()), statistics.part(task * 2, 2)) };
        simd::dispatch(|| {
            let len = x.len() as f64;
            let mean = (simd::sum(x) / len) as f32;
            // Around the mean, not Σx² − (Σx)²: that cancels where the mean is large.
            let variance = simd::sum_by(x.len(), |i| (x[i] - mean) * (x[i] - mean)) / len;
            let rstd = (1.0 / (variance + f64::from(shape.eps)).sqrt()) as f32;
            statistics[0] = mean;
            statistics[1] = rstd;
            for (c, (x, y)) in x.chunks_exact(shape.pixels).zip(y.chunks_exact_mut(shape.pixels)).enumerate() {
                let channel = group * shape.group_channels() + c;
                let (gamma, beta, scale, shift) = affine.channel(image, shape.channels, channel);
                let a = rstd * gamma * scale;
                let b = (beta - mean * rstd * gamma) * scale + shift;
                if shape.silu {
                    for (y, x) in y.iter_mut().zip(x) {
                        let z = a * x + b;
                        *y = z * sigmoid(z);
                    }
                } else {
                    for (y, x) in y.iter_mut().zip(x) {
                        *y = a * x + b;
                    }
                }
            }
        });
    });
}

/// What [`backward`] adds to.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// Of the input.
    pub dx: &'a mut [f32],
    /// Of γ.
    pub dgamma: &'a mut [f32],
    /// Of β.
    pub dbeta: &'a mut [f32],
    /// Of the per-image scales and shifts, where there are any.
    pub dscale_shift: Option<&'a mut [f32]>,
}

/// The gradients of [`forward`], image after image.
///
/// # Panics
/// A slice has another length than the shape says.
pub fn backward(
    shape: &Shape,
    n: usize,
    x: &[f32],
    affine: Affine<'_>,
    statistics: &Statistics,
    dy: &[f32],
    gradients: Gradients<'_>,
) {
    affine.check(shape, n);
    let Gradients { dx, dgamma, dbeta, mut dscale_shift } = gradients;
    assert_eq!((x.len(), dy.len(), dx.len()), (n * shape.image_len(), x.len(), x.len()), "images of {shape:?}");
    let (pixels, group_len) = (shape.pixels, shape.group_len());
    crate::threads::with_scratch(group_len, |dz| {
        for task in 0..n * shape.groups {
            let (image, group) = (task / shape.groups, task % shape.groups);
            let range = task * group_len..(task + 1) * group_len;
            let (x, dy, dx) = (&x[range.clone()], &dy[range.clone()], &mut dx[range]);
            let (mean, rstd) = (statistics[task * 2], statistics[task * 2 + 1]);
            simd::dispatch(|| {
                // Σ over the group of dx̂ and dx̂·x̂.
                let (mut sum_dxhat, mut sum_dxhat_xhat) = (0.0f64, 0.0f64);
                for c in 0..shape.group_channels() {
                    let channel = group * shape.group_channels() + c;
                    let (gamma, beta, scale, shift) = affine.channel(image, shape.channels, channel);
                    let plane = c * pixels..(c + 1) * pixels;
                    let (x, dy, dz) = (&x[plane.clone()], &dy[plane.clone()], &mut dz[plane]);
                    if shape.silu {
                        let a = rstd * gamma * scale;
                        let b = (beta - mean * rstd * gamma) * scale + shift;
                        for ((dz, dy), x) in dz.iter_mut().zip(dy).zip(x) {
                            let z = a * x + b;
                            let s = sigmoid(z);
                            *dz = dy * (s + z * s * (1.0 - s));
                        }
                    } else {
                        dz.copy_from_slice(dy);
                    }
                    let sum_dz = simd::sum(dz);
                    let sum_dz_xhat = simd::sum_by(pixels, |i| dz[i] * (x[i] - mean)) * f64::from(rstd);
                    let (g, b, s) = (f64::from(gamma), f64::from(beta), f64::from(scale));
                    if let Some(d) = dscale_shift.as_deref_mut() {
                        d[image * 2 * shape.channels + channel] += (g * sum_dz_xhat + b * sum_dz) as f32;
                        d[(image * 2 + 1) * shape.channels + channel] += sum_dz as f32;
                    }
                    dgamma[channel] += (s * sum_dz_xhat) as f32;
                    dbeta[channel] += (s * sum_dz) as f32;
                    sum_dxhat += s * g * sum_dz;
                    sum_dxhat_xhat += s * g * sum_dz_xhat;
                }
                let mean_dxhat = (sum_dxhat / group_len as f64) as f32;
                let mean_dxhat_xhat = (sum_dxhat_xhat / group_len as f64) as f32;
                for c in 0..shape.group_channels() {
                    let channel = group * shape.group_channels() + c;
                    let (gamma, _, scale, _) = affine.channel(image, shape.channels, channel);
                    let a = gamma * scale;
                    let plane = c * pixels..(c + 1) * pixels;
                    for ((dx, x), dz) in dx[plane.clone()].iter_mut().zip(&x[plane.clone()]).zip(&dz[plane]) {
                        let xhat = (x - mean) * rstd;
                        *dx += rstd * (a * dz - mean_dxhat - xhat * mean_dxhat_xhat);
                    }
                }
            });
        }
    });
}
