//! `cargo xtask check` runs all checks that must pass before a change is merged.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("check") => check(&words.collect::<Vec<_>>()),
        _ => {
            eprintln!("usage: cargo xtask check [STEP…]    all checks in order, or only those named: {}", names());
            ExitCode::from(2)
        }
    }
}

/// Takes its own name and returns whether it succeeded.
type Step = fn(&str) -> bool;

/// The engine for graphics processors is checked with the rest, so that its libraries are built once. Its tests skip, and say
/// so, where there is no graphics driver; lavapipe will do.
const GPU: &str = "--features skipstone/gpu,skipstone-cli/gpu";

const STEPS: [(&str, Step); 10] = [
    ("format", |name| cargo(name, "fmt --all --check")),
    ("lints", |name| cargo(name, &format!("clippy --workspace --all-targets {GPU} -- -D warnings"))),
    // The build of the README, which has no engine for graphics processors.
    ("defaults", |name| cargo(name, "check -p skipstone-cli")),
    ("tests", |name| cargo(name, &format!("test --workspace {GPU}"))),
    ("examples", examples),
    ("ranks", ranks),
    ("page", page),
    ("python", python),
    ("documentation", |name| cargo(name, &format!("doc --workspace --no-deps {GPU}"))),
    ("licences", cargo_deny),
];

fn names() -> String {
    STEPS.map(|(name, _)| name).join(", ")
}

/// Runs the steps that are named, or all, up to the first that fails.
fn check(wanted: &[String]) -> ExitCode {
    if let Some(unknown) = wanted.iter().find(|word| STEPS.iter().all(|(name, _)| name != word)) {
        eprintln!("check: there is no step `{unknown}`; the steps are {}", names());
        return ExitCode::from(2);
    }
    for (name, step) in
        STEPS.into_iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|word| word == name))
    {
        if !step(name) {
            eprintln!("check: {name} failed");
            return ExitCode::FAILURE;
        }
    }
    let all = if wanted.is_empty() { "all checks" } else { "these checks" };
    eprintln!("check: {all} passed");
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
    program_of_tests(name)
        && run(name, Command::new("crates/mpi/tests/ranks").arg(built("").join(program("skipstone"))))
}

/// Tests the web page in a browser, served by the program that the tests built. The script skips the test and says so
/// if Node or Chromium is missing.
fn page(name: &str) -> bool {
    program_of_tests(name) && run(name, Command::new("crates/serve/e2e/run").arg(built("").join(program("skipstone"))))
}

/// Builds the program as the tests do, if a step is named alone. `cargo build` would build a second one, and many libraries
/// again: those that the tests need with more features.
fn program_of_tests(name: &str) -> bool {
    cargo(name, &format!("test --workspace --no-run --quiet {GPU}"))
}

/// The folder of the Python package.
const BINDINGS: &str = "bindings/python";
/// Installs PyTorch and diffusers for the package's tests; they are large.
const WITH_TORCH: &str = "SKIPSTONE_CHECK_TORCH";
/// Builds the package's engine for graphics processors, some minutes more: the package needs other features of CubeCL's libraries
/// than the other steps, so they are built anew.
const WITH_GPU: &str = "SKIPSTONE_CHECK_GPU_WHEEL";

/// Builds the Python package as a wheel, installs it into a fresh virtual environment and runs its tests, which compare it
/// with the program that the other steps built.
fn python(name: &str) -> bool {
    let works = |python: &&str| {
        let version = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
        Command::new(python).args(["-c", version]).output().is_ok_and(|o| o.status.success())
    };
    let Some(python) = ["python3", "python"].into_iter().find(works) else {
        eprintln!("check: python SKIPPED, there is no Python 3.10 or later with venv (apt-get install python3-venv)");
        return true;
    };
    let bindings = PathBuf::from(BINDINGS);
    let format = ["fmt", "--check", "--manifest-path", "bindings/python/Cargo.toml"];
    // An absolute path, because the package is a workspace of its own.
    let target = std::path::absolute(built("").join("..")).unwrap_or_default();
    let (environment, wheels) = (target.join("python"), target.join("wheels"));
    drop(std::fs::remove_dir_all(&environment));
    drop(std::fs::remove_dir_all(&wheels));
    let inside = environment.join(if cfg!(windows) { "Scripts" } else { "bin" }).join(program("python"));
    let pip = |arguments: &[&str]| {
        let mut command = Command::new(&inside);
        command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(arguments);
        run(name, &mut command)
    };
    let requirements = bindings.join("tests/requirements.txt");
    let torch = bindings.join("tests/requirements-torch.txt");
    if !run(name, Command::new("cargo").args(format))
        || !run(name, Command::new(python).args(["-m", "venv"]).arg(&environment))
        || !pip(&["-r", &requirements.to_string_lossy()])
    {
        return false;
    }
    if std::env::var_os(WITH_TORCH).is_some() {
        if !pip(&["-r", &torch.to_string_lossy()]) {
            return false;
        }
    } else {
        eprintln!("check: python: tests of PyTorch networks SKIPPED; set {WITH_TORCH}=1 to install PyTorch for them");
    }
    let mut build = Command::new(&inside);
    build.args(["-m", "maturin", "build", "--profile", "dev", "--locked", "--manifest-path"]);
    build.arg(bindings.join("Cargo.toml")).arg("--interpreter").arg(&inside).arg("--out").arg(&wheels);
    if std::env::var_os(WITH_GPU).is_some() {
        build.args(["--features", "gpu"]);
    } else {
        eprintln!("check: python: tests on graphics processors SKIPPED; set {WITH_GPU}=1 to build the engine for them");
    }
    if !run(name, build.env("CARGO_TARGET_DIR", &target)) {
        return false;
    }
    let Some(wheel) = std::fs::read_dir(&wheels).into_iter().flatten().flatten().next() else { return false };
    let program = std::path::absolute(built("").join(program("skipstone"))).unwrap_or_default();
    let mut tests = Command::new(&inside);
    tests.args(["-m", "pytest", "-rs"]).current_dir(&bindings).env("SKIPSTONE_COMMAND", program);
    pip(&[&wheel.path().to_string_lossy()]) && run(name, &mut tests)
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
    let python = format!("deny --manifest-path {BINDINGS}/Cargo.toml check licenses bans sources");
    if !cargo(name, "deny check licenses bans sources") || !cargo(name, &python) {
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
