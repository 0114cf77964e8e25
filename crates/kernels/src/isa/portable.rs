//! Plain Rust on groups of four lanes, which compilers map to the vectors that every 64-bit processor has.

use super::Simd;
use crate::half::{narrow, widen};

/// The portable instruction set, available on any processor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Portable;

const LANES: usize = 4;

#[inline(always)]
fn map2(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type V = [f32; LANES];
    const LANES: usize = LANES;
    const ROWS: usize = 6;
    const AT_ONCE: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: guaranteed by the caller.
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: guaranteed by the caller.
        unsafe { p.cast::<Self::V>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, len: usize) -> Self::V {
        let mut v = [0.0; LANES];
        // SAFETY: guaranteed by the caller; `v` has LANES elements.
        unsafe { std::ptr::copy_nonoverlapping(p, v.as_mut_ptr(), len) };
        v
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: Self::V, len: usize) {
        // SAFETY: guaranteed by the caller; `v` has LANES elements.
        unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), p, len) };
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not f32::mul_add: without an FMA instruction it calls a slow library function.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn load_half(self, p: *const u16) -> Self::V {
        // SAFETY: guaranteed by the caller.
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(widen)
    }

    #[inline(always)]
    unsafe fn store_half(self, p: *mut u16, v: Self::V) {
        // SAFETY: guaranteed by the caller.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(v.map(narrow)) }
    }

    #[inline(always)]
    unsafe fn store_half_pairs(self, p: *mut u16, even: Self::V, odd: Self::V) {
        let pairs: [[u16; 2]; LANES] = std::array::from_fn(|i| [narrow(even[i]), narrow(odd[i])]);
        // SAFETY: guaranteed by the caller.
        unsafe { p.cast::<[[u16; 2]; LANES]>().write_unaligned(pairs) }
    }

    #[inline(always)]
    fn exp2_of_low_bits(self, v: Self::V) -> Self::V {
        v.map(|x| f32::from_bits(x.to_bits().wrapping_add(127) << 23))
    }
}
