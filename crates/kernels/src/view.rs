//! Images in memory: pixel after pixel, the channels of a pixel side by side.
//!
//! Rows (pixels) may lie further apart than they have channels. So a value can be a part of the channels of a wider
//! one, and a concatenation is two layers writing side by side.

use crate::shared::SharedMut;

/// Pixels to read: row r begins at `data[r·stride + offset]`.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) offset: usize,
}

impl<'a> View<'a> {
    /// Rows of `channels` without gaps.
    pub fn dense(data: &'a [f32], channels: usize) -> Self {
        Self { data, stride: channels, offset: 0 }
    }

    /// Channels from `offset` on of rows that are `stride` apart.
    pub fn part(data: &'a [f32], stride: usize, offset: usize) -> Self {
        Self { data, stride, offset }
    }

    /// `channels` of row `row`.
    #[inline(always)]
    pub fn row(&self, row: usize, channels: usize) -> &'a [f32] {
        let begin = row * self.stride + self.offset;
        &self.data[begin..begin + channels]
    }

    /// Asserts that `rows` rows of `channels` lie inside.
    pub(crate) fn check(&self, rows: usize, channels: usize, what: &str) {
        fits(self.data.len(), self.stride, self.offset, rows, channels, what);
    }

    pub(crate) fn pointer(&self) -> *const f32 {
        self.data[self.offset.min(self.data.len())..].as_ptr()
    }
}

/// Pixels to write.
#[derive(Debug)]
pub struct ViewMut<'a> {
    data: &'a mut [f32],
    stride: usize,
    offset: usize,
}

impl<'a> ViewMut<'a> {
    /// Rows of `channels` without gaps.
    pub fn dense(data: &'a mut [f32], channels: usize) -> Self {
        Self { data, stride: channels, offset: 0 }
    }

    /// Channels from `offset` on of rows that are `stride` apart.
    pub fn part(data: &'a mut [f32], stride: usize, offset: usize) -> Self {
        Self { data, stride, offset }
    }

    /// The same pixels, to read.
    pub fn view(&self) -> View<'_> {
        View { data: self.data, stride: self.stride, offset: self.offset }
    }

    /// `channels` of row `row`.
    #[inline(always)]
    pub fn row(&mut self, row: usize, channels: usize) -> &mut [f32] {
        let begin = row * self.stride + self.offset;
        &mut self.data[begin..begin + channels]
    }

    /// For tasks that write rows of their own; `rows` rows of `channels` lie inside, or it panics.
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

/// Pixels that several tasks write, each its own.
pub(crate) struct Rows<'a> {
    data: SharedMut<'a>,
    pub(crate) stride: usize,
    offset: usize,
}

impl Rows<'_> {
    /// Where row 0 begins.
    pub(crate) fn pointer(&self) -> *mut f32 {
        self.data.pointer().wrapping_add(self.offset)
    }

    /// Channels `first..first + len` of row `row`.
    ///
    /// # Safety
    /// While the result lives, no one else may access those elements.
    #[allow(clippy::mut_from_ref)] // the whole point; the caller vouches for disjointness
    pub(crate) unsafe fn part(&self, row: usize, first: usize, len: usize) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.data.part(row * self.stride + self.offset + first, len) }
    }
}
