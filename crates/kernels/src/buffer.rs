//! Memory aligned to cache lines.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::ops::{Deref, DerefMut};

const LINE: usize = 16;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// A buffer of f32 aligned to a cache line, so that no vector load straddles two lines.
#[derive(Clone, Default)]
pub struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({})", self.len)
    }
}

impl Buffer {
    /// A buffer of `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let count = len.div_ceil(LINE);
        if count == 0 {
            return Self::default();
        }
        let layout = Layout::array::<Line>(count).expect("no more than memory holds");
        // Fresh pages from the system are already zero. `vec!` would zero them again, because it recognises zeros of
        // primitive types only.
        // SAFETY: the layout is that of a Vec of `count` lines, not empty; all-zero bytes are valid f32.
        let lines = unsafe {
            let lines = alloc_zeroed(layout).cast::<Line>();
            if lines.is_null() {
                handle_alloc_error(layout);
            }
            Vec::from_raw_parts(lines, count, count)
        };
        Self { lines, len }
    }

    /// Grows the buffer to at least `len` elements. Growing leaves its content unspecified.
    pub fn at_least(&mut self, len: usize) {
        if len > self.len {
            // Frees the old memory before allocating, because its content is not kept.
            *self = Self::default();
            *self = Self::zeros(len);
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the lines are ⌈len/16⌉·16 ≥ len initialised f32 without padding between them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_on_a_cache_line_and_hold_what_is_written() {
        for len in [0, 1, 15, 16, 17, 1000] {
            let mut buffer = Buffer::zeros(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
            buffer.iter_mut().enumerate().for_each(|(i, x)| *x = i as f32);
            assert!(buffer.iter().enumerate().all(|(i, x)| *x == i as f32));
        }
    }
}
