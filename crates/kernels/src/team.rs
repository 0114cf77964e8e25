//! A thread team that picks up work within a microsecond.
//!
//! A network call is hundreds of short parallel loops. Waking sleeping threads for each loop would cost more than small
//! layers take. A worker that runs out of work therefore spins for a while before it goes to sleep.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::buffer::Buffer;

/// How long an idle worker spins before it sleeps.
const ALERT: Duration = Duration::from_micros(300);

/// A fixed number of threads, including the caller's, that run loops together.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// The process that started the workers. A forked process does not have them.
    process: u32,
    /// Held during a loop, so that callers on several threads take turns.
    turn: Mutex<()>,
}

/// A loop: `run(i)` for every i handed out by `next`.
#[derive(Clone, Copy)]
struct Loop {
    run: *const (dyn Fn(usize) + Sync),
    count: usize,
}

struct Shared {
    /// The current loop. The caller writes it while no worker reads, before raising `round`.
    current: Mutex<Option<Loop>>,
    round: AtomicU64,
    next: AtomicUsize,
    /// Workers that have not finished the current round.
    unfinished: AtomicUsize,
    asleep: AtomicUsize,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: the pointer in a Loop is dereferenced only between the start and the end of `Team::run`, which borrows its
// target for that time; the target is Sync.
unsafe impl Send for Loop {}

thread_local! {
    /// Whether this thread is running a task of some team. If so, loops run inline.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static SCRATCH: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team").field("threads", &self.threads()).finish()
    }
}

impl Team {
    /// A team of `threads` threads (at least 1): the caller and `threads − 1` workers.
    ///
    /// # Errors
    /// The operating system grants no more threads.
    pub fn new(threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            current: Mutex::new(None),
            round: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut team = Self { shared, workers: Vec::new(), process: std::process::id(), turn: Mutex::new(()) };
        for i in 1..threads {
            let shared = team.shared.clone();
            team.workers.push(thread::Builder::new().name(format!("skipstone-{i}")).spawn(move || work(&shared))?);
        }
        Ok(team)
    }

    /// A team of the caller alone, which lives as long as the program.
    pub fn solo() -> &'static Self {
        static SOLO: OnceLock<Team> = OnceLock::new();
        SOLO.get_or_init(|| Self::new(1).expect("no thread is started"))
    }

    /// The number of threads that share a loop.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0), …, task(count − 1)` in any order and returns when all are done. Loops within a task run inline, and so do
    /// all loops in a forked process.
    ///
    /// # Panics
    /// Propagates the panic of a task once all threads have stopped.
    pub fn run(&self, count: usize, task: impl Fn(usize) + Sync) {
        if count <= 1 || self.workers.is_empty() || INSIDE.get() || std::process::id() != self.process {
            (0..count).for_each(task);
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        let task: &(dyn Fn(usize) + Sync) = &task;
        // SAFETY: this only changes the lifetime. Workers use the pointer between here and the wait below, and this
        // function does not leave that wait, by return or panic, before they are done.
        let run = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const (dyn Fn(usize) + Sync)>(task) };
        *shared.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Loop { run, count });
        shared.next.store(0, Ordering::Relaxed);
        shared.unfinished.store(self.workers.len(), Ordering::Relaxed);
        // Sequentially consistent, like the worker's update of `sleepers`: either the worker sees the new round before
        // it sleeps, or we see that it sleeps.
        shared.round.fetch_add(1, Ordering::SeqCst);
        if shared.asleep.load(Ordering::SeqCst) > 0 {
            self.workers.iter().for_each(|worker| worker.thread().unpark());
        }
        take_part(shared, Loop { run, count });
        let mut spins = 0u32;
        while shared.unfinished.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < 20_000 { std::hint::spin_loop() } else { thread::yield_now() }
        }
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.round.fetch_add(1, Ordering::SeqCst);
        if std::process::id() != self.process {
            // These threads exist in the parent only; there is nothing to wait for.
            std::mem::forget(std::mem::take(&mut self.workers));
            return;
        }
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its tasks, so it always ends.
            let _ = worker.join();
        }
    }
}

/// Takes tasks of the current loop until none is left.
fn take_part(shared: &Shared, Loop { run, count }: Loop) {
    // SAFETY: `Team::run` keeps the target of `run` alive until every thread has left this function.
    let run = unsafe { &*run };
    INSIDE.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| {
        loop {
            let i = shared.next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            run(i);
        }
    }));
    INSIDE.set(false);
    if let Err(panic) = result {
        shared.next.store(usize::MAX / 2, Ordering::Relaxed); // the others need not go on
        shared.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
    }
}

fn work(shared: &Shared) {
    let mut seen = 0;
    loop {
        let round = await_round(shared, seen);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        seen = round;
        let current = *shared.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = current {
            take_part(shared, current);
        }
        shared.unfinished.fetch_sub(1, Ordering::Release);
    }
}

/// Waits for a round after `seen`: spins at first, then sleeps.
fn await_round(shared: &Shared, seen: u64) -> u64 {
    let begin = Instant::now();
    loop {
        for _ in 0..2_000 {
            let round = shared.round.load(Ordering::Acquire);
            if round != seen {
                return round;
            }
            std::hint::spin_loop();
        }
        if begin.elapsed() > ALERT {
            shared.asleep.fetch_add(1, Ordering::SeqCst);
            while shared.round.load(Ordering::SeqCst) == seen {
                thread::park();
            }
            shared.asleep.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Lends `f` an aligned buffer of `len` elements with unspecified content. The thread keeps it for the next call.
///
/// The buffer is taken from the thread's storage while `f` runs, so nested calls get buffers of their own.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SCRATCH.with(|shelf| shelf.borrow_mut().pop()).unwrap_or_default();
    let result = f(buffer.room(len));
    SCRATCH.with(|shelf| shelf.borrow_mut().push(buffer));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_threads() {
        for threads in [1, 2, 3, 8] {
            let team = Team::new(threads).unwrap();
            for count in [0, 1, 2, 7, 1000] {
                let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                team.run(count, |i| {
                    done[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(done.iter().all(|d| d.load(Ordering::Relaxed) == 1), "{threads} threads, {count} tasks");
            }
        }
    }

    #[test]
    fn a_team_wakes_from_sleep_and_serves_several_callers() {
        let team = Team::new(2).unwrap();
        let total = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..3 {
                        team.run(10, |_| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                        thread::sleep(2 * ALERT);
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 90);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let team = Team::new(3).unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| team.run(100, |i| assert!(i != 40, "task 40"))));
        assert!(result.is_err());
        let total = AtomicUsize::new(0);
        team.run(100, |i| {
            total.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(total.into_inner(), 4950);
    }

    #[test]
    fn a_loop_within_a_task_runs_inline() {
        let team = Team::new(2).unwrap();
        let total = AtomicUsize::new(0);
        team.run(4, |_| {
            team.run(4, |_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(total.into_inner(), 16);
    }
}
