//! AVX-512 and AVX2 with FMA.

use std::arch::x86_64::*;

use super::Simd;

/// Proof that this processor has AVX-512 (F, BW, CD, DQ, VL) and everything these imply.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512(());

/// Proof that this processor has AVX2, FMA and everything these imply.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        found.then_some(Self(()))
    }
}

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        (found && Avx2::detect().is_some()).then_some(Self(()))
    }
}

/// Rounding mode: to nearest, ties to even.
const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;

/// Evaluates an expression that calls intrinsics.
macro_rules! proven {
    ($e:expr) => {
        // SAFETY: a token exists only for a detected instruction set; the caller guarantees that pointers are valid.
        unsafe { $e }
    };
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    // 14·2 accumulators, two vectors of B and one of A: 31 of 32 registers.
    const ROWS: usize = 14;
    // 28 multiply-adds take 14 cycles or more, which leaves time for addresses.
    const AT_ONCE: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        proven!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        proven!(_mm512_loadu_ps(p))
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        proven!(_mm512_storeu_ps(p, v))
    }

    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, len: usize) -> __m512 {
        proven!(_mm512_maskz_loadu_ps(mask(len), p))
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: __m512, len: usize) {
        proven!(_mm512_mask_storeu_ps(p, mask(len), v))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        proven!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    unsafe fn load_half(self, p: *const u16) -> __m512 {
        proven!(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast())))
    }

    #[inline(always)]
    unsafe fn store_half(self, p: *mut u16, v: __m512) {
        proven!(_mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<NEAREST>(v)))
    }

    #[inline(always)]
    unsafe fn store_half_pairs(self, p: *mut u16, even: __m512, odd: __m512) {
        proven!({
            let even = _mm512_cvtepu16_epi32(_mm512_cvtps_ph::<NEAREST>(even));
            let odd = _mm512_cvtepu16_epi32(_mm512_cvtps_ph::<NEAREST>(odd));
            _mm512_storeu_si512(p.cast(), _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd)));
        })
    }

    #[inline(always)]
    fn exp2_of_low_bits(self, v: __m512) -> __m512 {
        proven!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(
            _mm512_castps_si512(v),
            _mm512_set1_epi32(127)
        ))))
    }
}

/// A mask of the lowest `len` of sixteen bits.
#[inline(always)]
fn mask(len: usize) -> u16 {
    ((1u32 << len) - 1) as u16
}

impl Avx2 {
    /// A mask with all bits set in the lanes below `len`.
    #[inline(always)]
    fn mask(self, len: usize) -> __m256i {
        proven!(_mm256_cmpgt_epi32(_mm256_set1_epi32(len as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)))
    }
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    // 6·2 accumulators, two vectors of B and one of A: 15 of 16 registers.
    const ROWS: usize = 6;
    // 12 multiply-adds take six cycles, in which a processor starts 24 to 36 instructions; addresses would be ten of 34.
    const AT_ONCE: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        proven!(_mm256_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        proven!(_mm256_loadu_ps(p))
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        proven!(_mm256_storeu_ps(p, v))
    }

    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, len: usize) -> __m256 {
        proven!(_mm256_maskload_ps(p, self.mask(len)))
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: __m256, len: usize) {
        proven!(_mm256_maskstore_ps(p, self.mask(len), v))
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_div_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        proven!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_min_ps(a, b))
    }

    #[inline(always)]
    unsafe fn load_half(self, p: *const u16) -> __m256 {
        proven!(_mm256_cvtph_ps(_mm_loadu_si128(p.cast())))
    }

    #[inline(always)]
    unsafe fn store_half(self, p: *mut u16, v: __m256) {
        proven!(_mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<NEAREST>(v)))
    }

    #[inline(always)]
    unsafe fn store_half_pairs(self, p: *mut u16, even: __m256, odd: __m256) {
        proven!({
            let (even, odd) = (_mm256_cvtps_ph::<NEAREST>(even), _mm256_cvtps_ph::<NEAREST>(odd));
            _mm_storeu_si128(p.cast(), _mm_unpacklo_epi16(even, odd));
            _mm_storeu_si128(p.cast::<__m128i>().add(1), _mm_unpackhi_epi16(even, odd));
        })
    }

    #[inline(always)]
    fn exp2_of_low_bits(self, v: __m256) -> __m256 {
        proven!(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(
            _mm256_castps_si256(v),
            _mm256_set1_epi32(127)
        ))))
    }
}
