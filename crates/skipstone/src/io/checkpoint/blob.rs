//! The sources of a model's bytes: files on disk, or slices embedded in the program.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};

/// Bytes of known length that are read piecewise. Reads beyond the end fail before anything is allocated, so a length
/// claimed by a file never costs more memory than the file has bytes.
pub(crate) trait Blob: Send + Sync {
    /// Total length in bytes.
    fn len(&self) -> u64;

    /// Reads into `out`, whose range was already checked.
    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()>;

    /// Checks that `len` bytes exist from `offset` on.
    fn check(&self, offset: u64, len: u64) -> Result<()> {
        if offset.checked_add(len).is_some_and(|end| end <= self.len()) {
            return Ok(());
        }
        let held = self.len();
        Err(Error::data(format!("truncated: expected {len} bytes at offset {offset}, but the file has {held}")))
    }

    /// Fills `out` with the bytes from `offset` on.
    fn read_into(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.check(offset, out.len() as u64)?;
        self.fill(offset, out)
    }

    /// Reads `len` bytes from `offset` on.
    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        self.check(offset, len)?;
        let size = usize::try_from(len).map_err(|_| Error::data(format!("{len} bytes do not fit in memory")))?;
        let mut bytes = vec![0; size];
        self.fill(offset, &mut bytes)?;
        Ok(bytes)
    }
}

/// Bytes already in memory.
impl Blob for &[u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let start = offset as usize;
        out.copy_from_slice(&self[start..start + out.len()]);
        Ok(())
    }
}

/// A file on disk, of which only the requested parts are read. Threads read it at the same time.
struct FileBlob {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Blob for FileBlob {
    fn len(&self) -> u64 {
        self.len
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        read_exact_at(&self.file, offset, out).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => Error::data("the file has become shorter").in_file(&self.path),
            _ => Error::io(&self.path, e),
        })
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => (offset, out) = (offset + n as u64, &mut out[n..]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(not(any(unix, windows)))]
fn read_exact_at(mut file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    use std::io::{Read, Seek};
    // The position is the file's, not the thread's.
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    file.seek(io::SeekFrom::Start(offset))?;
    file.read_exact(out)
}

/// `len` bytes of another blob, from `start` on.
pub(crate) struct Window {
    whole: Arc<dyn Blob>,
    start: u64,
    len: u64,
}

impl Window {
    /// The window, if the blob has these bytes.
    pub(crate) fn new(whole: Arc<dyn Blob>, start: u64, len: u64) -> Result<Self> {
        whole.check(start, len)?;
        Ok(Self { whole, start, len })
    }
}

impl Blob for Window {
    fn len(&self) -> u64 {
        self.len
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.whole.fill(self.start + offset, out)
    }
}

/// A blob from its start on, as a stream.
pub(crate) struct Stream<B> {
    blob: B,
    at: u64,
}

impl<B: Blob> Stream<B> {
    pub(crate) fn new(blob: B) -> Self {
        Self { blob, at: 0 }
    }
}

impl<B: Blob> io::Read for Stream<B> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = (self.blob.len() - self.at).min(out.len() as u64) as usize;
        self.blob.fill(self.at, &mut out[..n]).map_err(io::Error::other)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// A borrowed blob.
impl Blob for &dyn Blob {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        (**self).fill(offset, out)
    }
}

/// Opens a file on disk.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Blob>> {
    // Before it is opened: to open a pipe that nobody writes would never end.
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !meta.is_file() {
        return Err(Error::data("not a regular file").in_file(path));
    }
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    Ok(Box::new(FileBlob { path: path.to_path_buf(), len: meta.len(), file }))
}

/// The content of a temporary file without a name. `path` names it in errors.
pub(crate) fn temporary(path: &Path, file: File) -> Result<Arc<dyn Blob>> {
    let len = file.metadata().map_err(|e| Error::io(path, e))?.len();
    Ok(Arc::new(FileBlob { path: path.to_path_buf(), file, len }))
}

/// A set of files with relative names; `/` separates folders.
pub(crate) trait Files {
    /// Opens the file called `name`; `None` if it does not exist.
    fn open<'s>(&'s self, name: &str) -> Result<Option<Box<dyn Blob + 's>>>;

    /// The file's path in error messages.
    fn label(&self, name: &str) -> PathBuf;

    /// The whole text of a small file; `None` if it does not exist.
    fn text(&self, name: &str, max: u64) -> Result<Option<String>> {
        let Some(blob) = self.open(name)? else { return Ok(None) };
        let fail = |e: Error| e.in_file(self.label(name));
        if blob.len() > max {
            return Err(fail(Error::data(format!("expected at most {max} bytes, found {}", blob.len()))));
        }
        let bytes = blob.read(0, blob.len()).map_err(fail)?;
        String::from_utf8(bytes).map(Some).map_err(|_| fail(Error::data("not UTF-8 text")))
    }
}

/// A folder on disk.
pub(crate) struct Folder(pub PathBuf);

impl Files for Folder {
    fn open<'s>(&'s self, name: &str) -> Result<Option<Box<dyn Blob + 's>>> {
        match open(&self.0.join(name)) {
            Ok(blob) => Ok(Some(blob)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn label(&self, name: &str) -> PathBuf {
        // The folder above by its own name, where this one has a name.
        match (name.strip_prefix("../"), self.0.file_name(), self.0.parent()) {
            (Some(name), Some(_), Some(above)) => above.join(name),
            _ => self.0.join(name),
        }
    }
}

/// Files embedded in the program.
pub(crate) struct Embedded<'a>(pub &'a [(&'a str, &'a [u8])]);

impl Files for Embedded<'_> {
    fn open<'s>(&'s self, name: &str) -> Result<Option<Box<dyn Blob + 's>>> {
        Ok(self.0.iter().find(|(n, _)| *n == name).map(|&(_, bytes)| Box::new(bytes) as Box<dyn Blob + 's>))
    }

    fn label(&self, name: &str) -> PathBuf {
        Path::new("<embedded>").join(name)
    }
}
