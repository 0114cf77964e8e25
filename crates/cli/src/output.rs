//! Where images go: one grid, a folder, or a tensor.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Context;
use ndarray::{Array4, ArrayView3, ArrayView4, Axis, concatenate};
use skipstone::io::image::{Layout, film_strip, grid, near_square, npy, write_png};
use skipstone::sampling::generate::{Folder, Settings, batches};

use crate::failure::{Done, Usage, is_stopped, say};
use crate::interrupt::command_line;

/// What a path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `….png`: one near-square grid.
    Grid(PathBuf),
    /// `….npy`: the raw tensor.
    Tensor(PathBuf),
    /// `…/`, a folder that exists, or a name without extension: a PNG per image.
    Folder(PathBuf),
}

impl Target {
    /// Reads the path's ending.
    pub fn of(path: &Path) -> Result<Self, Usage> {
        let owned = path.to_path_buf();
        if path.as_os_str().to_string_lossy().ends_with(['/', std::path::MAIN_SEPARATOR]) || path.is_dir() {
            return Ok(Self::Folder(owned));
        }
        match path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).as_deref() {
            Some("png") => Ok(Self::Grid(owned)),
            Some("npy") => Ok(Self::Tensor(owned)),
            None => Ok(Self::Folder(owned)),
            Some(_) => Err(Usage(format!(
                "{}: expected a name that ends in .png (one grid), in .npy (the tensor) or in / (a folder of images)",
                path.display()
            ))),
        }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Grid(path) | Self::Tensor(path) | Self::Folder(path) => path,
        }
    }
}

/// Images of one run; a larger number is a slip.
const MOST_IMAGES: usize = 100_000_000;
/// A tensor is written whole, so it is held whole.
const MOST_TENSOR_BYTES: usize = 16 << 30;

/// Finds out before the work, not after it, that a file cannot be written or has no picture.
pub fn check(target: &Target, n: usize, [c, h, w]: [usize; 3]) -> anyhow::Result<()> {
    if n > MOST_IMAGES {
        return Err(
            Usage(format!("n: at most {MOST_IMAGES} images in one run, found {n}; make parts with --first")).into()
        );
    }
    if matches!(target, Target::Tensor(_)) && n.saturating_mul(4 * c * h * w) > MOST_TENSOR_BYTES {
        return Err(
            Usage(format!("{n} images are too many for one tensor; write a folder, or parts with --first")).into()
        );
    }
    if !matches!(target, Target::Tensor(_)) && !matches!(c, 1 | 3) {
        return Err(Usage(format!("images of {c} channels have no picture; write a .npy file with -o")).into());
    }
    if let Target::Grid(_) = target {
        let (layout, columns) = (Layout::magnified(h, w), near_square(n));
        let side = |size: usize| (size + layout.gutter) as f64 * columns as f64 * layout.scale as f64;
        if side(h) * side(w) * c as f64 > 1e9 {
            return Err(Usage(format!("{n} images are too many for one grid; write a folder, -o NAME/")).into());
        }
    }
    if let Target::Grid(path) | Target::Tensor(path) = target {
        writable(path)?;
    }
    Ok(())
}

/// Refuses a file whose folder is not there or takes no files.
pub fn writable(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        // A device, or a file that the rename will replace.
        return Ok(());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let meta = std::fs::metadata(folder).with_context(|| format!("{}: folder {}", path.display(), folder.display()))?;
    anyhow::ensure!(meta.is_dir(), "{}: {} is not a folder", path.display(), folder.display());
    anyhow::ensure!(
        !meta.permissions().readonly(),
        "{}: no permission to write in folder {}",
        path.display(),
        folder.display()
    );
    Ok(())
}

/// Refuses to write a file over another output, or over what the command reads.
pub fn apart<'a>(
    outputs: impl IntoIterator<Item = &'a Path>,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<(), Usage> {
    // A folder holds many files, and knows its own.
    let mut taken: Vec<PathBuf> = inputs.into_iter().filter(|path| path.is_file()).map(place).collect();
    let inputs = taken.len();
    for output in outputs {
        let found = place(output);
        if let Some(i) = taken.iter().position(|other| *other == found) {
            let what = if i < inputs { "is read by this command" } else { "is another output of this command" };
            return Err(Usage(format!("{}: {what}; choose another name", output.display())));
        }
        taken.push(found);
    }
    Ok(())
}

/// The one name of a file that may not be there yet.
fn place(path: &Path) -> PathBuf {
    let there = std::fs::canonicalize(path).ok();
    there.unwrap_or_else(|| match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            std::fs::canonicalize(folder).map_or_else(|_| path.to_path_buf(), |folder| folder.join(name))
        }
        _ => path.to_path_buf(),
    })
}

/// Says so where Ctrl-C ended a run whose folder the same command continues; any other error is passed on.
pub fn stopped(error: anyhow::Error, target: &Target) -> anyhow::Result<Done> {
    if !is_stopped(&error) {
        return Err(error);
    }
    match target {
        Target::Folder(_) => say(format_args!("interrupted; continue with: {}", command_line(None))),
        _ => say("interrupted: nothing was written (a folder, -o NAME/, keeps what is finished)"),
    }
    Ok(Done::Interrupted)
}

/// Where finished images go.
pub enum Sink {
    /// One file at the end; the batches until then, and how many columns a grid has.
    File(Target, Vec<Array4<f32>>, usize),
    /// A folder, image by image.
    Folder(Folder),
}

impl Sink {
    /// Opens the target for images `first`..`first` + `n` of this shape; a grid is nearly square.
    pub fn open(target: &Target, settings: &Settings, shape: [usize; 3], first: u64, n: usize) -> anyhow::Result<Self> {
        Ok(match target {
            Target::Folder(path) => Self::Folder(Folder::open(path, settings, first, n as u64, shape)?),
            _ => Self::File(target.clone(), Vec::new(), near_square(n)),
        })
    }

    /// The same with a grid of so many columns.
    pub fn with_columns(self, columns: usize) -> Self {
        match self {
            Self::File(target, batches, _) => Self::File(target, batches, columns),
            folder => folder,
        }
    }

    /// The images of `wanted` that are not there, as runs of neighbours.
    pub fn missing(&self, wanted: Range<u64>) -> Vec<Range<u64>> {
        match self {
            Self::File(..) => vec![wanted],
            Self::Folder(folder) => batches(wanted.filter(|&index| !folder.holds(index)), usize::MAX).collect(),
        }
    }

    /// Takes the finished images of these indices.
    pub fn take(&mut self, indices: Range<u64>, images: Array4<f32>) -> anyhow::Result<()> {
        match self {
            Self::File(_, batches, _) => batches.push(images),
            Self::Folder(folder) => folder.write_all(indices, &images)?,
        }
        Ok(())
    }

    /// Writes what has not been written yet.
    pub fn finish(self, texts: &[(String, String)]) -> anyhow::Result<()> {
        let Self::File(target, batches, columns) = self else { return Ok(()) };
        let views: Vec<ArrayView4<'_, f32>> = batches.iter().map(|batch| batch.view()).collect();
        let images = concatenate(Axis(0), &views).context("batches of one shape")?;
        if let Target::Grid(path) = &target {
            let (_, _, h, w) = images.dim();
            let picture = grid(&images, columns, &Layout::magnified(h, w))?;
            write_png(path, &picture, &borrowed(texts))?;
        } else {
            npy::write(target.path(), images.view())?;
        }
        Ok(())
    }
}

/// Texts as the PNG writer takes them.
pub fn borrowed(texts: &[(String, String)]) -> Vec<(&str, &str)> {
    texts.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect()
}

/// Most images of a film strip, and most of its steps.
pub const STRIP: (usize, usize) = (8, 12);

/// x̂₀ of the first images at evenly chosen steps.
pub struct Strip {
    path: PathBuf,
    /// The chosen steps, from 1.
    steps: Vec<usize>,
    /// Images wanted.
    rows: usize,
    /// For each chosen step, the images so far.
    frames: Vec<Vec<f32>>,
    shape: [usize; 3],
}

impl Strip {
    /// A strip of the first of `n` images of a run of so many calls.
    pub fn new(path: &Path, n: usize, calls: usize, shape: [usize; 3]) -> anyhow::Result<Self> {
        if Target::of(path)? != Target::Grid(path.to_path_buf()) {
            return Err(Usage(format!("--trajectory {}: expected a name that ends in .png", path.display())).into());
        }
        check(&Target::Grid(path.to_path_buf()), STRIP.0 * STRIP.1, shape)?;
        let columns = calls.min(STRIP.1);
        // The first and the last step among them.
        let step = |i: usize| 1 + (i * (calls - 1) + (columns - 1) / 2) / (columns - 1).max(1);
        let steps = (0..columns).map(step).collect();
        Ok(Self { path: path.to_path_buf(), steps, rows: n.min(STRIP.0), frames: vec![Vec::new(); columns], shape })
    }

    /// How many images it shows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// What it shows, in words.
    pub fn describe(&self) -> String {
        format!("{} image(s), x0 as predicted at steps {:?}", self.rows, self.steps)
    }

    /// Takes what a step shows: `x0` is image by image those that follow on the ones before.
    pub fn see(&mut self, step: usize, x0: &Array4<f32>) {
        if let Some(frame) = self.steps.iter().position(|&s| s == step) {
            let [c, h, w] = self.shape;
            let missing = self.rows.saturating_sub(self.frames[frame].len() / (c * h * w));
            x0.outer_iter()
                .take(missing)
                .for_each(|image: ArrayView3<'_, f32>| self.frames[frame].extend(image.iter()));
        }
    }

    /// Writes the picture.
    pub fn finish(self, texts: &[(String, String)]) -> anyhow::Result<()> {
        let [c, h, w] = self.shape;
        let frames = self.frames.into_iter().map(|values| Array4::from_shape_vec((self.rows, c, h, w), values));
        let frames = frames.collect::<Result<Vec<_>, _>>().context("frames of one shape")?;
        let picture = film_strip(&frames, &Layout::magnified(h, w))?;
        write_png(&self.path, &picture, &borrowed(texts))?;
        Ok(())
    }
}
