//! MPI without MPI at build time.
//!
//! One program runs under Open MPI (4 and 5), MPICH and its kin (MVAPICH, Intel MPI, Cray MPICH), and libraries with the
//! standard ABI of MPI 5: [`Mpi::start`] loads the library by name and finds out which of the three binary interfaces it
//! has. Only two collective operations are bound, over bytes.
//!
//! Operations are started without blocking and then polled. A thread that waits sleeps, so it can share a processor with
//! threads that compute.
//!
//! Errors inside MPI end all ranks, which is its default: MPI then prints which operation failed.

#[cfg(unix)]
mod api;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Why MPI cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(pub String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// The world of all ranks that a launcher started.
///
/// Dropping it finalises MPI, which waits for the other ranks to do the same; [`abort`](Self::abort) ends them.
pub struct Mpi {
    api: Box<dyn Calls>,
    /// MPI is told that one thread calls at a time.
    turn: Mutex<()>,
    rank: usize,
    size: usize,
    version: String,
    host: String,
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, size, version, host, .. } = self;
        write!(f, "Mpi {{ rank: {rank}, size: {size}, version: {version:?}, host: {host:?} }}")
    }
}

/// A started operation: done yet?
enum Progress {
    Done,
    Pending,
}

/// Where the parts of a buffer lie: the counts and offsets of the ranks' bytes.
struct Parts {
    counts: Vec<i32>,
    offsets: Vec<i32>,
}

impl Parts {
    /// Parts of these lengths, one after another in a buffer of `len` bytes; one for each of `size` ranks.
    fn new(lengths: &[usize], len: usize, size: usize) -> Result<Self, Error> {
        if lengths.len() != size || lengths.iter().sum::<usize>() != len {
            return Err(Error(format!("expected a length for each of {size} ranks that sum up to {len}: {lengths:?}")));
        }
        if i32::try_from(len).is_err() {
            return Err(Error(format!("{len} bytes in one operation: MPI counts them in 31 bits")));
        }
        let mut begin = 0;
        let offsets = lengths.iter().map(|length| {
            begin += length;
            (begin - length) as i32
        });
        Ok(Self { offsets: offsets.collect(), counts: lengths.iter().map(|&length| length as i32).collect() })
    }
}

/// The operations of one binary interface. Operations that fail inside MPI end the process.
trait Calls: Send + Sync {
    /// Sends part p of `send` to rank p, receives part p of `receive` from it, and calls `wait` until it is done.
    fn exchange(&self, send: (&[u8], &Parts), receive: (&mut [u8], &Parts), wait: &mut dyn FnMut());

    /// Collects everybody's bytes in `receive`, and calls `wait` until it is done.
    fn gather(&self, send: &[u8], receive: (&mut [u8], &Parts), wait: &mut dyn FnMut());

    /// Ends MPI.
    fn finalize(&self);

    /// Ends all ranks.
    fn abort(&self, code: i32) -> !;
}

/// MPI can be started once in a process.
static STARTED: AtomicBool = AtomicBool::new(false);

impl Mpi {
    /// Loads the first of these libraries that can be loaded and joins its world.
    ///
    /// # Errors
    /// None can be loaded, the library is not MPI, or MPI was started before.
    #[cfg(unix)]
    pub fn start(libraries: &[&str]) -> Result<Self, Error> {
        let mut failures = Vec::new();
        for library in libraries {
            match api::load(library) {
                Ok(found) => {
                    if STARTED.swap(true, Ordering::SeqCst) {
                        return Err(Error("MPI was started before in this process".into()));
                    }
                    let api::World { calls, rank, size, version, host } = found.start()?;
                    return Ok(Self { api: calls, turn: Mutex::new(()), rank, size, version, host });
                }
                Err(error) => failures.push(error.0),
            }
        }
        Err(Error(format!("no MPI library: {}", failures.join("; "))))
    }

    /// MPI is loaded on Unix systems only.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(unix))]
    pub fn start(_: &[&str]) -> Result<Self, Error> {
        let _ = &STARTED;
        Err(Error("MPI is loaded on Unix systems only".into()))
    }

    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of processes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The library's name and version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The name of this machine.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Sends `sent[p]` bytes to each rank p and receives `received[p]` bytes from it. In both buffers the parts lie one
    /// after another, in the order of ranks. All ranks have to call it.
    ///
    /// # Errors
    /// The lengths do not fit the buffers, or are too large.
    pub fn exchange(&self, send: &[u8], sent: &[usize], receive: &mut [u8], received: &[usize]) -> Result<(), Error> {
        let (sent, received) =
            (Parts::new(sent, send.len(), self.size)?, Parts::new(received, receive.len(), self.size)?);
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.api.exchange((send, &sent), (receive, &received), &mut patience());
        Ok(())
    }

    /// Collects everybody's bytes at every rank, in the order of ranks; rank p has `lengths[p]`. All ranks have to call it.
    ///
    /// # Errors
    /// The lengths do not fit the buffers, or are too large.
    pub fn gather(&self, mine: &[u8], all: &mut [u8], lengths: &[usize]) -> Result<(), Error> {
        let parts = Parts::new(lengths, all.len(), self.size)?;
        if lengths[self.rank] != mine.len() {
            return Err(Error(format!(
                "expected {} bytes of rank {}, found {}",
                lengths[self.rank],
                self.rank,
                mine.len()
            )));
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.api.gather(mine, (all, &parts), &mut patience());
        Ok(())
    }

    /// Ends all ranks at once, with this exit code.
    pub fn abort(&self, code: i32) -> ! {
        self.api.abort(code)
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        self.api.finalize();
    }
}

/// Waits a little longer each time: first for other ranks that are ready too, then for a network.
fn patience() -> impl FnMut() {
    let mut tries = 0u32;
    move || {
        tries += 1;
        match tries {
            0..50 => std::thread::yield_now(),
            50..500 => std::thread::sleep(Duration::from_micros(20)),
            _ => std::thread::sleep(Duration::from_micros(100)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_one_after_another_and_fit_their_buffer() {
        let parts = Parts::new(&[3, 0, 4], 7, 3).unwrap();
        assert_eq!((parts.counts, parts.offsets), (vec![3, 0, 4], vec![0, 3, 3]));
        for (lengths, len, size) in [(&[3, 3][..], 7, 2), (&[7], 7, 2), (&[1 << 31], 1 << 31, 1)] {
            assert!(Parts::new(lengths, len, size).is_err(), "{lengths:?}");
        }
    }

    #[test]
    fn a_library_that_is_missing_or_is_not_mpi_is_named() {
        let error = Mpi::start(&["libnone-of-that-name.so.7"]).unwrap_err();
        assert!(error.0.contains("libnone-of-that-name.so.7"), "{error}");
        #[cfg(target_os = "linux")]
        {
            let error = Mpi::start(&["libm.so.6"]).unwrap_err();
            assert!(error.0.contains("libm.so.6") && error.0.contains("MPI_"), "{error}");
        }
    }
}
