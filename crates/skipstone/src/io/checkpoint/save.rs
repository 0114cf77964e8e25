//! Writes diffusers folders. The same model gives the same bytes, and readers never see an incomplete model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::f16;
use serde_json::json;

use super::config::DIFFUSERS_VERSION;
use super::diffusers::EXTRA;
use super::safetensors::{FloatType, write_tensors};
use super::{LoadOptions, SchedulerConfig, Weights, WeightsChoice, config_from_json, config_to_json, load_network};
use crate::error::{Error, Kind, Result};
use crate::io::files::{Lock, SUFFIX, check_dir, create_dir, lock, refused, write_atomically, write_bytes};
use crate::unet::{Config, Parameters, layout};

const MAIN: &str = "unet/diffusion_pytorch_model.safetensors";
/// diffusers loads this file as `variant="raw"`.
const RAW: &str = "unet/diffusion_pytorch_model.raw.safetensors";

/// The contents of a model folder.
#[derive(Clone, Copy, Debug)]
pub struct ModelFiles<'a> {
    /// The architecture.
    pub config: &'a Config,
    /// The weights to sample with.
    pub weights: &'a Parameters,
    /// Which weights these are.
    pub kind: Weights,
    /// The trained weights without averaging, next to the moving average.
    pub raw: Option<&'a Parameters>,
    /// The noise schedule and the sampling defaults.
    pub scheduler: &'a SchedulerConfig,
    /// The class that means "no class".
    pub null_class: Option<usize>,
    /// Free text stored with the model. Omit times and paths to keep the bytes reproducible.
    pub provenance: &'a BTreeMap<String, String>,
    /// The number format of the weights.
    pub float_type: FloatType,
}

/// Writes a model folder that [`load`](super::load) and diffusers' `DDIMPipeline` can read.
///
/// A new folder is built under a temporary name next to `dir` and then renamed. In an existing folder each file is
/// replaced atomically, so the folder can be loaded at any time. A folder with another architecture is left unchanged.
///
/// # Errors
/// The weights are not finite or do not fit the config, another model is in the way, or a write fails.
pub fn save(dir: &Path, files: &ModelFiles<'_>) -> Result<()> {
    check(files)?;
    if is_occupied(dir, files.config)? {
        return write_all(dir, files);
    }
    let aside = temporary_sibling(dir)?;
    let result = write_all(&aside, files).map_err(|e| renamed(e, &aside, dir)).and_then(|()| {
        // Not every system can rename over an empty folder.
        match std::fs::remove_dir(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(dir, e)),
            _ => {}
        }
        std::fs::rename(&aside, dir).map_err(|e| refused(dir, e))
    });
    if result.is_err() {
        // Report the first error rather than a failure to clean up.
        let _ = std::fs::remove_dir_all(&aside);
    }
    result
}

/// Checks that [`save`] would write this model to `dir` and replace no other weights, of which there may be no copy. Writes
/// nothing. If there is a model, a training that writes to the folder around it is kept away as long as the lock lives.
///
/// # Errors
/// As [`save`]; or the folder has weights that are not among these, or another process writes to the folder around it.
pub fn claim(dir: &Path, files: &ModelFiles<'_>) -> Result<Option<Lock>> {
    check(files)?;
    if !is_occupied(dir, files.config)? {
        return Ok(None);
    }
    // Not by its name, which may be a link or a dot.
    let place = std::fs::canonicalize(dir).map_err(|e| Error::io(dir, e))?;
    let held = lock(place.parent().unwrap_or(&place))?;
    for choice in [WeightsChoice::Auto, WeightsChoice::Raw] {
        let Some(found) = weights_in(dir, choice)? else { continue };
        let mut written = [Some(files.weights), files.raw].into_iter().flatten();
        if !written.any(|weights| are_stored_as(weights, files.float_type, &found)) {
            return Err(in_the_way(dir, "the folder has other weights, which would be lost"));
        }
    }
    Ok(Some(held))
}

/// The weights in a folder; `None` if it does not have these.
fn weights_in(dir: &Path, weights: WeightsChoice) -> Result<Option<Parameters>> {
    // Whatever its schedule is, and even if that is missing.
    let scheduler = Some(SchedulerConfig::default());
    match load_network(dir, &LoadOptions { weights, scheduler, ..LoadOptions::default() }) {
        Ok(model) => Ok(Some(model.parameters)),
        Err(e) if e.kind() == Kind::NotFound => Ok(None),
        Err(e) => Err(in_the_way(dir, &format!("the folder has a model that cannot be read ({e})"))),
    }
}

/// Whether a file of this type would hold `weights` as `found`.
fn are_stored_as(weights: &Parameters, float_type: FloatType, found: &Parameters) -> bool {
    let stored = |value: f32| match float_type {
        FloatType::F32 => value,
        FloatType::F16 => f16::from_f32(value).to_f32(),
    };
    let (weights, found) = (weights.data(), found.data());
    weights.len() == found.len() && weights.iter().zip(found).all(|(&value, &found)| stored(value) == found)
}

/// The error without the temporary name of the folder `dir`, which tells the user nothing.
fn renamed(error: Error, aside: &Path, dir: &Path) -> Error {
    let Some(inside) = error.path().and_then(|path| path.strip_prefix(aside).ok()) else { return error };
    let path: PathBuf = dir.join(inside).components().collect();
    let message = error.message().replace(&*aside.to_string_lossy(), &dir.to_string_lossy());
    Error::new(error.kind(), message).in_file(path)
}

fn check(files: &ModelFiles<'_>) -> Result<()> {
    files.config.validate()?;
    let expected = layout(files.config)?;
    for (what, parameters) in [("weights", Some(files.weights)), ("raw weights", files.raw)] {
        let Some(parameters) = parameters else { continue };
        if **parameters.layout() != expected {
            return Err(Error::argument(format!(
                "the {what} do not fit the config: they belong to another architecture"
            )));
        }
        for (spec, values) in parameters.iter() {
            if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                let message = format!("{what}: {}: element {i} is {}; weights must be finite", spec.name, values[i]);
                return Err(Error::new(Kind::NonFinite, message));
            }
        }
    }
    let classes = files.config.num_class_embeds.unwrap_or(0);
    if let Some(class) = files.null_class.filter(|&class| class >= classes) {
        return Err(Error::argument(format!("null_class: {class} is not one of the {classes} classes")));
    }
    Ok(())
}

/// Whether there is a model in the folder, rather than nothing. Refuses anything else in its place.
fn is_occupied(dir: &Path, config: &Config) -> Result<bool> {
    check_dir(dir)?;
    let occupied = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(Error::io(dir, e)),
    };
    if occupied {
        same_architecture(dir, config)?;
    }
    Ok(occupied)
}

/// Refuses a folder with another architecture: replacing files one by one is safe only between models of one shape.
fn same_architecture(dir: &Path, config: &Config) -> Result<()> {
    let path = dir.join("unet/config.json");
    let json = match std::fs::read_to_string(&path) {
        Ok(json) => json,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(in_the_way(dir, "the folder is not empty and not a model folder"));
        }
        Err(e) => return Err(Error::io(path, e)),
    };
    match config_from_json(&json, None).and_then(|old| layout(&old)) {
        Ok(old) if old == layout(config)? => Ok(()),
        _ => Err(in_the_way(dir, "the folder has a model of another architecture")),
    }
}

/// The error for what is in the place of a new folder.
fn in_the_way(dir: &Path, why: &str) -> Error {
    Error::argument(format!("{why}; remove the folder or choose another")).in_file(dir)
}

/// Creates a folder next to `dir`, so that the rename stays within one file system.
fn temporary_sibling(dir: &Path) -> Result<PathBuf> {
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = dir.file_name().ok_or_else(|| Error::argument("the path does not name a folder").in_file(dir))?;
    create_dir(parent)?;
    for attempt in 0..1000 {
        let path = parent.join(format!(".{}.{}-{attempt}{SUFFIX}", name.to_string_lossy(), std::process::id()));
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(refused(dir, e)),
        }
    }
    Err(Error::new(Kind::Io, "cannot find a free temporary name next to the folder").in_file(dir))
}

fn write_all(dir: &Path, files: &ModelFiles<'_>) -> Result<()> {
    for folder in ["unet", "scheduler"] {
        create_dir(&dir.join(folder))?;
    }
    match files.raw {
        Some(raw) => write_weights(&dir.join(RAW), raw, files.float_type)?,
        // Raw weights from an earlier save would belong to another model.
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
    // diffusers requires the name of the framework that wrote the file.
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let tensors: Vec<_> = tensors.collect();
    write_atomically(path, |out| write_tensors(tensors.iter().copied(), &metadata, float_type, out))
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    // Training saves the same config repeatedly.
    if std::fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    write_bytes(path, text.as_bytes())
}
