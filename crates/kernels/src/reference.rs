//! Every kernel once more, in f64 and as plainly as its definition: the oracle of the tests.
//!
//! Nothing here is fast. Gradients are not written out: they are checked against differences of these.

use crate::{attention, conv, norm};

/// Convolution of one image by its definition.
pub fn conv(shape: &conv::Shape, x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
    assert!(!shape.upsample, "double the input first");
    let [h, wid] = shape.input;
    let [out_h, out_w] = shape.output();
    let k = shape.kernel;
    let mut y = Vec::with_capacity(shape.c_out * shape.output_pixels());
    for co in 0..shape.c_out {
        for oy in 0..out_h {
            for ox in 0..out_w {
                let mut sum = b[co];
                for ci in 0..shape.c_in {
                    for ky in 0..k {
                        for kx in 0..k {
                            let iy = (oy * shape.stride + ky) as isize - shape.pad_before as isize;
                            let ix = (ox * shape.stride + kx) as isize - shape.pad_before as isize;
                            if iy >= 0 && ix >= 0 && (iy as usize) < h && (ix as usize) < wid {
                                sum += w[((co * shape.c_in + ci) * k + ky) * k + kx]
                                    * x[(ci * h + iy as usize) * wid + ix as usize];
                            }
                        }
                    }
                }
                y.push(sum);
            }
        }
    }
    y
}

/// Group normalisation, scale-shift and SiLU of one image.
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

/// Attention of one image.
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

/// Nearest-neighbour doubling of planes `width` wide.
pub fn upsample(width: usize, x: &[f64]) -> Vec<f64> {
    (0..4 * x.len()).map(|i| x[i / (4 * width) * width + i % (2 * width) / 2]).collect()
}

/// Means of 2×2 pixels of planes; `width` is the output's.
pub fn average_pool(width: usize, x: &[f64]) -> Vec<f64> {
    (0..x.len() / 4)
        .map(|i| {
            let at = i / width * 4 * width + i % width * 2;
            (x[at] + x[at + 1] + x[at + 2 * width] + x[at + 2 * width + 1]) / 4.0
        })
        .collect()
}
