//! What this process computes with: devices, and threads, also in forked processes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};
use skipstone::engine::{Device, EngineOptions};
use skipstone::{Error, Kind, Result};

/// The environment variable with the default number of threads.
const THREADS: &str = "SKIPSTONE_THREADS";
/// The environment variable with the default device.
const DEVICE: &str = "SKIPSTONE_DEVICE";

/// The process that imported the module.
static IMPORTED: OnceLock<u32> = OnceLock::new();

/// Remembers the process. To be called once, when the module is imported.
pub fn remember() {
    IMPORTED.get_or_init(std::process::id);
}

/// The number of threads that was asked for, else that of the environment, else all processors.
pub fn threads(asked: Option<usize>) -> Result<usize> {
    let found = match (asked, std::env::var(THREADS)) {
        (Some(threads), _) => threads,
        (None, Ok(text)) if !text.is_empty() => text
            .parse()
            .map_err(|_| Error::argument(format!("{THREADS}: expected a number of at least 1, found {text:?}")))?,
        _ => std::thread::available_parallelism().map_or(1, usize::from),
    };
    if !(1..=1024).contains(&found) {
        return Err(Error::argument(format!("threads: expected 1 to 1024, found {found}")));
    }
    Ok(found)
}

/// The device that was asked for, else that of the environment, else the CPU.
fn device(asked: Option<&str>) -> Result<Device> {
    match (asked, std::env::var(DEVICE)) {
        (Some(device), _) => device.parse(),
        (None, Ok(text)) if !text.is_empty() => {
            text.parse().map_err(|error: Error| Error::argument(format!("{DEVICE}: {error}")))
        }
        _ => Ok(Device::Cpu),
    }
}

/// An engine in f32, from what was asked for and the environment.
pub fn engine(asked: Option<&str>, with: Option<usize>) -> Result<EngineOptions> {
    Ok(EngineOptions { device: device(asked)?, ..EngineOptions::on_threads(threads(with)?) })
}

/// Runs `work` where rayon has threads. Those of its global pool exist in the process that started them only; a forked process
/// works on a pool of its own.
pub fn with_threads<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let process = std::process::id();
    if *IMPORTED.get_or_init(std::process::id) == process {
        return work();
    }
    static POOLS: Mutex<Option<HashMap<u32, Arc<ThreadPool>>>> = Mutex::new(None);
    let pool = {
        let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        let pools = pools.get_or_insert_default();
        match pools.get(&process) {
            Some(pool) => pool.clone(),
            None => {
                let pool = ThreadPoolBuilder::new().num_threads(threads(None)?).build();
                let pool = pool.map_err(|e| Error::new(Kind::Io, format!("cannot start threads: {e}")))?;
                pools.entry(process).or_insert(Arc::new(pool)).clone()
            }
        }
    };
    pool.install(work)
}
