//! A slice that several tasks write, each to its own elements.

use std::marker::PhantomData;

/// A shared slice of f32.
pub(crate) type SharedMut<'a> = Shared<'a, f32>;

/// A mutable slice shared by the tasks of one kernel. The kernel that creates it ensures that no two tasks touch the
/// same element.
pub(crate) struct Shared<'a, T> {
    pointer: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer comes from a unique borrow, and every access goes through the unsafe methods below, whose callers
// guarantee that concurrent accesses are disjoint.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { pointer: slice.as_mut_ptr(), len: slice.len(), lifetime: PhantomData }
    }

    /// The part `begin..begin + len`.
    ///
    /// # Safety
    /// Nobody else may access any element of that range while the returned slice lives.
    #[allow(clippy::mut_from_ref)] // the caller guarantees disjointness
    pub(crate) unsafe fn part(&self, begin: usize, len: usize) -> &mut [T] {
        assert!(begin.checked_add(len).is_some_and(|end| end <= self.len), "part {begin}+{len} of {}", self.len);
        // SAFETY: in bounds by the assertion; unaliased by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(begin), len) }
    }

    /// Pointer to the first element.
    pub(crate) fn pointer(&self) -> *mut T {
        self.pointer
    }
}
