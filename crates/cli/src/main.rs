//! The `skipstone` command: its arguments, its exit codes, its log.

#![forbid(unsafe_code)]

mod bars;
mod common;
mod failure;
mod interrupt;
mod logs;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Done;

/// Denoising diffusion implicit models: train them, sample from them in few steps, read others' checkpoints.
#[derive(Debug, Parser)]
#[command(name = "skipstone", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (what was finished is kept).
The environment variable RUST_LOG sets how much is logged to stderr: error, warn (the default), info, debug.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::TrainArguments),
}

fn main() -> ExitCode {
    // clap prints usage errors itself and exits with 2; help and version go to stdout with 0.
    let arguments = Arguments::parse();
    logs::start();
    let result = interrupt::listen().and_then(|()| match &arguments.command {
        Command::Train(arguments) => train::run(arguments),
    });
    match result {
        Ok(Done::Finished) => ExitCode::SUCCESS,
        Ok(Done::Interrupted) => ExitCode::from(interrupt::EXIT_CODE),
        Err(error) => failure::report(&error),
    }
}
