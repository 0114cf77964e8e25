//! Atomic file writes: each file is written under a temporary name and then renamed, so it is complete or absent.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// Suffix of temporary files.
pub(crate) const SUFFIX: &str = ".skipstone-partial";

/// Replaces the file at `path` by the output of `write`. Readers see the old content or the new, never a part.
///
/// The bytes go to a temporary file in the same folder, which is flushed, synced and renamed. On failure, the temporary
/// file is removed and an existing file stays unchanged. The permissions are those of an ordinary new file. Symbolic
/// links are followed. A device or a pipe (`/dev/stdout`) is written to directly.
///
/// ```
/// let path = std::env::temp_dir().join("skipstone-doc-write-atomically.txt");
/// skipstone::io::files::write_atomically(&path, |out| Ok(out.write_all(b"whole").expect("space for five
/// bytes"))).unwrap(); assert_eq!(std::fs::read(&path).unwrap(), b"whole");
/// # std::fs::remove_file(path).unwrap();
/// ```
///
/// # Errors
/// Any error of `write`, and any error of the operating system (missing or unwritable folder, full disk); the message
/// names `path` and a remedy.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    // A rename would replace the link, not its target.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    match fs::metadata(&target) {
        Ok(found) if found.is_dir() => {
            return Err(Error::new(Kind::Io, "is a folder; give the name of a file inside it").in_file(path));
        }
        Ok(found) if !found.is_file() => {
            // Renaming a file over a device would destroy the device.
            let file = File::options().write(true).open(&target).map_err(|e| refused(path, e))?;
            return written(path, BufWriter::new(file), write).map(drop);
        }
        _ => {}
    }
    let name = target.file_name().ok_or_else(|| Error::argument("the path does not name a file").in_file(path))?;
    let prefix = format!(".{}.", name.to_string_lossy());
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(SUFFIX);
    // tempfile defaults to 0600, which other users cannot read. The umask still applies to 0666.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let temporary = builder.tempfile_in(folder_of(&target)).map_err(|e| refused(path, e))?;
    // Not through `temporary` itself, whose errors have its name.
    written(path, BufWriter::new(temporary.as_file()), write)?;
    temporary.as_file().sync_all().map_err(|e| refused(path, e))?;
    temporary.persist(&target).map_err(|e| refused(path, e.error))?;
    // The rename survives a power failure only after the folder is synced, which not every file system supports.
    if let Ok(folder) = File::open(folder_of(&target)) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// As [`write_atomically`], for bytes in memory.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |out| out.write_all(bytes).map_err(|e| Error::io(path, e)))
}

/// Creates the folder `path` and its parents, if they do not exist.
///
/// # Errors
/// No permission, no space, or a file in the way; the message names `path`.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => in_the_way(path),
        _ => refused(path, e),
    })
}

/// Checks that no file is in the way of the folder `path`, which need not exist. Creates nothing.
///
/// # Errors
/// A file, or a device, has the name of the folder or of one of its parents.
pub fn check_dir(path: &Path) -> Result<()> {
    match existing(path) {
        Some((_, found)) if !found.is_dir() => Err(in_the_way(path)),
        _ => Ok(()),
    }
}

/// What exists of a path: itself, or the nearest of its parents.
fn existing(path: &Path) -> Option<(PathBuf, fs::Metadata)> {
    // Without a slash at its end, behind which the system finds folders only.
    let plain: PathBuf = path.components().collect();
    plain.ancestors().find_map(|place| Some((place.to_path_buf(), fs::metadata(place).ok()?)))
}

/// The error for what is in the way of the folder `path`.
fn in_the_way(path: &Path) -> Error {
    let error = |message| Error::new(Kind::Io, message);
    match existing(path) {
        // Nobody should be told to remove a device.
        Some((place, found)) if !found.is_dir() && !found.is_file() => {
            error("is no folder and no regular file; choose another name").in_file(place)
        }
        _ => error("a file is in the way of this folder; remove it or choose another path").in_file(path),
    }
}

/// An exclusive lock on a folder. It ends when dropped or when the process ends, even if it crashes.
#[derive(Debug)]
pub struct Lock {
    /// Kept open as long as the lock is held.
    _held: File,
}

/// Locks the existing folder `folder` against all other callers of this function.
///
/// On Unix, this locks the folder itself and leaves no file in it; elsewhere, it locks a file `.skipstone-lock` inside.
/// If the file system has no locks, a warning is logged and nothing is locked.
///
/// ```
/// let folder = std::env::temp_dir();
/// let lock = skipstone::io::files::lock(&folder).unwrap();
/// assert!(skipstone::io::files::lock(&folder).unwrap_err().message().contains("another process"));
/// drop(lock);
/// assert!(skipstone::io::files::lock(&folder).is_ok());
/// ```
///
/// # Errors
/// Another process holds the lock, or the folder cannot be opened.
pub fn lock(folder: &Path) -> Result<Lock> {
    #[cfg(unix)]
    let held = File::open(folder);
    #[cfg(not(unix))]
    let held = File::options().write(true).create(true).truncate(false).open(folder.join(".skipstone-lock"));
    let held = held.map_err(|e| refused(folder, e))?;
    match held.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let message = "another process is writing to this folder; wait until it is done, or choose another folder";
            return Err(Error::new(Kind::Io, message).in_file(folder));
        }
        Err(TryLockError::Error(error)) => {
            tracing::warn!(folder = %folder.display(), %error, "cannot lock; make sure that no other process writes here");
        }
    }
    Ok(Lock { _held: held })
}

/// Removes temporary files and folders that a killed process left directly in `folder`. Returns their number.
///
/// Call this only while no other process writes to the folder (see [`lock`]): what is being written looks the same.
///
/// # Errors
/// The folder cannot be read, or one of them cannot be removed. A missing folder has none: 0.
pub fn remove_stale_temporaries(folder: &Path) -> Result<usize> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(Error::io(folder, e)),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') || !name.ends_with(SUFFIX) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_file() => fs::remove_file(entry.path()),
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(entry.path()),
            _ => continue,
        }
        .map_err(|e| refused(&entry.path(), e))?;
        removed += 1;
    }
    Ok(removed)
}

/// Reads the whole file at `path`.
///
/// # Errors
/// The file cannot be read, or is longer than `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::data(format!("the file is longer than the limit of {limit} bytes")).in_file(path));
    }
    Ok(bytes)
}

/// The folder of a file: `.` for a bare name.
fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Runs `write` on `out`, flushes it and returns the underlying file.
fn written<W: Write>(path: &Path, out: BufWriter<W>, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<W> {
    let mut watched = Watched { out, failure: None };
    let result = write(&mut watched).and_then(|()| watched.flush().map_err(|e| Error::io(path, e)));
    // `write` may hide an error of the operating system, but that error and its remedy are what the user needs.
    if let Some(failure) = watched.failure {
        // Dropping the buffer would try to write it again.
        drop(watched.out.into_parts());
        return Err(refused(path, failure));
    }
    result.map_err(|e| e.in_file(path))?;
    watched.out.into_inner().map_err(|e| refused(path, e.into_error()))
}

/// A writer that remembers the first error of the operating system.
struct Watched<W: Write> {
    out: BufWriter<W>,
    failure: Option<io::Error>,
}

impl<W: Write> Watched<W> {
    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|e| {
            if e.kind() == io::ErrorKind::Interrupted {
                return e;
            }
            let told = io::Error::new(e.kind(), e.to_string());
            self.failure.get_or_insert(e);
            told
        })
    }
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.out.write(bytes);
        self.note(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.out.flush();
        self.note(result)
    }
}

/// Converts the operating system's refusal to write `path` into an error with a remedy.
pub(crate) fn refused(path: &Path, e: io::Error) -> Error {
    let folder = folder_of(path);
    let (folder, said) = (folder.display(), said(&e));
    let (kind, message) = match e.kind() {
        io::ErrorKind::NotFound => {
            (Kind::NotFound, format!("folder {folder} does not exist; create it or choose another path"))
        }
        io::ErrorKind::NotADirectory => (Kind::Io, format!("{folder} is not a folder; choose another path")),
        io::ErrorKind::PermissionDenied => (
            Kind::Io,
            format!("no permission to write in folder {folder}; change its permissions or choose another path"),
        ),
        io::ErrorKind::ReadOnlyFilesystem => {
            (Kind::Io, format!("folder {folder} is on a read-only file system; choose another path"))
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (Kind::Io, format!("no space left in {folder} ({said}); free some space or choose another disk"))
        }
        _ => (Kind::Io, format!("cannot write: {said}")),
    };
    Error::new(kind, message).in_file(path).caused_by(e)
}

/// What the operating system says, without the temporary name that tempfile adds to it.
fn said(e: &io::Error) -> String {
    let text = e.to_string();
    if text.contains(SUFFIX) { e.kind().to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failing_writer_leaves_the_old_file_and_no_temporary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.bin");
        write_bytes(&path, b"old").unwrap();
        let error = write_atomically(&path, |out| {
            out.write_all(b"half").unwrap();
            Err(Error::data("stopped half-way"))
        })
        .unwrap_err();
        assert_eq!(error.path(), Some(path.as_path()));
        assert_eq!(error.message(), "stopped half-way");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(entries(folder.path()), ["out.bin"]);
        write_bytes(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_missing_folder_is_named_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absent").join("out.bin");
        let error = write_bytes(&path, b"x").unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(error.path(), Some(path.as_path()));
        assert!(error.message().contains("absent does not exist; create it"), "{error}");
    }

    #[test]
    fn a_folder_is_no_file_and_a_file_is_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert!(write_bytes(folder.path(), b"x").unwrap_err().message().contains("is a folder"));
        let file = folder.path().join("file");
        write_bytes(&file, b"x").unwrap();
        assert!(create_dir(&file).unwrap_err().message().contains("a file is in the way"));
        assert!(create_dir(&file.join("below")).unwrap_err().message().contains("a file is in the way"));
        assert_eq!(write_bytes(&file.join("below"), b"x").unwrap_err().kind(), Kind::Io);
        create_dir(&folder.path().join("a/b")).unwrap();
        create_dir(&folder.path().join("a/b")).unwrap();
        for taken in [file.join(""), file.join("below")] {
            assert!(check_dir(&taken).unwrap_err().message().contains("a file is in the way"), "{}", taken.display());
        }
        for free in ["a/b", "a/c/d", ""] {
            check_dir(&folder.path().join(free)).unwrap();
        }
        assert_eq!(entries(&folder.path().join("a")), ["b"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_device_in_the_way_is_not_to_be_removed() {
        for path in ["/dev/null", "/dev/null/", "/dev/null/below"].map(Path::new) {
            for error in [create_dir(path).unwrap_err(), check_dir(path).unwrap_err()] {
                assert_eq!(error.path(), Some(Path::new("/dev/null")));
                assert!(error.message().contains("no regular file; choose another name"), "{error}");
            }
        }
    }

    #[test]
    fn temporary_names_are_not_told() {
        let told = "No space left on device (os error 28) at path \"/runs/.x.png.aB3xYz.skipstone-partial\"";
        let error = refused(Path::new("/runs/x.png"), io::Error::new(io::ErrorKind::StorageFull, told));
        assert_eq!(error.path(), Some(Path::new("/runs/x.png")));
        assert!(error.message().starts_with("no space left in /runs ("), "{error}");
        assert!(!error.message().contains(SUFFIX), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_says_so_even_when_the_writer_hides_it() {
        let path = Path::new("/dev/full");
        for bytes in [10, 1 << 20] {
            let error =
                write_atomically(path, |out| out.write_all(&vec![0; bytes]).map_err(|_| Error::data("encoder failed")))
                    .unwrap_err();
            assert_eq!(error.kind(), Kind::Io);
            assert!(error.message().contains("no space left"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_an_ordinary_file_and_links_are_followed() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write_bytes(&ours, b"x").unwrap();
        fs::write(&plain, b"x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&ours), mode(&plain));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&plain, &link).unwrap();
        write_bytes(&link, b"through").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&plain).unwrap(), b"through");
    }

    #[test]
    fn only_our_own_leftovers_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".out.bin.aB3xYz.skipstone-partial"), b"half").unwrap();
        fs::write(folder.path().join(".hidden"), b"theirs").unwrap();
        fs::write(folder.path().join("out.bin"), b"whole").unwrap();
        assert_eq!(remove_stale_temporaries(folder.path()).unwrap(), 1);
        assert_eq!(entries(folder.path()), [".hidden", "out.bin"]);
        assert_eq!(remove_stale_temporaries(&folder.path().join("absent")).unwrap(), 0);
    }

    #[test]
    fn reading_stops_at_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        write_bytes(&path, b"12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert_eq!(read(&path, 4).unwrap_err().kind(), Kind::InvalidData);
        assert_eq!(read(&folder.path().join("absent"), 4).unwrap_err().kind(), Kind::NotFound);
    }
}
