//! A cell with its scores.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::score::Scores;
use skipstone::sampling::options::Noise;

use skipstone::io::hex::hex;

/// A cell with its scores and all that they depend on. In files and in JSON lines the fields have these names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// S.
    pub steps: usize,
    /// η, or the name of the variance.
    pub eta: Noise,
    /// How the times were picked.
    pub spacing: String,
    /// How a deterministic run stepped.
    pub solver: String,
    /// What became of x̂₀.
    pub clip: String,
    /// Network calls for an image.
    pub calls: usize,
    /// Images scored.
    pub n: u64,
    /// Fréchet distance to the training images.
    pub frechet: f64,
    /// That of test images.
    pub frechet_floor: f64,
    /// The features both are in.
    pub features: String,
    /// How many numbers they are; see [`are_few`].
    pub dimensions: usize,
    /// Kernel distance to the training images.
    pub kid: Option<f64>,
    /// Its standard error.
    pub kid_error: Option<f64>,
    /// That of test images.
    pub kid_floor: Option<f64>,
    /// The share of images that look real.
    pub precision: Option<f64>,
    /// That of test images.
    pub precision_test: Option<f64>,
    /// The share of real images that the model covers.
    pub recall: Option<f64>,
    /// That of test images.
    pub recall_test: Option<f64>,
    /// Median distance to the nearest training image, root mean square in [0, 1].
    pub nearest: f64,
    /// That of test images.
    pub nearest_test: f64,
    /// The first divided by the second.
    pub memorisation: Option<f64>,
    /// Variance of a pixel over the images, values in [0, 1].
    pub variance: f64,
    /// The share of it that remains between images of one latent; absent where it was not measured.
    pub latent_variance: Option<f64>,
    /// Latents × draws of the former.
    pub repeats: Option<String>,
    /// How far the first 1,000 images are from those of the same row with most steps: root mean square of the means of
    /// squares of 4 × 4 pixels, values in [0, 1]. Absent for the latter, and for cells that never were in one command with
    /// more steps.
    pub coarse_rms: Option<f64>,
    /// The same of pixels.
    pub rms: Option<f64>,
    /// The S of those with most steps.
    pub against: Option<usize>,
    /// Wall-clock seconds in which the images were drawn, all machines together.
    pub seconds: f64,
    /// What they were drawn on.
    pub machines: Vec<String>,
    /// Index of the first image.
    pub first: u64,
    /// Seed of latents and noise.
    pub seed: u64,
    /// How exactly the network was computed: `f32` or `f16`.
    pub arithmetic: String,
    /// The class of the images, or the rule that gives it; absent for an unconditional model.
    pub class: Option<String>,
    /// The weight of guidance.
    pub guidance: Option<f64>,
    /// Where the last step landed.
    pub final_level: String,
    /// SHA-256 of the calibration that times or variances come from.
    pub calibration: Option<String>,
    /// Channels, height and width of an image.
    pub size: String,
    /// What the images of the data set were before they were cropped and resized to it; absent where they had that size.
    pub resized_from: Option<String>,
    /// SHA-256 of the model's architecture and weights.
    pub model: String,
    /// SHA-256 of the process it was trained on.
    pub process: String,
    /// Which weights: `ema`, `raw` or `unspecified`.
    pub weights: String,
    /// What is scored against.
    pub data: String,
    /// SHA-256 of its images.
    pub data_digest: String,
    /// Training images scored against.
    pub train: usize,
    /// Test images of the floor.
    pub floor_n: usize,
    /// Whether these are halves of one set.
    pub halves: bool,
    /// SHA-256 of the pixels of all images scored.
    pub samples: String,
    /// The name of the cell's files.
    pub name: String,
    /// The program that scored.
    pub program: String,
    /// Every option that the images depend on.
    pub options: Map<String, Value>,
}

impl Row {
    /// Where the row belongs: rows with the same place are scores of the same thing, the later one holds.
    pub fn place(&self) -> String {
        place(&self.options, self.first, self.n, &self.data_digest, &self.features)
    }

    /// Puts the scores of the cell in, and those of the floor.
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
        self.nearest_test = floor.nearest;
    }

    /// Puts the scores of `other`, which are of the same images against the same reference, in.
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

    /// Whether `self` holds the scores that `wanted` is to get: of the same pixels against the same images by the same
    /// program.
    pub(super) fn has_scores_of(&self, wanted: &Self) -> bool {
        self.place() == wanted.place() && self.samples == wanted.samples && self.program == wanted.program
    }

    /// Names and values of the columns of `results.csv`: all fields but the options.
    pub(super) fn columns(&self) -> Vec<(String, Value)> {
        // A map of serde_json is sorted by name; the order of the fields is the one that reads well.
        let Ok(Value::Object(values)) = serde_json::to_value(self) else { return Vec::new() };
        COLUMNS.iter().map(|&name| (name.to_owned(), values.get(name).cloned().unwrap_or(Value::Null))).collect()
    }
}

/// The columns of `results.csv`.
pub(super) const COLUMNS: [&str; 49] = [
    "steps",
    "eta",
    "spacing",
    "solver",
    "clip",
    "calls",
    "n",
    "frechet",
    "frechet_floor",
    "features",
    "dimensions",
    "kid",
    "kid_error",
    "kid_floor",
    "precision",
    "precision_test",
    "recall",
    "recall_test",
    "nearest",
    "nearest_test",
    "memorisation",
    "variance",
    "latent_variance",
    "repeats",
    "coarse_rms",
    "rms",
    "against",
    "seconds",
    "machines",
    "first",
    "seed",
    "arithmetic",
    "class",
    "guidance",
    "final_level",
    "calibration",
    "size",
    "resized_from",
    "model",
    "process",
    "weights",
    "data",
    "data_digest",
    "train",
    "floor_n",
    "halves",
    "samples",
    "name",
    "program",
];

/// Whether these are few images for features of so many `dimensions`: the Fréchet distance is then well above what many
/// would give.
pub fn are_few(images: u64, dimensions: usize) -> bool {
    images < 2 * dimensions as u64
}

/// What a row is about, in short.
pub(super) fn place(options: &Map<String, Value>, first: u64, n: u64, data: &str, features: &str) -> String {
    let sorted: BTreeMap<&String, &Value> = options.iter().collect();
    let what = json!([sorted, first, n, data, features]);
    hex(&Sha256::digest(what.to_string())[..8])
}

/// A value as a field of a CSV file.
pub(super) fn field(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A row with made-up scores.
    pub fn row(steps: usize, eta: Noise, frechet: f64) -> Row {
        let options = json!({"steps": steps, "eta": eta.to_string(), "seed": 3});
        let Value::Object(options) = options else { unreachable!() };
        Row {
            steps,
            eta: eta.clone(),
            spacing: "linear".to_owned(),
            solver: "ddim".to_owned(),
            clip: "off".to_owned(),
            calls: steps,
            n: 5000,
            frechet,
            frechet_floor: 1.5,
            features: "two-numbers".to_owned(),
            dimensions: 2,
            kid: Some(frechet / 1000.0),
            kid_error: Some(0.0002),
            kid_floor: Some(-0.0001),
            precision: Some(0.6),
            precision_test: Some(0.75),
            recall: Some(0.5),
            recall_test: Some(0.75),
            nearest: 0.09,
            nearest_test: 0.1,
            memorisation: Some(0.9),
            variance: 0.08,
            latent_variance: (eta != Noise::Eta(0.0)).then_some(0.4),
            repeats: Some("32x5".to_owned()),
            coarse_rms: Some(0.2 / steps as f64),
            rms: Some(0.4 / steps as f64),
            against: Some(1000),
            seconds: steps as f64 * 20.0,
            machines: vec!["2 threads (avx512)".to_owned()],
            first: 0,
            seed: 3,
            arithmetic: "f32".to_owned(),
            class: None,
            guidance: None,
            final_level: "clean".to_owned(),
            calibration: None,
            size: "1x28x28".to_owned(),
            resized_from: None,
            model: "ab".repeat(32),
            process: "ba".repeat(32),
            weights: "ema".to_owned(),
            data: "clothes, \"plain\"".to_owned(),
            data_digest: "cd".repeat(32),
            train: 60_000,
            floor_n: 5000,
            halves: false,
            samples: "ef".repeat(32),
            name: format!("{steps}-eta{eta}"),
            program: "skipstone 0.0.0".to_owned(),
            options,
        }
    }
}
