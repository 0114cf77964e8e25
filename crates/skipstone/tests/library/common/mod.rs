//! What the tests of trainings and of distillations have in common.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use ndarray::Array4;
use skipstone::engine::EngineOptions;
use skipstone::io::data::Dataset;
use skipstone::train::Event;
use skipstone::unet::Parameters;

/// Ten images with a gradient each, of two classes; ten is not a multiple of a batch.
pub fn pictures() -> Dataset {
    let images = Array4::from_shape_fn((10, 1, 8, 8), |(n, _, y, x)| (20 * n + 3 * x + 5 * y) as u8);
    let labels = (0..10).map(|i| i % 2).collect();
    Dataset::new("pictures", images, Some(labels), vec!["even".into(), "odd".into()]).unwrap()
}

pub fn on_threads(threads: usize) -> EngineOptions {
    EngineOptions::on_threads(threads)
}

pub fn go_on(_: Event<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub fn bits(parameters: &Parameters) -> Vec<u32> {
    parameters.data().iter().map(|v| v.to_bits()).collect()
}

/// Every file of a run's state, its model and its earlier students, by path.
pub fn files(run: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    for part in ["state", "model", "students"] {
        // Only distillations have students.
        if part != "students" || run.join(part).exists() {
            walk(run, &run.join(part), &mut found);
        }
    }
    assert!(found.len() >= 6, "{:?}", found.keys());
    found
}

#[track_caller]
pub fn assert_same_files(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(*bytes == b[name], "{name} differs");
    }
}
