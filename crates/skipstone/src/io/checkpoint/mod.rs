//! Models on disk: diffusers folders, the original authors' checkpoints and single weight files.
//!
//! Reading a file never executes anything and allocates at most a small multiple of the file's size. It ends with a
//! model or with an error that names the file and the field.

pub(crate) mod blob;
mod config;
mod diffusers;
mod fields;
mod original;
mod pickle;
mod safetensors;
mod save;
mod scheduler;
mod tensors;
mod torch;
pub mod zip;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use config::{config_from_json, config_to_json};
pub use safetensors::{FloatType, NamedTensor, TensorSet, read_tensors, write_tensors};
pub use save::{ModelFiles, save};
pub use scheduler::{SchedulerConfig, VarianceName};

use crate::error::{Error, Kind, Result};
use crate::io::hex::hex;
use crate::math::schedule::Schedule;
use crate::objective::calibration::{self, Calibration};
use crate::sampling::denoiser::Prediction;
use crate::unet::{Config, Parameters};
use tensors::TensorFile;

/// Which of the two sets of weights from training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weights {
    /// The exponential moving average, with which the paper samples.
    Ema,
    /// The trained weights without averaging.
    Raw,
    /// The file does not say.
    Unspecified,
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ema => "ema",
            Self::Raw => "raw",
            Self::Unspecified => "unspecified",
        })
    }
}

/// Which weights to load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightsChoice {
    /// The moving average if there is one, otherwise whatever is there.
    #[default]
    Auto,
    /// The moving average; an error if the file has none.
    Ema,
    /// The trained weights without averaging; an error if the file has none.
    Raw,
}

/// The kind of source that a model was loaded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// A folder in diffusers' layout, on disk or embedded in the program.
    Folder,
    /// A file with diffusers' tensor names and a config.json next to it.
    File,
    /// A checkpoint with the tensor names of the paper's code; its architecture was inferred.
    Original,
}

/// Settings that a file may lack.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOptions {
    /// Which weights to load.
    pub weights: WeightsChoice,
    /// Height and width of the images. Replaces the config's size, or the guess from the level with attention.
    pub size: Option<[usize; 2]>,
    /// Groups of the normalisations in an original checkpoint; 32 in all published ones.
    pub norm_num_groups: Option<usize>,
    /// The schedule. Replaces the folder's or the official one.
    pub scheduler: Option<SchedulerConfig>,
}

/// A loaded model.
#[derive(Clone, Debug)]
pub struct Model {
    /// The architecture.
    pub config: Config,
    /// The weights, all finite.
    pub parameters: Parameters,
    /// How the model was trained and how it is sampled by default.
    pub scheduler: SchedulerConfig,
    /// Which weights were loaded.
    pub weights: Weights,
    /// The class that means "no class" in a network trained for guidance.
    pub null_class: Option<usize>,
    /// The kind of source.
    pub format: Format,
    /// The file of the weights.
    pub file: PathBuf,
    /// Free text from the creator of the folder.
    pub provenance: BTreeMap<String, String>,
    /// SHA-256 of the architecture and all weights, in hexadecimal. The same network has the same hash in any format.
    pub hash: String,
    /// The calibration next to the model ([`calibration::FILE`]). Its users check whether it belongs to these weights.
    pub calibration: Option<Calibration>,
}

impl Model {
    /// A model that is not in a file: unlabelled weights, no null class, no provenance, no calibration.
    pub fn new(config: Config, parameters: Parameters, scheduler: SchedulerConfig) -> Self {
        Self {
            hash: model_hash(&config, &parameters),
            config,
            parameters,
            scheduler,
            weights: Weights::Unspecified,
            null_class: None,
            format: Format::Folder,
            file: PathBuf::new(),
            provenance: BTreeMap::new(),
            calibration: None,
        }
    }
}

/// SHA-256, in hexadecimal, of the config's JSON and every weight (f32, little-endian, in the order of the layout).
pub fn model_hash(config: &Config, parameters: &Parameters) -> String {
    let mut hash = Sha256::new();
    hash.update(config_to_json(config).as_bytes());
    if cfg!(target_endian = "little") {
        hash.update(bytemuck::cast_slice::<f32, u8>(parameters.data()));
    } else {
        parameters.data().iter().for_each(|v| hash.update(v.to_le_bytes()));
    }
    hex(&hash.finalize())
}

/// SHA-256, in hexadecimal, of the process that weights were trained on: the prediction type and β_t for every t. The
/// same weights under another schedule produce other images.
pub fn process_hash(prediction: Prediction, schedule: &Schedule) -> String {
    let mut hash = Sha256::new();
    hash.update(prediction.to_string());
    for beta in schedule.betas() {
        hash.update(beta.to_le_bytes());
    }
    hex(&hash.finalize())
}

/// Loads a model from `path`: a diffusers folder (weights and config at its root or under `unet/`), an original
/// checkpoint (`.ckpt`, `.pth`, `.pt`), or a weight file next to a config.json.
///
/// ```
/// use skipstone::io::checkpoint::{load, LoadOptions};
/// let e = load("no/such/model".as_ref(), &LoadOptions::default()).unwrap_err();
/// assert_eq!(e.kind(), skipstone::Kind::NotFound);
/// ```
///
/// # Errors
/// Something is missing, damaged or unsupported; the message names file and field, and all tensors that do not fit.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Model> {
    let mut model = load_network(path, options)?;
    model.calibration = Calibration::read(&Calibration::path_of(path))?;
    Ok(model)
}

fn load_network(path: &Path, options: &LoadOptions) -> Result<Model> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if meta.is_dir() {
        return diffusers::load(&blob::Folder(path.to_path_buf()), path, options);
    }
    let blob = blob::open(path)?;
    let (weights, tensors) = if torch::is_torch(&*blob) {
        original::select(torch::TorchFile::open(blob, path)?, path, options.weights)?
    } else {
        if options.weights != WeightsChoice::Auto && !diffusers::is_raw_name(path) {
            return Err(single(path));
        }
        (Weights::Unspecified, safetensors::open(blob, path)?)
    };
    if original::has_names(&tensors) {
        let (config, tensors) = original::convert(tensors, options)?;
        let scheduler = options.scheduler.clone().unwrap_or_else(original::scheduler);
        return assemble(config, &tensors, scheduler, weights, Format::Original, Extra::default());
    }
    if diffusers::has_names(&tensors) {
        return diffusers::load_file(path, weights, tensors, options);
    }
    let some: Vec<&str> = tensors.entries().keys().take(3).map(String::as_str).collect();
    Err(Error::unsupported(format!(
        "the tensor names are neither those of diffusers nor those of the original code: {} …",
        some.join(", ")
    ))
    .in_file(path))
}

/// Loads a diffusers folder embedded in memory as `(name, bytes)`, with names such as `unet/config.json`.
///
/// # Errors
/// As [`load`].
pub fn load_embedded(files: &[(&str, &[u8])], options: &LoadOptions) -> Result<Model> {
    let mut model = diffusers::load(&blob::Embedded(files), Path::new("<embedded>"), options)?;
    if let Some((name, bytes)) = files.iter().find(|(name, _)| *name == calibration::FILE) {
        let label = Path::new("<embedded>").join(name);
        model.calibration = Some(Calibration::from_bytes(bytes).map_err(|e| e.in_file(label))?);
    }
    Ok(model)
}

/// What a folder states besides the network itself.
#[derive(Default)]
struct Extra {
    null_class: Option<usize>,
    provenance: BTreeMap<String, String>,
}

/// The error when a choice of weights is requested but the file has none.
fn single(path: &Path) -> Error {
    Error::new(
        Kind::NotFound,
        "the file has one set of weights and does not say whether it is the moving average; load it without choosing",
    )
    .in_file(path)
}

fn assemble(
    config: Config,
    tensors: &TensorFile<'_>,
    scheduler: SchedulerConfig,
    weights: Weights,
    format: Format,
    extra: Extra,
) -> Result<Model> {
    let layout = Arc::new(crate::unet::layout(&config).map_err(|e| e.in_file(&tensors.label))?);
    let parameters = tensors.parameters(&layout)?;
    let Extra { null_class, provenance } = extra;
    let classes = config.num_class_embeds.unwrap_or(0);
    if let Some(class) = null_class.filter(|&class| class >= classes) {
        return Err(Error::data(format!("null_class: {class} is not one of the {classes} classes"))
            .in_file(tensors.label.with_file_name(diffusers::EXTRA)));
    }
    tracing::info!(file = %tensors.label.display(), %weights, parameters = parameters.data().len(), "model loaded");
    let file = tensors.label.clone();
    Ok(Model { weights, null_class, format, file, provenance, ..Model::new(config, parameters, scheduler) })
}

#[cfg(test)]
mod tests;
