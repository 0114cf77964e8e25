//! Checkpoints of the paper's authors and of the PyTorch port of DDPM: state dicts without a config.

use std::collections::{BTreeMap, BTreeSet};

use super::config::check;
use super::scheduler::SchedulerConfig;
use super::tensors::{Entry, TensorFile};
use super::{LoadOptions, names};
use crate::error::{Error, Result};
use crate::unet::{Config, DownBlock, UpBlock};

type Entries = BTreeMap<String, Entry>;

/// Maximum number of levels, which keeps a malicious name from causing an arbitrarily long loop.
pub(super) const MAX_LEVELS: usize = 16;

/// Whether the tensors have the names of the original code.
pub(super) fn has_names(tensors: &TensorFile<'_>) -> bool {
    tensors.entries().contains_key(names::ORIGINAL)
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
    check(&config, options.size)?;
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
