//! Names of models.

use std::path::Path;

use skipstone::engine::Device;
use skipstone::sampling::options::quoted;

/// The id of the built-in model.
pub const CARRIED: &str = "carried";

/// The id of a served model, and what it consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelId {
    /// What requests use: the name, or NAME@DEVICE.
    pub text: String,
    /// The model's name.
    pub name: String,
    /// The device, if the model is served on several and this is not the first.
    pub device: Option<Device>,
}

impl ModelId {
    /// The id of a model on the first device.
    pub fn new(name: String) -> Self {
        Self { text: name.clone(), name, device: None }
    }

    /// The id of a model on another device.
    pub fn on(name: &str, device: Device) -> Self {
        Self { text: format!("{name}@{device}"), name: name.to_owned(), device: Some(device) }
    }

    /// The name that people read.
    pub fn title(&self) -> String {
        let name = if self.name == CARRIED { "Fashion-MNIST, built in" } else { &self.name };
        self.device.map_or_else(|| name.to_owned(), |device| format!("{name}, on {device}"))
    }

    /// The flags that select the model on a command line: ` --model NAME`, or nothing for the built-in model, and ` --device`.
    pub fn flags(&self) -> String {
        let model = if self.name == CARRIED { String::new() } else { format!(" --model {}", quoted(&self.name)) };
        model + &self.device.map_or_else(String::new, |device| format!(" --device {device}"))
    }
}

/// The name, if any, and the path of a model given as NAME=PATH or as PATH. What exists is a path, and so is what has a
/// slash before `=`.
pub fn split_name(model: &Path) -> (Option<&str>, &Path) {
    let parts = model.to_str().and_then(|text| text.split_once('=')).filter(|_| !model.exists());
    match parts {
        Some((name, path)) if !name.is_empty() && !path.is_empty() && !name.contains(['/', '\\']) => {
            (Some(name), Path::new(path))
        }
        _ => (None, model),
    }
}

/// The name of the model in `path`: the name of the file or folder. Callers learn nothing else about the path.
pub fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    stem.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_from_a_path() {
        for (model, name, path) in [
            ("mine=runs/a/model", Some("mine"), "runs/a/model"),
            ("mine=runs/a=1", Some("mine"), "runs/a=1"),
            ("mine=ORG/NAME@main", Some("mine"), "ORG/NAME@main"),
            ("runs/a=1/model", None, "runs/a=1/model"),
            ("runs/a", None, "runs/a"),
            ("=runs", None, "=runs"),
            ("mine=", None, "mine="),
        ] {
            assert_eq!(split_name(Path::new(model)), (name, Path::new(path)), "{model}");
        }
    }
}
