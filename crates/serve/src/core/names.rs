//! Names of models, and how a shell reads them.

use std::path::Path;

/// The id of the model that the program carries inside.
pub const CARRIED: &str = "carried";

/// The name of the model in `path`: that of the file or folder itself. Callers learn nothing else of the path.
pub fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    stem.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// A word as a shell reads it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
