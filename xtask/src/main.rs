//! `cargo xtask check` runs all checks that must pass before a change is merged.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

fn main() -> ExitCode {
    let command = std::env::args().nth(1);
    match command.as_deref() {
        Some("check") => check(),
        _ => {
            eprintln!(
                "usage: cargo xtask check    format, lints, tests, examples, ranks, the page in a browser, documentation, licences"
            );
            ExitCode::from(2)
        }
    }
}

/// Takes its own name and returns whether it succeeded.
type Step = fn(&str) -> bool;

fn check() -> ExitCode {
    let steps: [(&str, Step); 8] = [
        ("format", |name| cargo(name, "fmt --all --check")),
        ("lints", |name| cargo(name, "clippy --workspace --all-targets -- -D warnings")),
        ("tests", |name| cargo(name, "test --workspace")),
        ("examples", examples),
        ("ranks", ranks),
        ("page", page),
        ("documentation", |name| cargo(name, "doc --workspace --no-deps")),
        ("licences", cargo_deny),
    ];
    for (name, step) in steps {
        if !step(name) {
            eprintln!("check: {name} failed");
            return ExitCode::FAILURE;
        }
    }
    eprintln!("check: all checks passed");
    ExitCode::SUCCESS
}

/// The example programs, as the tests have built them.
fn examples(name: &str) -> bool {
    ["sample", "own_denoiser", "train_arrays", "invert_and_edit", "add_a_solver", "score"]
        .into_iter()
        .all(|example| run(name, &mut Command::new(built("examples").join(program(example)))))
}

/// Trains on two and three ranks under the machine's MPI. The script skips the test and says so if there is none.
fn ranks(name: &str) -> bool {
    cargo(name, "build --workspace")
        && run(name, Command::new("crates/mpi/tests/ranks").arg(built("").join(program("skipstone"))))
}

/// Tests the web page in a browser, served by the program that the tests built. The script skips the test and says so
/// if Node or Chromium is missing.
fn page(name: &str) -> bool {
    // Builds the whole workspace, so that nothing is rebuilt with other features.
    if !cargo(name, "build --workspace") {
        return false;
    }
    run(name, Command::new("crates/serve/e2e/run").arg(built("").join(program("skipstone"))))
}

/// The folder `below` of what was built.
fn built(below: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    target.join("debug").join(below)
}

fn program(name: &str) -> String {
    format!("{name}{}", std::env::consts::EXE_SUFFIX)
}

/// Checks the licences, bans and sources of all dependencies. Advisories need an online database; if it is unreachable,
/// that part is skipped with a message.
fn cargo_deny(name: &str) -> bool {
    let installed = Command::new("cargo").args(["deny", "--version"]).output().is_ok_and(|o| o.status.success());
    if !installed {
        eprintln!("check: licences SKIPPED, cargo-deny is not installed (run cargo install cargo-deny --locked)");
        return true;
    }
    if !cargo(name, "deny check licenses bans sources") {
        return false;
    }
    let fetched = Command::new("cargo").args(["deny", "fetch", "db"]).output().is_ok_and(|o| o.status.success());
    if !fetched {
        eprintln!("check: advisories SKIPPED, their database is unreachable");
        return true;
    }
    cargo("advisories", "deny check advisories")
}

fn cargo(name: &str, arguments: &str) -> bool {
    // Warnings in the documentation are errors; the other steps ignore this variable.
    run(name, Command::new("cargo").args(arguments.split(' ')).env("RUSTDOCFLAGS", "-D warnings"))
}

/// Runs a command, prints it and its duration, and returns whether it succeeded.
fn run(name: &str, command: &mut Command) -> bool {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    eprintln!("check: {name}: {}", words.join(" "));
    let begun = Instant::now();
    let status = command.status();
    eprintln!("check: {name}: {:.0} s", begun.elapsed().as_secs_f64());
    match status {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("check: {name}: {}: {error}", words[0]);
            false
        }
    }
}
