//! Elementwise operations, resampling and concatenation, with their gradients.

use crate::simd::{self, sigmoid};

/// y = x·σ(x).
///
/// # Panics
/// The lengths differ.
pub fn silu(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    simd::dispatch(|| {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x * sigmoid(*x);
        }
    });
}

/// dx += dy·silu′(x).
///
/// # Panics
/// The lengths differ.
pub fn silu_backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    assert_eq!((x.len(), dy.len()), (dx.len(), dx.len()));
    simd::dispatch(|| {
        for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
            let s = sigmoid(*x);
            *dx += dy * (s + x * s * (1.0 - s));
        }
    });
}

/// y = a·x + b.
///
/// # Panics
/// The lengths differ.
pub fn affine(a: f32, b: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    simd::dispatch(|| {
        for (y, x) in y.iter_mut().zip(x) {
            *y = a * x + b;
        }
    });
}

/// y += a·x.
///
/// # Panics
/// The lengths differ.
pub fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    simd::dispatch(|| {
        for (y, x) in y.iter_mut().zip(x) {
            *y += a * x;
        }
    });
}

/// y = (a + b)·scale.
///
/// # Panics
/// The lengths differ.
pub fn add(a: &[f32], b: &[f32], scale: f32, y: &mut [f32]) {
    assert_eq!((a.len(), b.len()), (y.len(), y.len()));
    simd::dispatch(|| {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = (a + b) * scale;
        }
    });
}

/// y = x + v, one value of v for each plane of `pixels` elements.
///
/// # Panics
/// The lengths do not fit.
pub fn add_per_plane(pixels: usize, x: &[f32], v: &[f32], y: &mut [f32]) {
    assert_eq!((x.len(), y.len()), (v.len() * pixels, v.len() * pixels));
    simd::dispatch(|| {
        for ((x, y), v) in x.chunks_exact(pixels).zip(y.chunks_exact_mut(pixels)).zip(v) {
            for (y, x) in y.iter_mut().zip(x) {
                *y = x + v;
            }
        }
    });
}

/// dv += Σ dy over each plane of `pixels` elements.
///
/// # Panics
/// The lengths do not fit.
pub fn add_per_plane_backward(pixels: usize, dy: &[f32], dv: &mut [f32]) {
    assert_eq!(dy.len(), dv.len() * pixels);
    simd::dispatch(|| {
        for (dv, dy) in dv.iter_mut().zip(dy.chunks_exact(pixels)) {
            *dv += simd::sum(dy) as f32;
        }
    });
}

/// Concatenates the channels of each of `n` images.
///
/// # Panics
/// The lengths do not fit.
pub fn concat(n: usize, a: &[f32], b: &[f32], y: &mut [f32]) {
    assert_eq!(a.len() + b.len(), y.len());
    let (a_len, b_len) = (a.len() / n, b.len() / n);
    for ((a, b), y) in a.chunks_exact(a_len).zip(b.chunks_exact(b_len)).zip(y.chunks_exact_mut(a_len + b_len)) {
        y[..a_len].copy_from_slice(a);
        y[a_len..].copy_from_slice(b);
    }
}

/// Adds each part of `dy` to the gradient of the input it came from.
///
/// # Panics
/// The lengths do not fit.
pub fn concat_backward(n: usize, dy: &[f32], da: &mut [f32], db: &mut [f32]) {
    assert_eq!(da.len() + db.len(), dy.len());
    let (a_len, b_len) = (da.len() / n, db.len() / n);
    for ((da, db), dy) in da.chunks_exact_mut(a_len).zip(db.chunks_exact_mut(b_len)).zip(dy.chunks_exact(a_len + b_len))
    {
        axpy(1.0, &dy[..a_len], da);
        axpy(1.0, &dy[a_len..], db);
    }
}

/// Doubles each `width`-wide plane by repeating every pixel.
///
/// # Panics
/// `y` is not four times as long as `x`.
pub fn upsample(width: usize, x: &[f32], y: &mut [f32]) {
    assert_eq!(4 * x.len(), y.len());
    simd::dispatch(|| {
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(4 * width)) {
            let (first, second) = y.split_at_mut(2 * width);
            for (pair, x) in first.chunks_exact_mut(2).zip(x) {
                pair.fill(*x);
            }
            second.copy_from_slice(first);
        }
    });
}

/// dx += the sum of the four pixels each became.
///
/// # Panics
/// `dy` is not four times as long as `dx`.
pub fn upsample_backward(width: usize, dy: &[f32], dx: &mut [f32]) {
    pool_sum(width, 1.0, dy, dx, true);
}

/// Halves each plane (`width` is the output's) by the mean of 2×2 pixels.
///
/// # Panics
/// `x` is not four times as long as `y`.
pub fn average_pool(width: usize, x: &[f32], y: &mut [f32]) {
    pool_sum(width, 0.25, x, y, false);
}

/// dx += dy/4 at each of the four pixels (`width` is the output's).
///
/// # Panics
/// `dx` is not four times as long as `dy`.
pub fn average_pool_backward(width: usize, dy: &[f32], dx: &mut [f32]) {
    assert_eq!(4 * dy.len(), dx.len());
    simd::dispatch(|| {
        for (dy, dx) in dy.chunks_exact(width).zip(dx.chunks_exact_mut(4 * width)) {
            for row in dx.chunks_exact_mut(2 * width) {
                for (pair, dy) in row.chunks_exact_mut(2).zip(dy) {
                    pair[0] += 0.25 * dy;
                    pair[1] += 0.25 * dy;
                }
            }
        }
    });
}

/// small = scale·(sum of 2×2 pixels of large), or adds that to small; `width` is the small one's.
fn pool_sum(width: usize, scale: f32, large: &[f32], small: &mut [f32], add: bool) {
    assert_eq!(4 * small.len(), large.len());
    simd::dispatch(|| {
        for (large, small) in large.chunks_exact(4 * width).zip(small.chunks_exact_mut(width)) {
            let (first, second) = large.split_at(2 * width);
            for ((small, a), b) in small.iter_mut().zip(first.chunks_exact(2)).zip(second.chunks_exact(2)) {
                let sum = scale * (a[0] + a[1] + b[0] + b[1]);
                *small = if add { *small + sum } else { sum };
            }
        }
    });
}
