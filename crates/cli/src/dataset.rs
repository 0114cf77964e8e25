//! Data sets for measuring a model.

use clap::{Args, ValueEnum};
use skipstone::io::checkpoint::Model;
use skipstone::io::data::{ArrayLayout, DataOptions, DataSpec, Dataset, Split, ValueRange};

use crate::failure::{Usage, say};

/// Help text of `--data`.
pub const DATA: &str = "Data set: fashion-mnist, mnist, cifar10, idx:FILE, an array (FILE.npy, FILE.npz, FILE.npz:NAME), a webdataset archive \
     (FILE.tar), a Hugging Face table (FILE.parquet), or a folder of images (its sub-folders are the classes)";

/// How arrays are read.
#[derive(Args, Debug)]
pub struct ArrayArguments {
    /// Layout of an array: nchw is [n, channels, height, width], nhwc is [n, height, width, channels] [default: the one that
    /// fits the model]
    #[arg(long, value_name = "nchw|nhwc")]
    layout: Option<ArrayLayout>,
    /// Values of an array that become -1 and 1 [default: 0,255 for bytes; otherwise those recorded in the model, or else
    /// measured]
    #[arg(long, value_name = "LOW,HIGH", allow_hyphen_values = true)]
    range: Option<ValueRange>,
}

impl ArrayArguments {
    /// Whether a flag was given.
    pub fn are_given(&self) -> bool {
        self.layout.is_some() || self.range.is_some()
    }

    /// These options in `options`.
    pub fn on(&self, options: DataOptions) -> DataOptions {
        DataOptions { layout: self.layout, range: self.range, ..options }
    }

    /// The options of data for a model: its size, its channels and its range.
    pub fn options(&self, model: &Model) -> anyhow::Result<DataOptions> {
        Ok(self.on(model.data_options()?))
    }
}

/// Tells the user what was decided while the data were opened.
pub fn say_notes(data: &Dataset) {
    data.notes().iter().for_each(|note| say(format_args!("{}: {note}", data.name())));
}

/// Part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SplitName {
    /// Training images.
    Train,
    /// Test images.
    Test,
}

impl std::fmt::Display for SplitName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Test => "test",
        })
    }
}

/// The first `n` images of a data set at the model's size and channels.
pub fn load_for(
    model: &Model,
    name: &str,
    split: SplitName,
    n: usize,
    arrays: &ArrayArguments,
) -> anyhow::Result<Dataset> {
    if n == 0 {
        return Err(Usage("-n: expected at least 1 image, found 0".into()).into());
    }
    let split = match split {
        SplitName::Train => Split::Train,
        SplitName::Test => Split::Test,
    };
    let data = name.parse::<DataSpec>()?.load(split, &arrays.options(model)?)?;
    say_notes(&data);
    Ok(data.take(n))
}
