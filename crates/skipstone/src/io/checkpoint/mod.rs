//! Models on disk: diffusers folders, the original authors' checkpoints, loose weight files.
//!
//! Whatever a file holds, reading it executes nothing, allocates no more than a small multiple of the file's own size,
//! and ends in a model or in an error that names the file and the field.

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

/// Which of the two sets of weights that training leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weights {
    /// The exponential moving average: what the paper samples with.
    Ema,
    /// The optimiser's own.
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
    /// The moving average where there is one, otherwise what there is.
    #[default]
    Auto,
    /// The moving average; an error where a file has none.
    Ema,
    /// The optimiser's own; an error where a file has none.
    Raw,
}

/// What the weights were read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// A folder in the layout of diffusers, on disk or carried in the program.
    Folder,
    /// One file with the tensor names of diffusers and a config.json beside it.
    File,
    /// A checkpoint with the tensor names of the paper's code; its architecture was inferred.
    Original,
}

/// What a file cannot say for itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOptions {
    /// Which weights to take.
    pub weights: WeightsChoice,
    /// Height and width of the images, in place of the config's or the guess from the attention's level.
    pub size: Option<[usize; 2]>,
    /// Groups of the normalisations of an original checkpoint; 32 in all published ones.
    pub norm_num_groups: Option<usize>,
    /// The schedule, in place of the folder's or the official one.
    pub scheduler: Option<SchedulerConfig>,
}

/// A model as loaded.
#[derive(Clone, Debug)]
pub struct Model {
    /// The architecture.
    pub config: Config,
    /// The weights, all finite.
    pub parameters: Parameters,
    /// How it was trained, and how it is to be sampled by default.
    pub scheduler: SchedulerConfig,
    /// Which weights were taken.
    pub weights: Weights,
    /// The class that stands for "none" in a network trained for guidance.
    pub null_class: Option<usize>,
    /// What was read.
    pub format: Format,
    /// The file the weights come from.
    pub file: PathBuf,
    /// Free text that whoever wrote the folder left with it.
    pub provenance: BTreeMap<String, String>,
    /// SHA-256 of the architecture and all weights, in hexadecimal; the same for the same network in any format.
    pub hash: String,
    /// What lies beside the model in [`calibration::FILE`]; whether it is of these weights is checked where it is used.
    pub calibration: Option<Calibration>,
}

/// SHA-256, in hexadecimal, of the config's JSON and of every weight (f32, little-endian, in the layout's order).
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

/// SHA-256, in hexadecimal, of the process that weights were trained on: what the network predicts, and β_t of every t. The
/// same weights under another schedule make other images.
pub fn process_hash(prediction: Prediction, schedule: &Schedule) -> String {
    let mut hash = Sha256::new();
    hash.update(prediction.to_string());
    for beta in schedule.betas() {
        hash.update(beta.to_le_bytes());
    }
    hex(&hash.finalize())
}

/// Loads a model from `path`: a diffusers folder (weights and config at its root or under `unet/`), an original
/// checkpoint (`.ckpt`, `.pth`, `.pt`), or a weight file with a config.json beside it.
///
/// ```
/// use skipstone::io::checkpoint::{load, LoadOptions};
/// let e = load("no/such/model".as_ref(), &LoadOptions::default()).unwrap_err();
/// assert_eq!(e.kind(), skipstone::Kind::NotFound);
/// ```
///
/// # Errors
/// Whatever is missing, damaged or not implemented, naming file and field; every tensor that does not fit, at once.
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
        "its tensors have neither the names of diffusers nor those of the original code: {} …",
        some.join(", ")
    ))
    .in_file(path))
}

/// Loads a diffusers folder carried in memory as `(name, bytes)`, with names such as `unet/config.json`.
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

/// What a folder says beside the network itself.
#[derive(Default)]
struct Extra {
    null_class: Option<usize>,
    provenance: BTreeMap<String, String>,
}

/// A choice of weights was asked for where there is none.
fn single(path: &Path) -> Error {
    Error::new(Kind::NotFound, "one set of weights that does not say whether it is the moving average; choose none")
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
    if let Some(class) = null_class
        && config.num_class_embeds.is_none_or(|classes| class >= classes)
    {
        return Err(Error::data(format!("null_class: {class}, the network has {} classes", {
            config.num_class_embeds.unwrap_or(0)
        }))
        .in_file(tensors.label.with_file_name(diffusers::EXTRA)));
    }
    let hash = model_hash(&config, &parameters);
    tracing::info!(file = %tensors.label.display(), %weights, parameters = parameters.data().len(), "model loaded");
    let file = tensors.label.clone();
    let calibration = None;
    Ok(Model { config, parameters, scheduler, weights, null_class, format, file, provenance, hash, calibration })
}

#[cfg(test)]
mod tests;
