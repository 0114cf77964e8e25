//! Denoisers from ONNX files: any network that predicts noise, data or velocity from images and timesteps, whatever its
//! architecture, run by [rten](https://docs.rs/rten) on the processor.
//!
//! ```no_run
//! use skipstone::Pipeline;
//! use skipstone::engine::EngineOptions;
//!
//! let model = skipstone_onnx::load("net.onnx".as_ref(), &skipstone_onnx::Options::default())?;
//! Pipeline::from_model(model, &EngineOptions::default())?.steps(20).sample(16)?.save_grid("out.png")?;
//! # Ok::<(), skipstone::Error>(())
//! ```
//!
//! The graph takes images (float `[n, c, h, w]`), timesteps (float or integer, one number or `[n]`) and perhaps class
//! labels, and returns its prediction (float `[n, c, h, w]`). With 2·c channels, as networks that have learnt their
//! variance have, the first c are the prediction. Inputs and output are found by type and shape, or [named](Names).
//!
//! A graph is a program: it can take any time and memory to run, so run files of people whom you trust. It cannot do
//! anything else, and no length in the file is believed before it is compared with the file.

mod network;
pub mod scan;
mod signature;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use rten::{LoadErrorKind, ModelOptions};
use sha2::{Digest, Sha256};
use skipstone::error::{Error, Kind, Result};
use skipstone::io::checkpoint::{Format, Model, SchedulerConfig, Weights};
use skipstone::io::hex::hex;
use skipstone::io::onnx::SCHEDULER_KEY;
use skipstone::objective::calibration::Calibration;
use skipstone::unet::{Config, Parameters};

pub use signature::Names;

use network::{Graph, Source};
use scan::{Element, Outline};
use signature::Signature;

/// What the file does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Names of inputs and output, sizes that the graph leaves free.
    pub names: Names,
    /// Prediction type and noise schedule. Replaces those of the file.
    pub scheduler: Option<SchedulerConfig>,
}

/// Loads the network in the ONNX file at `path` as a model.
///
/// Prediction type and schedule are those of `options`, else of a `scheduler_config.json` beside the file, else of the
/// file's metadata (which `skipstone convert` writes), else ε and the linear schedule of 1000 steps, with a warning in the
/// log. A calibration is found beside the file, as for any model.
///
/// The model's hash is the SHA-256 of the file's bytes, followed by those of its external weights. Names and sizes from
/// `options` enter it too.
///
/// # Errors
/// The file is missing, damaged or no ONNX network; an operator is not supported; an input cannot be found or has another
/// form than those above. The message lists what the graph has.
pub fn load(path: &Path, options: &Options) -> Result<Model> {
    let outline = scan::scan_file(path)?;
    let Options { names, scheduler } = options;
    let signature = Signature::find(&outline, names).map_err(|e| e.in_file(path))?;
    let scheduler = match scheduler {
        Some(scheduler) => scheduler.clone(),
        None => scheduler_of(path, &outline)?,
    };
    let timesteps = (signature.timestep.element == Element::Integer).then_some(scheduler.num_train_timesteps);
    let config = Config::outline(signature.shape, signature.class.as_ref().map(|(_, known)| *known), timesteps);
    let hash = hash_of(path, &outline, names)?;
    let null_class = signature.null_class;
    let described = signature.to_string();
    let graph = Graph {
        model: model_of(path).map_err(|e| e.in_file(path))?,
        signature,
        config: config.clone(),
        parameters: outline.parameters(),
    };
    tracing::info!(file = %path.display(), parameters = graph.parameters, "ONNX network loaded");
    Ok(Model {
        config,
        parameters: Parameters::zeros(Arc::default()),
        source: Some(Arc::new(Source(Arc::new(graph)))),
        scheduler,
        weights: Weights::Unspecified,
        null_class,
        format: Format::Foreign,
        file: path.to_path_buf(),
        provenance: BTreeMap::from([("graph".to_owned(), described)]),
        hash,
        calibration: Calibration::beside(path),
        learned_size: None,
        guide: None,
    })
}

fn scheduler_of(path: &Path, outline: &Outline) -> Result<SchedulerConfig> {
    let beside = path.with_file_name("scheduler_config.json");
    match SchedulerConfig::read(&beside) {
        Err(e) if e.kind() == Kind::NotFound => {}
        found => return found,
    }
    if let Some(json) = outline.metadata.get(SCHEDULER_KEY) {
        return SchedulerConfig::from_json(json).map_err(|e| e.in_file(path));
    }
    let config = SchedulerConfig::default();
    tracing::warn!(
        "{}: no scheduler_config.json beside it and no --scheduler: taking {}",
        path.display(),
        config.in_words()
    );
    Ok(config)
}

/// SHA-256, in hexadecimal, of the file, of the files of its weights, and of what the user says about them.
fn hash_of(path: &Path, outline: &Outline, names: &Names) -> Result<String> {
    let mut hash = Sha256::new();
    let external = outline.external.iter().map(|name| {
        // rten takes only these, too: a file must not make us read others.
        if Path::new(name).components().count() == 1 && !name.contains(['/', '\\', ':', '\0']) && name != ".." {
            return Ok(path.with_file_name(name));
        }
        Err(Error::data(format!("external weights in {name:?}: expected the name of a file beside it")).in_file(path))
    });
    for file in std::iter::once(Ok(path.to_path_buf())).chain(external) {
        let file = file?;
        let refused = |e| Error::io(&file, e);
        let mut input = BufReader::with_capacity(1 << 20, File::open(&file).map_err(refused)?);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = input.read(&mut buffer).map_err(refused)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
        }
    }
    if *names != Names::default() {
        hash.update(names.to_string());
    }
    Ok(hex(&hash.finalize()))
}

/// What `work` returns, which loads or runs a network. rten panics where a graph breaks its assumptions, also while it loads,
/// because it folds constants. Neither changes the network.
///
/// # Errors
/// It panicked.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| Error::unsupported("the network cannot be run: rten failed on one of its operators"))
}

fn model_of(path: &Path) -> Result<rten::Model> {
    guarded(|| ModelOptions::with_all_ops().load_file(path))?.map_err(|e| match e.kind() {
        LoadErrorKind::OperatorInvalid => Error::unsupported(format!("the network cannot be run: {e}")).caused_by(e),
        _ => Error::data(format!("the network cannot be loaded: {e}")).caused_by(e),
    })
}
