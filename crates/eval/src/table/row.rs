//! A row of the results: a cell with its scores.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use skipstone::io::hex::hex;
use skipstone::sampling::options::Noise;

use super::samples::sorted;
use super::score::Scores;

/// Declares [`Row`] and the columns of `results.csv`, in the order of the fields.
macro_rules! row {
    ($($(#[$about:meta])* $name:ident: $kind:ty,)*) => {
        /// A cell with its scores and everything that they depend on. Files and JSON lines use the names of the fields.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        pub struct Row {
            $($(#[$about])* pub $name: $kind,)*
            /// Every option that the images depend on.
            pub options: Map<String, Value>,
        }

        /// The columns of `results.csv`: every field except the options.
        pub(super) const COLUMNS: &[&str] = &[$(stringify!($name)),*];
    };
}

row! {
    /// Number of steps S.
    steps: usize,
    /// η, or the name of the variance.
    eta: Noise,
    /// The spacing of the timesteps.
    spacing: String,
    /// The solver.
    solver: String,
    /// How x̂₀ was clipped.
    clip: String,
    /// Network calls for each image.
    calls: usize,
    /// Number of images scored.
    n: u64,
    /// Fréchet distance to the training images.
    frechet: f64,
    /// The Fréchet distance of test images.
    frechet_floor: f64,
    /// The feature network of both distances.
    features: String,
    /// The length of its vectors; see [`are_few`].
    dimensions: usize,
    /// Kernel distance to the training images.
    kid: Option<f64>,
    /// Its standard error.
    kid_error: Option<f64>,
    /// The kernel distance of test images.
    kid_floor: Option<f64>,
    /// Share of the images that look real.
    precision: Option<f64>,
    /// Precision of test images.
    precision_test: Option<f64>,
    /// Share of the real images that the model covers.
    recall: Option<f64>,
    /// Recall of test images.
    recall_test: Option<f64>,
    /// Median distance to the nearest training image, root mean square in [0, 1].
    nearest: f64,
    /// The same median for test images.
    nearest_test: f64,
    /// `nearest` divided by `nearest_test`.
    memorisation: Option<f64>,
    /// Variance of a pixel over the images, for values in [0, 1].
    variance: f64,
    /// Share of the variance that remains between images of one latent; absent if not measured.
    latent_variance: Option<f64>,
    /// The latents and draws that `latent_variance` was measured with, `32x5`.
    repeats: Option<String>,
    /// Distance of the first 1,000 images from those of the same latents with the most steps: root mean square over means
    /// of 4 × 4 pixels, for values in [0, 1]. Absent for the cell with the most steps, and for cells that were never
    /// evaluated together with more steps.
    coarse_rms: Option<f64>,
    /// The same distance over single pixels.
    rms: Option<f64>,
    /// The number of steps of the images compared with.
    against: Option<usize>,
    /// Wall-clock seconds spent drawing the images, all machines together.
    seconds: f64,
    /// The machines that drew them.
    machines: Vec<String>,
    /// Index of the first image.
    first: u64,
    /// Seed of the latents and the noise.
    seed: u64,
    /// Precision of the network: `f32`, `f16` or `bf16`.
    arithmetic: String,
    /// Class of the images, or the rule that chooses it; absent for an unconditional model.
    class: Option<String>,
    /// Guidance weight.
    guidance: Option<f64>,
    /// The noise levels at which guidance acts, if not all.
    guidance_interval: Option<String>,
    /// The model that guides: SHA-256 of its architecture and weights.
    guide: Option<String>,
    /// The timesteps between which steps were repeated, and how often.
    restart: Option<String>,
    /// The noise level at which the last step ended.
    final_level: String,
    /// SHA-256 of the calibration that the timesteps or variances come from.
    calibration: Option<String>,
    /// Channels, height and width of an image.
    size: String,
    /// Size of the data set's images before cropping and resizing; absent if they already had the right size.
    resized_from: Option<String>,
    /// SHA-256 of the model's architecture and weights.
    model: String,
    /// SHA-256 of the diffusion process that the model was trained on.
    process: String,
    /// Which weights: `ema`, `raw` or `unspecified`.
    weights: String,
    /// The data set scored against.
    data: String,
    /// SHA-256 of its images.
    data_digest: String,
    /// Number of training images scored against.
    train: usize,
    /// Number of test images behind the floor.
    floor_n: usize,
    /// Whether training and test images are halves of one set.
    halves: bool,
    /// SHA-256 of the pixels of all images scored.
    samples: String,
    /// The name of the cell's files.
    name: String,
    /// The program that scored.
    program: String,
}

impl Row {
    /// A digest of what was scored, and against what. Of several rows with the same digest, the latest is valid.
    pub fn place(&self) -> String {
        let what = json!([sorted(&self.options), self.first, self.n, self.data_digest, self.features]);
        hex(&Sha256::digest(what.to_string())[..8])
    }

    /// Sets the scores of the cell and of the floor.
    pub(super) fn set_scores(&mut self, of: &Scores, floor: &Scores) {
        self.frechet = of.frechet;
        self.kid = of.kid.map(|kid| kid.value);
        self.kid_error = of.kid.map(|kid| kid.standard_error);
        self.precision = of.precision_recall.map(|balls| balls.precision);
        self.recall = of.precision_recall.map(|balls| balls.recall);
        self.nearest = of.nearest;
        self.memorisation = of.memorisation;
        self.frechet_floor = floor.frechet;
        self.kid_floor = floor.kid.map(|kid| kid.value);
        self.precision_test = floor.precision_recall.map(|balls| balls.precision);
        self.recall_test = floor.precision_recall.map(|balls| balls.recall);
        self.nearest_test = of.nearest_test;
    }

    /// Copies the scores of `other`, which belong to the same images and the same reference.
    pub(super) fn take_scores(&mut self, other: &Self) {
        let own = self.clone();
        *self = Self {
            variance: own.variance,
            latent_variance: own.latent_variance,
            repeats: own.repeats,
            seconds: own.seconds,
            machines: own.machines,
            weights: own.weights,
            name: own.name,
            ..other.clone()
        };
    }

    /// Whether the scores of `self` are also those of `wanted`: the same pixels and reference, scored by the same program.
    pub(super) fn has_scores_of(&self, wanted: &Self) -> bool {
        self.place() == wanted.place() && self.samples == wanted.samples && self.program == wanted.program
    }

    /// Its line in `results.csv`, without the line feed.
    pub(super) fn to_csv(&self) -> String {
        let values = serde_json::to_value(self).unwrap_or_default();
        COLUMNS.iter().map(|name| field(&values[name])).collect::<Vec<_>>().join(",")
    }
}

/// Whether there are few images for features of this many `dimensions`. Their Fréchet distance is then well above that of
/// many images.
pub fn are_few(images: u64, dimensions: usize) -> bool {
    images < 2 * dimensions as u64
}

/// A value as a field of a CSV file.
fn field(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
pub(super) mod tests;
