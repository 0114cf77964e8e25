//! Writing a diffusers folder: the same model gives the same bytes, and a reader never finds half of one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::config::DIFFUSERS_VERSION;
use super::diffusers::EXTRA;
use super::safetensors::{FloatType, write_tensors};
use super::{SchedulerConfig, Weights, config_from_json, config_to_json};
use crate::error::{Error, Kind, Result};
use crate::io::files::write_atomically;
use crate::unet::{Config, Parameters, layout};

const MAIN: &str = "unet/diffusion_pytorch_model.safetensors";
/// What diffusers loads as `variant="raw"`.
const RAW: &str = "unet/diffusion_pytorch_model.raw.safetensors";

/// What a model folder is made of.
#[derive(Clone, Copy, Debug)]
pub struct ModelFiles<'a> {
    /// The architecture.
    pub config: &'a Config,
    /// The weights to sample with.
    pub weights: &'a Parameters,
    /// What those are.
    pub kind: Weights,
    /// The optimiser's own weights, beside the moving average.
    pub raw: Option<&'a Parameters>,
    /// The schedule.
    pub scheduler: &'a SchedulerConfig,
    /// The class that stands for "none".
    pub null_class: Option<usize>,
    /// Free text to keep with the model. For reproducible bytes: no times, no paths.
    pub provenance: &'a BTreeMap<String, String>,
    /// How weights are stored.
    pub float_type: FloatType,
}

/// Writes a model folder that [`load`](super::load) and diffusers' `DDIMPipeline` read.
///
/// A new folder is built under a temporary name beside `dir` and renamed. In an existing one each file is replaced
/// atomically, so that it can be loaded at every moment; a folder that holds another architecture is left alone.
///
/// # Errors
/// Weights that are not finite or do not belong to the config; another model in the way; a failed write.
pub fn save(dir: &Path, files: &ModelFiles<'_>) -> Result<()> {
    check(files)?;
    let occupied = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(Error::io(dir, e)),
    };
    if occupied {
        same_architecture(dir, files.config)?;
        return write_all(dir, files);
    }
    let aside = temporary_sibling(dir)?;
    let result = write_all(&aside, files).and_then(|()| {
        // Not every system renames over an empty folder.
        match std::fs::remove_dir(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(dir, e)),
            _ => {}
        }
        std::fs::rename(&aside, dir).map_err(|e| Error::io(dir, e))
    });
    if result.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_dir_all(&aside);
    }
    result
}

fn check(files: &ModelFiles<'_>) -> Result<()> {
    files.config.validate()?;
    let expected = layout(files.config)?;
    for (what, parameters) in [("weights", Some(files.weights)), ("raw weights", files.raw)] {
        let Some(parameters) = parameters else { continue };
        if **parameters.layout() != expected {
            return Err(Error::argument(format!("the {what} do not belong to this architecture")));
        }
        for (spec, values) in parameters.iter() {
            if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                let message = format!("{what}: {}: element {i} is {}", spec.name, values[i]);
                return Err(Error::new(Kind::NonFinite, message));
            }
        }
    }
    let classes = files.config.num_class_embeds.unwrap_or(0);
    if let Some(class) = files.null_class.filter(|&class| class >= classes) {
        return Err(Error::argument(format!("null_class: {class}, the network has {classes} classes")));
    }
    Ok(())
}

/// Replacing files one by one is safe only between models of one shape.
fn same_architecture(dir: &Path, config: &Config) -> Result<()> {
    let path = dir.join("unet/config.json");
    let refuse = |why: &str| {
        let message = format!("{why}; remove the folder or choose another");
        Err(Error::new(Kind::InvalidArgument, message).in_file(dir))
    };
    let json = match std::fs::read_to_string(&path) {
        Ok(json) => json,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return refuse("not empty, and no model folder"),
        Err(e) => return Err(Error::io(path, e)),
    };
    match config_from_json(&json, None).and_then(|old| layout(&old)) {
        Ok(old) if old == layout(config)? => Ok(()),
        _ => refuse("holds a model of another architecture"),
    }
}

/// A new folder beside `dir`, so that a rename stays within one file system.
fn temporary_sibling(dir: &Path) -> Result<PathBuf> {
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = dir.file_name().ok_or_else(|| Error::argument("a folder's name is needed").in_file(dir))?;
    std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
    for attempt in 0..1000 {
        let path = parent.join(format!(".{}.{}-{attempt}.tmp", name.to_string_lossy(), std::process::id()));
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io(path, e)),
        }
    }
    Err(Error::new(Kind::Io, "no free temporary name beside it").in_file(dir))
}

fn write_all(dir: &Path, files: &ModelFiles<'_>) -> Result<()> {
    for folder in ["unet", "scheduler"] {
        let path = dir.join(folder);
        std::fs::create_dir_all(&path).map_err(|e| Error::io(path, e))?;
    }
    match files.raw {
        Some(raw) => write_weights(&dir.join(RAW), raw, files.float_type)?,
        // Raw weights of an earlier save would belong to another model.
        None => match std::fs::remove_file(dir.join(RAW)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(dir.join(RAW), e)),
            _ => {}
        },
    }
    write_weights(&dir.join(MAIN), files.weights, files.float_type)?;
    write_text(&dir.join("unet/config.json"), &config_to_json(files.config))?;
    write_text(&dir.join("scheduler/scheduler_config.json"), &files.scheduler.to_json())?;
    let extra = json!({
        "format": 1,
        "null_class": files.null_class,
        "provenance": files.provenance,
        "weights": files.kind.to_string(),
    });
    write_text(&dir.join(EXTRA), &format!("{extra:#}\n"))?;
    let index = json!({
        "_class_name": "DDIMPipeline",
        "_diffusers_version": DIFFUSERS_VERSION,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    });
    write_text(&dir.join("model_index.json"), &format!("{index:#}\n"))
}

fn write_weights(path: &Path, parameters: &Parameters, float_type: FloatType) -> Result<()> {
    let tensors = parameters.iter().map(|(spec, values)| (spec.name.as_str(), spec.shape.as_slice(), values));
    // diffusers wants to know which framework wrote the file.
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let tensors: Vec<_> = tensors.collect();
    write_atomically(path, |out| write_tensors(tensors.iter().copied(), &metadata, float_type, out))
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    // Training saves the same config again and again.
    if std::fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    write_atomically(path, |out| out.write_all(text.as_bytes()).map_err(|e| Error::io(path, e)))
}
