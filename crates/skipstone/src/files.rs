//! Writing files so that a reader never sees half of one.

use std::io::{BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Writes a file under a temporary name in the same folder, syncs it, and renames it over `path`: whoever opens
/// `path` finds the old bytes or the new ones, never a part.
///
/// # Errors
/// What `write` returns, or the operating system's refusal; the temporary file is gone in either case.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".skipstone-").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The default of 0600 would make the finished file unreadable to others; the umask still applies.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let file = builder.tempfile_in(folder).map_err(|e| Error::io(path, e))?;
    let mut out = BufWriter::new(file);
    write(&mut out).map_err(|e| e.in_file(path))?;
    let file = out.into_inner().map_err(|e| Error::io(path, e.into_error()))?;
    file.as_file().sync_all().map_err(|e| Error::io(path, e))?;
    file.persist(path).map_err(|e| Error::io(path, e.error))?;
    Ok(())
}
