//! Models on disk: diffusers folders, the original authors' checkpoints and single weight files.
//!
//! Reading a file never executes anything and allocates at most a small multiple of the file's size. It ends with a
//! model or with an error that names the file and the field.

mod adm;
pub(crate) mod blob;
mod config;
mod diffusers;
mod fields;
mod guide;
mod misfit;
mod names;
mod original;
mod pickle;
mod safetensors;
mod save;
mod scheduler;
mod select;
mod tensors;
mod torch;
pub mod zip;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use adm::{AdmFlags, Published};
pub use config::{config_from_json, config_to_json};
pub(crate) use fields::not_json;
pub use guide::Guide;
pub(crate) use safetensors::read_metadata;
pub use safetensors::{FloatType, NamedTensor, TensorSet, read_tensors, write_tensors};
pub use save::{ModelFiles, claim, save};
pub use scheduler::{SchedulerConfig, VarianceName};

use crate::engine::{self, EngineOptions, Network, NetworkSource};
use crate::error::{Error, Kind, Result};
use crate::io::data::{DataOptions, RecordedRange};
use crate::io::hex::hex;
use crate::io::hub;
use crate::math::schedule::Schedule;
use crate::objective::calibration::{self, Calibration};
use crate::sampling::denoiser::{DifferentiableDenoiser, Prediction};
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
    /// A network of another kind, which brings its own engine: [`Model::source`].
    Foreign,
    /// A checkpoint of guided-diffusion or improved-diffusion, read with its flags.
    Adm,
}

/// Settings that a file may lack.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOptions {
    /// Which weights to load.
    pub weights: WeightsChoice,
    /// Height and width of the images. Replaces the config's size, or the guess from the level with attention. A network
    /// without fixed positions computes images of any size that its levels can halve; it has learnt only one.
    pub size: Option<[usize; 2]>,
    /// Groups of the normalisations in an original checkpoint; 32 in all published ones.
    pub norm_num_groups: Option<usize>,
    /// The schedule. Replaces the folder's or the official one.
    pub scheduler: Option<SchedulerConfig>,
    /// The flags of a checkpoint of guided-diffusion or improved-diffusion, which cannot be loaded without.
    pub flags: Option<AdmFlags>,
}

/// A loaded model.
#[derive(Clone, Debug)]
pub struct Model {
    /// The architecture.
    pub config: Config,
    /// The weights, all finite; empty once the network is [open](Self::open).
    pub parameters: Parameters,
    /// The network itself, if it is none of ours. `config` is then an [outline](Config::outline) and `parameters` empty.
    pub source: Option<Arc<dyn NetworkSource>>,
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
    /// SHA-256 of the architecture and all weights, in hexadecimal. The same network has the same hash in any of
    /// diffusers' and the original formats.
    pub hash: String,
    /// The calibration next to the model ([`calibration::FILE`]). Its users check whether it belongs to these weights.
    pub calibration: Option<Calibration>,
    /// Height and width of the images that the network was trained on, where [`LoadOptions::size`] asks for others.
    pub learned_size: Option<[usize; 2]>,
    /// A weaker model that guides this one: [`guided_by`](Self::guided_by).
    pub guide: Option<Guide>,
}

impl Model {
    /// A model that is not in a file: unlabelled weights, no null class, no provenance, no calibration.
    pub fn new(config: Config, parameters: Parameters, scheduler: SchedulerConfig) -> Self {
        Self {
            hash: model_hash(&config, &parameters),
            config,
            parameters,
            source: None,
            scheduler,
            weights: Weights::Unspecified,
            null_class: None,
            format: Format::Folder,
            file: PathBuf::new(),
            provenance: BTreeMap::new(),
            calibration: None,
            learned_size: None,
            guide: None,
        }
    }

    /// The range of the array that the model was trained on, if it was trained on one.
    ///
    /// # Errors
    /// The model's file states a range that is none.
    pub fn recorded_range(&self) -> Result<Option<RecordedRange>> {
        self.provenance.get(RecordedRange::KEY).map(|text| text.parse()).transpose()
    }

    /// How to read images for this model: of its size and channels, and in the range of the array that it was trained on.
    ///
    /// # Errors
    /// As [`recorded_range`](Self::recorded_range).
    pub fn data_options(&self) -> Result<DataOptions> {
        Ok(DataOptions {
            size: Some(self.config.sample_size),
            channels: Some(self.config.in_channels),
            recorded: self.recorded_range()?,
            ..DataOptions::default()
        })
    }

    /// Opens the network on an engine, and that of the guide. Takes the parameters out of the model, so that they need not be
    /// in memory twice.
    ///
    /// # Errors
    /// As [`engine::open`] or [`NetworkSource::open`].
    pub fn open(&mut self, options: &EngineOptions) -> Result<Box<dyn Network>> {
        if let Some(guide) = &mut self.guide {
            guide.open(options)?;
        }
        let prediction = self.scheduler.prediction_type;
        match &self.source {
            Some(source) => source.open(prediction, options),
            None => engine::open(self.config.clone(), self.take_parameters(), prediction, options),
        }
    }

    /// As [`open`](Self::open), with the vector-Jacobian product.
    ///
    /// # Errors
    /// As [`engine::open_differentiable`]; also if the network is none of ours.
    pub fn open_differentiable(
        &mut self,
        options: &EngineOptions,
    ) -> Result<Box<dyn DifferentiableDenoiser + Send + Sync>> {
        self.check_gradient()?;
        let prediction = self.scheduler.prediction_type;
        engine::open_differentiable(self.config.clone(), self.take_parameters(), prediction, options)
    }

    /// Refuses a network without gradients.
    ///
    /// # Errors
    /// The network is none of ours.
    pub fn check_gradient(&self) -> Result<()> {
        let Some(source) = &self.source else { return Ok(()) };
        let what = format!("{} can be called, but has no gradient; use a model in diffusers' format", source.kind());
        Err(Error::unsupported(what).in_file(&self.file))
    }

    /// Floating-point operations of one call for one image; 0 if nobody has counted them.
    ///
    /// # Errors
    /// As [`flops`](crate::unet::flops).
    pub fn flops(&self) -> Result<u64> {
        if self.source.is_some() { Ok(0) } else { crate::unet::flops(&self.config) }
    }

    /// Number of parameters, before the network is opened.
    pub fn parameter_count(&self) -> usize {
        self.source.as_ref().map_or(self.parameters.data().len(), |source| source.parameters())
    }

    fn take_parameters(&mut self) -> Parameters {
        std::mem::replace(&mut self.parameters, Parameters::zeros(Arc::default()))
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
/// checkpoint (`.ckpt`, `.pth`, `.pt`), or a weight file next to a config.json. If there is no such path, looks for a model
/// called `org/name` or `org/name@revision` in the Hugging Face cache ([`hub::locate`]).
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
    let path = hub::locate(path)?;
    let mut model = load_network(&path, options)?;
    model.calibration = Calibration::beside(&path);
    Ok(model)
}

fn load_network(path: &Path, options: &LoadOptions) -> Result<Model> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    let other = || {
        let what = "flags: this is no checkpoint of guided-diffusion or improved-diffusion; leave them out";
        Error::argument(what).in_file(path)
    };
    if meta.is_dir() {
        if options.flags.is_some() {
            return Err(other());
        }
        return diffusers::load(&blob::Folder(path.to_path_buf()), path, options);
    }
    if is_onnx(path) {
        let what = "an ONNX network, which this program was built without; build it with the feature \"onnx\"";
        return Err(Error::unsupported(what).in_file(path));
    }
    let blob = blob::open(path)?;
    let (weights, tensors) = if torch::is_torch(&*blob) {
        select::from_torch(torch::TorchFile::open(blob, path)?, path, options.weights)?
    } else {
        // The names of these files say that their weights are raw.
        let choice = if diffusers::is_raw_name(path) { WeightsChoice::Auto } else { options.weights };
        if !safetensors::is_likely(&*blob, path) {
            return Err(no_model(path, blob.len()));
        }
        select::from_tensors(safetensors::open(blob, path)?, choice)?
    };
    if options.flags.is_some() && !adm::has_names(&tensors) {
        return Err(other());
    }
    if original::has_names(&tensors) {
        let (config, tensors) = original::convert(tensors, options)?;
        let scheduler = options.scheduler.clone().unwrap_or_else(original::scheduler);
        return assemble(config, &tensors, scheduler, weights, Format::Original, Extra::default());
    }
    if adm::has_names(&tensors) {
        let flags = options.flags.as_ref().ok_or_else(|| adm::needs_flags(path))?;
        let weights = if weights == Weights::Unspecified { adm::weights(path) } else { weights };
        let (config, scheduler, tensors) = adm::convert(tensors, flags, options)?;
        let scheduler = options.scheduler.clone().unwrap_or(scheduler);
        return assemble(config, &tensors, scheduler, weights, Format::Adm, Extra::default());
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

/// The error for a file of another kind than those that hold models.
fn no_model(path: &Path, len: u64) -> Error {
    let found = if len == 0 { "the file is empty" } else { "neither a safetensors file nor one of torch.save" };
    Error::data(format!(
        "not a model: {found}; expected a diffusers folder, a .safetensors, .ckpt, .pth, .pt or .onnx file, or the \
         ORG/NAME of a model in the Hugging Face cache"
    ))
    .in_file(path)
}

/// Whether a path names an ONNX file. The crate `skipstone-onnx` loads those.
pub fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "onnx")
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
    /// The file that states it, if there is one.
    file: Option<PathBuf>,
    null_class: Option<usize>,
    provenance: BTreeMap<String, String>,
}

/// The error when a choice of weights is requested but the file has one set and does not say which.
fn unlabelled() -> Error {
    Error::new(
        Kind::NotFound,
        "the file has one set of weights and does not say whether it is the moving average; load it without choosing",
    )
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
    let Extra { file: stated_in, null_class, provenance } = extra;
    let classes = config.num_class_embeds.unwrap_or(0);
    if let Some(class) = null_class.filter(|&class| class >= classes) {
        return Err(Error::data(format!("null_class: {class} is not one of the {classes} classes"))
            .in_file(stated_in.as_deref().unwrap_or(&tensors.label)));
    }
    tracing::info!(file = %tensors.label.display(), %weights, parameters = parameters.data().len(), "model loaded");
    let file = tensors.label.clone();
    Ok(Model { weights, null_class, format, file, provenance, ..Model::new(config, parameters, scheduler) })
}

#[cfg(test)]
mod tests;
