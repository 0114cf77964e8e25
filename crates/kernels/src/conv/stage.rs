//! Stages rows of pixels for a convolution: normalises, activates and pads them to whole vectors.

use std::ops::Range;

use super::{Norm, Source};
use crate::isa::{Isa, Simd, kernel};
use crate::math;
use crate::shared::SharedMut;
use crate::team::Team;

/// Pixels that a task stages.
const STAGED: usize = 64;

/// How to read the pixels of a source.
#[derive(Clone, Copy)]
pub(super) struct Pixels {
    x: *const f32,
    stride: usize,
    channels: usize,
    /// a and b, and whether SiLU follows.
    norm: Option<(*const f32, bool)>,
}

// SAFETY: only reads, from slices that the convolution borrows for as long as its tasks run.
unsafe impl Send for Pixels {}
// SAFETY: as above.
unsafe impl Sync for Pixels {}

impl Pixels {
    pub(super) fn new(source: Source<'_>, channels: usize) -> Self {
        let norm = source.norm.map(|Norm { ab, silu }| (ab.as_ptr(), silu));
        Self { x: source.x.pointer(), stride: source.x.stride, channels, norm }
    }

    /// Whether pixels must be staged for vectors of `lanes` elements. Otherwise they can be read in place.
    pub(super) fn need_staging(&self, lanes: usize) -> bool {
        self.norm.is_some() || !self.channels.is_multiple_of(lanes)
    }

    /// Whether pixels are normalised while read.
    pub(super) fn is_normalised(&self) -> bool {
        self.norm.is_some()
    }

    /// Pointer to pixel `pixel` (counted over all images) and the distance to the next pixel.
    pub(super) fn at(&self, pixel: usize) -> (*const f32, usize) {
        (self.x.wrapping_add(pixel * self.stride), self.stride)
    }

    /// Stages every pixel of `n` images.
    ///
    /// # Safety
    /// The pixels exist. Nobody else accesses `out`, which has a row, padded to whole vectors, for each of them.
    pub(super) unsafe fn stage_all(
        &self,
        isa: Isa,
        team: &Team,
        n: usize,
        per_image: usize,
        out: &SharedMut<'_>,
        row: usize,
    ) {
        let pixels = n * per_image;
        team.run(pixels.div_ceil(STAGED), |task| {
            let begin = task * STAGED;
            let part = begin..(begin + STAGED).min(pixels);
            // SAFETY: only this task accesses these rows; the caller guarantees the rest.
            unsafe { self.stage_range(isa, per_image, part, out.pointer().add(begin * row), row) };
        });
    }

    /// Stages pixels (counted over all images of `per_image` pixels).
    ///
    /// # Safety
    /// As [`stage`](Self::stage).
    pub(super) unsafe fn stage_range(
        &self,
        isa: Isa,
        per_image: usize,
        pixels: Range<usize>,
        out: *mut f32,
        row: usize,
    ) {
        let mut pixel = pixels.start;
        while pixel < pixels.end {
            let image = pixel / per_image;
            let count = ((image + 1) * per_image).min(pixels.end) - pixel;
            // SAFETY: guaranteed by the caller; these pixels belong to one image.
            unsafe { self.stage(isa, image, pixel, count, out.add((pixel - pixels.start) * row), row) };
            pixel += count;
        }
    }

    /// Stages `count` pixels of image `image` starting at `pixel` (counted over all images), `row` elements apart.
    /// Fills each row with zeros from the last channel to the end of its last whole vector.
    ///
    /// # Safety
    /// The pixels exist; `out` has room for `count` rows of channels padded to whole vectors.
    pub(super) unsafe fn stage(&self, isa: Isa, image: usize, pixel: usize, count: usize, out: *mut f32, row: usize) {
        let (x, stride) = self.at(pixel);
        let channels = self.channels;
        // SAFETY: guaranteed by the caller; the coefficients of every image exist.
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
    /// out = act(a·x + b), one vector of channels after the other. b follows `a` in memory.
    ///
    /// # Safety
    /// `x` holds `count` pixels of `channels`, and `out` has room for them in whole vectors.
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
                // SAFETY: guaranteed by the caller; of the last vector, only existing channels are read.
                unsafe {
                    let (a, b) = (s.load_first(a.add(c), len), s.load_first(a.add(channels + c), len));
                    for i in 0..count {
                        let z = s.fma(a, s.load_up_to(x.add(i * stride + c), len), b);
                        s.store(out.add(i * row + c), if SILU { math::silu(s, z) } else { z });
                    }
                }
            }
        }
        // SAFETY: guaranteed by the caller.
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
    /// Copies pixels and fills the last vector of each with zeros.
    unsafe fn copy<S>(s, count: usize, channels: usize, x: *const f32, stride: usize, out: *mut f32, row: usize) {
        for i in 0..count {
            let mut c = 0;
            while c < channels {
                // SAFETY: guaranteed by the caller.
                unsafe {
                    let v = s.load_first(x.add(i * stride + c), (channels - c).min(S::LANES));
                    s.store(out.add(i * row + c), v);
                }
                c += S::LANES;
            }
        }
    }
}
