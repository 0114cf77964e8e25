//! Half-precision numbers (IEEE 754 binary16) as bits: a storage format, and a format of products where available.

use crate::isa::Simd;

#[cfg(target_arch = "x86_64")]
mod products;

#[cfg(target_arch = "x86_64")]
pub(crate) use products::{Fp16, pairs_times_panel};

/// A number stored in memory and computed with in f32.
pub(crate) trait Element: Copy {
    /// Loads `LANES` numbers.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::V;
    /// Stores `LANES` numbers. Types of small range multiply them by `scale` first; f32 ignores it.
    ///
    /// # Safety
    /// They are writable.
    unsafe fn store<S: Simd>(s: S, p: *mut Self, v: S::V, scale: S::V);
    /// Rows of a panel of such numbers that a product adds at once; see [`Simd::AT_ONCE`].
    fn at_once<S: Simd>() -> usize;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::V {
        // SAFETY: guaranteed by the caller.
        unsafe { s.load(p) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut Self, v: S::V, _scale: S::V) {
        // SAFETY: guaranteed by the caller.
        unsafe { s.store(p, v) }
    }

    #[inline(always)]
    fn at_once<S: Simd>() -> usize {
        S::AT_ONCE
    }
}

/// The bits of a half-precision number.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Half(u16);

impl Element for Half {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::V {
        // SAFETY: guaranteed by the caller; a Half is its bits.
        unsafe { s.load_half(p.cast()) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut Self, v: S::V, scale: S::V) {
        // SAFETY: guaranteed by the caller; a Half is its bits.
        unsafe { s.store_half(p.cast(), s.mul(v, scale)) }
    }

    /// With more than two rows, the compiler converts numbers ahead, for which there is no register left.
    #[inline(always)]
    fn at_once<S: Simd>() -> usize {
        S::AT_ONCE.min(2)
    }
}

/// A pointer to packed weights.
#[derive(Clone, Copy)]
pub(crate) enum Packed {
    /// f32.
    Single(*const f32),
    /// Half precision, converted to f32 on loading.
    Half(*const Half),
}

impl Packed {
    /// The pointer `elements` further on.
    ///
    /// # Safety
    /// As `pointer::add`.
    #[inline(always)]
    pub(crate) unsafe fn add(self, elements: usize) -> Self {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match self {
                Self::Single(p) => Self::Single(p.add(elements)),
                Self::Half(p) => Self::Half(p.add(elements)),
            }
        }
    }
}

/// The f32 of the same value.
#[inline(always)]
pub(crate) fn widen(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let rest = u32::from(bits & 0x7fff);
    let magnitude = if rest >= 0x7c00 {
        0x7f80_0000 | (rest & 0x3ff) << 13
    } else {
        // Exponent and fraction, moved to their f32 positions, are the value over 2^112, for subnormals as well.
        (f32::from_bits(rest << 13) * f32::from_bits((112 + 127) << 23)).to_bits()
    };
    f32::from_bits(sign | magnitude)
}

/// The nearest half-precision number; ties to even.
#[inline(always)]
pub(crate) fn narrow(x: f32) -> u16 {
    let sign = ((x.to_bits() >> 16) & 0x8000) as u16;
    let a = x.abs();
    let magnitude = if a.is_nan() {
        0x7e00
    } else if a >= 65520.0 {
        0x7c00
    } else if a >= f32::from_bits((127 - 14) << 23) {
        let bits = a.to_bits();
        // Adds half of the last place kept, slightly less where it is even. A carry correctly moves into the exponent.
        ((bits + 0xfff + ((bits >> 13) & 1)) >> 13).wrapping_sub(112 << 10) as u16
    } else {
        // Subnormals are multiples of 2^-24.
        (a * 16_777_216.0).round_ties_even() as u16
    };
    sign | magnitude
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, kernel};

    kernel! {
        unsafe fn there<S>(s, from: *const f32, len: usize, to: *mut u16) {
            for i in (0..len).step_by(S::LANES) {
                // SAFETY: guaranteed by the caller.
                unsafe { s.store_half(to.add(i), s.load(from.add(i))) };
            }
        }
    }

    kernel! {
        unsafe fn back<S>(s, from: *const u16, len: usize, to: *mut f32) {
            for i in (0..len).step_by(S::LANES) {
                // SAFETY: guaranteed by the caller.
                unsafe { s.store(to.add(i), s.load_half(from.add(i))) };
            }
        }
    }

    kernel! {
        unsafe fn interleaved<S>(s, even: *const f32, odd: *const f32, len: usize, to: *mut u16) {
            for i in (0..len).step_by(S::LANES) {
                // SAFETY: guaranteed by the caller.
                unsafe { s.store_half_pairs(to.add(2 * i), s.load(even.add(i)), s.load(odd.add(i))) };
            }
        }
    }

    /// The value of half-precision bits by definition, in f64.
    fn value(bits: u16) -> f64 {
        let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 0x3ff));
        let magnitude = match exponent {
            31 if fraction == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            0 => fraction * (-24f64).exp2(),
            e => (1.0 + fraction / 1024.0) * f64::from(e - 15).exp2(),
        };
        if bits & 0x8000 == 0 { magnitude } else { -magnitude }
    }

    #[test]
    fn every_half_precision_number_has_its_value_on_every_instruction_set() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        for isa in Isa::available() {
            let (mut wide, mut narrowed) = (vec![0.0; all.len()], vec![0; all.len()]);
            // SAFETY: whole vectors, as many as the slices hold.
            unsafe {
                back(isa, all.as_ptr(), all.len(), wide.as_mut_ptr());
                there(isa, wide.as_ptr(), wide.len(), narrowed.as_mut_ptr());
            }
            for (&bits, (&wide, &again)) in all.iter().zip(wide.iter().zip(&narrowed)) {
                if value(bits).is_nan() {
                    assert!(wide.is_nan() && value(again).is_nan(), "{isa:?} {bits:#x}");
                } else {
                    assert_eq!((f64::from(wide), again), (value(bits), bits), "{isa:?} {bits:#x}");
                }
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_and_to_even_on_every_instruction_set() {
        // Between any two neighbours: just below the midpoint, the midpoint, just above.
        let mut cases = Vec::new();
        for bits in 0..0x7bffu16 {
            let middle = ((value(bits) + value(bits + 1)) / 2.0) as f32;
            let even = if bits % 2 == 0 { bits } else { bits + 1 };
            for (x, expected) in [(middle.next_down(), bits), (middle, even), (middle.next_up(), bits + 1)] {
                cases.extend([(x, expected), (-x, expected | 0x8000)]);
            }
        }
        cases.extend([(65519.996, 0x7bff), (65520.0, 0x7c00), (f32::INFINITY, 0x7c00), (-1e30, 0xfc00)]);
        cases.resize(cases.len().next_multiple_of(16), (0.0, 0));
        let (x, expected): (Vec<f32>, Vec<u16>) = cases.into_iter().unzip();
        for isa in Isa::available() {
            let mut narrowed = vec![0; x.len()];
            // SAFETY: whole vectors, as many as the slices hold.
            unsafe { there(isa, x.as_ptr(), x.len(), narrowed.as_mut_ptr()) };
            for i in 0..x.len() {
                assert_eq!(narrowed[i], expected[i], "{isa:?} {}", x[i]);
            }
        }
    }

    #[test]
    fn pairs_lie_side_by_side() {
        let (even, odd): (Vec<f32>, Vec<f32>) = (0..32).map(|i| (i as f32, -0.5 * i as f32)).unzip();
        for isa in Isa::available() {
            let mut pairs = vec![0; 64];
            // SAFETY: whole vectors, as many as the slices hold.
            unsafe { interleaved(isa, even.as_ptr(), odd.as_ptr(), 32, pairs.as_mut_ptr()) };
            let expected: Vec<u16> = even.iter().zip(&odd).flat_map(|(e, o)| [narrow(*e), narrow(*o)]).collect();
            assert_eq!(pairs, expected, "{isa:?}");
        }
    }
}
