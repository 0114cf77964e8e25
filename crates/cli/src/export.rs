//! `skipstone convert --to FILE.onnx`: writes a model as an ONNX file.

use std::path::Path;

use serde_json::json;
use skipstone::Error;
use skipstone::io::checkpoint::Model;
use skipstone::io::onnx::{OnnxModel, check_replaced, write_onnx};

use crate::failure::{Done, emit, say};

/// Writes the model to `path`, or only says what would be written.
pub fn run(model: &Model, path: &Path, dry_run: bool, json: bool) -> anyhow::Result<Done> {
    if model.source.is_some() {
        return Err(Error::unsupported("already an ONNX network; copy the file").in_file(&model.file).into());
    }
    check_replaced(path)?;
    let Model { config, parameters, scheduler, null_class, .. } = model;
    let beside = if dry_run {
        None
    } else {
        write_onnx(path, OnnxModel { config, parameters, scheduler, null_class: *null_class })?
    };
    let (count, hash) = (parameters.data().len(), &model.hash);
    if json {
        emit(json!({
            "output": path.display().to_string(), "data": beside.map(|path| path.display().to_string()),
            "weights": model.weights.to_string(), "parameters": count, "from": model.file.display().to_string(),
            "hash": hash,
        }))?;
        return Ok(Done::Finished);
    }
    say(format_args!("read     {}", model.file.display()));
    say(format_args!("weights  {}: {count} parameters, hash {}", model.weights, &hash[..16]));
    let [height, width] = config.sample_size;
    say(format_args!("images   {} × {height} × {width}, any number per call", config.in_channels));
    if let Some(beside) = &beside {
        say(format_args!(
            "an ONNX file holds at most 2 GB: its weights are in {}; keep the two together",
            beside.display()
        ));
    }
    if dry_run {
        say("dry run: nothing was written");
    } else {
        emit(path.display())?;
    }
    Ok(Done::Finished)
}
