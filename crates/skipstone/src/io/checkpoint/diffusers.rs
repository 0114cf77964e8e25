//! Loads a diffusers folder: `model_index.json`, `unet/` and `scheduler/`, or the flat form with everything at the
//! root.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::blob::{Blob, Files, Folder};
use super::fields::Fields;
use super::scheduler::SchedulerConfig;
use super::tensors::{Entry, TensorFile};
use super::{Extra, Format, LoadOptions, Model, Weights, WeightsChoice, assemble, config_from_json, unlabelled};
use super::{names, safetensors, select, torch};
use crate::error::{Error, Kind, Result};
use crate::unet::Config;

/// Skipstone's own file next to diffusers' files, with null class and provenance.
pub(super) const EXTRA: &str = "skipstone.json";
/// The same file for a network of which only its own folder or its file was named.
const EXTRA_ABOVE: &str = "../skipstone.json";
/// Where a folder has its scheduler. The last place is for the network's folder alone.
const SCHEDULERS: [&str; 3] =
    ["scheduler/scheduler_config.json", "scheduler_config.json", "../scheduler/scheduler_config.json"];
/// Where a model lies inside the folder of a training, and inside those of the models that come with skipstone.
const INSIDE: [&str; 2] = ["model", "weights"];
/// Maximum size of a JSON file in bytes; an index of a hundred thousand tensors needs less.
pub(super) const MAX_JSON: u64 = 32 << 20;

/// Weight files in order of preference: full precision before half, safetensors before pickles.
const MAIN: [&str; 8] = [
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.fp16.safetensors.index.json",
    "diffusion_pytorch_model.fp16.bin",
];
/// Files of raw weights: skipstone's name, and the one common for Stable Diffusion.
const RAW: [&str; 4] = [
    "diffusion_pytorch_model.raw.safetensors",
    "diffusion_pytorch_model.raw.bin",
    "diffusion_pytorch_model.non_ema.safetensors",
    "diffusion_pytorch_model.non_ema.bin",
];

/// Whether a file's name marks raw weights.
pub(super) fn is_raw_name(path: &Path) -> bool {
    path.file_name().and_then(|n| n.to_str()).is_some_and(|n| RAW.contains(&n))
}

/// Whether the tensors have diffusers' names.
pub(super) fn has_names(tensors: &TensorFile<'_>) -> bool {
    tensors.entries().contains_key(names::DIFFUSERS)
}

/// Loads a folder, which error messages call `root`.
pub(super) fn load(files: &dyn Files, root: &Path, options: &LoadOptions) -> Result<Model> {
    check_pipeline(files)?;
    let Network { folder, config: json, holds } = network(files, root, options)?;
    let config_name = format!("{folder}config.json");
    let config = config_from_json(&json, options.size).map_err(|e| e.in_file(files.label(&config_name)))?;
    // A flat folder may be that of the network alone. The rest of the model is then above it.
    let flat = folder.is_empty();
    let (marked, mut extra) = stated(files, EXTRA)?;
    if flat && extra.file.is_none() {
        extra = stated(files, EXTRA_ABOVE)?.1;
    }
    let schedulers = &SCHEDULERS[..if flat { 3 } else { 2 }];
    let scheduler = scheduler(files, schedulers, extra.file.as_deref(), options)?;
    let (weights, tensors) = weights(files, root, folder, options.weights, marked.or(holds))?;
    let learned_size = learned_size(&json, options, &config);
    let model = assemble(config, &tensors.renamed(modern)?, scheduler, weights, Format::Folder, extra)?;
    Ok(Model { learned_size, ..model })
}

/// Refuses pipelines with more than one network.
fn check_pipeline(files: &dyn Files) -> Result<()> {
    let Some(json) = files.text("model_index.json", MAX_JSON)? else { return Ok(()) };
    let label = || files.label("model_index.json");
    let index = Fields::parse(&json).map_err(|e| e.in_file(label()))?;
    match ["vae", "vqvae", "text_encoder"].into_iter().find(|part| index.get(part).is_some()) {
        None => Ok(()),
        Some(part) => {
            let what = format!("{part}: latent or text-conditional models are not supported");
            Err(Error::unsupported(what).in_file(label()))
        }
    }
}

/// Where a folder has its network.
struct Network {
    /// Empty or with a slash at its end.
    folder: &'static str,
    /// The text of its config.json.
    config: String,
    /// Which weights it has, if its name says so.
    holds: Option<Weights>,
}

fn network(files: &dyn Files, root: &Path, options: &LoadOptions) -> Result<Network> {
    // accelerate's checkpoints of diffusers' training scripts have the moving average in a folder of its own.
    let average = files.text("unet_ema/config.json", MAX_JSON)?;
    let separate = average.is_some();
    if let Some(config) = average.filter(|_| options.weights != WeightsChoice::Raw) {
        return Ok(Network { folder: "unet_ema/", config, holds: Some(Weights::Ema) });
    }
    if let Some(config) = files.text("unet/config.json", MAX_JSON)? {
        return Ok(Network { folder: "unet/", config, holds: separate.then_some(Weights::Raw) });
    }
    let config = files.text("config.json", MAX_JSON)?.ok_or_else(|| no_network(files, root))?;
    Ok(Network { folder: "", config, holds: None })
}

/// The error for a folder without a network. It names the model inside, if there is one.
fn no_network(files: &dyn Files, root: &Path) -> Error {
    let is_model = |folder: &str| {
        let names = ["unet/config.json", "config.json"];
        names.iter().any(|name| matches!(files.open(&format!("{folder}/{name}")), Ok(Some(_))))
    };
    let inside = INSIDE.into_iter().find(|&folder| is_model(folder));
    let hint = inside.map_or(String::new(), |folder| format!("; the model in it is {}", files.label(folder).display()));
    let what = format!("not a diffusers folder: it has neither unet/config.json nor config.json{hint}");
    Error::new(Kind::NotFound, what).in_file(root)
}

/// The weights that were chosen; the main file holds those that `marked` says, if anything does.
fn weights<'a>(
    files: &'a dyn Files,
    root: &Path,
    folder: &str,
    choice: WeightsChoice,
    marked: Option<Weights>,
) -> Result<(Weights, TensorFile<'a>)> {
    let open_first = |names: &[&str], choice| -> Result<Option<(Weights, TensorFile<'a>)>> {
        for name in names {
            if let Some(found) = open(files, folder, name, choice)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    };
    let missing = |what: String| Error::new(Kind::NotFound, what).in_file(root);
    let main = |choice| {
        open_first(&MAIN, choice)?.ok_or_else(|| {
            missing(format!("no weights found: expected {folder}{}, or its .bin, .fp16 or sharded form", MAIN[0]))
        })
    };
    match (choice, marked) {
        (WeightsChoice::Ema, Some(Weights::Raw)) => {
            Err(missing("the folder has raw weights only, no moving average".into()))
        }
        (WeightsChoice::Raw, Some(Weights::Raw)) => Ok((Weights::Raw, main(WeightsChoice::Auto)?.1)),
        (WeightsChoice::Raw, _) => match open_first(&RAW, WeightsChoice::Auto)? {
            Some((_, tensors)) => Ok((Weights::Raw, tensors)),
            // The main file may hold both.
            None => main(WeightsChoice::Raw).map_err(|e| match e.kind() {
                Kind::NotFound => missing(format!("no raw weights found: expected {folder}{}", RAW[0])),
                _ => e,
            }),
        },
        (WeightsChoice::Auto | WeightsChoice::Ema, marked) => {
            let (found, tensors) = main(WeightsChoice::Auto)?;
            let weights = match marked {
                Some(weights) => weights,
                // Whoever stores raw weights separately stores the averaged ones in the main file.
                None if raw_exists(files, folder)? => Weights::Ema,
                None => found,
            };
            Ok((weights, tensors))
        }
    }
}

fn raw_exists(files: &dyn Files, folder: &str) -> Result<bool> {
    for name in RAW {
        if files.open(&format!("{folder}{name}"))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Loads a weight file together with the config.json next to it.
pub(super) fn load_file(
    path: &Path,
    weights: Weights,
    tensors: TensorFile<'_>,
    options: &LoadOptions,
) -> Result<Model> {
    let files = Folder(path.parent().unwrap_or(Path::new("")).to_path_buf());
    let label = files.label("config.json");
    let json = files.text("config.json", MAX_JSON)?.ok_or_else(|| {
        let what = format!("missing; it is needed for the architecture of {}", path.display());
        Error::new(Kind::NotFound, what).in_file(&label)
    })?;
    let config = config_from_json(&json, options.size).map_err(|e| e.in_file(label))?;
    let (_, extra) = stated(&files, EXTRA_ABOVE)?;
    let scheduler = scheduler(&files, &SCHEDULERS[1..], extra.file.as_deref(), options)?;
    let raw = is_raw_name(path);
    if raw && options.weights == WeightsChoice::Ema {
        return Err(unlabelled().in_file(path));
    }
    let weights = if raw { Weights::Raw } else { weights };
    let learned_size = learned_size(&json, options, &config);
    let model = assemble(config, &tensors.renamed(modern)?, scheduler, weights, Format::File, extra)?;
    Ok(Model { learned_size, ..model })
}

/// The size in the file, if other images than those were asked for.
fn learned_size(json: &str, options: &LoadOptions, config: &Config) -> Option<[usize; 2]> {
    options.size?;
    let own = config_from_json(json, None).ok()?.sample_size;
    (own != config.sample_size).then_some(own)
}

/// The scheduler in the first file of these names. `ours` is the model's skipstone.json, if it has one.
fn scheduler(files: &dyn Files, names: &[&str], ours: Option<&Path>, options: &LoadOptions) -> Result<SchedulerConfig> {
    if let Some(scheduler) = &options.scheduler {
        return Ok(scheduler.clone());
    }
    for name in names {
        if let Some(json) = files.text(name, MAX_JSON)? {
            return SchedulerConfig::from_file(&json, ours.is_some()).map_err(|e| e.in_file(files.label(name)));
        }
    }
    if let Some(extra) = ours {
        // The network would make nothing but noise in another process than its own.
        let what = "missing, although skipstone writes it with every model; copy it from the original, or name another \
                    one with --scheduler FILE";
        return Err(Error::new(Kind::NotFound, what).in_file(extra.with_file_name("scheduler").join(SCHEDULERS[1])));
    }
    let config = SchedulerConfig::default();
    tracing::warn!(
        "{}: missing; taking {}; if the network was trained in another way, put its scheduler_config.json there or name it \
         with --scheduler FILE",
        files.label(names[0]).display(),
        config.in_words()
    );
    Ok(config)
}

/// Which weights the main file holds, and the rest of skipstone.json.
fn stated(files: &dyn Files, name: &str) -> Result<(Option<Weights>, Extra)> {
    let Some(json) = files.text(name, MAX_JSON)? else { return Ok((None, Extra::default())) };
    let parse = || {
        let fields = Fields::parse(&json)?;
        let format = fields.usize("format", 1)?;
        if format != 1 {
            return Err(Error::unsupported(format!("format: expected 1, found {format} (a newer version)")));
        }
        let known =
            [("ema", Some(Weights::Ema)), ("raw", Some(Weights::Raw)), ("unspecified", Some(Weights::Unspecified))];
        let weights = fields.choice("weights", &known, None)?;
        let mut provenance = BTreeMap::new();
        match fields.get("provenance") {
            None => {}
            Some(Value::Object(map)) => {
                for (key, value) in map {
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    provenance.insert(key.clone(), text);
                }
            }
            Some(other) => {
                return Err(Error::data(format!("provenance: expected strings, found {other}")));
            }
        }
        let null_class = fields.optional_usize("null_class", None)?;
        Ok((weights, Extra { file: Some(files.label(name)), null_class, provenance }))
    };
    parse().map_err(|e| e.in_file(files.label(name)))
}

/// Opens a weight file, or the shards listed in an index.
fn open<'s>(
    files: &'s dyn Files,
    folder: &str,
    name: &str,
    choice: WeightsChoice,
) -> Result<Option<(Weights, TensorFile<'s>)>> {
    let path = format!("{folder}{name}");
    let label = files.label(&path);
    if name.ends_with(".json") {
        let Some(json) = files.text(&path, MAX_JSON)? else { return Ok(None) };
        let all = shards(files, folder, &json).map_err(|e| e.in_file(label))?;
        return select::from_tensors(all, choice).map(Some);
    }
    let Some(blob) = files.open(&path)? else { return Ok(None) };
    if torch::is_torch(&*blob) {
        return select::from_torch(torch::TorchFile::open(blob, &label)?, &label, choice).map(Some);
    }
    select::from_tensors(safetensors::open(blob, &label)?, choice).map(Some)
}

/// Opens a file that holds all tensors or a shard of them.
fn open_one<'s>(blob: Box<dyn Blob + 's>, label: &Path) -> Result<TensorFile<'s>> {
    if torch::is_torch(&*blob) {
        return select::all_from_torch(torch::TorchFile::open(blob, label)?, label);
    }
    safetensors::open(blob, label)
}

/// The tensors of every shard. Errors refer to the index unless they name a shard.
fn shards<'s>(files: &'s dyn Files, folder: &str, json: &str) -> Result<TensorFile<'s>> {
    let fields = Fields::parse(json)?;
    let Some(Value::Object(map)) = fields.get("weight_map") else {
        return Err(Error::data("weight_map: expected an object of tensor names and files, found none"));
    };
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        // An index must not point outside its folder.
        let name =
            file.as_str().filter(|n| !n.is_empty() && !n.contains(['/', '\\', ':', '\0']) && *n != ".." && *n != ".");
        names.insert(
            name.ok_or_else(|| Error::data(format!("weight_map: {tensor}: expected a plain file name, found {file}")))?,
        );
    }
    let mut all: Option<TensorFile<'s>> = None;
    for name in names {
        let path = format!("{folder}{name}");
        let blob = files.open(&path)?.ok_or_else(|| {
            Error::new(Kind::NotFound, "missing; the index lists it as a shard").in_file(files.label(&path))
        })?;
        let shard = open_one(blob, &files.label(&path))?;
        match &mut all {
            Some(all) => all.merge(shard)?,
            None => all = Some(shard),
        }
    }
    all.ok_or_else(|| Error::data("weight_map: the index lists no files"))
}

/// Translates the names that older files give to the projections of an attention layer.
fn modern(name: &str, entry: Entry) -> Result<(String, Entry)> {
    const OLD: [(&str, &str); 4] = [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];
    if name.contains("attentions.")
        && let Some((path, leaf)) = name.rsplit_once('.')
        && let Some((layer, part)) = path.rsplit_once('.')
        && let Some((_, new)) = OLD.iter().find(|(old, _)| *old == part)
    {
        return Ok((format!("{layer}.{new}.{leaf}"), entry));
    }
    Ok((name.to_owned(), entry))
}
