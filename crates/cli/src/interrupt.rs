//! Ctrl-C: the first one stops the work at its next step, the second ends the program at once.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
pub use skipstone::sampling::options::quoted;

/// The exit code that shells expect of an interrupted program: 128 + SIGINT.
pub const EXIT_CODE: u8 = 130;

static ASKED: AtomicBool = AtomicBool::new(false);
/// When the first signal came.
static FIRST: OnceLock<Instant> = OnceLock::new();
/// Signals this soon after the first belong to it: `timeout` and other launchers signal the program and its group.
const TOGETHER: Duration = Duration::from_millis(300);
static TYPED: OnceLock<Vec<OsString>> = OnceLock::new();

/// Keeps the command line for [`command_line`].
pub fn remember(words: Vec<OsString>) {
    drop(TYPED.set(words));
}

/// Whether further signals are ignored.
static PATIENT: AtomicBool = AtomicBool::new(false);

/// Ignores further signals once the first has come: a launcher may send several at once, and ends what does not end.
pub fn be_patient() {
    PATIENT.store(true, Ordering::Relaxed);
}

/// Whether a stop was requested.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// An observer's answer: stop after Ctrl-C, else go on.
pub fn flow() -> ControlFlow<()> {
    if asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Starts listening for Ctrl-C, SIGTERM and SIGHUP.
pub fn listen() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        let again = FIRST.get_or_init(Instant::now).elapsed() > TOGETHER;
        if ASKED.swap(true, Ordering::Relaxed) && again && !PATIENT.load(Ordering::Relaxed) {
            std::process::exit(EXIT_CODE.into());
        }
    })
    .context("cannot install the Ctrl-C handler")
}

/// The words of the command that was typed, each quoted for a shell.
pub fn words() -> Vec<String> {
    TYPED.get().into_iter().flatten().map(|word| quoted(&word.to_string_lossy())).collect()
}

/// The command that was typed, quoted for a shell, with `extra` appended unless it is already there.
pub fn command_line(extra: Option<&str>) -> String {
    let mut words = words();
    if let Some(extra) = extra
        && !words.iter().any(|word| word == extra)
    {
        words.push(extra.to_owned());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_word_reaches_the_shell_unchanged() {
        assert_eq!(quoted("runs/a=1"), "runs/a=1");
        assert_eq!(quoted("my run"), "'my run'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
