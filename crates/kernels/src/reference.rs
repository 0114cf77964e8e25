//! Plain f64 versions of every kernel, written directly from its definition: the test oracles.
//!
//! Images are `[channels, height, width]` here, and nothing is optimised. Only the gradients of a convolution are
//! written out, because its layers are too large for finite differences. Every other gradient is checked against
//! finite differences of these functions.

use crate::{attention, conv, norm};

/// Calls `f(weight, input, output)` with the indices of every product that the convolution of one image sums.
fn products(shape: &conv::Shape, mut f: impl FnMut(usize, usize, usize)) {
    assert!(!shape.upsample, "double the input first");
    let ([height, width], [out_height, out_width], k) = (shape.input, shape.output(), shape.kernel);
    // The input position that tap `tap` of output `at` reads.
    let meet = |at: usize, tap: usize, size: usize| {
        (at * shape.stride + tap).checked_sub(shape.pad_before).filter(|position| *position < size)
    };
    for co in 0..shape.c_out {
        for ci in 0..shape.c_in {
            for (ky, kx) in (0..k * k).map(|tap| (tap / k, tap % k)) {
                for (oy, ox) in (0..out_height * out_width).map(|pixel| (pixel / out_width, pixel % out_width)) {
                    if let (Some(y), Some(x)) = (meet(oy, ky, height), meet(ox, kx, width)) {
                        let weight = ((co * shape.c_in + ci) * k + ky) * k + kx;
                        f(weight, (ci * height + y) * width + x, (co * out_height + oy) * out_width + ox);
                    }
                }
            }
        }
    }
}

/// Convolution of one image by definition.
pub fn conv(shape: &conv::Shape, x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
    let mut y: Vec<f64> = b.iter().flat_map(|b| vec![*b; shape.output_pixels()]).collect();
    products(shape, |weight, input, output| y[output] += w[weight] * x[input]);
    y
}

/// The gradients of Σ dy·[`conv()`] with respect to input, weights and bias.
pub fn conv_gradients(shape: &conv::Shape, x: &[f64], w: &[f64], dy: &[f64]) -> [Vec<f64>; 3] {
    let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
    products(shape, |weight, input, output| {
        dx[input] += w[weight] * dy[output];
        dw[weight] += x[input] * dy[output];
    });
    [dx, dw, dy.chunks_exact(shape.output_pixels()).map(|dy| dy.iter().sum()).collect()]
}

/// Group normalisation, scale and shift, and SiLU of one image.
pub fn group_norm(
    shape: &norm::Shape,
    x: &[f64],
    gamma: &[f64],
    beta: &[f64],
    scale_shift: Option<&[f64]>,
) -> Vec<f64> {
    let channels = shape.channels / shape.groups;
    let mut y = vec![0.0; x.len()];
    for group in 0..shape.groups {
        let range = group * channels * shape.pixels..(group + 1) * channels * shape.pixels;
        let len = range.len() as f64;
        let mean = x[range.clone()].iter().sum::<f64>() / len;
        let variance = x[range.clone()].iter().map(|x| (x - mean).powi(2)).sum::<f64>() / len;
        for i in range {
            let c = i / shape.pixels;
            let mut z = (x[i] - mean) / (variance + f64::from(shape.eps)).sqrt() * gamma[c] + beta[c];
            if let Some(v) = scale_shift {
                z = z * (1.0 + v[c]) + v[shape.channels + c];
            }
            y[i] = if shape.silu { silu(z) } else { z };
        }
    }
    y
}

/// Self-attention over one image.
pub fn attention(shape: &attention::Shape, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let (d, n) = (shape.channels / shape.heads, shape.pixels);
    let mut y = vec![0.0; q.len()];
    for head in 0..shape.heads {
        let at = |c: usize, i: usize| (head * d + c) * n + i;
        for i in 0..n {
            let scores: Vec<f64> =
                (0..n).map(|j| (0..d).map(|c| q[at(c, i)] * k[at(c, j)]).sum::<f64>() / (d as f64).sqrt()).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let exps: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let total: f64 = exps.iter().sum();
            for c in 0..d {
                y[at(c, i)] = (0..n).map(|j| exps[j] / total * v[at(c, j)]).sum();
            }
        }
    }
    y
}

/// w·x + b.
pub fn linear(x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
    b.iter().enumerate().map(|(o, b)| b + x.iter().zip(&w[o * x.len()..]).map(|(x, w)| x * w).sum::<f64>()).collect()
}

/// x·σ(x).
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Nearest-neighbour upsampling by 2 of planes with width `width`.
pub fn upsample(width: usize, x: &[f64]) -> Vec<f64> {
    (0..4 * x.len()).map(|i| x[i / (4 * width) * width + i % (2 * width) / 2]).collect()
}

/// Means of 2×2 pixels of planes; `width` is the output width.
pub fn average_pool(width: usize, x: &[f64]) -> Vec<f64> {
    (0..x.len() / 4)
        .map(|i| {
            let at = i / width * 4 * width + i % width * 2;
            (x[at] + x[at + 1] + x[at + 2 * width] + x[at + 2 * width + 1]) / 4.0
        })
        .collect()
}
