//! Memory aligned to cache lines, and in huge pages where it is large.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

const LINE: usize = 64;
/// The size of a huge page on most processors. Winograd's algorithms write dozens of matrices at once, each in a page
/// of its own; with pages of 4 KiB, that is more than a processor can address without looking pages up.
const HUGE: usize = 2 << 20;

/// A buffer of f32 aligned to a cache line, so that no vector load straddles two lines.
pub struct Buffer {
    data: NonNull<f32>,
    len: usize,
}

// SAFETY: the buffer owns its memory.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({})", self.len)
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self { data: NonNull::dangling(), len: 0 }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = Self::zeros(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: `zeros` allocated the memory with this layout.
            unsafe { dealloc(self.data.as_ptr().cast(), layout(self.len)) };
        }
    }
}

/// The memory of `len` f32.
fn layout(len: usize) -> Layout {
    let bytes = len.checked_mul(size_of::<f32>()).expect("no more than memory holds");
    let align = if bytes >= HUGE { HUGE } else { LINE };
    Layout::from_size_align(bytes, align).expect("no more than memory holds")
}

impl Buffer {
    /// A buffer of `len` zeros.
    pub fn zeros(len: usize) -> Self {
        if len == 0 {
            return Self::default();
        }
        let layout = layout(len);
        // SAFETY: the layout is not empty. The memory is initialised before anything reads it.
        unsafe {
            let Some(data) = NonNull::new(alloc(layout)) else { handle_alloc_error(layout) };
            advise(data, layout.size());
            data.write_bytes(0, layout.size());
            Self { data: data.cast(), len }
        }
    }

    /// Grows the buffer to at least `len` elements. Growing leaves its content unspecified.
    pub fn at_least(&mut self, len: usize) {
        if len > self.len {
            // Frees the old memory before allocating, because its content is not kept.
            *self = Self::default();
            *self = Self::zeros(len);
        }
    }

    /// The first `len` elements, whose content is unspecified. Grows the buffer if it is shorter.
    pub fn room(&mut self, len: usize) -> &mut [f32] {
        self.at_least(len);
        &mut self[..len]
    }
}

/// Asks for huge pages for the whole ones among `bytes` bytes. They only save time, so failure does not matter.
fn advise(data: NonNull<u8>, bytes: usize) {
    let whole = bytes / HUGE * HUGE;
    #[cfg(target_os = "linux")]
    if whole > 0 {
        // SAFETY: the memory is ours and not yet used; the advice changes how it is mapped, not what it holds.
        unsafe { libc::madvise(data.as_ptr().cast(), whole, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (data, whole);
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `len` initialised f32, or none at a dangling but aligned address.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_on_a_cache_line_and_hold_what_is_written() {
        // The last two are more than a huge page, and not a whole number of them.
        for len in [0, 1, 15, 16, 17, 1000, HUGE / 4 + 5, HUGE] {
            let mut buffer = Buffer::zeros(len);
            assert_eq!(buffer.len(), len);
            assert!(len == 0 || (buffer.as_ptr() as usize).is_multiple_of(LINE));
            assert!(buffer.iter().all(|x| *x == 0.0));
            buffer.iter_mut().enumerate().for_each(|(i, x)| *x = i as f32);
            assert!(buffer.iter().enumerate().all(|(i, x)| *x == i as f32));
            assert_eq!(*buffer.clone(), *buffer);
            buffer.at_least(len + 1);
            assert_eq!(buffer.len(), len + 1);
            assert_eq!((buffer.room(len / 2).len(), buffer.len()), (len / 2, len + 1));
        }
    }
}
