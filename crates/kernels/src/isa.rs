//! The instruction sets that kernels are compiled for, and run-time selection among them.
//!
//! A kernel is written once, generic over `Simd`, inside the `kernel!` macro, which compiles it for every instruction
//! set. An [`Isa`] value exists only for a set that was detected on this processor. The intrinsics rely on this proof.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
mod x86;

mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

pub(crate) use portable::Portable;

/// Vectors of `LANES` f32 and the operations that kernels use.
///
/// A multiplication followed by an addition is written as [`fma`](Self::fma). It rounds once on AVX2 and AVX-512 and
/// twice on the portable path, so results differ in the last digits between instruction sets.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// The vector type.
    type V: Copy;
    /// Elements per vector.
    const LANES: usize;
    /// Rows of the register tile of a matrix product. A tile two vectors wide with this many rows fills the registers.
    const ROWS: usize;
    /// Rows of B that a matrix product adds between two computations of addresses.
    const AT_ONCE: usize;

    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `LANES` elements at `p` are readable.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `LANES` elements at `p` are writable.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Loads the first `len` elements at `p` and fills the rest with zeros. Reads nothing beyond `len`.
    ///
    /// # Safety
    /// `len ≤ LANES` elements at `p` are readable.
    unsafe fn load_first(self, p: *const f32, len: usize) -> Self::V;
    /// # Safety
    /// `len ≤ LANES` elements at `p` are writable.
    unsafe fn store_first(self, p: *mut f32, v: Self::V, len: usize);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a·b + c.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger element; `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller element; `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Loads half-precision numbers from their bits.
    ///
    /// # Safety
    /// `LANES` elements at `p` are readable.
    unsafe fn load_half(self, p: *const u16) -> Self::V;
    /// Stores as half precision, rounding to nearest, ties to even.
    ///
    /// # Safety
    /// `LANES` elements at `p` are writable.
    unsafe fn store_half(self, p: *mut u16, v: Self::V);
    /// [`store_half`](Self::store_half) for two interleaved vectors: even\[0\], odd\[0\], even\[1\], odd\[1\], …
    ///
    /// # Safety
    /// `2·LANES` elements at `p` are writable.
    unsafe fn store_half_pairs(self, p: *mut u16, even: Self::V, odd: Self::V);
    /// 2ⁿ for the integer n in the low bits of `v`, −126 ≤ n ≤ 127.
    fn exp2_of_low_bits(self, v: Self::V) -> Self::V;

    /// [`load_first`](Self::load_first); a whole vector without a mask, which is slow on some processors.
    ///
    /// # Safety
    /// `len ≤ LANES` elements at `p` are readable.
    #[inline(always)]
    unsafe fn load_up_to(self, p: *const f32, len: usize) -> Self::V {
        // SAFETY: guaranteed by the caller.
        unsafe { if len == Self::LANES { self.load(p) } else { self.load_first(p, len) } }
    }

    /// [`store_first`](Self::store_first); a whole vector without a mask, which is slow on some processors.
    ///
    /// # Safety
    /// `len ≤ LANES` elements at `p` are writable.
    #[inline(always)]
    unsafe fn store_up_to(self, p: *mut f32, v: Self::V, len: usize) {
        // SAFETY: guaranteed by the caller.
        unsafe { if len == Self::LANES { self.store(p, v) } else { self.store_first(p, v, len) } }
    }

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }
}

/// An instruction set that this processor has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa(pub(crate) Token);

/// The variants that [`kernel!`] matches on. A token exists only for detected instruction sets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    Portable(Portable),
}

impl Isa {
    /// Every instruction set of this processor, best first. The last is the portable one.
    pub fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Avx512::detect().map(|t| Self(Token::Avx512(t))));
            all.extend(Avx2::detect().map(|t| Self(Token::Avx2(t))));
        }
        all.push(Self(Token::Portable(Portable)));
        all
    }

    /// The instruction set named by the environment variable `SKIPSTONE_ISA` if this processor has it, otherwise the
    /// best one. [`asked`](Self::asked) reports an unusable `SKIPSTONE_ISA`.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::asked().ok().flatten().unwrap_or_else(|| Self::available()[0]))
    }

    /// The instruction set named by `SKIPSTONE_ISA` (`avx512`, `avx2` or `portable`), if the variable is set.
    ///
    /// # Errors
    /// The variable does not name an instruction set of this processor.
    pub fn asked() -> Result<Option<Self>, String> {
        let Ok(name) = std::env::var("SKIPSTONE_ISA") else { return Ok(None) };
        name.parse().map(Some).map_err(|error| format!("SKIPSTONE_ISA: {error}"))
    }

    /// The name: `avx512`, `avx2` or `portable`.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => "avx2",
            Token::Portable(_) => "portable",
        }
    }

    pub(crate) fn lanes(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => Avx512::LANES,
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => Avx2::LANES,
            Token::Portable(_) => Portable::LANES,
        }
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = Self::available();
        let names: Vec<_> = all.iter().map(|isa| isa.name()).collect();
        all.iter()
            .copied()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| format!("instruction set \"{name}\": this processor has {}", names.join(", ")))
    }
}

/// Compiles a function generic over [`Simd`] for each instruction set. The first argument of the resulting function
/// selects the set.
///
/// The generic body is inlined into a function with the target features enabled, and so are its intrinsics.
macro_rules! kernel {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident<$S:ident>($simd:ident $(, $arg:ident: $ty:ty)* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)] // operands, sizes and strides of a kernel
        $vis unsafe fn $name(isa: $crate::isa::Isa $(, $arg: $ty)*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            unsafe fn body<$S: $crate::isa::Simd>($simd: $S $(, $arg: $ty)*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[allow(clippy::too_many_arguments)]
            #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,f16c,lzcnt,popcnt")]
            unsafe fn avx512(token: $crate::isa::Avx512 $(, $arg: $ty)*) $(-> $ret)? {
                // SAFETY: the body has the same contract as this function.
                unsafe { body(token $(, $arg)*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[allow(clippy::too_many_arguments)]
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,f16c,lzcnt,popcnt")]
            unsafe fn avx2(token: $crate::isa::Avx2 $(, $arg: $ty)*) $(-> $ret)? {
                // SAFETY: the body has the same contract as this function.
                unsafe { body(token $(, $arg)*) }
            }
            // SAFETY: the token proves that its instruction set was detected; the caller guarantees the rest.
            unsafe {
                match isa.0 {
                    #[cfg(target_arch = "x86_64")]
                    $crate::isa::Token::Avx512(token) => avx512(token $(, $arg)*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::isa::Token::Avx2(token) => avx2(token $(, $arg)*),
                    $crate::isa::Token::Portable(token) => body(token $(, $arg)*),
                }
            }
        }
    };
}

pub(crate) use kernel;
