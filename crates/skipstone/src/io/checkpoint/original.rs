//! Checkpoints of the paper's authors and of the PyTorch port of DDPM: state dicts without a config.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::scheduler::SchedulerConfig;
use super::tensors::{Entry, TensorFile};
use super::torch::TorchFile;
use super::{LoadOptions, Weights, WeightsChoice, single};
use crate::error::{Error, Kind, Result};
use crate::unet::{Config, DownBlock, UpBlock};

type Entries = BTreeMap<String, Entry>;

/// Maximum number of levels, which keeps a malicious name from causing an arbitrarily long loop.
pub(super) const MAX_LEVELS: usize = 16;

/// Keys under which training scripts store a state dict.
const RAW_KEYS: [&str; 6] = ["model", "state_dict", "model_state_dict", "net", "unet", "module"];
const EMA_KEYS: [&str; 6] = ["ema", "model_ema", "ema_model", "ema_state_dict", "ema_model_state_dict", "shadow"];

/// Finds the requested weights in a saved object: a state dict, the list [model, optimizer, epoch, step, ema], or a
/// dictionary of such parts.
pub(super) fn select<'a>(file: TorchFile<'a>, path: &Path, choice: WeightsChoice) -> Result<(Weights, TensorFile<'a>)> {
    let pickle = file.pickle();
    if ["state", "param_groups"].iter().all(|key| pickle.get(pickle.root, key).is_some()) {
        return Err(super::adm::optimiser_state(path));
    }
    let (weights, entries) = find(&file, choice).map_err(|e| e.in_file(path))?.ok_or_else(|| single(path))?;
    if weights == Weights::Raw && choice == WeightsChoice::Auto {
        tracing::warn!(file = %path.display(), "no moving average in this file; loading the raw weights");
    }
    Ok((weights, file.into_tensors(path, without_prefix(entries))))
}

/// Returns `None` if a labelled set of weights is requested but only an unlabelled one exists.
fn find(file: &TorchFile<'_>, choice: WeightsChoice) -> Result<Option<(Weights, Entries)>> {
    let pickle = file.pickle();
    let (mut raw, mut ema) = (None, None);
    let labelled;
    if let Some(parts) = pickle.sequence(pickle.root) {
        labelled = true;
        if let Some(&model) = parts.first() {
            raw = file.state_dict(model)?;
        }
        for &part in parts.iter().take(16).skip(2) {
            if ema.is_none() {
                ema = file.state_dict(part)?;
            }
        }
    } else {
        // Parts first: a dictionary of parts may also hold tensors, such as the step count or the best loss.
        let first = |keys: &[&str]| -> Result<Option<Entries>> {
            for part in keys.iter().filter_map(|key| pickle.get(pickle.root, key)) {
                if let Some(entries) = file.state_dict(part)? {
                    return Ok(Some(entries));
                }
            }
            Ok(None)
        };
        (raw, ema) = (first(&RAW_KEYS)?, first(&EMA_KEYS)?);
        labelled = ema.is_some();
        if raw.is_none() && ema.is_none() {
            raw = file.state_dict(pickle.root)?;
        }
    }
    if raw.is_none() && ema.is_none() {
        return Err(Error::new(Kind::NotFound, "no state dict: expected a dictionary of tensors or a list of them"));
    }
    let missing = |what: &str| Error::new(Kind::NotFound, format!("the checkpoint has no {what} weights"));
    match choice {
        WeightsChoice::Ema | WeightsChoice::Raw if !labelled => Ok(None),
        WeightsChoice::Ema => ema.map(|e| Some((Weights::Ema, e))).ok_or_else(|| missing("ema")),
        WeightsChoice::Raw => raw.map(|e| Some((Weights::Raw, e))).ok_or_else(|| missing("raw")),
        WeightsChoice::Auto => Ok(match (ema, raw) {
            (Some(ema), _) => Some((Weights::Ema, ema)),
            (None, raw) => raw.map(|e| (if labelled { Weights::Raw } else { Weights::Unspecified }, e)),
        }),
    }
}

/// Removes the prefix `module.`, which data-parallel training adds to all names.
fn without_prefix(entries: Entries) -> Entries {
    if !entries.keys().all(|name| name.starts_with("module.")) {
        return entries;
    }
    entries.into_iter().map(|(name, entry)| (name["module.".len()..].to_owned(), entry)).collect()
}

/// Whether the tensors have the names of the original code.
pub(super) fn has_names(tensors: &TensorFile<'_>) -> bool {
    tensors.entries().contains_key("temb.dense.0.weight")
}

/// The official schedule: linear, T = 1000, no clipping.
pub(super) fn scheduler() -> SchedulerConfig {
    SchedulerConfig { clip_sample: Some(false), ..SchedulerConfig::default() }
}

/// The architecture implied by the tensors' shapes, and the tensors under diffusers' names.
pub(super) fn convert<'a>(tensors: TensorFile<'a>, options: &LoadOptions) -> Result<(Config, TensorFile<'a>)> {
    let label = tensors.label.clone();
    let config = infer(tensors.entries(), options).map_err(|e| e.in_file(label))?;
    let levels = config.block_out_channels.len();
    let tensors = tensors.renamed(|name, entry| rename(name, entry, levels))?;
    Ok((config, tensors))
}

pub(super) fn shape<'e>(entries: &'e Entries, name: &str, rank: usize) -> Result<&'e [usize]> {
    let entry = entries.get(name).ok_or_else(|| Error::data(format!("{name}: missing; the architecture needs it")))?;
    if entry.shape.len() != rank {
        return Err(Error::data(format!("{name}: expected {rank} dimensions, found {:?}", entry.shape)));
    }
    Ok(&entry.shape)
}

/// The number of consecutive names `prefix.0`, `prefix.1`, …
pub(super) fn count(entries: &Entries, prefix: &str) -> usize {
    let indices: BTreeSet<usize> = entries
        .range(prefix.to_owned()..)
        .map_while(|(name, _)| name.strip_prefix(prefix))
        .filter_map(|rest| rest.split('.').next()?.parse().ok())
        .collect();
    indices.iter().zip(0..).take_while(|&(&found, expected)| found == expected).count()
}

fn infer(entries: &Entries, options: &LoadOptions) -> Result<Config> {
    let conv_in = shape(entries, "conv_in.weight", 4)?;
    let conv_out = shape(entries, "conv_out.weight", 4)?;
    let levels = count(entries, "down.");
    if !(1..=MAX_LEVELS).contains(&levels) {
        return Err(Error::data(format!("expected 1 to {MAX_LEVELS} levels of names down.i, found {levels}")));
    }
    let layers = count(entries, "down.0.block.");
    let mut block_out_channels = Vec::new();
    let mut attention = Vec::new();
    for level in 0..levels {
        let name = format!("down.{level}.block.0.conv1.weight");
        block_out_channels.push(shape(entries, &name, 4)?[0]);
        let (blocks, attentions) =
            (count(entries, &format!("down.{level}.block.")), count(entries, &format!("down.{level}.attn.")));
        if blocks != layers {
            return Err(Error::unsupported(format!("down.{level}: expected {layers} blocks, found {blocks}")));
        }
        if attentions != 0 && attentions != blocks {
            return Err(Error::unsupported(format!(
                "down.{level}: expected 0 or {blocks} attentions, found {attentions}"
            )));
        }
        if level + 1 < levels && !entries.contains_key(&format!("down.{level}.downsample.conv.weight")) {
            return Err(Error::unsupported(format!(
                "down.{level}.downsample.conv.weight: missing; downsampling without convolution is not supported"
            )));
        }
        attention.push(attentions > 0);
    }
    let of_level = |attends: bool| {
        if attends { (DownBlock::Attention, UpBlock::Attention) } else { (DownBlock::Plain, UpBlock::Plain) }
    };
    let config = Config {
        sample_size: options.size.unwrap_or_else(|| [guess_size(&attention); 2]),
        in_channels: conv_in[1],
        out_channels: conv_out[0],
        freq_shift: 1.0,
        flip_sin_to_cos: false,
        down_blocks: attention.iter().map(|&a| of_level(a).0).collect(),
        up_blocks: attention.iter().rev().map(|&a| of_level(a).1).collect(),
        block_out_channels,
        layers_per_block: layers,
        downsample_padding: 0,
        attention_head_dim: None,
        norm_num_groups: options.norm_num_groups.unwrap_or(32),
        norm_eps: 1e-6,
        add_attention: entries.contains_key("mid.attn_1.q.weight"),
        ..Config::default()
    };
    config.validate()?;
    Ok(config)
}

/// Guesses the image size: the published models have attention at 16×16, which is level i of an image of 16·2^i.
fn guess_size(attention: &[bool]) -> usize {
    match attention.iter().position(|&a| a) {
        Some(level) if attention.iter().filter(|&&a| a).count() == 1 => 16 << level,
        _ => 32,
    }
}

/// Translates a tensor's name to diffusers'. Unknown names stay unchanged and are reported later.
fn rename(name: &str, entry: Entry, levels: usize) -> Result<(String, Entry)> {
    let parts: Vec<&str> = name.split('.').collect();
    let level = |i: &str| i.parse::<usize>().ok().filter(|&i| i < levels);
    let new = match parts[..] {
        ["conv_in" | "conv_out", _] => None,
        ["norm_out", leaf] => Some(format!("conv_norm_out.{leaf}")),
        ["temb", "dense", "0", leaf] => Some(format!("time_embedding.linear_1.{leaf}")),
        ["temb", "dense", "1", leaf] => Some(format!("time_embedding.linear_2.{leaf}")),
        ["mid", "block_1", part, leaf] => Some(format!("mid_block.resnets.0.{}.{leaf}", resnet(part))),
        ["mid", "block_2", part, leaf] => Some(format!("mid_block.resnets.1.{}.{leaf}", resnet(part))),
        ["mid", "attn_1", part, leaf] => Some(format!("mid_block.attentions.0.{}.{leaf}", attention(part))),
        [way @ ("down" | "up"), i, kind, a, b, ref rest @ ..] => level(i).and_then(|i| {
            // On the way up, the original code counts levels from the finest, diffusers from the coarsest.
            let block =
                if way == "down" { format!("down_blocks.{i}") } else { format!("up_blocks.{}", levels - 1 - i) };
            match (kind, rest) {
                ("block", [leaf]) => Some(format!("{block}.resnets.{a}.{}.{leaf}", resnet(b))),
                ("attn", [leaf]) => Some(format!("{block}.attentions.{a}.{}.{leaf}", attention(b))),
                ("downsample", []) if way == "down" && a == "conv" => Some(format!("{block}.downsamplers.0.conv.{b}")),
                ("upsample", []) if way == "up" && a == "conv" => Some(format!("{block}.upsamplers.0.conv.{b}")),
                _ => None,
            }
        }),
        _ => None,
    };
    let Some(new) = new else { return Ok((name.to_owned(), entry)) };
    // The 1×1 convolutions of an attention layer are linear maps.
    let entry = match entry.shape[..] {
        [out, inner, 1, 1] if new.contains("attentions.") => entry.reshaped(vec![out, inner])?,
        _ => entry,
    };
    Ok((new, entry))
}

fn resnet(part: &str) -> &str {
    match part {
        "temb_proj" => "time_emb_proj",
        "nin_shortcut" => "conv_shortcut",
        same => same,
    }
}

fn attention(part: &str) -> &str {
    match part {
        "norm" => "group_norm",
        "q" => "to_q",
        "k" => "to_k",
        "v" => "to_v",
        "proj_out" => "to_out.0",
        same => same,
    }
}
