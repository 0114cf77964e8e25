//! How a command ends: exit codes, and the one line that says what went wrong.

use std::io::{self, Write};
use std::process::ExitCode;

use skipstone::{Error, Kind};

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Everything that was asked for.
    Finished,
    /// Ctrl-C: part of it, as was said on stderr.
    Interrupted,
}

/// Wrong usage that clap cannot see.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Nobody reads stdout any more (`skipstone … | head`), or it cannot be written.
#[derive(Debug)]
pub struct Stdout(io::Error);

impl Stdout {
    /// Whether the reader has simply gone.
    pub fn is_closed(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

impl std::fmt::Display for Stdout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stdout cannot be written: {}", self.0)
    }
}

impl std::error::Error for Stdout {}

/// Writes a line of results.
pub fn emit(line: impl std::fmt::Display) -> Result<(), Stdout> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Stdout)
}

/// Writes a line for the person at the terminal.
pub fn say(line: impl std::fmt::Display) {
    // Nothing is left to tell anyone when stderr is gone.
    crate::bars::above(|| drop(writeln!(io::stderr().lock(), "{line}")));
}

/// Whether Ctrl-C ended the work.
pub fn is_stopped(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Error>().is_some_and(Error::is_stopped)
}

/// Prints the error and gives its exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<Stdout>().is_some_and(Stdout::is_closed) {
        return ExitCode::SUCCESS;
    }
    say(format_args!("error: {error:#}"));
    let usage = error.downcast_ref::<Usage>().is_some()
        || error.downcast_ref::<Error>().is_some_and(|e| e.kind() == Kind::InvalidArgument);
    ExitCode::from(if usage { 2 } else { 1 })
}
