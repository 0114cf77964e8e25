//! The matrix units of processors with AMX: products of bf16 with f32 sums, several times as many per cycle as in f32.
//!
//! A tile is 16 rows of 64 bytes. Of A, a row holds 32 numbers in bf16. Of B, it holds two neighbouring rows of 16 numbers,
//! interleaved. Of C, it holds 16 numbers in f32. Tiles and their configuration are registers of a thread.

use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::sync::OnceLock;

use crate::isa::Avx512;

/// Rows of A and columns of B that a [`product`](Configured::product) multiplies: two tiles of each.
pub(crate) const SIDE: usize = 32;
/// Numbers of a row of A in a step of a product.
pub(crate) const DEPTH: usize = 32;
/// Numbers of B in a step of a product.
pub(crate) const PANEL_STEP: usize = DEPTH * SIDE;

/// Proof that this process may use the matrix units.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Units(());

impl Units {
    /// Asks the processor and the operating system, once.
    pub(crate) fn detect() -> Option<Self> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        FOUND.get_or_init(|| Avx512::detect().is_some() && is_there() && is_allowed()).then_some(Self(()))
    }

    /// Configures the tiles of this thread, until the returned value is dropped. A thread has one such value at a time.
    pub(crate) fn configure(self) -> Configured {
        /// Palette 1; rows and bytes per row of each tile.
        #[repr(C, align(64))]
        struct Configuration([u8; 64]);
        static CONFIGURATION: Configuration = {
            let mut bytes = [0; 64];
            bytes[0] = 1;
            let mut tile = 0;
            while tile < 8 {
                bytes[16 + 2 * tile] = 64;
                bytes[48 + tile] = 16;
                tile += 1;
            }
            Configuration(bytes)
        };
        // SAFETY: the token proves that the instruction exists and is allowed; it reads these 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIGURATION, options(nostack, readonly, preserves_flags)) };
        Configured(PhantomData)
    }
}

/// Whether the processor has tiles and multiplies them in bf16, and AVX512-BF16 to fill them.
fn is_there() -> bool {
    let leaf = |leaf, sub| __cpuid_count(leaf, sub);
    // The operating system saves tiles (bits 17 and 18 of XCR0).
    // SAFETY: AVX-512 was detected, so XGETBV exists.
    let saved = unsafe { xcr0() } & (3 << 17) == 3 << 17;
    let (features, more) = (leaf(7, 0).edx, leaf(7, 1).eax);
    saved && features & (1 << 22) != 0 && features & (1 << 24) != 0 && more & (1 << 5) != 0
}

/// # Safety
/// The processor has XGETBV.
#[target_feature(enable = "xsave")]
unsafe fn xcr0() -> u64 {
    // SAFETY: guaranteed by the caller.
    unsafe { _xgetbv(0) }
}

/// Whether the operating system grants the state of tiles to this process. Linux wants to be asked.
fn is_allowed() -> bool {
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        const REQUEST: libc::c_int = 0x1023;
        const TILE_DATA: libc::c_ulong = 18;
        // SAFETY: the call changes only what this process may use.
        return unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) } == 0;
    }
    #[allow(unreachable_code)] // elsewhere nobody has tried it
    false
}

/// Instructions that fetch the cache lines at these distances from `b`.
macro_rules! fetch {
    ($($distance:literal)*) => { concat!($("prefetcht0 [{b} + ", $distance, "]\n",)*) };
}

/// Tiles that are configured on this thread, which it therefore cannot leave.
pub(crate) struct Configured(PhantomData<*const ()>);

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: tiles exist, since they were configured.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

impl Configured {
    /// C = A·B, for 32 rows of A and 32 columns of B. Row i of A in step j begins `offsets[j]` bytes after `a + i·row` (`row`
    /// in bytes) and has 32 numbers. B is packed: for each step two tiles, columns 0–15 and 16–31. Rows of C are `c_row` bytes
    /// apart.
    ///
    /// # Safety
    /// All that is read of A and B is readable, and C is writable. There is at least one step.
    #[inline]
    pub(crate) unsafe fn product(
        &self,
        a: *const u16,
        row: usize,
        offsets: &[usize],
        b: *const u16,
        c: *mut f32,
        c_row: usize,
    ) {
        debug_assert!(!offsets.is_empty());
        let steps = offsets.as_ptr_range();
        // Tiles of B come from the second-level cache, so those of the step after the next are fetched between the products; a
        // fetch beyond the end does no harm. One statement, because nothing else keeps the contents of tiles.
        // SAFETY: the tiles are configured; the caller guarantees the rest.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "mov {at}, qword ptr [{step}]",
                "tileloadd tmm6, [{b} + {line}*1]",
                "lea {upper}, [{a} + {at}]",
                "add {at}, {lower}",
                "tileloadd tmm4, [{upper} + {row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                fetch!(4096 4160 4224 4288 4352 4416 4480 4544),
                "tileloadd tmm7, [{b} + {line}*1 + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                fetch!(4608 4672 4736 4800 4864 4928 4992 5056),
                "tileloadd tmm5, [{at} + {row}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                fetch!(5120 5184 5248 5312 5376 5440 5504 5568),
                "tdpbf16ps tmm3, tmm5, tmm7",
                fetch!(5632 5696 5760 5824 5888 5952 6016 6080),
                "add {b}, 2048",
                "add {step}, 8",
                "cmp {step}, {end}",
                "jne 2b",
                "tilestored [{c} + {c_row}*1], tmm0",
                "tilestored [{c} + {c_row}*1 + 64], tmm1",
                "mov {at}, {c_row}",
                "shl {at}, 4",
                "add {at}, {c}",
                "tilestored [{at} + {c_row}*1], tmm2",
                "tilestored [{at} + {c_row}*1 + 64], tmm3",
                at = out(reg) _,
                upper = out(reg) _,
                a = in(reg) a,
                lower = in(reg) a.wrapping_byte_add(16 * row),
                row = in(reg) row,
                b = inout(reg) b => _,
                line = in(reg) 64usize,
                step = inout(reg) steps.start => _,
                end = in(reg) steps.end,
                c = in(reg) c,
                c_row = in(reg) c_row,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// Rounds `count` rows of `channels` numbers, a multiple of 16, to bf16, and fills each with zeros up to a multiple of
/// [`DEPTH`]. Rows are `from_row` and `to_row` elements apart.
///
/// # Safety
/// The rows are readable, and writable up to that multiple.
pub(crate) unsafe fn narrow_rows(
    _proof: Units,
    count: usize,
    channels: usize,
    from: *const f32,
    from_row: usize,
    to: *mut u16,
    to_row: usize,
) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn rows(count: usize, channels: usize, from: *const f32, from_row: usize, to: *mut u16, to_row: usize) {
        for i in 0..count {
            for c in (0..channels).step_by(DEPTH) {
                // SAFETY: guaranteed by the caller.
                unsafe {
                    let x = from.add(i * from_row + c);
                    let low = _mm512_loadu_ps(x);
                    let high = if c + 16 < channels { _mm512_loadu_ps(x.add(16)) } else { _mm512_setzero_ps() };
                    _mm512_storeu_si512(to.add(i * to_row + c).cast(), rounded(low, high));
                }
            }
        }
    }
    // SAFETY: the token proves the features; the caller guarantees the rest.
    unsafe { rows(count, channels, from, from_row, to, to_row) }
}

/// Rounds 32 rows of 16 numbers to bf16 and writes them as 16 rows of 32: the transpose, as A of a product whose inner dimension
/// is the rows. Rows are `from_row` and `to_row` elements apart.
///
/// # Safety
/// The rows are readable and writable.
pub(crate) unsafe fn narrow_transposed(_proof: Units, from: *const f32, from_row: usize, to: *mut u16, to_row: usize) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn transposed(from: *const f32, from_row: usize, to: *mut u16, to_row: usize) {
        // Each 32-bit lane holds a channel of two neighbouring rows; these lanes are transposed.
        let mut r = [_mm512_setzero_si512(); 16];
        for (i, pair) in r.iter_mut().enumerate() {
            // SAFETY: guaranteed by the caller.
            unsafe {
                let even = from.add(2 * i * from_row);
                *pair = interleaved(_mm512_loadu_ps(even), _mm512_loadu_ps(even.add(from_row)));
            }
        }
        for (channel, row) in transpose(r).into_iter().enumerate() {
            // SAFETY: guaranteed by the caller.
            unsafe { _mm512_storeu_si512(to.add(channel * to_row).cast(), row) };
        }
    }
    // SAFETY: the token proves the features; the caller guarantees the rest.
    unsafe { transposed(from, from_row, to, to_row) }
}

/// Rounds 32 rows of 32 numbers to bf16 and writes them as a step of B whose columns they are.
///
/// # Safety
/// The rows are readable; [`PANEL_STEP`] numbers are writable at `to`.
pub(crate) unsafe fn narrow_columns(_proof: Units, from: *const f32, from_row: usize, to: *mut u16) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn columns(from: *const f32, from_row: usize, to: *mut u16) {
        for tile in 0..2 {
            // Each 32-bit lane holds two neighbouring numbers of a row; these lanes are transposed.
            let mut r = [_mm512_setzero_si512(); 16];
            for (i, row) in r.iter_mut().enumerate() {
                // SAFETY: guaranteed by the caller.
                unsafe {
                    let x = from.add((16 * tile + i) * from_row);
                    *row = rounded(_mm512_loadu_ps(x), _mm512_loadu_ps(x.add(16)));
                }
            }
            for (pair, row) in transpose(r).into_iter().enumerate() {
                // SAFETY: guaranteed by the caller.
                unsafe { _mm512_storeu_si512(to.add(tile * PANEL_STEP / 2 + 32 * pair).cast(), row) };
            }
        }
    }
    // SAFETY: the token proves the features; the caller guarantees the rest.
    unsafe { columns(from, from_row, to) }
}

/// The transpose of sixteen rows of sixteen 32-bit lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn transpose(mut r: [__m512i; 16]) -> [__m512i; 16] {
    let mut t = r;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for i in 0..4 {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    // Row 4i + j holds, in its four quarters, lanes j, 4 + j, 8 + j and 12 + j of rows 4i to 4i + 3.
    for j in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x88>(r[j], r[4 + j]);
        let high = _mm512_shuffle_i32x4::<0x88>(r[8 + j], r[12 + j]);
        let odd_low = _mm512_shuffle_i32x4::<0xdd>(r[j], r[4 + j]);
        let odd_high = _mm512_shuffle_i32x4::<0xdd>(r[8 + j], r[12 + j]);
        t[j] = _mm512_shuffle_i32x4::<0x88>(low, high);
        t[8 + j] = _mm512_shuffle_i32x4::<0xdd>(low, high);
        t[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd_low, odd_high);
        t[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd_low, odd_high);
    }
    t
}

/// Rounds two rows of `len ≤ 16` numbers to bf16 and interleaves them, filled with zeros: a row of a tile of B.
///
/// # Safety
/// The rows are readable; 32 numbers are writable at `to`.
pub(crate) unsafe fn narrow_pair(_proof: Units, even: *const f32, odd: *const f32, len: usize, to: *mut u16) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn pair(even: *const f32, odd: *const f32, len: usize, to: *mut u16) {
        let mask = ((1u32 << len) - 1) as u16;
        // SAFETY: guaranteed by the caller.
        unsafe {
            let pairs = interleaved(_mm512_maskz_loadu_ps(mask, even), _mm512_maskz_loadu_ps(mask, odd));
            _mm512_storeu_si512(to.cast(), pairs);
        }
    }
    // SAFETY: the token proves the features; the caller guarantees the rest.
    unsafe { pair(even, odd, len, to) }
}

/// Two vectors rounded to bf16: each 32-bit lane holds a number of `even`, then one of `odd`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn interleaved(even: __m512, odd: __m512) -> __m512i {
    /// Indices into \[even | odd\], alternating.
    static ALTERNATING: [u16; 32] = {
        let mut places = [0; 32];
        let mut i = 0;
        while i < 32 {
            places[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        places
    };
    // SAFETY: the table is 64 bytes long.
    let places = unsafe { _mm512_loadu_si512(ALTERNATING.as_ptr().cast()) };
    _mm512_permutexvar_epi16(places, rounded(even, odd))
}

/// Two vectors rounded to bf16, `low` before `high`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn rounded(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both types are 64 bytes of plain bits.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Adds 32×32 sums to others.
///
/// # Safety
/// Both are readable, and `to` is writable.
pub(crate) unsafe fn add_sums(_proof: Units, sums: *const f32, to: *mut f32) {
    #[target_feature(enable = "avx512f")]
    unsafe fn add(sums: *const f32, to: *mut f32) {
        for i in (0..SIDE * SIDE).step_by(16) {
            // SAFETY: guaranteed by the caller.
            unsafe {
                _mm512_storeu_ps(to.add(i), _mm512_add_ps(_mm512_loadu_ps(to.add(i)), _mm512_loadu_ps(sums.add(i))))
            };
        }
    }
    // SAFETY: the token proves the features; the caller guarantees the rest.
    unsafe { add(sums, to) }
}
