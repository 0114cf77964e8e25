//! Data sets for measuring a model.

use clap::ValueEnum;
use skipstone::io::checkpoint::Model;
use skipstone::io::data::{DataOptions, DataSpec, Dataset, Split};

use crate::failure::Usage;

/// Help text of `--data`.
pub const DATA: &str =
    "Data set: fashion-mnist, mnist, cifar10, idx:FILE, or a folder of images (its sub-folders are the classes)";

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
pub fn load_for(model: &Model, name: &str, split: SplitName, n: usize) -> anyhow::Result<Dataset> {
    if n == 0 {
        return Err(Usage("-n: expected at least 1 image, found 0".into()).into());
    }
    let options = DataOptions {
        size: Some(model.config.sample_size),
        channels: Some(model.config.in_channels),
        ..DataOptions::default()
    };
    let split = match split {
        SplitName::Train => Split::Train,
        SplitName::Test => Split::Test,
    };
    Ok(name.parse::<DataSpec>()?.load(split, &options)?.take(n))
}
