//! Names of models.

use std::path::Path;

/// The id of the built-in model.
pub const CARRIED: &str = "carried";

/// The name of the model in `path`: the name of the file or folder. Callers learn nothing else about the path.
pub fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    stem.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
