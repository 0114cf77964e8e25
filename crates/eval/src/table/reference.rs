//! The reference of scores: the training part of a data set, and its test part as a yardstick.

mod kept;

use std::ops::ControlFlow;
use std::path::Path;

use ndarray::{Array2, Array4, ArrayView4, Axis, Slice};
use sha2::{Digest, Sha256};
use skipstone::error::{Error, Result};
use skipstone::io::data::Dataset;
use skipstone::io::hex::hex;
use skipstone::math::noise::{KeyedRng, Purpose};

use super::score::Scores;
use crate::{FeatureNetwork, Statistics};

/// Images that a feature network gets at a time.
const BATCH: usize = 256;
/// Most feature vectors of a set that are compared one by one.
pub(super) const MOST_VECTORS: usize = 10_000;

/// The network values of pixels, as in data sets: byte/127.5 − 1.
pub(super) fn network_values(images: ArrayView4<'_, u8>) -> Array4<f32> {
    images.mapv(|byte| (f64::from(byte) / 127.5 - 1.0) as f32)
}

/// The feature vectors of pictures, `[n, d]`. `seen` is told how many further images are done and can stop the work.
pub(super) fn features_of(
    network: &dyn FeatureNetwork,
    images: ArrayView4<'_, u8>,
    seen: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Array2<f32>> {
    let mut all = Array2::zeros((images.dim().0, network.dimensions()));
    for (rows, batch) in (0..).step_by(BATCH).zip(images.axis_chunks_iter(Axis(0), BATCH)) {
        let n = batch.dim().0;
        all.slice_axis_mut(Axis(0), Slice::from(rows..rows + n))
            .assign(&network.features(network_values(batch).view())?);
        if seen(n).is_break() {
            return Err(Error::stopped());
        }
    }
    Ok(all)
}

/// The statistics of feature vectors, added in batches of a fixed size, so that equal vectors give equal bits.
pub(super) fn statistics_of(network: &dyn FeatureNetwork, features: &Array2<f32>) -> Result<Statistics> {
    let mut statistics = Statistics::of(network);
    for batch in features.axis_chunks_iter(Axis(0), BATCH) {
        statistics.add(batch)?;
    }
    Ok(statistics)
}

/// Real images in two parts, in a fixed random order.
#[derive(Clone, Debug)]
pub struct RealImages {
    name: String,
    digest: String,
    /// All images a model may have been trained on.
    seen: Array4<u8>,
    /// How many of the first of them are scored against.
    train: usize,
    test: Array4<u8>,
    halves: bool,
    resized_from: Option<String>,
}

impl RealImages {
    /// The parts of a data set, at most `limit` images of each.
    ///
    /// The order is random but always the same, so that the first images are a fair choice even if the data set is sorted by
    /// class. A data set without a test part, where `train` and `test` are the same images, is cut into halves.
    ///
    /// # Errors
    /// The parts differ in shape, or a part has fewer than two images.
    pub fn new(train: &Dataset, test: &Dataset, limit: Option<usize>) -> Result<Self> {
        if train.shape() != test.shape() {
            let (a, b) = (train.shape(), test.shape());
            return Err(Error::data(format!("data set {}: train images {a:?}, test images {b:?}", train.name())));
        }
        let most = |n: usize| limit.unwrap_or(n).min(n);
        let halves = train.same_images(test);
        let order = shuffled(train.len());
        let (n, test_part) = if halves {
            let half = train.len().div_ceil(2);
            let end = half + most(train.len() - half);
            (most(half), order[half..end].to_vec())
        } else {
            (most(train.len()), shuffled(test.len())[..most(test.len())].to_vec())
        };
        let seen = match limit {
            // Data in a file may be larger than memory.
            Some(_) if train.bytes() == 0 && halves => train.pictures(&[&order[..n], &test_part].concat())?,
            Some(_) if train.bytes() == 0 => train.pictures(&order[..n])?,
            _ => train.pictures(&order)?,
        };
        let test_part = test.pictures(&test_part)?;
        let m = test_part.dim().0;
        if n.min(m) < 2 {
            return Err(Error::argument(format!(
                "data set {}: {n} training and {m} test images; at least 2 of each are needed",
                train.name()
            )));
        }
        let mut hash = Sha256::new();
        for part in [seen.slice_axis(Axis(0), Slice::from(..n)), test_part.view()] {
            part.shape().iter().for_each(|&length| hash.update((length as u64).to_le_bytes()));
            hash.update(part.as_slice().expect("made in standard layout"));
        }
        let digest = hex(&hash.finalize());
        let (name, resized_from) = (train.name().to_owned(), train.original_size().map(str::to_owned));
        Ok(Self { name, digest, seen, train: n, test: test_part, halves, resized_from })
    }

    /// The name of the data set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of both parts in their order, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The training images scored against, `[n, channels, height, width]`.
    pub fn train(&self) -> ArrayView4<'_, u8> {
        self.seen.slice_axis(Axis(0), Slice::from(..self.train))
    }

    /// Every image that a model may have been trained on, beginning with [`train`](Self::train): without the limit, and with
    /// both halves of a data set without a test part. If the data are read from a file, the limit holds here too.
    pub fn seen(&self) -> ArrayView4<'_, u8> {
        self.seen.view()
    }

    /// The test images, `[n, channels, height, width]`.
    pub fn test(&self) -> &Array4<u8> {
        &self.test
    }

    /// Whether the parts are halves of one set of images, because the data set has no test part.
    pub fn are_halves(&self) -> bool {
        self.halves
    }

    /// The size of the training images before cropping and resizing, as [`Dataset::original_size`].
    pub fn original_size(&self) -> Option<&str> {
        self.resized_from.as_deref()
    }
}

/// The fixed random order of `n` images.
fn shuffled(n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    KeyedRng::new(0, Purpose::Subset, 0, 0).shuffle(&mut order);
    order
}

/// Real images with their features.
#[derive(Debug)]
pub struct Reference {
    images: RealImages,
    /// Of all training images.
    pub(super) train: Statistics,
    /// Features of the first training images, `[≤ 10,000, d]`.
    pub(super) train_features: Array2<f32>,
    /// Features of the first test images, `[≤ 10,000, d]`.
    pub(super) test_features: Array2<f32>,
    /// Distances of the first test images to their nearest training images: root mean square, in [0, 1].
    pub(super) test_nearest: Vec<f64>,
}

impl Reference {
    /// The reference of `images` in the features of `network`, read from `cache` or computed and kept there.
    ///
    /// `seen` is told how many further images are done and can stop the work.
    ///
    /// # Errors
    /// The network refuses the images, or the cache cannot be written. A damaged cache is made again.
    pub fn open(
        images: RealImages,
        network: &dyn FeatureNetwork,
        cache: &Path,
        seen: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Self> {
        let folder = kept::folder(cache, &images, network);
        let kept = match kept::read(&folder, &images, network) {
            Some(kept) => kept,
            None => {
                let made = made(&images, network, seen)?;
                kept::write(&folder, &images, &made)?;
                // The files are rounded. The results must not depend on whether the files existed.
                kept::read(&folder, &images, network).ok_or_else(|| {
                    Error::data("reads differently from what was written; check the disk").in_file(&folder)
                })?
            }
        };
        let (train, train_features, test_features) = kept;
        // The test half must not be searched for in itself.
        let others = if images.halves { images.train() } else { images.seen() };
        let test_nearest = super::score::nearest_to(others, images.test.view())?.distances;
        Ok(Self { images, train, train_features, test_features, test_nearest })
    }

    /// The images.
    pub fn images(&self) -> &RealImages {
        &self.images
    }

    /// The name of the feature network.
    pub fn features(&self) -> &str {
        self.train.network()
    }

    /// Number of test images to compare with `n` samples.
    pub fn floor_n(&self, n: usize) -> usize {
        n.min(self.test_features.nrows())
    }

    /// The scores of `n` test images, or of all if there are fewer. No model can be expected to do better.
    ///
    /// # Errors
    /// As [`Scores::of`].
    pub fn floor(&self, network: &dyn FeatureNetwork, n: usize) -> Result<Scores> {
        let n = self.floor_n(n);
        let features = self.test_features.slice_axis(Axis(0), Slice::from(..n)).to_owned();
        let images = self.images.test.slice_axis(Axis(0), Slice::from(..n));
        Scores::of(self, network, &features, images)
    }
}

/// The features of both parts.
fn made(
    images: &RealImages,
    network: &dyn FeatureNetwork,
    seen: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<kept::Kept> {
    let first = |n: usize| Slice::from(..n.min(MOST_VECTORS));
    let train = features_of(network, images.train(), seen)?;
    let test = images.test.slice_axis(Axis(0), first(images.test.dim().0));
    let test = features_of(network, test, seen)?;
    let statistics = statistics_of(network, &train)?;
    Ok((statistics, train.slice_axis(Axis(0), first(images.train)).to_owned(), test))
}

#[cfg(test)]
mod tests;
