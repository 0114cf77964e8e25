//! How a command ends: exit codes, and the error line on stderr.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use skipstone::{Error, Kind};

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Everything is done.
    Finished,
    /// Ctrl-C ended the command early, as a line on stderr reports.
    Interrupted,
}

/// Wrong usage that clap cannot detect.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Stdout cannot be written, for example because its reader has exited (`skipstone … | head`).
#[derive(Debug)]
pub struct Stdout {
    error: io::Error,
    /// Whether work was still to be done.
    unfinished: bool,
}

impl Stdout {
    /// The error of a command whose work is not done yet. It fails even if only the reader has gone.
    #[must_use]
    pub fn unfinished(self) -> Self {
        Self { unfinished: true, ..self }
    }

    /// Whether only the reader has gone, who has seen enough.
    fn is_success(&self) -> bool {
        self.error.kind() == io::ErrorKind::BrokenPipe && !self.unfinished
    }
}

impl From<io::Error> for Stdout {
    fn from(error: io::Error) -> Self {
        Self { error, unfinished: false }
    }
}

impl std::fmt::Display for Stdout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot write to stdout: {}", self.error)?;
        if self.unfinished { f.write_str("; the work is not finished") } else { Ok(()) }
    }
}

impl std::error::Error for Stdout {}

/// Set where another rank speaks for this one.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Lets this process write nothing: rank 0 speaks for all.
pub fn be_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Whether this process writes nothing.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Writes a line of results to stdout.
pub fn emit(line: impl std::fmt::Display) -> Result<(), Stdout> {
    if is_quiet() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    Ok(writeln!(out, "{line}").and_then(|()| out.flush())?)
}

/// Writes a message to stderr.
pub fn say(line: impl std::fmt::Display) {
    if is_quiet() {
        return;
    }
    // If stderr is closed, there is nowhere left to report it.
    // Written at once: several processes may share it.
    let line = format!("{line}\n");
    crate::bars::above(|| drop(io::stderr().lock().write_all(line.as_bytes())));
}

/// Whether Ctrl-C ended the work.
pub fn is_stopped(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Error>().is_some_and(Error::is_stopped)
}

/// Prints the error and returns its exit code.
pub fn report(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<Stdout>().is_some_and(Stdout::is_success) {
        return 0;
    }
    say(format_args!("error: {error:#}"));
    let usage = error.downcast_ref::<Usage>().is_some()
        || error.downcast_ref::<Error>().is_some_and(|e| e.kind() == Kind::InvalidArgument);
    if usage { 2 } else { 1 }
}
