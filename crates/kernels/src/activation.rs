//! Activations other than SiLU, with their derivatives. SiLU is fused into normalisations and convolutions
//! ([`norm`](crate::norm)); these are passes of their own.

use crate::elementwise::parts;
use crate::isa::{Isa, Simd, kernel};
use crate::math::exp;
use crate::shared::Shared;
use crate::team::Team;

/// An activation, as PyTorch defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·Φ(x), with the normal distribution Φ (`torch.nn.GELU`, not its approximation by tanh).
    Gelu,
    /// x·tanh(ln(1 + e^x)) (`torch.nn.Mish`).
    Mish,
    /// max(x, 0).
    Relu,
}

/// erfc(a)/2 for a = |x|/√2: Abramowitz and Stegun 7.1.26, off by at most 1e-7.
#[inline(always)]
fn upper_tail<S: Simd>(s: S, magnitude: S::V) -> S::V {
    const P: f32 = 0.327_591_1;
    const A: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_72, 0.254_829_6];
    let a = s.mul(magnitude, s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = s.div(s.splat(1.0), s.fma(s.splat(P), a, s.splat(1.0)));
    let mut p = s.splat(A[0]);
    for c in &A[1..] {
        p = s.fma(p, t, s.splat(*c));
    }
    let decay = exp(s, s.sub(s.zero(), s.mul(a, a)));
    s.mul(s.mul(s.mul(p, t), s.splat(0.5)), decay)
}

#[inline(always)]
fn value<S: Simd>(s: S, kind: Activation, x: S::V) -> S::V {
    // max and min return their second operand where either is NaN.
    match kind {
        Activation::Relu => s.max(s.zero(), x),
        // x·Φ(x) = max(x, 0) − |x|·Φ(−|x|)
        Activation::Gelu => {
            let magnitude = s.max(s.sub(s.zero(), x), x);
            s.sub(s.max(s.zero(), x), s.mul(magnitude, upper_tail(s, magnitude)))
        }
        Activation::Mish => {
            let (n, _) = mish_parts(s, x);
            s.mul(x, s.div(n, s.add(n, s.splat(2.0))))
        }
    }
}

/// n of tanh(ln(1 + e^x)) = n/(n + 2), and e^x. Beyond x = 20 the fraction is 1 in f32.
#[inline(always)]
fn mish_parts<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let e = exp(s, s.min(s.splat(20.0), x));
    (s.mul(e, s.add(e, s.splat(2.0))), e)
}

#[inline(always)]
fn slope<S: Simd>(s: S, kind: Activation, x: S::V) -> S::V {
    let one = s.splat(1.0);
    // −1 or 1, and 0 at 0.
    let sign = |x| s.min(one, s.max(s.splat(-1.0), s.mul(x, s.splat(1e38))));
    match kind {
        // The smallest subnormal numbers count as partly positive.
        Activation::Relu => s.max(s.zero(), sign(x)),
        // Φ(x) + x·φ(x)
        Activation::Gelu => {
            let magnitude = s.max(s.sub(s.zero(), x), x);
            let above = s.sub(s.splat(0.5), upper_tail(s, magnitude));
            let phi = s.fma(sign(x), above, s.splat(0.5));
            let half_square = s.mul(s.splat(-0.5), s.mul(x, x));
            const DENSITY: f32 = 0.398_942_3; // 1/√(2π)
            s.fma(s.mul(x, s.splat(DENSITY)), exp(s, half_square), phi)
        }
        // t + x·(1 − t²)·σ(x), with 1 − t = 2/(n + 2)
        Activation::Mish => {
            let (n, e) = mish_parts(s, x);
            let rest = s.div(s.splat(2.0), s.add(n, s.splat(2.0)));
            let t = s.sub(one, rest);
            let fall = s.mul(rest, s.add(one, t));
            let sigma = s.div(e, s.add(one, e));
            // 1 − rest would lose the small t of negative x.
            let t = s.div(n, s.add(n, s.splat(2.0)));
            s.fma(s.mul(s.min(s.splat(20.0), x), fall), sigma, t)
        }
    }
}

kernel! {
    /// y = act(x). The slices have equal length.
    unsafe fn forward_kernel<S>(s, kind: Activation, x: &[f32], y: &mut [f32]) {
        for i in (0..x.len()).step_by(S::LANES) {
            let len = (x.len() - i).min(S::LANES);
            // SAFETY: both slices have `len` elements from i on.
            unsafe { s.store_first(y.as_mut_ptr().add(i), value(s, kind, s.load_first(x.as_ptr().add(i), len)), len) };
        }
    }
}

kernel! {
    /// dx = dy·act′(x), or dx += that. The slices have equal length.
    unsafe fn backward_kernel<S>(s, kind: Activation, x: &[f32], dy: &[f32], dx: &mut [f32], accumulate: bool) {
        for i in (0..x.len()).step_by(S::LANES) {
            let len = (x.len() - i).min(S::LANES);
            // SAFETY: all slices have `len` elements from i on.
            unsafe {
                let at = dx.as_mut_ptr().add(i);
                let before = if accumulate { s.load_first(at, len) } else { s.zero() };
                let (x, dy) = (s.load_first(x.as_ptr().add(i), len), s.load_first(dy.as_ptr().add(i), len));
                s.store_first(at, s.fma(dy, slope(s, kind, x), before), len);
            }
        }
    }
}

/// y = act(x).
///
/// # Panics
/// The slices differ in length.
pub fn forward(kind: Activation, isa: Isa, team: &Team, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "operands of {kind:?}");
    let y = Shared::new(y);
    parts(team, x.len(), |begin, len| {
        // SAFETY: only this task accesses its part; the slices have equal length.
        unsafe { forward_kernel(isa, kind, &x[begin..begin + len], y.part(begin, len)) }
    });
}

/// dx = dy·act′(x), or dx += dy·act′(x). The derivative of ReLU at 0 is 0.
///
/// # Panics
/// The slices differ in length.
pub fn backward(kind: Activation, isa: Isa, team: &Team, x: &[f32], dy: &[f32], dx: &mut [f32], accumulate: bool) {
    assert_eq!((x.len(), dy.len()), (dx.len(), dx.len()), "operands of {kind:?}");
    let dx = Shared::new(dx);
    parts(team, x.len(), |begin, len| {
        let part = begin..begin + len;
        // SAFETY: only this task accesses its part; the slices have equal length.
        unsafe { backward_kernel(isa, kind, &x[part.clone()], &dy[part], dx.part(begin, len), accumulate) }
    });
}
