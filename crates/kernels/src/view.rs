//! Views of images in memory, channels-last: pixel after pixel, with the channels of a pixel contiguous.
//!
//! The distance between rows (pixels) may exceed the number of channels. A view can therefore select some channels of
//! a wider tensor, and two layers can write a concatenation in place, side by side.

use crate::shared::SharedMut;

/// A read-only view of pixels: row r begins at `data[r·stride + offset]`.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) offset: usize,
}

impl<'a> View<'a> {
    /// Rows of `channels` elements without gaps.
    pub fn dense(data: &'a [f32], channels: usize) -> Self {
        Self { data, stride: channels, offset: 0 }
    }

    /// Rows `stride` elements apart, of which the view starts at channel `offset`.
    pub fn part(data: &'a [f32], stride: usize, offset: usize) -> Self {
        Self { data, stride, offset }
    }

    /// The first `channels` elements of row `row`.
    #[inline(always)]
    pub fn row(&self, row: usize, channels: usize) -> &'a [f32] {
        let begin = row * self.stride + self.offset;
        &self.data[begin..begin + channels]
    }

    /// Panics unless `rows` rows of `channels` elements lie within the data.
    pub(crate) fn check(&self, rows: usize, channels: usize, what: &str) {
        fits(self.data.len(), self.stride, self.offset, rows, channels, what);
    }

    pub(crate) fn pointer(&self) -> *const f32 {
        self.data[self.offset.min(self.data.len())..].as_ptr()
    }
}

/// A writable view of pixels, laid out as in [`View`].
#[derive(Debug)]
pub struct ViewMut<'a> {
    data: &'a mut [f32],
    stride: usize,
    offset: usize,
}

impl<'a> ViewMut<'a> {
    /// Rows of `channels` elements without gaps.
    pub fn dense(data: &'a mut [f32], channels: usize) -> Self {
        Self { data, stride: channels, offset: 0 }
    }

    /// Rows `stride` elements apart, of which the view starts at channel `offset`.
    pub fn part(data: &'a mut [f32], stride: usize, offset: usize) -> Self {
        Self { data, stride, offset }
    }

    /// The same pixels, read-only.
    pub fn view(&self) -> View<'_> {
        View { data: self.data, stride: self.stride, offset: self.offset }
    }

    /// The first `channels` elements of row `row`.
    #[inline(always)]
    pub fn row(&mut self, row: usize, channels: usize) -> &mut [f32] {
        let begin = row * self.stride + self.offset;
        &mut self.data[begin..begin + channels]
    }

    /// Shares the pixels among tasks that each write their own rows. Panics unless `rows` rows of `channels` fit.
    pub(crate) fn share(&mut self, rows: usize, channels: usize, what: &str) -> Rows<'_> {
        fits(self.data.len(), self.stride, self.offset, rows, channels, what);
        Rows { data: SharedMut::new(self.data), stride: self.stride, offset: self.offset }
    }
}

fn fits(len: usize, stride: usize, offset: usize, rows: usize, channels: usize, what: &str) {
    assert!(offset + channels <= stride || rows <= 1, "{what}: rows of {stride} hold no {channels} from {offset}");
    assert!(
        rows == 0 || (rows - 1) * stride + offset + channels <= len,
        "{what}: {len} elements for {rows} rows of {channels}"
    );
}

/// Pixels that several tasks write, each task its own.
pub(crate) struct Rows<'a> {
    data: SharedMut<'a>,
    pub(crate) stride: usize,
    offset: usize,
}

impl Rows<'_> {
    /// Pointer to the start of row 0.
    pub(crate) fn pointer(&self) -> *mut f32 {
        self.data.pointer().wrapping_add(self.offset)
    }

    /// Channels `first..first + len` of row `row`.
    ///
    /// # Safety
    /// Nobody else may access those elements while the returned slice lives.
    #[allow(clippy::mut_from_ref)] // the caller guarantees disjointness
    pub(crate) unsafe fn part(&self, row: usize, first: usize, len: usize) -> &mut [f32] {
        // SAFETY: guaranteed by the caller.
        unsafe { self.data.part(row * self.stride + self.offset + first, len) }
    }
}
