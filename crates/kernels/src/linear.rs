//! Fully connected layers on vectors, for the time and class embeddings.

use crate::elementwise::axpy_kernel;
use crate::isa::{Isa, kernel};
use crate::math::total;
use crate::shared::Shared;
use crate::team::Team;
use crate::view::{View, ViewMut};

/// Outputs per task.
const OUTPUTS: usize = 32;

/// y = w·x + b for each of `n` vectors; `w` is `[out, in]`. The weights are read once for all vectors.
///
/// # Panics
/// A slice or view has the wrong length.
#[allow(clippy::too_many_arguments)] // operands and result
pub fn forward(isa: Isa, team: &Team, n: usize, inputs: usize, x: View<'_>, w: &[f32], b: &[f32], y: &mut ViewMut<'_>) {
    let outputs = b.len();
    x.check(n, inputs, "input of a linear layer");
    assert_eq!(w.len(), inputs * outputs, "weights of linear {inputs}→{outputs}");
    let y = y.share(n, outputs, "output of a linear layer");
    team.run(outputs.div_ceil(OUTPUTS), |task| {
        for o in task * OUTPUTS..((task + 1) * OUTPUTS).min(outputs) {
            for i in 0..n {
                // SAFETY: the rows have equal length; only this task accesses its outputs.
                unsafe {
                    let sum = dot(isa, &w[o * inputs..(o + 1) * inputs], x.row(i, inputs));
                    y.part(i, o, 1)[0] = sum as f32 + b[o];
                }
            }
        }
    });
}

kernel! {
    /// Σ aᵢ·bᵢ. The slices have equal length.
    unsafe fn dot<S>(s, a: &[f32], b: &[f32]) -> f64 {
        let (len, a, b) = (a.len(), a.as_ptr(), b.as_ptr());
        let mut acc = [s.zero(); 4];
        let mut i = 0;
        while i < len {
            for acc in &mut acc {
                if i < len {
                    let rest = (len - i).min(S::LANES);
                    // SAFETY: `rest` elements exist from i on.
                    *acc = unsafe { s.fma(s.load_first(a.add(i), rest), s.load_first(b.add(i), rest), *acc) };
                }
                i += S::LANES;
            }
        }
        total(s, s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
    }
}

/// The gradients that [`backward`] adds to.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// Gradient of the input, `[n, in]`.
    pub dx: &'a mut [f32],
    /// Gradient of the weights, `[out, in]`.
    pub dw: &'a mut [f32],
    /// Gradient of the bias, `[out]`.
    pub db: &'a mut [f32],
}

/// dx += wᵀ·dy, dw += dy·xᵀ and db += dy for each of `n` vectors, in order; `dy` is `[n, out]`.
///
/// # Panics
/// A slice or view has the wrong length.
#[allow(clippy::too_many_arguments)] // operands and results
pub fn backward(
    isa: Isa,
    team: &Team,
    n: usize,
    inputs: usize,
    x: View<'_>,
    w: &[f32],
    dy: &[f32],
    into: Gradients<'_>,
) {
    let Gradients { dx, dw, db } = into;
    let outputs = db.len();
    x.check(n, inputs, "input of a linear layer");
    assert_eq!((dx.len(), dy.len()), (n * inputs, n * outputs), "linear {inputs}→{outputs}");
    assert_eq!((w.len(), dw.len()), (inputs * outputs, inputs * outputs), "weights of linear {inputs}→{outputs}");
    let (dx, dw, db) = (Shared::new(dx), Shared::new(dw), Shared::new(db));
    team.run(outputs.div_ceil(OUTPUTS), |task| {
        for o in task * OUTPUTS..((task + 1) * OUTPUTS).min(outputs) {
            // SAFETY: only this task accesses the output's weights and bias; the rows have equal length.
            unsafe {
                let (dw, db) = (dw.part(o * inputs, inputs), db.part(o, 1));
                for i in 0..n {
                    let dy = dy[i * outputs + o];
                    db[0] += dy;
                    axpy_kernel(isa, dy, x.row(i, inputs), dw);
                }
            }
        }
    });
    team.run(n, |i| {
        // SAFETY: only this task accesses the vector's gradient; the rows have equal length.
        unsafe {
            let dx = dx.part(i * inputs, inputs);
            for (o, w) in w.chunks_exact(inputs).enumerate() {
                axpy_kernel(isa, dy[i * outputs + o], w, dx);
            }
        }
    });
}
