//! Data sets by name, and the folders searched for their files.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ndarray::Array4;
use rayon::prelude::*;

use super::fit::{Fit, Pixels, WHITE};
#[cfg(feature = "parquet")]
use super::parquet;
use super::shards::{of_file, of_folder, of_pattern};
use super::{ArrayLayout, Dataset, RecordedRange, ValueRange, array, cifar, folder, idx, tar};
use crate::error::{Error, Kind, Result};
use crate::io::image::is_picture;

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// The images for training.
    Train,
    /// The images for evaluation.
    Test,
}

/// A data set as named by the user.
///
/// ```
/// use skipstone::io::data::DataSpec;
/// assert_eq!("fashion-mnist".parse::<DataSpec>().unwrap(), DataSpec::FashionMnist);
/// assert_eq!("idx:some/file.gz".parse::<DataSpec>().unwrap(), DataSpec::Idx("some/file.gz".into()));
/// assert_eq!("my/photos".parse::<DataSpec>().unwrap(), DataSpec::Folder("my/photos".into()));
/// assert_eq!("a.npz:x".parse::<DataSpec>().unwrap(), DataSpec::Npz("a.npz".into(), Some("x".into())));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DataSpec {
    /// `fashion-mnist`: 28×28 gray images of ten kinds of clothing.
    FashionMnist,
    /// `mnist`: 28×28 gray digits.
    Mnist,
    /// `cifar10`: 32×32 colour images of ten classes.
    Cifar10,
    /// `idx:FILE`: one IDX file, gzipped or not, for either split.
    Idx(PathBuf),
    /// `FILE.npy`: one array, for either split; see [`ArrayLayout`]. If only `FILE-00001-of-00003.npy` and so on exist, all
    /// of them; likewise for `.npz`.
    Npy(PathBuf),
    /// `FILE.npz` or `FILE.npz:NAME`: an array of an archive. Without a name, `x_train` and `x_test` (or `train_images` and
    /// `test_images`) are the splits; otherwise the archive's only array of images, or the usual name, serves both.
    Npz(PathBuf, Option<String>),
    /// `FILE.tar`: a webdataset archive of images, for either split. `NAME-{000..012}.tar` names several, `NAME-%05d.tar` all
    /// that have a number there.
    Tar(PathBuf),
    /// `FILE.parquet`: a table of the Hugging Face hub with a column of images, for either split. `NAME-{000..012}.parquet`
    /// names several. Needs the feature `parquet`.
    Parquet(PathBuf),
    /// A folder of images. If it has the sub-folders `train` and `test`, these are the splits; otherwise both splits
    /// are the whole folder. A folder of tables or archives is one data set; if the names of some begin with `train` and
    /// of others with `test` or `val`, these are the splits. A folder with the sub-folders `shard-00001-of-00003` and so on
    /// is the set of all of them.
    Folder(PathBuf),
}

impl FromStr for DataSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "fashion-mnist" => Self::FashionMnist,
            "mnist" => Self::Mnist,
            "cifar10" => Self::Cifar10,
            "" | "idx:" => {
                let names = "expected fashion-mnist, mnist, cifar10, idx:FILE, an array (.npy, .npz), an archive (.tar), a table (.parquet) or a folder of images";
                return Err(Error::argument(format!("data set \"{text}\": {names}")));
            }
            _ => match text.strip_prefix("idx:") {
                Some(file) => Self::Idx(file.into()),
                None => Self::of_path(text),
            },
        })
    }
}

impl fmt::Display for DataSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FashionMnist => f.write_str("fashion-mnist"),
            Self::Mnist => f.write_str("mnist"),
            Self::Cifar10 => f.write_str("cifar10"),
            Self::Idx(path) => write!(f, "idx:{}", path.display()),
            Self::Npz(path, Some(name)) => write!(f, "{}:{name}", path.display()),
            Self::Npy(path) | Self::Npz(path, None) | Self::Tar(path) | Self::Parquet(path) | Self::Folder(path) => {
                write!(f, "{}", path.display())
            }
        }
    }
}

/// How images are converted while they are read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DataOptions {
    /// Height and width; `None` keeps the data set's own size (a folder has none).
    pub size: Option<[usize; 2]>,
    /// Channels; `None` keeps the data set's own number (3 for a folder). Only arrays have others than 1 and 3.
    pub channels: Option<usize>,
    /// The colour behind transparent pixels.
    pub background: [u8; 3],
    /// The layout of an array; `None` tells it from the wanted shape.
    pub layout: Option<ArrayLayout>,
    /// The values of an array that become −1 and 1. `None` takes 0 and 255 for bytes and measures other types: one of the
    /// usual ranges (0..1, −1..1, 0..255, 0..65535) if the values fill it, otherwise their minimum and maximum.
    pub range: Option<ValueRange>,
    /// The range that the model was trained with. It replaces measuring, if the array has the same kind of values.
    pub recorded: Option<RecordedRange>,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self { size: None, channels: None, background: WHITE, layout: None, range: None, recorded: None }
    }
}

const FASHION_CLASSES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];
const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

impl DataSpec {
    /// The kind of data set by the ending of its path.
    fn of_path(text: &str) -> Self {
        let ends = |ending: &str| text.len() > ending.len() && text.to_ascii_lowercase().ends_with(ending);
        if ends(".npy") {
            return Self::Npy(text.into());
        }
        if ends(".npz") {
            return Self::Npz(text.into(), None);
        }
        if ends(".tar") {
            return Self::Tar(text.into());
        }
        if ends(".parquet") {
            return Self::Parquet(text.into());
        }
        match text.rsplit_once(".npz:") {
            Some((path, name)) if !path.is_empty() && !name.is_empty() => {
                Self::Npz(format!("{path}.npz").into(), Some(name.to_owned()))
            }
            _ => Self::Folder(text.into()),
        }
    }

    /// Reads a split into memory.
    ///
    /// Named data sets are searched in `$SKIPSTONE_DATA/NAME`, `./data/NAME` and `/usr/share/datasets/NAME`.
    ///
    /// # Errors
    /// Files are missing (the message tells where to get them), are broken, or cannot be converted to the wanted shape.
    pub fn load(&self, split: Split, options: &DataOptions) -> Result<Dataset> {
        let root = std::env::var_os("SKIPSTONE_DATA").filter(|root| !root.is_empty()).map(PathBuf::from);
        self.load_from(&places(root.as_deref()), split, options)
    }

    /// As [`load`](Self::load), searching `places`, each of which may have a folder named after the data set.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_from(&self, places: &[PathBuf], split: Split, options: &DataOptions) -> Result<Dataset> {
        match self {
            Self::FashionMnist => fitted(self.idx_set(places, split, FASHION_CLASSES)?, options),
            Self::Mnist => fitted(self.idx_set(places, split, DIGITS)?, options),
            Self::Cifar10 => {
                let first = cifar::files_of(split)[0];
                let inside = ["cifar10", "cifar10/cifar-10-batches-bin", "cifar-10-batches-bin"];
                let found = places.iter().flat_map(|p| inside.map(|i| p.join(i))).find(|f| f.join(first).is_file());
                let found = found.ok_or_else(|| self.missing(places, first))?;
                fitted(cifar::read(&found, split)?, options)
            }
            Self::Idx(path) => {
                let images = idx::read_images(path)?;
                let labels = match labels_beside(path) {
                    Some(path) => Some(idx::read_labels(&path)?),
                    None => None,
                };
                let named = Dataset::new(self.to_string(), images, labels, Vec::new());
                fitted(named.map_err(|e| e.in_file(path))?, options)
            }
            Self::Npy(path) => joined(path, |path| array::read_npy(path, options)),
            Self::Npz(path, name) => joined(path, |path| array::read_npz(path, name.as_deref(), split, options)),
            Self::Tar(path) if path.to_string_lossy().contains("%05d") => {
                packed(path, "tar", &of_pattern(path)?, options)
            }
            Self::Tar(path) => packed(path, "tar", &shards(path)?, options),
            Self::Parquet(path) => packed(path, "parquet", &shards(path)?, options),
            Self::Folder(path) => {
                let fit = fit_of(path, options)?;
                if !path.is_dir() {
                    let known = "the folder does not exist; named data sets are fashion-mnist, mnist, cifar10 and idx:FILE, arrays \
                         end in .npy or .npz, archives in .tar, tables in .parquet";
                    return Err(Error::new(Kind::NotFound, known).in_file(path));
                }
                for ending in ["parquet", "tar"] {
                    let files = packed_files(path, ending, split)?;
                    if !files.is_empty() {
                        return packed(path, ending, &files, options);
                    }
                }
                let shards = of_folder(path)?;
                if !shards.is_empty() {
                    let parts = shards.iter().map(|shard| folder::read_folder(shard, &fit));
                    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                    return Dataset::joined(name, parts.collect::<Result<_>>()?);
                }
                folder::read_folder(&part_of(path, split), &fit)
            }
        }
    }

    /// Reads a split of MNIST or a data set in its format, which has four IDX files.
    fn idx_set(&self, places: &[PathBuf], split: Split, classes: [&str; 10]) -> Result<Dataset> {
        let part = match split {
            Split::Train => "train",
            Split::Test => "t10k",
        };
        let name = self.to_string();
        let find = |kind: &str, format: &str| {
            let files = ["-", "."].map(|separator| format!("{part}-{kind}{separator}{format}-ubyte"));
            let names = files.iter().flat_map(|file| [file.clone(), format!("{file}.gz")]);
            let mut paths = places.iter().flat_map(|p| names.clone().map(|n| p.join(&name).join(n)));
            paths.find(|path| path.is_file()).ok_or_else(|| self.missing(places, &files[0]))
        };
        let (images, labels) = (find("images", "idx3")?, find("labels", "idx1")?);
        let labels = idx::read_labels(&labels)?;
        let data = Dataset::new(name, idx::read_images(&images)?, Some(labels), classes.map(str::to_owned).to_vec());
        data.map_err(|e| e.in_file(images))
    }

    /// The error for a missing file, with the folders searched and where to get the data set.
    fn missing(&self, places: &[PathBuf], file: &str) -> Error {
        let looked: Vec<_> = places.iter().map(|p| p.join(self.to_string()).display().to_string()).collect();
        let first = looked.first().map_or("data", String::as_str);
        let remedy = match self {
            Self::FashionMnist => {
                "on Debian and Ubuntu, run `apt-get install dataset-fashion-mnist`; elsewhere, put its \
                 four files, as published, into the first of these folders"
                    .to_owned()
            }
            Self::Mnist => format!(
                "put train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and \
                 t10k-labels-idx1-ubyte.gz into {first}"
            ),
            _ => format!(
                "unpack the binary version, cifar-10-binary.tar.gz (data_batch_1.bin to data_batch_5.bin and \
                 test_batch.bin), into {first}"
            ),
        };
        Error::new(Kind::NotFound, format!("data set {self}: {file} not found in {}; {remedy}", looked.join(", ")))
    }
}

/// The data set in a file, or, if only its shards exist, in all of them.
fn joined(path: &Path, read: impl Fn(&Path) -> Result<Dataset>) -> Result<Dataset> {
    let shards = if path.exists() { Vec::new() } else { of_file(path)? };
    if shards.is_empty() {
        return read(path);
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Dataset::joined(name, shards.iter().map(|shard| read(shard)).collect::<Result<_>>()?)
}

/// The folders searched for named data sets, in order.
fn places(root: Option<&Path>) -> Vec<PathBuf> {
    root.map(Path::to_path_buf).into_iter().chain(["data".into(), "/usr/share/datasets".into()]).collect()
}

/// The shape that image files are fitted to.
fn fit_of(path: &Path, options: &DataOptions) -> Result<Fit> {
    let Some(size) = options.size else {
        let message = "image files need a size; give one, for example the model's sample_size";
        return Err(Error::argument(message).in_file(path));
    };
    let channels = options.channels.unwrap_or(3);
    if !is_picture(channels) {
        let message = format!("image files have 1 or 3 channels, but the model has {channels}; use an array");
        return Err(Error::unsupported(message).in_file(path));
    }
    Ok(Fit { size, channels, background: options.background })
}

/// The data set in these archives or tables.
fn packed(path: &Path, ending: &str, files: &[PathBuf], options: &DataOptions) -> Result<Dataset> {
    let (fit, name) = (fit_of(path, options)?, path.file_stem().unwrap_or(path.as_os_str()));
    let name = name.to_string_lossy().into_owned();
    match ending {
        "tar" => tar::read_tar(name, files, &fit),
        #[cfg(feature = "parquet")]
        _ => parquet::read_parquet(name, files, &fit),
        #[cfg(not(feature = "parquet"))]
        _ => Err(Error::unsupported("this build was made without the feature parquet").in_file(path)),
    }
}

/// The files with this ending for a split, in a folder or its sub-folder `data`, sorted by name.
fn packed_files(folder: &Path, ending: &str, split: Split) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in [folder.to_path_buf(), folder.join("data")] {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.map_err(|e| Error::io(&folder, e))?.path();
            if path.extension().is_some_and(|e| e.eq_ignore_ascii_case(ending)) && path.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    let begins = |path: &PathBuf, starts: &[&str]| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        starts.iter().any(|start| name.starts_with(start))
    };
    let part = |starts: &[&str]| found.iter().filter(|path| begins(path, starts)).cloned().collect::<Vec<_>>();
    let (train, test, validation) = (part(&["train"]), part(&["test"]), part(&["val"]));
    let test = if test.is_empty() { validation } else { test };
    Ok(match split {
        _ if train.is_empty() || test.is_empty() => found,
        Split::Train => train,
        Split::Test => test,
    })
}

/// Maximum number of files in one data set.
const MAX_SHARDS: u64 = 100_000;

/// The files that a path names: itself, or one for each number if it has a part such as `{000..012}`.
fn shards(path: &Path) -> Result<Vec<PathBuf>> {
    let text = path.to_string_lossy();
    let parts = text.split_once('{').and_then(|(before, rest)| {
        let (numbers, after) = rest.split_once('}')?;
        let (first, last) = numbers.split_once("..")?;
        Some((before, first, last, after))
    });
    let Some((before, first, last, after)) = parts else { return Ok(vec![path.to_path_buf()]) };
    let wrong = || Error::argument(format!("expected {{FIRST..LAST}}, found {{{first}..{last}}}")).in_file(path);
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    let (low, high) = (number(first).ok_or_else(wrong)?, number(last).ok_or_else(wrong)?);
    if low > high || high - low >= MAX_SHARDS {
        return Err(wrong());
    }
    let digits = first.len();
    Ok((low..=high).map(|i| format!("{before}{i:0digits$}{after}").into()).collect())
}

/// The sub-folder of a split if there are both, else the folder itself.
fn part_of(folder: &Path, split: Split) -> PathBuf {
    let (train, test) = (folder.join("train"), folder.join("test"));
    match split {
        _ if !(train.is_dir() && test.is_dir()) => folder.to_path_buf(),
        Split::Train => train,
        Split::Test => test,
    }
}

/// The label file `…labels-idx1…` for an image file `…images-idx3…`, if it exists.
fn labels_beside(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    let labels = name.replace("images", "labels").replace("idx3", "idx1");
    let path = images.with_file_name(&labels);
    (labels != name && path.is_file()).then_some(path)
}

/// The data set with its images converted to the wanted shape.
fn fitted(data: Dataset, options: &DataOptions) -> Result<Dataset> {
    let [c, h, w] = data.shape();
    let (size, channels) = (options.size.unwrap_or([h, w]), options.channels.unwrap_or(c));
    if (size, channels) == ([h, w], c) {
        return Ok(data);
    }
    let fit = Fit { size, channels, background: options.background };
    fit.validate()?;
    if !is_picture(c) {
        let message = format!("data set {}: only images with 1 or 3 channels can be resized, found {c}", data.name());
        return Err(Error::unsupported(message));
    }
    let out = channels * size[0] * size[1];
    let mut pixels = vec![0; data.len() * out];
    pixels.par_chunks_exact_mut(out).enumerate().try_for_each(|(i, planes)| {
        let interleaved = data.image(i)?.permuted_axes([1, 2, 0]).iter().copied().collect();
        Pixels { width: w, height: h, channels: c, data: interleaved }.fit_into(&fit, planes)
    })?;
    let images = Array4::from_shape_vec((data.len(), channels, size[0], size[1]), pixels)
        .map_err(|e| Error::data(e.to_string()))?;
    let labels = data.labels().map(<[u32]>::to_vec);
    Ok(Dataset::new(data.name(), images, labels, data.class_names().to_vec())?.resized_from([data.shape()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_mnist(folder: &Path, part: &str, n: u8) {
        std::fs::create_dir_all(folder).unwrap();
        let images: Vec<u8> = [0, 0, 8, 3, 0, 0, 0, n, 0, 0, 0, 4, 0, 0, 0, 4]
            .into_iter()
            .chain((0..n).flat_map(|i| [i * 10; 16]))
            .collect();
        let labels: Vec<u8> = [0, 0, 8, 1, 0, 0, 0, n].into_iter().chain((0..n).map(|i| i % 10)).collect();
        std::fs::write(folder.join(format!("{part}-images-idx3-ubyte")), images).unwrap();
        std::fs::write(folder.join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
    }

    #[test]
    fn names_are_parsed_and_printed_alike() {
        for text in ["fashion-mnist", "mnist", "cifar10", "idx:a/b.gz", "some/folder"] {
            assert_eq!(text.parse::<DataSpec>().unwrap().to_string(), text);
        }
        assert!("".parse::<DataSpec>().is_err());
        assert!("idx:".parse::<DataSpec>().is_err());
    }

    #[test]
    fn the_first_place_that_has_the_files_serves_each_split() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        write_mnist(&b.join("mnist"), "train", 5);
        write_mnist(&b.join("mnist"), "t10k", 3);
        let places = [a, b];
        let load = |split| DataSpec::Mnist.load_from(&places, split, &DataOptions::default()).unwrap();
        assert_eq!((load(Split::Train).len(), load(Split::Test).len()), (5, 3));
        assert_eq!(load(Split::Test).labels().unwrap(), [0, 1, 2]);
        let options = DataOptions { size: Some([8, 6]), channels: Some(3), ..DataOptions::default() };
        let large = DataSpec::Mnist.load_from(&places, Split::Test, &options).unwrap();
        assert_eq!(large.shape(), [3, 8, 6]);
        assert!(large.image(2).unwrap().iter().all(|&v| v == 20));
    }

    #[test]
    fn a_missing_data_set_names_the_command_that_brings_it() {
        let empty = tempfile::tempdir().unwrap();
        let places = [empty.path().to_path_buf()];
        for (spec, remedy) in [
            (DataSpec::FashionMnist, "apt-get install dataset-fashion-mnist"),
            (DataSpec::Mnist, "t10k-labels-idx1-ubyte.gz into"),
            (DataSpec::Cifar10, "cifar-10-binary.tar.gz"),
        ] {
            let error = spec.load_from(&places, Split::Train, &DataOptions::default()).unwrap_err();
            assert_eq!(error.kind(), Kind::NotFound);
            assert!(error.message().contains(remedy), "{error}");
            assert!(error.message().contains(&empty.path().display().to_string()), "{error}");
        }
        let options = DataOptions { size: Some([4, 4]), ..DataOptions::default() };
        let typo = DataSpec::Folder(empty.path().join("fashion-mnits"));
        assert!(typo.load(Split::Train, &options).unwrap_err().message().contains("named data sets are fashion-mnist"));
        assert_eq!(places_named(), ["/r", "data", "/usr/share/datasets"]);
    }

    fn places_named() -> Vec<String> {
        places(Some(Path::new("/r"))).iter().map(|p| p.display().to_string()).collect()
    }

    #[test]
    fn an_idx_file_brings_the_labels_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        write_mnist(folder.path(), "mine", 4);
        let spec = DataSpec::Idx(folder.path().join("mine-images-idx3-ubyte"));
        let data = spec.load(Split::Train, &DataOptions::default()).unwrap();
        assert_eq!((data.labels().unwrap().len(), data.num_classes()), (4, Some(4)));
        std::fs::remove_file(folder.path().join("mine-labels-idx1-ubyte")).unwrap();
        assert_eq!(spec.load(Split::Train, &DataOptions::default()).unwrap().labels(), None);
    }

    #[test]
    fn a_folder_is_split_where_it_has_train_and_test() {
        let folder = tempfile::tempdir().unwrap();
        let save = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            ::image::GrayImage::new(4, 4).save(path).unwrap();
        };
        ["train/a/1.png", "train/b/2.png", "test/a/3.png"].iter().for_each(|name| save(name));
        let options = DataOptions { size: Some([4, 4]), ..DataOptions::default() };
        let spec = DataSpec::Folder(folder.path().to_path_buf());
        let load = |split| spec.load(split, &options).unwrap();
        assert_eq!((load(Split::Train).len(), load(Split::Test).len()), (2, 1));
        assert_eq!(load(Split::Train).class_names(), ["a", "b"]);
        assert!(spec.load(Split::Train, &DataOptions::default()).unwrap_err().message().contains("sample_size"));
    }

    #[test]
    fn the_real_fashion_mnist_has_its_published_size() {
        let installed = Path::new("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz");
        if !installed.is_file() {
            eprintln!("skipped: {} is not there (apt-get install dataset-fashion-mnist)", installed.display());
            return;
        }
        let places = [PathBuf::from("/usr/share/datasets")];
        let data = DataSpec::FashionMnist.load_from(&places, Split::Test, &DataOptions::default()).unwrap();
        assert_eq!((data.len(), data.shape(), data.num_classes()), (10_000, [1, 28, 28], Some(10)));
        let mut per_class = [0; 10];
        data.labels().unwrap().iter().for_each(|&l| per_class[l as usize] += 1);
        assert_eq!(per_class, [1000; 10]);
    }
}
