//! The threads that networks share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use skipstone_kernels::Team;

/// The process's team of so many threads. Where the system grants fewer, the caller works alone: slower, not different.
pub(super) fn of(threads: usize) -> Arc<Team> {
    static TEAMS: OnceLock<Mutex<HashMap<usize, Arc<Team>>>> = OnceLock::new();
    let mut teams = TEAMS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let new = || {
        let team = Team::new(threads).or_else(|error| {
            tracing::warn!("{threads} threads: {error}; going on with one");
            Team::new(1)
        });
        Arc::new(team.expect("one thread needs nothing of the system"))
    };
    teams.entry(threads).or_insert_with(new).clone()
}
