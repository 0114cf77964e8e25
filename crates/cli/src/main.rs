//! The `skipstone` command as a program of its own.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(skipstone_cli::run(std::env::args_os()))
}
