use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use skipstone::io::checkpoint::{FloatType, ModelFiles, SchedulerConfig, Weights, save};
use skipstone::math::noise::{KeyedRng, Purpose};
use skipstone::unet::{Config, Parameters, initialise};

/// The command, in `folder`.
pub fn skipstone(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skipstone"));
    command.current_dir(folder).args(arguments).env_remove("RUST_LOG");
    command
}

/// Runs it and expects this exit code; gives stdout and stderr.
#[track_caller]
pub fn run(folder: &Path, arguments: &[&str], code: i32) -> (String, String) {
    let Output { status, stdout, stderr } = skipstone(folder, arguments).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(code), "{arguments:?}\nstdout: {stdout}\nstderr: {stderr}");
    (stdout, stderr)
}

pub fn read(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Writes `folder/model`, a tiny network whose output layer is not zero.
pub fn write_model(folder: &Path, config: &Config, null_class: Option<usize>) {
    write_scaled_model(folder, config, null_class, 0.1);
}

/// The same with an output layer of this size.
pub fn write_scaled_model(folder: &Path, config: &Config, null_class: Option<usize>, scale: f32) {
    let mut rng = KeyedRng::new(1, Purpose::Weights, 0, 0);
    let mut gaussian = KeyedRng::new(1, Purpose::Weights, 1, 0);
    let mut weights: Parameters = initialise(config, || rng.next_f64(), || gaussian.next_gaussians()[0]).unwrap();
    let range = weights.layout().get("conv_out.weight").unwrap().range();
    for value in &mut weights.data_mut()[range] {
        *value = scale * (rng.next_f64() as f32 - 0.5);
    }
    let files = ModelFiles {
        config,
        weights: &weights,
        kind: Weights::Ema,
        raw: None,
        scheduler: &SchedulerConfig::default(),
        null_class,
        provenance: &BTreeMap::new(),
        float_type: FloatType::F32,
    };
    save(&folder.join("model"), &files).unwrap();
}

/// A temporary folder with a tiny model in it.
pub fn with_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &Config::smallest(), None);
    folder
}

/// Sends a signal by name.
pub fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}
