//! `cargo xtask check`: everything that must hold before a change lands, in one command.

use std::process::{Command, ExitCode};
use std::time::Instant;

fn main() -> ExitCode {
    let command = std::env::args().nth(1);
    match command.as_deref() {
        Some("check") => check(),
        _ => {
            eprintln!("usage: cargo xtask check    format, lints, tests, documentation, licences");
            ExitCode::from(2)
        }
    }
}

fn check() -> ExitCode {
    let steps = [
        ("format", "fmt --all --check"),
        ("lints", "clippy --workspace --all-targets -- -D warnings"),
        ("tests", "test --workspace"),
        ("documentation", "doc --workspace --no-deps"),
    ];
    for (name, arguments) in steps {
        if !run(name, arguments) {
            eprintln!("check: {name} failed");
            return ExitCode::FAILURE;
        }
    }
    if !cargo_deny() {
        eprintln!("check: licences failed");
        return ExitCode::FAILURE;
    }
    eprintln!("check: all good");
    ExitCode::SUCCESS
}

/// Licences, bans and sources of every dependency must pass. Advisories need their database, which not every machine
/// reaches: that part may be skipped, and says so.
fn cargo_deny() -> bool {
    let installed = Command::new("cargo").args(["deny", "--version"]).output().is_ok_and(|o| o.status.success());
    if !installed {
        eprintln!("check: licences SKIPPED, cargo-deny is not installed (cargo install cargo-deny --locked)");
        return true;
    }
    if !run("licences", "deny check licenses bans sources") {
        return false;
    }
    let fetched = Command::new("cargo").args(["deny", "fetch", "db"]).output().is_ok_and(|o| o.status.success());
    if !fetched {
        eprintln!("check: advisories SKIPPED, their database cannot be reached from here");
        return true;
    }
    run("advisories", "deny check advisories")
}

fn run(name: &str, arguments: &str) -> bool {
    eprintln!("check: {name}: cargo {arguments}");
    let begun = Instant::now();
    // A warning in the documentation is an error; the other steps pay no heed to this variable.
    let status = Command::new("cargo").args(arguments.split(' ')).env("RUSTDOCFLAGS", "-D warnings").status();
    eprintln!("check: {name}: {:.0} s", begun.elapsed().as_secs_f64());
    status.is_ok_and(|s| s.success())
}
