//! The exponential and functions built on it.

use crate::isa::Simd;

/// e^x, accurate to about 1 unit in the last place for −87 ≤ x ≤ 88. Clamps x to that range; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    const LO: f32 = -87.0;
    const HI: f32 = 88.0;
    // Adding 1.5·2²³ rounds to an integer and leaves that integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has few enough bits for n·LN2_HI to be exact.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // The best polynomial for (e^r − 1 − r)/r² on |r| ≤ ln 2 / 2, with the coefficients of Cephes' expf.
    const P: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5];
    // max and min return their second operand where either is NaN.
    let x = s.min(s.splat(HI), s.max(s.splat(LO), x));
    let shifted = s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let n = s.sub(shifted, s.splat(ROUND));
    let r = s.fma(n, s.splat(-LN2_HI), x);
    let r = s.fma(n, s.splat(-LN2_LO), r);
    let mut p = s.splat(P[0]);
    for c in &P[1..] {
        p = s.fma(p, r, s.splat(*c));
    }
    let p = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
    s.mul(p, s.exp2_of_low_bits(shifted))
}

/// 1 / (1 + e^−x).
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    s.div(s.splat(1.0), s.add(s.splat(1.0), exp(s, s.sub(s.zero(), x))))
}

/// x·σ(x).
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    s.div(x, s.add(s.splat(1.0), exp(s, s.sub(s.zero(), x))))
}

/// The derivative of x·σ(x): σ(x)·(1 + x·(1 − σ(x))).
#[inline(always)]
pub(crate) fn silu_derivative<S: Simd>(s: S, x: S::V) -> S::V {
    let sigma = sigmoid(s, x);
    let one = s.splat(1.0);
    s.mul(sigma, s.fma(x, s.sub(one, sigma), one))
}

/// The sum of a vector's lanes, in order, in f64.
#[inline(always)]
pub(crate) fn total<S: Simd>(s: S, v: S::V) -> f64 {
    let mut lanes = [0.0f32; 16];
    // SAFETY: no vector has more than 16 lanes.
    unsafe { s.store(lanes.as_mut_ptr(), v) };
    lanes[..S::LANES].iter().map(|&x| f64::from(x)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, kernel};

    kernel! {
        /// y = e^x. `x` and `y` have equal length, a multiple of 16.
        unsafe fn map_exp<S>(s, x: &[f32], y: &mut [f32]) {
            for (x, y) in x.chunks_exact(S::LANES).zip(y.chunks_exact_mut(S::LANES)) {
                // SAFETY: chunks of LANES elements.
                unsafe { s.store(y.as_mut_ptr(), exp(s, s.load(x.as_ptr()))) };
            }
        }
    }

    fn exps(isa: Isa, x: &[f32]) -> Vec<f32> {
        let mut padded = x.to_vec();
        padded.resize(x.len().next_multiple_of(16), 0.0);
        let mut y = vec![0.0; padded.len()];
        // SAFETY: the lengths are equal and a multiple of 16.
        unsafe { map_exp(isa, &padded, &mut y) };
        y.truncate(x.len());
        y
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let x: Vec<f32> = (-86_000..88_000).map(|i| i as f32 * 1e-3).collect();
        for isa in Isa::available() {
            let worst = x.iter().zip(exps(isa, &x)).fold(0.0f64, |worst, (&x, y)| {
                let exact = f64::from(x).exp();
                worst.max((f64::from(y) - exact).abs() / exact)
            });
            assert!(worst < 2.0 * f64::from(f32::EPSILON), "{isa:?}: relative error {worst:e}");
        }
    }

    #[test]
    fn exp_keeps_nan_and_saturates() {
        for isa in Isa::available() {
            let y = exps(isa, &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
            assert!(y[0].is_nan(), "{isa:?}");
            assert!(y[1].is_finite() && y[1] > 1e38 && y[2] > 0.0 && y[2] < 1e-37, "{isa:?}: {y:?}");
        }
    }
}
