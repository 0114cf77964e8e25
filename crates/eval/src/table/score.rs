//! The scores of a set of images against a [`Reference`].

use std::ops::ControlFlow;
use std::path::Path;

use ndarray::{Array2, ArrayView4, Axis, Slice};
use skipstone::error::Result;

use super::reference::{RealImages, Reference, network_values, statistics_of};
use super::row::are_few;
use crate::{
    DEFAULT_NEIGHBOURS, Estimate, FeatureNetwork, Nearest, PrecisionRecall, frechet, kid_full, nearest, pixels,
    precision_recall,
};

/// Most images of a set whose nearest training images are searched.
pub const MOST_QUERIES: usize = 1000;
/// Most vectors of each set in the kernel distance.
const MOST_KERNELS: usize = 5000;
/// Values of training images compared at a time: a quarter of a gigabyte.
const CHUNK: usize = 1 << 26;

/// The scores of images. Scores that need more images are absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Fréchet distance to all training images: 0 is best.
    pub frechet: f64,
    /// Kernel distance between the first 5,000 images and the first 5,000 training images: 0 is best.
    pub kid: Option<Estimate>,
    /// Precision and recall for sets of equal size, at most 10,000 images and no more than there are test images: 1 is best.
    pub precision_recall: Option<PrecisionRecall>,
    /// Median distance of the first 1,000 images to the nearest of [`RealImages::seen`](super::RealImages::seen), in pixels:
    /// root mean square, in [0, 1].
    pub nearest: f64,
    /// The same median for as many test images, with half of the data to be near to if the data set was cut into halves.
    pub nearest_test: f64,
    /// [`nearest`](Self::nearest) divided by [`nearest_test`](Self::nearest_test). Well below 1, images are copies of training
    /// images. Absent if the test images themselves are in the training set.
    pub memorisation: Option<f64>,
    /// The nearest training images of the first 1,000 images, and their distances.
    pub neighbours: Nearest,
}

/// The feature network and the reference that score every cell.
pub struct Judge {
    /// The feature network.
    pub network: Box<dyn FeatureNetwork>,
    /// The reference.
    pub reference: Reference,
    /// The scores of test images.
    pub floor: Scores,
}

impl Judge {
    /// Scores by `network` against `real`, whose features are kept in the folder `cache`; for cells of `n` images. `seen` is told
    /// how many further images have features and can stop the work.
    ///
    /// # Errors
    /// As [`Reference::open`].
    pub fn new(
        network: Box<dyn FeatureNetwork>,
        real: RealImages,
        cache: &Path,
        n: u64,
        seen: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Self> {
        let reference = Reference::open(real, &*network, cache, seen)?;
        let floor = reference.floor(&*network, n as usize)?;
        Ok(Self { network, reference, floor })
    }

    /// What a reader of the scores of `n` images must know.
    pub fn notes(&self, n: u64) -> Vec<String> {
        let mut notes = Vec::new();
        let floor_n = self.reference.floor_n(n as usize);
        if (floor_n as u64) < n {
            notes.push(format!(
                "the floor uses only {floor_n} test images, the scores {n} samples; fewer images give a larger distance"
            ));
        }
        let dimensions = self.network.dimensions();
        if are_few(n, dimensions) {
            notes.push(format!(
                "{n} images are few for {dimensions} features: the Fréchet distance is well above its value for many images"
            ));
        }
        notes
    }
}

impl Scores {
    /// The scores of images `[n, channels, height, width]` whose vectors are `features` `[n, d]`.
    ///
    /// # Errors
    /// There are fewer than two images, or their features or shape differ from the reference's.
    pub fn of(
        reference: &Reference,
        network: &dyn FeatureNetwork,
        features: &Array2<f32>,
        images: ArrayView4<'_, u8>,
    ) -> Result<Self> {
        let real = &reference.train_features;
        let frechet = frechet(&statistics_of(network, features)?, &reference.train)?;
        let most = features.nrows().min(real.nrows());
        // As many as for the floor, so that both are comparable: a larger set would have smaller balls.
        let equal = most.min(reference.test_features.nrows());
        let first = |x: &Array2<f32>, n: usize| x.slice_axis(Axis(0), Slice::from(..n.min(x.nrows()))).to_owned();
        let kid = match most {
            0..3 => None,
            _ => Some(kid_full(first(features, MOST_KERNELS).view(), first(real, MOST_KERNELS).view())?),
        };
        let balls = if equal > DEFAULT_NEIGHBOURS {
            Some(precision_recall(first(real, equal).view(), first(features, equal).view(), DEFAULT_NEIGHBOURS)?)
        } else {
            None
        };
        let neighbours = nearest_to(reference.images().seen(), images)?;
        let queries = neighbours.distances.len();
        let median = neighbours.quantile(0.5).unwrap_or(f64::NAN);
        let test = &reference.test_nearest[..queries.min(reference.test_nearest.len())];
        let of_test = Nearest { indices: Vec::new(), distances: test.to_vec() }.quantile(0.5).unwrap_or(f64::NAN);
        let memorisation = (of_test > 0.0).then_some(median / of_test);
        Ok(Self {
            frechet,
            kid,
            precision_recall: balls,
            nearest: median,
            nearest_test: of_test,
            memorisation,
            neighbours,
        })
    }
}

/// The nearest of `others` for each of the first 1,000 images: root mean square of the difference, for values in [0, 1].
pub(super) fn nearest_to(others: ArrayView4<'_, u8>, images: ArrayView4<'_, u8>) -> Result<Nearest> {
    let images = images.slice_axis(Axis(0), Slice::from(..images.dim().0.min(MOST_QUERIES)));
    let queries = pixels(network_values(images).view());
    let mut best = Nearest { indices: vec![0; queries.nrows()], distances: vec![f64::INFINITY; queries.nrows()] };
    let rows = (CHUNK / queries.ncols().max(1)).clamp(1, 4096);
    for (start, chunk) in (0..).step_by(rows).zip(others.axis_chunks_iter(Axis(0), rows)) {
        let found = nearest(queries.view(), pixels(network_values(chunk).view()).view())?;
        for (i, (index, distance)) in found.indices.into_iter().zip(found.distances).enumerate() {
            if distance < best.distances[i] {
                (best.indices[i], best.distances[i]) = (start + index, distance);
            }
        }
    }
    // The range −1..1 is twice as wide as 0..1.
    let scale = 2.0 * (queries.ncols() as f64).sqrt();
    best.distances.iter_mut().for_each(|distance| *distance /= scale);
    Ok(best)
}
