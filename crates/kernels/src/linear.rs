//! Fully connected layers on vectors: the time and class embeddings.

use crate::simd;

/// y = w·x + b for each of `n` vectors; `w` is `[out, in]`.
///
/// # Panics
/// A slice has another length than the others imply.
pub fn forward(n: usize, x: &[f32], w: &[f32], b: &[f32], y: &mut [f32]) {
    let (inputs, outputs) = (x.len() / n, b.len());
    assert_eq!((x.len(), y.len(), w.len()), (n * inputs, n * outputs, inputs * outputs), "linear {inputs}→{outputs}");
    simd::dispatch(|| {
        for (x, y) in x.chunks_exact(inputs).zip(y.chunks_exact_mut(outputs)) {
            for ((y, w), b) in y.iter_mut().zip(w.chunks_exact(inputs)).zip(b) {
                *y = simd::dot(w, x) as f32 + b;
            }
        }
    });
}

/// dx += wᵀ·dy, dw += dy·xᵀ, db += dy for each of `n` vectors, in order.
///
/// # Panics
/// A slice has another length than the others imply.
pub fn backward(n: usize, x: &[f32], w: &[f32], dy: &[f32], dx: &mut [f32], dw: &mut [f32], db: &mut [f32]) {
    let (inputs, outputs) = (x.len() / n, db.len());
    assert_eq!((dx.len(), dy.len()), (x.len(), n * outputs), "linear {inputs}→{outputs}");
    assert_eq!((w.len(), dw.len()), (inputs * outputs, inputs * outputs), "weights of linear {inputs}→{outputs}");
    simd::dispatch(|| {
        for ((x, dx), dy) in x.chunks_exact(inputs).zip(dx.chunks_exact_mut(inputs)).zip(dy.chunks_exact(outputs)) {
            for (o, &dy) in dy.iter().enumerate() {
                db[o] += dy;
                let row = o * inputs..(o + 1) * inputs;
                for ((dw, w), (dx, x)) in dw[row.clone()].iter_mut().zip(&w[row]).zip(dx.iter_mut().zip(x)) {
                    *dw += dy * x;
                    *dx += dy * w;
                }
            }
        }
    });
}
