//! Thread teams shared by networks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use skipstone_kernels::Team;

/// Teams by process and number of threads.
type Teams = HashMap<(u32, usize), Arc<Team>>;

/// The process's team of `threads` threads. If the system grants fewer, the caller works alone, with equal results. A forked
/// process has none of its parent's threads, hence the process in the key.
pub(super) fn of(threads: usize) -> Arc<Team> {
    static TEAMS: OnceLock<Mutex<Teams>> = OnceLock::new();
    let mut teams = TEAMS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let new = || {
        let team = Team::new(threads).or_else(|error| {
            tracing::warn!("cannot start {threads} threads: {error}; continuing with one");
            Team::new(1)
        });
        Arc::new(team.expect("a single thread needs no resources"))
    };
    teams.entry((std::process::id(), threads)).or_insert_with(new).clone()
}
