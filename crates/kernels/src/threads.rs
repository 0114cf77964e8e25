//! Whether a kernel spreads its tasks over the thread pool.

use std::cell::RefCell;

use rayon::prelude::*;

/// How many threads a kernel may use. The result is the same either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The calling thread only: for callers that already run one image per thread.
    One,
    /// The current rayon pool.
    Pool,
}

/// Runs `task(0), …, task(count − 1)`, in any order.
pub(crate) fn for_each(threads: Threads, count: usize, task: impl Fn(usize) + Sync + Send) {
    match threads {
        Threads::Pool if count > 1 && rayon::current_num_threads() > 1 => {
            (0..count).into_par_iter().with_max_len(1).for_each(task);
        }
        _ => (0..count).for_each(task),
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Lends `f` a buffer of `len` elements of unspecified content, kept by the thread for the next call.
///
/// The buffer is taken off the thread's shelf while `f` runs, so nested calls (and tasks that the pool runs on this
/// thread while `f` waits) get buffers of their own.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SCRATCH.with(|shelf| shelf.borrow_mut().pop()).unwrap_or_default();
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    let result = f(&mut buffer[..len]);
    SCRATCH.with(|shelf| shelf.borrow_mut().push(buffer));
    result
}
