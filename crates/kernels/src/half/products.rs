//! Matrix products in half precision for processors with AVX512-FP16: twice as many per cycle as in f32.
//!
//! Two neighbouring input channels share one 32-bit lane: one broadcast loads both, and every half-lane accumulates
//! its own part of the chain. After at most [`CHUNK`] channels, both halves are added up and the sum continues in f32.
//! A chain of half-precision additions is therefore never longer than 32.

use std::arch::x86_64::*;

use crate::isa::{Avx512, Simd};
use crate::micro::{fetch, tiles, with_rows};

/// Channels whose products are accumulated in half precision.
const CHUNK: usize = 64;

/// Proof that this processor multiplies in half precision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fp16(());

impl Fp16 {
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512fp16") && Avx512::detect().is_some()).then_some(Self(()))
    }
}

/// Permutations that collect the first and the second half of each lane: from [pairs of 16 | pairs of 16] to all 32
/// in order.
static FIRST: [u16; 32] = every_second(0);
static SECOND: [u16; 32] = every_second(1);

const fn every_second(begin: u16) -> [u16; 32] {
    let mut places = [0; 32];
    let mut i = 0;
    while i < 32 {
        // The sixth bit of the index selects the second operand.
        places[i] = 2 * i as u16 + begin;
        i += 1;
    }
    places
}

/// C = A·B for `rows` rows of A, `a_row` apart, and a packed panel of B (`pairs` rows of 32 pairs). Each row of C is
/// 32 f32; rows are `c_row` apart. The caller needs the panel `next` elements further on soon.
///
/// # Safety
/// 2·pairs elements of each row of A and the whole panel are readable, 32 elements of each row of C are writable.
#[allow(clippy::too_many_arguments)] // operands, sizes and strides of a product
pub(crate) unsafe fn pairs_times_panel(
    _proof: Fp16,
    rows: usize,
    pairs: usize,
    a: *const u16,
    a_row: usize,
    b: *const u16,
    next: usize,
    c: *mut f32,
    c_row: usize,
) {
    // SAFETY: the token proves the features; the caller guarantees the rest.
    unsafe { all_rows(rows, pairs, a, a_row, b, next, c, c_row) }
}

/// # Safety
/// As [`pairs_times_panel`].
#[target_feature(
    enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512fp16,avx2,fma,bmi1,bmi2,f16c,lzcnt,popcnt"
)]
#[allow(clippy::too_many_arguments)] // operands, sizes and strides of a product
unsafe fn all_rows(
    rows: usize,
    pairs: usize,
    a: *const u16,
    a_row: usize,
    b: *const u16,
    next: usize,
    c: *mut f32,
    c_row: usize,
) {
    let all = tiles::<Avx512>(rows).count();
    for (index, (first, count)) in tiles::<Avx512>(rows).enumerate() {
        // SAFETY: guaranteed by the caller, for a part of the rows.
        unsafe {
            let (a, c) = (a.add(first * a_row), c.add(first * c_row));
            let ahead = fetch(b.wrapping_add(next), pairs, 64, index, all);
            with_rows!(count, tile::<Avx512>(pairs, a, a_row, b, ahead, c, c_row));
        }
    }
}

/// # Safety
/// As [`pairs_times_panel`], for M rows.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512fp16,avx2,fma,bmi1,bmi2,f16c,lzcnt,popcnt"
)]
unsafe fn tile<S: Simd, const M: usize>(
    pairs: usize,
    a: *const u16,
    a_row: usize,
    b: *const u16,
    ahead: impl Fn(usize),
    c: *mut f32,
    c_row: usize,
) {
    const { assert!(S::LANES == 16) };
    let mut begin = 0;
    while begin < pairs {
        let end = (begin + CHUNK / 2).min(pairs);
        let mut acc = [[_mm512_setzero_ph(); 2]; M];
        for p in begin..end {
            // SAFETY: guaranteed by the caller.
            unsafe {
                ahead(p);
                let row = b.add(p * 64);
                let b0 = _mm512_castsi512_ph(_mm512_loadu_si512(row.cast()));
                let b1 = _mm512_castsi512_ph(_mm512_loadu_si512(row.add(32).cast()));
                for (i, sums) in acc.iter_mut().enumerate() {
                    let pair = a.add(i * a_row + 2 * p).cast::<i32>().read_unaligned();
                    let x = _mm512_castsi512_ph(_mm512_set1_epi32(pair));
                    sums[0] = _mm512_fmadd_ph(x, b0, sums[0]);
                    sums[1] = _mm512_fmadd_ph(x, b1, sums[1]);
                }
            }
        }
        // SAFETY: the tables are 64 bytes long; the caller guarantees C.
        unsafe {
            let first = _mm512_loadu_si512(FIRST.as_ptr().cast());
            let second = _mm512_loadu_si512(SECOND.as_ptr().cast());
            for (i, [s0, s1]) in acc.into_iter().enumerate() {
                let (s0, s1) = (_mm512_castph_si512(s0), _mm512_castph_si512(s1));
                let sum = _mm512_add_ph(
                    _mm512_castsi512_ph(_mm512_permutex2var_epi16(s0, first, s1)),
                    _mm512_castsi512_ph(_mm512_permutex2var_epi16(s0, second, s1)),
                );
                let sum = _mm512_castph_si512(sum);
                let mut low = _mm512_cvtph_ps(_mm512_castsi512_si256(sum));
                let mut high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(sum));
                let c = c.add(i * c_row);
                if begin > 0 {
                    low = _mm512_add_ps(_mm512_loadu_ps(c), low);
                    high = _mm512_add_ps(_mm512_loadu_ps(c.add(16)), high);
                }
                _mm512_storeu_ps(c, low);
                _mm512_storeu_ps(c.add(16), high);
            }
        }
        begin = end;
    }
}
