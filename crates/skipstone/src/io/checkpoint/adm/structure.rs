//! The architecture as far as the tensors tell it.

use std::collections::BTreeMap;

use super::super::original::{MAX_LEVELS, count, shape};
use super::super::tensors::Entry;
use crate::error::{Error, Result};

/// What the names and shapes of a `UNetModel`'s tensors tell.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Structure {
    pub in_channels: usize,
    pub out_channels: usize,
    /// Their `num_channels`: width of the sinusoidal time embedding.
    pub model_channels: usize,
    /// Channels of each level, finest first.
    pub channels: Vec<usize>,
    /// Whether each level has attention.
    pub attention: Vec<bool>,
    pub middle_attention: bool,
    /// Residual blocks per level.
    pub layers: usize,
    pub scale_shift: bool,
    /// Whether residual blocks resample; `None`-like for a single level, where nothing does.
    pub resample_resnet: bool,
    pub classes: Option<usize>,
}

type Entries = BTreeMap<String, Entry>;

impl Structure {
    /// # Errors
    /// A tensor that every such network has is missing, or the blocks are not those of a `UNetModel`.
    pub fn read(entries: &Entries) -> Result<Self> {
        refuse_other_networks(entries)?;
        let input = shape(entries, "input_blocks.0.0.weight", 4)?;
        let output = shape(entries, "out.2.weight", 4)?;
        let time = shape(entries, "time_embed.0.weight", 2)?;
        let (layers, levels) = blocks(entries)?;
        let mut channels = Vec::new();
        let mut attention = Vec::new();
        for level in 0..levels {
            let block = |i: usize| format!("input_blocks.{}", 1 + level * (layers + 1) + i);
            channels.push(shape(entries, &format!("{}.0.out_layers.3.weight", block(0)), 4)?[0]);
            let attends = (0..layers).filter(|&i| entries.contains_key(&format!("{}.1.qkv.weight", block(i)))).count();
            if attends != 0 && attends != layers {
                return Err(Error::unsupported(format!(
                    "{}: expected attention after all {layers} blocks of the level or after none, found {attends}",
                    block(0)
                )));
            }
            attention.push(attends > 0);
        }
        let width = channels[0];
        let embedding = shape(entries, "input_blocks.1.0.emb_layers.1.weight", 2)?[0];
        if embedding != width && embedding != 2 * width {
            return Err(Error::data(format!(
                "input_blocks.1.0.emb_layers.1.weight: expected {width} rows, or {} with scale and shift, found {embedding}",
                2 * width
            )));
        }
        let model_channels = time[1];
        if width != model_channels {
            return Err(Error::unsupported(format!(
                "the first level has {width} channels, but the time embedding {model_channels} (channel_mult begins with \
                 a number other than 1, as in the 512×512 model); this is not supported"
            )));
        }
        let (images, values) = (input[1], output[0]);
        if images == 6 && values == 6 || values != images && values != 2 * images {
            return Err(Error::unsupported(format!(
                "the network has {images} input and {values} output channels; a network that also takes a small image \
                 (the upsamplers) is not supported"
            )));
        }
        Ok(Self {
            in_channels: images,
            out_channels: values,
            model_channels,
            scale_shift: embedding == 2 * width,
            resample_resnet: entries.contains_key(&format!("input_blocks.{}.0.in_layers.2.weight", layers + 1))
                && levels > 1,
            channels,
            attention,
            middle_attention: entries.contains_key("middle_block.1.qkv.weight"),
            layers,
            classes: match entries.get("label_emb.weight") {
                Some(_) => Some(shape(entries, "label_emb.weight", 2)?[0]),
                None => None,
            },
        })
    }
}

/// Residual blocks per level, and levels. Every level but the last one up ends with an upsampler, so the way up tells
/// both: a downsampler that is a residual block looks like any other block.
fn blocks(entries: &Entries) -> Result<(usize, usize)> {
    let blocks = count(entries, "output_blocks.");
    let resamples = |i: &usize| {
        let has = |part: &str| entries.contains_key(&format!("output_blocks.{i}.{part}.weight"));
        ["1.conv", "1.in_layers.2", "2.conv", "2.in_layers.2"].into_iter().any(has)
    };
    let ups: Vec<usize> = (0..blocks).filter(resamples).collect();
    let levels = ups.len() + 1;
    let per_level = blocks / levels;
    let regular = ups.iter().zip(1..).all(|(&up, level)| up + 1 == level * per_level);
    if levels > MAX_LEVELS || per_level < 2 || per_level * levels != blocks || !regular {
        return Err(Error::unsupported(format!(
            "output_blocks: expected levels with equally many blocks, each but the last with an upsampler; found {blocks} \
             blocks and upsamplers in {ups:?}"
        )));
    }
    Ok((per_level - 1, levels))
}

/// Refuses networks with similar names that are not denoisers in pixel space.
fn refuse_other_networks(entries: &Entries) -> Result<()> {
    if let Some(name) = entries.keys().find(|name| name.contains("transformer_blocks.")) {
        return Err(Error::unsupported(format!("{name}: latent or text-conditional models are not supported")));
    }
    if !entries.keys().any(|name| name.starts_with("output_blocks.")) {
        return Err(Error::unsupported(
            "the network has no output_blocks: this is a classifier of guided-diffusion, not a diffusion model",
        ));
    }
    Ok(())
}
