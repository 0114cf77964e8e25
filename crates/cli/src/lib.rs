//! The `skipstone` command: its arguments, its exit codes, its log. The program and the Python package run it.

#![forbid(unsafe_code)]

mod bars;
mod batch;
mod bench;
mod calibrate;
mod common;
mod consistency;
mod convert;
mod dataset;
mod decode;
mod devices;
mod distill;
mod encode;
mod evaluate;
mod export;
mod failure;
mod fill;
mod images;
mod inspect;
mod interpolate;
mod interrupt;
mod invert;
mod likelihood;
mod logs;
mod options;
mod output;
mod ranks;
mod reconstruct;
mod sample;
mod serve;
mod shard;
mod train;
mod training;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use skipstone::io::files;

use failure::Done;

/// Denoising diffusion implicit models: train models, sample in few steps, encode images, read checkpoints
/// from other programs, serve models over HTTP.
#[derive(Debug, Parser)]
#[command(name = "skipstone", version, max_term_width = 120, arg_required_else_help = true)]
#[command(after_help = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (finished work is kept).
The environment variable RUST_LOG sets how much is logged to stderr: error, warn (the default; serve
also logs its requests), info, debug.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Sample(Box<sample::SampleArguments>),
    Encode(Box<encode::EncodeArguments>),
    Decode(Box<decode::DecodeArguments>),
    Reconstruct(Box<reconstruct::ReconstructArguments>),
    Interpolate(Box<interpolate::InterpolateArguments>),
    Train(Box<train::TrainArguments>),
    Distill(Box<distill::DistillArguments>),
    Evaluate(Box<evaluate::EvaluateArguments>),
    Likelihood(Box<likelihood::LikelihoodArguments>),
    Calibrate(calibrate::CalibrateArguments),
    Convert(Box<convert::ConvertArguments>),
    Inspect(inspect::InspectArguments),
    Bench(bench::BenchArguments),
    Devices(devices::DevicesArguments),
    Serve(Box<serve::ServeArguments>),
    /// Print completions for a shell
    #[command(after_help = "\
Examples:
  bash   skipstone completions bash > ~/.local/share/bash-completion/completions/skipstone
  zsh    skipstone completions zsh > \"${fpath[1]}/_skipstone\"
  fish   skipstone completions fish > ~/.config/fish/completions/skipstone.fish")]
    Completions {
        /// Shell to print them for
        shell: Shell,
    },
    /// Write manual pages to a folder, one for each command
    #[command(after_help = "\
Examples:
  For this user  skipstone man ~/.local/share/man/man1
  Then           man skipstone-sample")]
    Man {
        /// Folder to write them to
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// Runs the command line `words`, whose first is the program's name, and returns its exit code.
pub fn run(words: impl IntoIterator<Item = OsString>) -> u8 {
    let words: Vec<OsString> = words.into_iter().collect();
    let arguments = match Arguments::try_parse_from(&words) {
        Ok(arguments) => arguments,
        Err(told) => {
            // Usage errors go to stderr with 2; help and version go to stdout with 0.
            drop(told.print());
            return u8::try_from(told.exit_code()).unwrap_or(2);
        }
    };
    interrupt::remember(words);
    logs::start(matches!(arguments.command, Command::Serve(_)));
    // What writes nothing has nothing to save: Ctrl-C ends it at once.
    let writes = !matches!(
        arguments.command,
        Command::Inspect(_) | Command::Bench(_) | Command::Devices(_) | Command::Completions { .. }
    );
    let listening = if writes { interrupt::listen() } else { Ok(()) };
    let result = listening.and_then(|()| match &arguments.command {
        Command::Sample(arguments) => sample::run(arguments),
        Command::Encode(arguments) => encode::run(arguments),
        Command::Decode(arguments) => decode::run(arguments),
        Command::Reconstruct(arguments) => reconstruct::run(arguments),
        Command::Interpolate(arguments) => interpolate::run(arguments),
        Command::Train(arguments) => train::run(arguments),
        Command::Distill(arguments) => distill::run(arguments),
        Command::Evaluate(arguments) => evaluate::run(arguments),
        Command::Likelihood(arguments) => likelihood::run(arguments),
        Command::Calibrate(arguments) => calibrate::run(arguments),
        Command::Convert(arguments) => convert::run(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Devices(arguments) => devices::run(arguments),
        Command::Serve(arguments) => serve::run(arguments),
        Command::Completions { shell } => completions(*shell),
        Command::Man { folder } => manual(folder),
    });
    match result {
        Ok(Done::Finished) => 0,
        Ok(Done::Interrupted) => interrupt::EXIT_CODE,
        Err(error) if failure::is_stopped(&error) => {
            failure::say("interrupted; nothing was written");
            interrupt::EXIT_CODE
        }
        Err(error) => failure::report(&error),
    }
}

fn completions(shell: Shell) -> anyhow::Result<Done> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "skipstone", &mut script);
    failure::emit(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Done::Finished)
}

/// Writes `skipstone.1`, `skipstone-sample.1`, … to `folder`.
fn manual(folder: &Path) -> anyhow::Result<Done> {
    let mut command = Arguments::command();
    command.build();
    let pages = command.get_subcommands().filter(|command| command.get_name() != "help").cloned().map(|page| {
        let name = format!("skipstone-{}", page.get_name());
        page.display_name(name.clone()).name(name)
    });
    let pages: Vec<_> = pages.chain([command.clone()]).collect();
    files::create_dir(folder)?;
    for page in pages {
        let path = folder.join(format!("{}.1", page.get_name()));
        let mut text = Vec::new();
        clap_mangen::Man::new(page).render(&mut text)?;
        files::write_bytes(&path, &text)?;
    }
    failure::emit(folder.display())?;
    Ok(Done::Finished)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
