//! The three binary interfaces of MPI.
//!
//! They differ in the type of handles (`MPI_Comm`, `MPI_Datatype`, `MPI_Request`) and in the values of constants: Open MPI's
//! handles are addresses of symbols that the library exports, MPICH's are integers, and those of the standard ABI (MPI 5.0,
//! chapter 20; <https://github.com/mpi-forum/mpi-abi-stubs>) are small integers in pointers. The functions' signatures are
//! those of the standard's C binding, generic over the handle.

use std::error::Error as _;
use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};

use super::{Calls, Error, Parts, Progress};

/// A library that has been loaded and looks like MPI.
pub(super) struct Loaded {
    library: &'static Library,
    interface: Interface,
}

/// A world that has been joined.
pub(super) struct World {
    pub calls: Box<dyn Calls>,
    pub rank: usize,
    pub size: usize,
    pub version: String,
    pub host: String,
}

/// The values of the constants that are needed.
struct Constants<H> {
    world: H,
    byte: H,
    /// `MPI_STATUS_IGNORE`
    ignore: *mut c_void,
    /// `MPI_THREAD_SERIALIZED`
    serialized: c_int,
}

enum Interface {
    /// Open MPI and the standard ABI: handles are pointers.
    Pointers(Constants<usize>),
    /// MPICH and its kin.
    Integers(Constants<c_int>),
}

/// Loads a library and finds out which interface it has.
pub(super) fn load(name: &str) -> Result<Loaded, Error> {
    // SAFETY: loading runs the library's initialisers. The caller names an MPI library; those of MPI only prepare the
    // library itself. Its symbols are global because Open MPI's plug-ins look for them there.
    let library = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) }.map_err(|e| {
        // The system's own words name the library and the reason.
        Error(e.source().map_or_else(|| format!("{name}: {e}"), ToString::to_string))
    })?;
    // MPI must stay loaded until the process ends: it registers handlers that run at its exit.
    let library: &'static Library = Box::leak(Box::new(library));
    let address = |name: &str| {
        // SAFETY: a symbol's address is taken, not used.
        unsafe { library.get::<*const c_void>(name.as_bytes()) }
            .ok()
            .map(|symbol: Symbol<_>| symbol.into_raw() as usize)
    };
    for needed in ["MPI_Init_thread", "MPI_Ialltoallv", "MPI_Iallgatherv"] {
        if address(needed).is_none() {
            return Err(Error(format!("{name}: has no {needed}, so it is not MPI 3 or later")));
        }
    }
    let interface = match (address("ompi_mpi_comm_world"), address("ompi_mpi_byte")) {
        (Some(world), Some(byte)) => Interface::Pointers(Constants { world, byte, ignore: null_mut(), serialized: 2 }),
        // MPICH 5 has the function in the library with its own interface, too.
        _ if address("MPI_Abi_get_version").is_some() && name.contains("mpi_abi") => {
            Interface::Pointers(Constants { world: 0x101, byte: 0x247, ignore: null_mut(), serialized: 2048 })
        }
        _ => Interface::Integers(Constants {
            world: 0x4400_0000,
            byte: 0x4c00_010d,
            ignore: std::ptr::without_provenance_mut(1),
            serialized: 2,
        }),
    };
    Ok(Loaded { library, interface })
}

impl Loaded {
    /// Starts MPI.
    pub fn start(self) -> Result<World, Error> {
        match self.interface {
            Interface::Pointers(constants) => join(self.library, constants),
            Interface::Integers(constants) => join(self.library, constants),
        }
    }
}

type Init = unsafe extern "C" fn(*mut c_int, *mut *mut *mut c_char, c_int, *mut c_int) -> c_int;
type Number<H> = unsafe extern "C" fn(H, *mut c_int) -> c_int;
type Text = unsafe extern "C" fn(*mut c_char, *mut c_int) -> c_int;
type Alltoallv<H> = unsafe extern "C" fn(
    *const c_void,
    *const c_int,
    *const c_int,
    H,
    *mut c_void,
    *const c_int,
    *const c_int,
    H,
    H,
    *mut H,
) -> c_int;
type Allgatherv<H> =
    unsafe extern "C" fn(*const c_void, c_int, H, *mut c_void, *const c_int, *const c_int, H, H, *mut H) -> c_int;
type Test<H> = unsafe extern "C" fn(*mut H, *mut c_int, *mut c_void) -> c_int;

/// The functions of a library with handles of type `H`.
struct Functions<H> {
    constants: Constants<H>,
    ialltoallv: Alltoallv<H>,
    iallgatherv: Allgatherv<H>,
    test: Test<H>,
    finalize: unsafe extern "C" fn() -> c_int,
    abort: unsafe extern "C" fn(H, c_int) -> c_int,
}

// SAFETY: the only pointer among the fields is the constant `MPI_STATUS_IGNORE`, which nobody follows. MPI itself was asked
// for `MPI_THREAD_SERIALIZED`: any thread may call it, one at a time, and `Mpi` calls it under a lock.
unsafe impl<H: Send> Send for Functions<H> {}
// SAFETY: as above.
unsafe impl<H: Sync> Sync for Functions<H> {}

/// The function called `name`.
///
/// # Safety
/// `F` is its type.
unsafe fn function<F: Copy>(library: &'static Library, name: &str) -> Result<F, Error> {
    // SAFETY: the caller vouches for the type; the library is never unloaded, so the copy stays valid.
    let found = unsafe { library.get::<F>(name.as_bytes()) };
    found.map(|symbol| *symbol).map_err(|e| Error(e.to_string()))
}

fn join<H: Copy + Send + Sync + 'static>(library: &'static Library, constants: Constants<H>) -> Result<World, Error> {
    // SAFETY: these are the types of the standard's C binding, with the handles of this interface.
    let (init, rank_of, size_of, version, host, functions) = unsafe {
        (
            function::<Init>(library, "MPI_Init_thread")?,
            function::<Number<H>>(library, "MPI_Comm_rank")?,
            function::<Number<H>>(library, "MPI_Comm_size")?,
            function::<Text>(library, "MPI_Get_library_version")?,
            function::<Text>(library, "MPI_Get_processor_name")?,
            Functions {
                ialltoallv: function(library, "MPI_Ialltoallv")?,
                iallgatherv: function(library, "MPI_Iallgatherv")?,
                test: function(library, "MPI_Test")?,
                finalize: function(library, "MPI_Finalize")?,
                abort: function(library, "MPI_Abort")?,
                constants,
            },
        )
    };
    let Constants { world, serialized, .. } = functions.constants;
    let mut provided = 0;
    // SAFETY: MPI allows null for both arguments of `main`; `provided` is a place for the answer. `Mpi::start` gets here once.
    let code = unsafe { init(null_mut(), null_mut(), serialized, &mut provided) };
    if code != 0 || provided < serialized {
        return Err(Error(format!(
            "MPI_Init_thread returned {code} and thread level {provided} instead of {serialized}"
        )));
    }
    let (mut rank, mut size) = (0, 0);
    // SAFETY: MPI is initialised; the world is its communicator, the answers go to integers.
    let codes = unsafe { [rank_of(world, &mut rank), size_of(world, &mut size)] };
    let (Ok(rank), Ok(size), [0, 0]) = (usize::try_from(rank), usize::try_from(size), codes) else {
        return Err(Error(format!("MPI_Comm_rank and MPI_Comm_size returned {codes:?}: {rank} of {size}")));
    };
    Ok(World { calls: Box::new(functions), rank, size, version: text(version), host: text(host) })
}

/// The first line of a text that MPI writes.
fn text(function: Text) -> String {
    // More than the longest text of any interface, 8192.
    let mut buffer = vec![0u8; 1 << 14];
    let mut length = 0;
    // SAFETY: the buffer holds the longest text; its length goes to an integer.
    let code = unsafe { function(buffer.as_mut_ptr().cast(), &mut length) };
    let length = usize::try_from(length).unwrap_or(0).min(buffer.len());
    let found = String::from_utf8_lossy(&buffer[..length]).trim_end_matches('\0').to_owned();
    // MPICH writes several lines and tabs, Open MPI who built it.
    let first = found.lines().next().unwrap_or_default().replace('\t', " ");
    if code == 0 { first.split(", package").next().unwrap_or_default().to_owned() } else { String::new() }
}

/// A place that MPI neither reads nor writes.
static NOTHING: u8 = 0;

/// Where a buffer starts. An empty slice may start at address 1, which means `MPI_IN_PLACE` to Open MPI.
fn start(bytes: &[u8]) -> *const c_void {
    if bytes.is_empty() { (&raw const NOTHING).cast() } else { bytes.as_ptr().cast() }
}

/// As [`start`]; nothing is written to an empty buffer.
fn start_mut(bytes: &mut [u8]) -> *mut c_void {
    if bytes.is_empty() { start(bytes).cast_mut() } else { bytes.as_mut_ptr().cast() }
}

impl<H: Copy + Send + Sync> Functions<H> {
    /// Asks whether a started operation is done.
    ///
    /// # Safety
    /// `request` was set by a function that started one, which is not known to be done.
    unsafe fn progress(&self, request: &mut H) -> Progress {
        let mut done = 0;
        // SAFETY: the caller vouches for the request; the status is ignored.
        let code = unsafe { (self.test)(request, &mut done, self.constants.ignore) };
        if code != 0 {
            // The operation may still write into its buffers, so the process cannot go on.
            self.abort(1);
        }
        if done == 0 { Progress::Pending } else { Progress::Done }
    }

    /// Waits for an operation that returned `code` when it was started.
    ///
    /// # Safety
    /// As [`progress`](Self::progress) if `code` is 0.
    unsafe fn finish(&self, code: c_int, mut request: H, wait: &mut dyn FnMut()) {
        if code != 0 {
            self.abort(1);
        }
        // SAFETY: the operation was started, as the caller says, and the loop ends when it is done.
        while let Progress::Pending = unsafe { self.progress(&mut request) } {
            wait();
        }
    }
}

impl<H: Copy + Send + Sync> Calls for Functions<H> {
    fn exchange(&self, send: (&[u8], &Parts), receive: (&mut [u8], &Parts), wait: &mut dyn FnMut()) {
        let Constants { world, byte, .. } = self.constants;
        // Any handle: the function sets it.
        let mut request = world;
        // SAFETY: `Parts` lie within their buffers and have an entry for each rank. All of them are borrowed until `finish`
        // returns, which it does when the operation is done; a panic of `wait` is none of `patience`.
        unsafe {
            let code = (self.ialltoallv)(
                start(send.0),
                send.1.counts.as_ptr(),
                send.1.offsets.as_ptr(),
                byte,
                start_mut(receive.0),
                receive.1.counts.as_ptr(),
                receive.1.offsets.as_ptr(),
                byte,
                world,
                &mut request,
            );
            self.finish(code, request, wait);
        }
    }

    fn gather(&self, send: &[u8], receive: (&mut [u8], &Parts), wait: &mut dyn FnMut()) {
        let Constants { world, byte, .. } = self.constants;
        // Any handle: the function sets it.
        let mut request = world;
        // SAFETY: as in `exchange`; `Parts` has checked that the length fits 31 bits.
        unsafe {
            let code = (self.iallgatherv)(
                start(send),
                send.len() as c_int,
                byte,
                start_mut(receive.0),
                receive.1.counts.as_ptr(),
                receive.1.offsets.as_ptr(),
                byte,
                world,
                &mut request,
            );
            self.finish(code, request, wait);
        }
    }

    fn finalize(&self) {
        // SAFETY: no operation is pending, because each is finished before its function returns; `Mpi` is dropped once.
        unsafe { (self.finalize)() };
    }

    fn abort(&self, code: i32) -> ! {
        // SAFETY: MPI is initialised.
        unsafe { (self.abort)(self.constants.world, code) };
        std::process::exit(code)
    }
}
