//! Rows of pixels on their way into a convolution: normalised, activated, padded to whole vectors.

use super::{Norm, Source};
use crate::isa::{Isa, Simd, kernel};
use crate::math;
use crate::shared::SharedMut;
use crate::team::Team;

/// Pixels staged by a task.
const STAGED: usize = 64;

/// How the pixels of a source are read.
#[derive(Clone, Copy)]
pub(super) struct Pixels {
    x: *const f32,
    stride: usize,
    channels: usize,
    /// a, b and whether SiLU follows.
    norm: Option<(*const f32, bool)>,
}

// SAFETY: reads only, of slices that the convolution borrows for as long as its tasks run.
unsafe impl Send for Pixels {}
// SAFETY: as above.
unsafe impl Sync for Pixels {}

impl Pixels {
    pub(super) fn new(source: Source<'_>, channels: usize) -> Self {
        let norm = source.norm.map(|Norm { ab, silu }| (ab.as_ptr(), silu));
        Self { x: source.x.pointer(), stride: source.x.stride, channels, norm }
    }

    /// Whether pixels must be staged for vectors of `lanes`: else they can be read where they are.
    pub(super) fn need_staging(&self, lanes: usize) -> bool {
        self.norm.is_some() || !self.channels.is_multiple_of(lanes)
    }

    /// Whether each pixel is changed on the way in.
    pub(super) fn is_normalised(&self) -> bool {
        self.norm.is_some()
    }

    /// Pixel `pixel` (of all images) where it lies, and the distance to the next.
    pub(super) fn at(&self, pixel: usize) -> (*const f32, usize) {
        (self.x.wrapping_add(pixel * self.stride), self.stride)
    }

    /// Stages every pixel of `n` images.
    ///
    /// # Safety
    /// The pixels exist; `out` is nobody else's and has a row, padded to whole vectors, for each.
    pub(super) unsafe fn stage_all(
        &self,
        isa: Isa,
        team: &Team,
        n: usize,
        per_image: usize,
        out: &SharedMut<'_>,
        row: usize,
    ) {
        let parts = per_image.div_ceil(STAGED);
        team.run(n * parts, |task| {
            let (image, begin) = (task / parts, task % parts * STAGED);
            let count = STAGED.min(per_image - begin);
            let pixel = image * per_image + begin;
            // SAFETY: these pixels are this task's alone; the caller's promise.
            unsafe { self.stage(isa, image, pixel, count, out.pointer().add(pixel * row), row) };
        });
    }

    /// Stages `count` pixels of image `image` from `pixel` on (counted over all images), `row` elements apart; what
    /// lies between the channels and `row` becomes 0 as far as whole vectors reach.
    ///
    /// # Safety
    /// The pixels exist; `out` has room for `count` rows of channels padded to whole vectors.
    pub(super) unsafe fn stage(&self, isa: Isa, image: usize, pixel: usize, count: usize, out: *mut f32, row: usize) {
        let (x, stride) = self.at(pixel);
        let channels = self.channels;
        // SAFETY: the caller's promise; the coefficients of every image exist.
        unsafe {
            match self.norm {
                None => copy(isa, count, channels, x, stride, out, row),
                Some((ab, silu)) => {
                    let a = ab.add(image * 2 * channels);
                    normalise(isa, silu, count, channels, x, stride, a, out, row);
                }
            }
        }
    }
}

kernel! {
    /// out = act(a·x + b), vector after vector of channels; `a` is followed by b.
    ///
    /// # Safety
    /// `count` pixels of `channels` at `x` and room for whole vectors of them at `out`.
    unsafe fn normalise<S>(
        s, silu: bool, count: usize, channels: usize, x: *const f32, stride: usize, a: *const f32, out: *mut f32,
        row: usize,
    ) {
        #[inline(always)]
        unsafe fn run<S: Simd, const SILU: bool>(
            s: S, count: usize, channels: usize, x: *const f32, stride: usize, a: *const f32, out: *mut f32, row: usize,
        ) {
            for c in (0..channels).step_by(S::LANES) {
                let len = (channels - c).min(S::LANES);
                // SAFETY: the caller's promise; of the last vector only the channels that exist are read.
                unsafe {
                    let (a, b) = (s.load_first(a.add(c), len), s.load_first(a.add(channels + c), len));
                    for i in 0..count {
                        let x = x.add(i * stride + c);
                        let x = if len == S::LANES { s.load(x) } else { s.load_first(x, len) };
                        let z = s.fma(a, x, b);
                        s.store(out.add(i * row + c), if SILU { math::silu(s, z) } else { z });
                    }
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe {
            if silu {
                run::<S, true>(s, count, channels, x, stride, a, out, row);
            } else {
                run::<S, false>(s, count, channels, x, stride, a, out, row);
            }
        }
    }
}

kernel! {
    /// Copies pixels, the last vector of each filled up with zeros.
    unsafe fn copy<S>(s, count: usize, channels: usize, x: *const f32, stride: usize, out: *mut f32, row: usize) {
        for i in 0..count {
            let mut c = 0;
            while c < channels {
                // SAFETY: the caller's promise.
                unsafe {
                    let v = s.load_first(x.add(i * stride + c), (channels - c).min(S::LANES));
                    s.store(out.add(i * row + c), v);
                }
                c += S::LANES;
            }
        }
    }
}
