//! A small classifier of 28×28 gray images, trained by this crate. It provides the features for Fashion-MNIST.
//!
//! | layer | output |
//! |---|---|
//! | convolution 3×3, mean of 2×2 | 32 × 14 × 14 |
//! | GN, SiLU, convolution 3×3 | 64 × 14 × 14 |
//! | GN, SiLU, convolution 3×3, mean of 2×2 | 64 × 7 × 7 |
//! | GN, SiLU, convolution 3×3 | 48 × 7 × 7 |
//! | GN, SiLU, convolution 7×7 without padding | 128 |
//! | SiLU: **the features**; linear | 10 |
//!
//! GN is group normalisation with 8 groups. The result for an image depends only on that image, to the bit.

mod architecture;
mod backward;
mod forward;
mod train;

#[cfg(test)]
mod tests;

pub use train::{Recipe, Step, Training};

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ndarray::{Array2, ArrayView4, Axis};
use sha2::{Digest, Sha256};
use skipstone::error::{Error, Kind, Result};
use skipstone::io::checkpoint::{FloatType, read_tensors, write_tensors};
use skipstone::io::files;
use skipstone::io::hex::hex;
use skipstone::unet::Parameters;
use skipstone_kernels::{Isa, Team};

use super::features::FeatureNetwork;
use forward::Network;

/// The name of its features in scores, before the digest of its weights.
const NAME: &str = "fashion-cnn-128d";

/// The trained classifier.
pub struct FashionCnn {
    name: String,
    parameters: Parameters,
    network: Network,
}

impl std::fmt::Debug for FashionCnn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FashionCnn").field("parameters", &self.parameters.data().len()).finish_non_exhaustive()
    }
}

/// Images that go through the network together.
const BATCH: usize = 64;

impl FashionCnn {
    /// The classifier with these weights.
    pub(super) fn new(parameters: Parameters) -> Result<Self> {
        let mut network = Network::new(Isa::best(), team()?);
        network.pack(&parameters);
        let mut hash = Sha256::new();
        parameters.data().iter().for_each(|weight| hash.update(weight.to_le_bytes()));
        let name = format!("{NAME} ({})", hex(&hash.finalize()[..4]));
        Ok(Self { name, parameters, network })
    }

    /// Reads the weights from the bytes of a safetensors file, such as `skipstone_model::FASHION_CNN`.
    ///
    /// # Errors
    /// The bytes are not such a file, or tensors are missing, unexpected, of another shape or not finite. The message names
    /// all of them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let set = read_tensors(bytes)?;
        let layout = Arc::new(architecture::layout());
        let mut problems = Vec::new();
        let mut data = Vec::with_capacity(layout.len());
        for spec in layout.specs() {
            match set.get(&spec.name) {
                None => problems.push(format!("{}: missing, expected {:?}", spec.name, spec.shape)),
                Some(found) if found.shape != spec.shape => {
                    problems.push(format!("{}: expected {:?}, found {:?}", spec.name, spec.shape, found.shape));
                }
                Some(found) if found.values.iter().any(|v| !v.is_finite()) => {
                    problems.push(format!("{}: not finite", spec.name));
                }
                Some(found) => data.extend_from_slice(&found.values),
            }
        }
        let unknown = set.tensors.iter().filter(|tensor| layout.get(&tensor.name).is_none());
        problems.extend(unknown.map(|tensor| format!("{}: unexpected", tensor.name)));
        if !problems.is_empty() {
            return Err(Error::data(format!("not the classifier of Fashion-MNIST: {}", problems.join("; "))));
        }
        Self::new(Parameters::new(layout, data)?)
    }

    /// Writes the weights in half precision, with these notes.
    ///
    /// # Errors
    /// As [`files::write_atomically`].
    pub fn write(&self, path: &Path, about: &BTreeMap<String, String>) -> Result<()> {
        let tensors: Vec<(&str, &[usize], &[f32])> =
            self.parameters.iter().map(|(spec, values)| (&*spec.name, &spec.shape[..], values)).collect();
        files::write_atomically(path, |out| write_tensors(tensors.iter().copied(), about, FloatType::F16, out))
    }

    /// The most likely class of each image `[n, 1, 28, 28]`, values in −1..1.
    ///
    /// # Errors
    /// The images have another shape.
    pub fn classes(&self, images: ArrayView4<'_, f32>) -> Result<Vec<u32>> {
        let mut classes = Vec::with_capacity(images.dim().0);
        self.each(images, |activations| {
            for scores in activations.scores().chunks_exact(architecture::CLASSES) {
                let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(b.cmp(&a)));
                classes.push(best.unwrap_or(0) as u32);
            }
        })?;
        Ok(classes)
    }

    fn each(&self, images: ArrayView4<'_, f32>, mut visit: impl FnMut(&forward::Activations)) -> Result<()> {
        let (_, c, h, w) = images.dim();
        if [c, h, w] != [1, 28, 28] {
            return Err(Error::argument(format!(
                "{NAME}: expected images of [1, 28, 28], found {:?}; for other images, choose a network with --features FILE.onnx:OUTPUT",
                [c, h, w]
            )));
        }
        for batch in images.axis_chunks_iter(Axis(0), BATCH) {
            let values: Vec<f32> = batch.iter().copied().collect();
            visit(&self.network.forward(&self.parameters, &values));
        }
        Ok(())
    }
}

impl FeatureNetwork for FashionCnn {
    fn name(&self) -> &str {
        &self.name
    }

    fn dimensions(&self) -> usize {
        architecture::FEATURES
    }

    fn features(&self, images: ArrayView4<'_, f32>) -> Result<Array2<f32>> {
        let mut values = Vec::with_capacity(images.dim().0 * architecture::FEATURES);
        self.each(images, |activations| values.extend_from_slice(activations.features()))?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::new(Kind::NonFinite, format!("{NAME}: features are not finite")));
        }
        let shape = (images.dim().0, architecture::FEATURES);
        Ok(Array2::from_shape_vec(shape, values).expect("a row for each image"))
    }
}

/// As many threads as rayon's current pool, so that one setting rules both.
fn team() -> Result<Team> {
    Team::new(rayon::current_num_threads()).map_err(|e| Error::new(Kind::Io, format!("cannot start threads: {e}")))
}
