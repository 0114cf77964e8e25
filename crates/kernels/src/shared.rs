//! A slice that several tasks write, each at places of its own.

use std::marker::PhantomData;

/// A mutable slice shared by the tasks of one kernel. The kernel that makes it sees to it that no two tasks touch the
/// same element.
pub(crate) struct SharedMut<'a> {
    pointer: *mut f32,
    len: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer comes from a unique borrow of `f32`s, and every access goes through the unsafe methods below,
// whose callers promise that concurrent accesses are disjoint.
unsafe impl Send for SharedMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedMut<'_> {}

impl<'a> SharedMut<'a> {
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        Self { pointer: slice.as_mut_ptr(), len: slice.len(), lifetime: PhantomData }
    }

    /// The part `begin..begin + len`.
    ///
    /// # Safety
    /// While the result lives, no one else may access any element of that range.
    #[allow(clippy::mut_from_ref)] // the whole point; the caller vouches for disjointness
    pub(crate) unsafe fn part(&self, begin: usize, len: usize) -> &mut [f32] {
        assert!(begin.checked_add(len).is_some_and(|end| end <= self.len), "part {begin}+{len} of {}", self.len);
        // SAFETY: in bounds by the assertion; unaliased by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(begin), len) }
    }

    /// A pointer to element `begin`, for a matrix whose farthest element is `span` elements on.
    pub(crate) fn matrix(&self, begin: usize, span: usize) -> *mut f32 {
        assert!(begin.checked_add(span).is_some_and(|last| last < self.len), "{begin}+{span} of {}", self.len);
        self.pointer.wrapping_add(begin)
    }
}
