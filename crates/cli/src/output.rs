//! Output images: one grid, a folder of files, or a tensor.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Context;
use ndarray::{Array4, ArrayView3, ArrayView4, Axis, Slice, concatenate};
use skipstone::io::data::{DataSpec, shard_in};
use skipstone::io::files;
use skipstone::io::image::{Layout, film_strip, grid, is_picture, near_square, npy, text_chunks, write_png};
use skipstone::sampling::generate::{Folder, Manifest, NpzFile, Settings, Shard, TarFile, TarStream, batches};

use crate::failure::{Done, Stdout, Usage, is_stopped, say};
use crate::interrupt::command_line;

/// The kind of output, chosen by the path's ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `….png`: one near-square grid.
    Grid(PathBuf),
    /// `….npy`: the raw tensor.
    Tensor(PathBuf),
    /// `…/`, a folder that exists, or a name without extension: a PNG per image.
    Folder(PathBuf),
    /// `….npz`: an archive with the images as bytes.
    Npz(PathBuf),
    /// `….tar`: an archive with a PNG per image.
    Tar(PathBuf),
    /// `-`: the same to stdout.
    Stream,
}

impl Target {
    /// The target of a path. An error for an ending other than `.png`, `.npy` and `/`, and for `-`.
    pub fn of(path: &Path) -> Result<Self, Usage> {
        named(path, "-o")?;
        Self::by_ending(path).ok_or_else(|| {
            Usage(format!(
                "{}: expected a name that ends in .png (one grid), .npy (the tensor) or / (a folder of images)",
                path.display()
            ))
        })
    }

    /// The target that a path's ending means, if it means one of every command.
    fn by_ending(path: &Path) -> Option<Self> {
        let owned = path.to_path_buf();
        if is_folder(path) {
            return Some(Self::Folder(owned));
        }
        match path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).as_deref() {
            Some("png") => Some(Self::Grid(owned)),
            Some("npy") => Some(Self::Tensor(owned)),
            None => Some(Self::Folder(owned)),
            Some(_) => None,
        }
    }

    /// The target of `sample` that a path's ending means, other than an archive.
    fn of_images(path: &Path) -> Result<Self, Usage> {
        Self::by_ending(path).ok_or_else(|| {
            Usage(format!(
                "{}: expected a name that ends in .png (one grid), .npy (the tensor), .npz (an array of bytes), .tar (a \
                 webdataset archive) or / (a folder of images), or - (an archive to stdout)",
                path.display()
            ))
        })
    }

    /// The target of `sample`, for all images or a shard of them.
    pub fn of_samples(path: &Path, shard: Option<Shard>) -> Result<Self, Usage> {
        let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let archive = match ending.as_deref() {
            _ if path.as_os_str() == "-" => return Ok(Self::Stream),
            Some("npz") => Self::Npz as fn(PathBuf) -> Self,
            Some("tar") if name.contains("%05d") || shard.is_none() => {
                let number = shard.map_or(0, Shard::index);
                return Ok(Self::Tar(path.with_file_name(name.replace("%05d", &format!("{number:05}")))));
            }
            Some("tar") => {
                return Err(Usage(format!(
                    "{}: with --shard, the name needs a place for the shard's number, such as x-%05d.tar",
                    path.display()
                )));
            }
            _ => match (Self::of_images(path)?, shard) {
                (target, None) => return Ok(target),
                (Self::Folder(path), Some(shard)) => {
                    return Ok(Self::Folder(path.join(format!("shard{}", shard.suffix()))));
                }
                (Self::Tensor(_), Some(_)) => Self::Tensor,
                (_, Some(shard)) => {
                    return Err(Usage(format!(
                        "--shard {shard}: one grid cannot be made in parts; write a folder (-o NAME/), NAME.npz or \
                         NAME-%05d.tar"
                    )));
                }
            },
        };
        let Some(shard) = shard else { return Ok(archive(path.to_path_buf())) };
        let (stem, ending) = (path.file_stem().unwrap_or_default().to_string_lossy(), ending.unwrap_or_default());
        Ok(archive(path.with_file_name(format!("{stem}{}.{ending}", shard.suffix()))))
    }

    /// The path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Grid(path) | Self::Tensor(path) | Self::Folder(path) | Self::Npz(path) | Self::Tar(path) => path,
            Self::Stream => Path::new("-"),
        }
    }

    /// Whether finished images are kept when a run is interrupted.
    pub fn keeps(&self) -> bool {
        matches!(self, Self::Folder(_) | Self::Npz(_) | Self::Tar(_))
    }

    /// What becomes of finished images when a run is interrupted, after "8 images".
    pub fn kept(&self) -> String {
        match self {
            // The file itself appears with the last image.
            Self::Npz(path) => format!("are kept for {}", path.display()),
            target => format!("are in {}", target.path().display()),
        }
    }
}

/// Whether a path is that of a folder: one that exists, or a name with a slash at its end.
pub fn is_folder(path: &Path) -> bool {
    path.as_os_str().to_string_lossy().ends_with(['/', std::path::MAIN_SEPARATOR]) || path.is_dir()
}

/// Refuses `-` as the value of `flag`, for every output but that of `sample`.
pub fn named(path: &Path, flag: &str) -> Result<(), Usage> {
    if path.as_os_str() != "-" {
        return Ok(());
    }
    Err(Usage(format!("{flag} -: only sample writes to stdout; choose a name (./- is a folder or file called -)")))
}

/// Refuses a set of shards that was begun with another number of them. `output` is the name as given, from which the target
/// follows.
pub fn check_set(output: &Path, target: &Target, shard: Shard) -> Result<(), Usage> {
    let path = target.path();
    let name_of = |path: &Path| {
        let name = if matches!(target, Target::Folder(_)) { path.file_name() } else { path.file_stem() };
        name.unwrap_or_default().to_string_lossy().into_owned()
    };
    let mine = name_of(path);
    let pattern = output.file_name().unwrap_or_default().to_string_lossy();
    // Most names tell the number of shards; in an archive its manifest does.
    let of_set = |other: &Path| -> Option<Shard> {
        if let (Target::Tar(_), Some((before, after))) = (target, pattern.split_once("%05d")) {
            let name = other.file_name()?.to_string_lossy();
            let number = name.strip_prefix(before)?.strip_suffix(after)?;
            let is_number = number.len() == 5 && number.bytes().all(|b| b.is_ascii_digit());
            return if is_number { shard_in(other).ok()? } else { None };
        }
        let (stem, found) = Shard::split_name(&name_of(other)).map(|(stem, found)| (stem.to_owned(), found))?;
        (other.extension() == path.extension() && stem == Shard::split_name(&mine)?.0).then_some(found)
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if let Some(other) = of_set(&entry.path()).filter(|other| other.count() != shard.count()) {
            return Err(Usage(format!(
                "{} is there: this set was begun with {of} shards, now there are {}; use --shard K/{of}, or another name",
                entry.path().display(),
                shard.count(),
                of = other.count()
            )));
        }
    }
    Ok(())
}

/// Most images in one run; a larger number is taken for a mistake.
const MOST_IMAGES: usize = 100_000_000;
/// Largest tensor: it is held in memory until it is written.
const MOST_TENSOR_BYTES: usize = 16 << 30;

/// Checks before the run starts that `n` images of this shape fit the target and that its file can be written.
pub fn check(target: &Target, n: usize, [c, h, w]: [usize; 3]) -> anyhow::Result<()> {
    if n > MOST_IMAGES {
        return Err(Usage(format!(
            "-n: at most {MOST_IMAGES} images in one run, found {n}; split the run with --first"
        ))
        .into());
    }
    if matches!(target, Target::Tensor(_)) && n.saturating_mul(4 * c * h * w) > MOST_TENSOR_BYTES {
        return Err(Usage(format!(
            "{n} images are too many for one tensor; write a folder, -o NAME/, or split the run with --first"
        ))
        .into());
    }
    if !matches!(target, Target::Tensor(_) | Target::Npz(_)) && !is_picture(c) {
        return Err(
            Usage(format!("images of {c} channels cannot be written as PNG; write a tensor, -o NAME.npy")).into()
        );
    }
    if let Target::Grid(_) = target {
        let (layout, columns) = (Layout::magnified(h, w), near_square(n));
        let side = |size: usize| (size + layout.gutter) as f64 * columns as f64 * layout.scale as f64;
        if side(h) * side(w) * c as f64 > 1e9 {
            return Err(Usage(format!("{n} images are too many for one grid; write a folder, -o NAME/")).into());
        }
    }
    match target {
        Target::Grid(path) | Target::Tensor(path) | Target::Npz(path) | Target::Tar(path) => writable(path),
        Target::Folder(path) => Ok(files::check_dir(path)?),
        Target::Stream => Ok(()),
    }
}

/// Checks the folder of a command's results before the work: that nothing is in its way, and that it is not in the folder of
/// images `data`, where its pictures would be images of the next run.
pub fn check_results(folder: &Path, data: &str) -> anyhow::Result<()> {
    named(folder, "-o")?;
    if let Some(images) = data_path(data).filter(|path| path.is_dir())
        && place(folder).starts_with(place(&images))
    {
        return Err(Usage(format!(
            "{}: the folder of images {} is an input of this command, and pictures in it would be read as images; choose \
             another name",
            folder.display(),
            images.display()
        ))
        .into());
    }
    Ok(files::check_dir(folder)?)
}

/// The file or folder of a data set, if its name is that of one.
pub fn data_path(data: &str) -> Option<PathBuf> {
    match data.parse::<DataSpec>().ok()? {
        DataSpec::FashionMnist | DataSpec::Mnist | DataSpec::Cifar10 => None,
        DataSpec::Idx(path)
        | DataSpec::Npy(path)
        | DataSpec::Npz(path, _)
        | DataSpec::Tar(path)
        | DataSpec::Parquet(path)
        | DataSpec::Folder(path) => Some(path),
    }
}

/// Checks that the file's folder exists and is writable.
pub fn writable(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        // A device, or a file that the final rename replaces.
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

/// Checks that no output file is also an input or another output of the command.
pub fn apart<'a>(
    outputs: impl IntoIterator<Item = &'a Path>,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<(), Usage> {
    // Folders are not compared: they check their own files.
    let mut taken: Vec<PathBuf> = inputs.into_iter().filter(|path| path.is_file()).map(place).collect();
    let inputs = taken.len();
    for output in outputs {
        let found = place(output);
        if let Some(i) = taken.iter().position(|other| *other == found) {
            return Err(clash(output, if i < inputs { INPUT } else { "is another output of this command" }));
        }
        taken.push(found);
    }
    Ok(())
}

/// Checks that the model folder `output` is not where the model `input`, a folder or a file, is read from.
pub fn apart_from_model(output: &Path, input: &Path) -> Result<(), Usage> {
    let input = place(input);
    // The weights of a folder are in its `unet`, which can itself be read as a model, as can a file in it.
    if input == place(output) || input.starts_with(place(&output.join("unet"))) {
        return Err(clash(output, INPUT));
    }
    Ok(())
}

const INPUT: &str = "is an input of this command";

fn clash(output: &Path, what: &str) -> Usage {
    Usage(format!("{}: {what}; choose another name", output.display()))
}

/// The canonical path of a file or folder that may not exist yet.
fn place(path: &Path) -> PathBuf {
    let there = std::fs::canonicalize(path).ok();
    there.unwrap_or_else(|| match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) if folder.as_os_str().is_empty() => place(Path::new(".")).join(name),
        (Some(folder), Some(name)) => place(folder).join(name),
        _ => path.to_path_buf(),
    })
}

/// Reports a run that Ctrl-C stopped and how to continue it. Returns any other error.
pub fn stopped(error: anyhow::Error, target: &Target) -> anyhow::Result<Done> {
    if !is_stopped(&error) {
        return Err(error);
    }
    match target {
        target if target.keeps() => say(format_args!("interrupted; continue with: {}", command_line(None))),
        _ => say("interrupted; nothing was written (with a folder, -o NAME/, finished images are kept)"),
    }
    Ok(Done::Interrupted)
}

/// Receives finished images.
pub enum Sink {
    /// One file, written at the end: the batches until then, and the number of columns of a grid.
    File(Target, Vec<Array4<f32>>, usize),
    /// A folder with one file per image, written as images are finished.
    Folder(Folder),
    /// An archive of bytes.
    Npz(NpzFile),
    /// An archive of pictures.
    Tar(TarFile),
    /// The same to stdout.
    Stream(TarStream<std::io::Stdout>),
}

impl Sink {
    /// Opens the target for images `first`..`first` + `n` of this shape; a grid is nearly square.
    pub fn open(target: &Target, settings: &Settings, shape: [usize; 3], first: u64, n: usize) -> anyhow::Result<Self> {
        Self::open_shard(target, settings, shape, first..first + n as u64, None)
    }

    /// As [`open`](Self::open), for these images, which are a shard of a run's.
    pub fn open_shard(
        target: &Target,
        settings: &Settings,
        shape: [usize; 3],
        images: Range<u64>,
        shard: Option<Shard>,
    ) -> anyhow::Result<Self> {
        let (first, n) = (images.start, (images.end - images.start) as usize);
        let mut manifest = Manifest::new(settings, first, n as u64);
        if let Some(shard) = shard {
            manifest.options.insert("shard".to_owned(), shard.to_string().into());
        }
        Ok(match target {
            Target::Folder(path) => Self::Folder(Folder::open(path, settings, first, n as u64, shape)?),
            Target::Npz(path) => Self::Npz(NpzFile::open(path, &manifest, shape)?),
            Target::Tar(path) => Self::Tar(TarFile::open(path, settings, &manifest, shape)?),
            Target::Stream => {
                Self::Stream(TarStream::new(std::io::stdout(), settings, &manifest).map_err(Stdout::from)?)
            }
            _ => Self::File(target.clone(), Vec::new(), near_square(n)),
        })
    }

    /// The same with this number of columns in the grid.
    pub fn with_columns(self, columns: usize) -> Self {
        match self {
            Self::File(target, batches, _) => Self::File(target, batches, columns),
            folder => folder,
        }
    }

    /// The images of `wanted` that have not been written, as runs of consecutive indices.
    pub fn missing(&self, wanted: Range<u64>) -> Vec<Range<u64>> {
        match self {
            Self::File(..) | Self::Stream(_) => vec![wanted],
            // They only grow, so the rest is in one piece.
            Self::Npz(file) => rest(&wanted, file.missing()),
            Self::Tar(file) => rest(&wanted, file.missing()),
            Self::Folder(folder) => batches(wanted.filter(|&index| !folder.holds(index)), usize::MAX).collect(),
        }
    }

    /// Adds the finished images with these indices.
    pub fn take(&mut self, indices: Range<u64>, mut images: Array4<f32>) -> anyhow::Result<()> {
        // For a strip, images are sampled again that an archive has already.
        let unwritten = match self {
            Self::Npz(file) => file.missing().start.max(indices.start)..indices.end,
            Self::Tar(file) => file.missing().start.max(indices.start)..indices.end,
            _ => indices.clone(),
        };
        if unwritten.is_empty() {
            return Ok(());
        }
        images.slice_axis_inplace(Axis(0), Slice::from((unwritten.start - indices.start) as usize..));
        let indices = unwritten;
        match self {
            Self::File(_, batches, _) => batches.push(images),
            Self::Folder(folder) => folder.write_all(indices, &images)?,
            Self::Npz(file) => file.write_all(indices, &images)?,
            Self::Tar(file) => file.write_all(indices, &images)?,
            Self::Stream(stream) => stream.write_all(indices, &images)?.map_err(Stdout::from)?,
        }
        Ok(())
    }

    /// Writes the file; a folder is already complete.
    pub fn finish(self, texts: &[(String, String)]) -> anyhow::Result<()> {
        let (target, batches, columns) = match self {
            Self::File(target, batches, columns) => (target, batches, columns),
            Self::Folder(_) => return Ok(()),
            Self::Npz(file) => return Ok(file.finish()?),
            Self::Tar(file) => return Ok(file.finish()?),
            Self::Stream(stream) => return Ok(stream.finish().map_err(Stdout::from)?),
        };
        let views: Vec<ArrayView4<'_, f32>> = batches.iter().map(|batch| batch.view()).collect();
        let images = concatenate(Axis(0), &views).context("batches of one shape")?;
        if let Target::Grid(path) = &target {
            let (_, _, h, w) = images.dim();
            let picture = grid(&images, columns, &Layout::magnified(h, w))?;
            write_png(path, &picture, &text_chunks(texts))?;
        } else {
            npy::write(target.path(), images.view())?;
        }
        Ok(())
    }
}

/// The part of `wanted` that is missing.
fn rest(wanted: &Range<u64>, missing: Range<u64>) -> Vec<Range<u64>> {
    let rest = wanted.start.max(missing.start)..wanted.end.min(missing.end);
    if rest.is_empty() { Vec::new() } else { vec![rest] }
}

/// Most images and most steps of a film strip.
pub const STRIP: (usize, usize) = (8, 12);

/// Film strip: x̂₀ of the first images at evenly spaced steps.
pub struct Strip {
    path: PathBuf,
    /// The chosen steps, from 1.
    steps: Vec<usize>,
    /// Number of images shown.
    rows: usize,
    /// The images so far, for each chosen step.
    frames: Vec<Vec<f32>>,
    shape: [usize; 3],
}

impl Strip {
    /// A strip of the first of `n` images of a run with `calls` network calls.
    pub fn new(path: &Path, n: usize, calls: usize, shape: [usize; 3]) -> anyhow::Result<Self> {
        if !matches!(Target::of(path), Ok(Target::Grid(_))) {
            return Err(Usage(format!("--trajectory {}: expected a name that ends in .png", path.display())).into());
        }
        check(&Target::Grid(path.to_path_buf()), STRIP.0 * STRIP.1, shape)?;
        let columns = calls.min(STRIP.1);
        // Includes the first and the last step.
        let step = |i: usize| 1 + (i * (calls - 1) + (columns - 1) / 2) / (columns - 1).max(1);
        let steps = (0..columns).map(step).collect();
        Ok(Self { path: path.to_path_buf(), steps, rows: n.min(STRIP.0), frames: vec![Vec::new(); columns], shape })
    }

    /// Number of images shown.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Describes what the strip shows.
    pub fn describe(&self) -> String {
        format!("{} image(s), predicted x0 at steps {:?}", self.rows, self.steps)
    }

    /// Adds the prediction of a step. Batches arrive in the order of their images.
    pub fn see(&mut self, step: usize, x0: &Array4<f32>) {
        if let Some(frame) = self.steps.iter().position(|&s| s == step) {
            let [c, h, w] = self.shape;
            let missing = self.rows.saturating_sub(self.frames[frame].len() / (c * h * w));
            x0.outer_iter()
                .take(missing)
                .for_each(|image: ArrayView3<'_, f32>| self.frames[frame].extend(image.iter()));
        }
    }

    /// Writes the PNG file.
    pub fn finish(self, texts: &[(String, String)]) -> anyhow::Result<()> {
        let [c, h, w] = self.shape;
        let frames = self.frames.into_iter().map(|values| Array4::from_shape_vec((self.rows, c, h, w), values));
        let frames = frames.collect::<Result<Vec<_>, _>>().context("frames of one shape")?;
        let picture = film_strip(&frames, &Layout::magnified(h, w))?;
        write_png(&self.path, &picture, &text_chunks(texts))?;
        Ok(())
    }
}
