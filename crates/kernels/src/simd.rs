//! Loops compiled for each instruction set, the exponential, and sums of fixed order.
//!
//! Nothing here fuses a multiplication with an addition and every sum has the same sixteen lanes, so these loops give
//! the same bits on every instruction set.

use pulp::Arch;

/// Runs `f`, and all that is inlined into it, compiled for the best instruction set of this processor.
#[inline(always)]
pub fn dispatch<R>(f: impl FnOnce() -> R) -> R {
    struct Run<F>(F);
    impl<R, F: FnOnce() -> R> pulp::WithSimd for Run<F> {
        type Output = R;
        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, simd: S) -> R {
            simd.vectorize(Vectorized(self.0))
        }
    }
    struct Vectorized<F>(F);
    impl<R, F: FnOnce() -> R> pulp::NullaryFnOnce for Vectorized<F> {
        type Output = R;
        #[inline(always)]
        fn call(self) -> R {
            (self.0)()
        }
    }
    Arch::new().dispatch(Run(f))
}

/// The instruction set that [`dispatch`] and the matrix products use: `avx512`, `avx2` or `portable`.
pub fn isa() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if pulp::x86::V4::try_new().is_some() {
            return "avx512";
        }
        if pulp::x86::V3::try_new().is_some() {
            return "avx2";
        }
    }
    "portable"
}

/// e^x to about 1 unit in the last place for −87 ≤ x ≤ 88, held at the ends of that range outside it; NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LO: f32 = -87.0;
    const HI: f32 = 88.0;
    // Adding 1.5·2²³ rounds to an integer and leaves that integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts: the first has few enough bits for n·LN2_HI to be exact.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Comparisons, not min and max, which would drop a NaN.
    let x = if x < LO { LO } else { x };
    let x = if x > HI { HI } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HI) - n * LN2_LO;
    // Taylor coefficients to r⁷: |r| ≤ ln 2 / 2, so the remainder is below 6e-9.
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    p * scale
}

/// 1 / (1 + e^−x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

const LANES: usize = 16;

/// Σ f(i) over 0..len: sixteen f32 lanes, refreshed into f64 every 4096 elements so that long sums stay accurate.
#[inline(always)]
pub fn sum_by(len: usize, f: impl Fn(usize) -> f32) -> f64 {
    const BLOCK: usize = 4096;
    let mut total = 0.0f64;
    let mut begin = 0;
    while begin < len {
        let end = (begin + BLOCK).min(len);
        let mut lanes = [0.0f32; LANES];
        let whole = begin + (end - begin) / LANES * LANES;
        let mut i = begin;
        while i < whole {
            for (lane, sum) in lanes.iter_mut().enumerate() {
                *sum += f(i + lane);
            }
            i += LANES;
        }
        for (lane, i) in (whole..end).enumerate() {
            lanes[lane] += f(i);
        }
        for lane in lanes {
            total += f64::from(lane);
        }
        begin = end;
    }
    total
}

/// Σ aᵢ.
#[inline(always)]
pub fn sum(a: &[f32]) -> f64 {
    sum_by(a.len(), |i| a[i])
}

/// Σ aᵢ·bᵢ.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    let b = &b[..a.len()];
    sum_by(a.len(), |i| a[i] * b[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in -86_000..88_000 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "relative error {worst:e}");
    }

    #[test]
    fn exp_keeps_nan_and_saturates() {
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::INFINITY).is_finite() && exp(f32::INFINITY) > 1e38);
        assert!(exp(f32::NEG_INFINITY) > 0.0 && exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn sums_agree_with_f64_for_every_tail() {
        for len in [0, 1, 15, 16, 17, 4095, 4096, 4097, 10_000] {
            let a: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin()).collect();
            let exact: f64 = a.iter().map(|&x| f64::from(x)).sum();
            assert!((dispatch(|| sum(&a)) - exact).abs() < 1e-3, "{len}");
            let exact: f64 = a.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            assert!((dispatch(|| dot(&a, &a)) - exact).abs() < 1e-6 * (1.0 + exact), "{len}");
        }
    }
}
