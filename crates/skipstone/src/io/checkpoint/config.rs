//! Conversion between `unet/config.json`, diffusers' description of a `UNet2DModel`, and [`Config`].

use serde_json::{Value, json};

use super::fields::{Fields, name_of};
use crate::error::{Error, Result};
use crate::unet::config::MAX_CLASSES;
use crate::unet::graph::Graph;
use crate::unet::plan::{CACHE_LINE, MemoryPlan};
use crate::unet::{Activation, ClassEmbedding, Config, DownBlock, TimeEmbedding, TimeScaleShift, UpBlock};

/// The version of diffusers whose file format is written.
pub(super) const DIFFUSERS_VERSION: &str = "0.42.1";

const DOWN_BLOCKS: &[(&str, DownBlock)] = &[
    ("DownBlock2D", DownBlock::Plain),
    ("AttnDownBlock2D", DownBlock::Attention),
    ("ResnetDownsampleBlock2D", DownBlock::ResnetDownsample),
];
const UP_BLOCKS: &[(&str, UpBlock)] = &[
    ("UpBlock2D", UpBlock::Plain),
    ("AttnUpBlock2D", UpBlock::Attention),
    ("ResnetUpsampleBlock2D", UpBlock::ResnetUpsample),
];

const ACTIVATIONS: &[(&str, Activation)] = &[
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("mish", Activation::Mish),
    ("relu", Activation::Relu),
];
const CLASS_EMBEDDINGS: &[(&str, ClassEmbedding)] =
    &[("timestep", ClassEmbedding::Timestep), ("identity", ClassEmbedding::Identity)];

fn block<T: Copy>(field: &str, name: &str, known: &[(&str, T)]) -> Result<T> {
    // Files of diffusers 0.1 call these blocks UNetResDownBlock2D and so on.
    let plain = name.strip_prefix("UNetRes").unwrap_or(name);
    known.iter().find(|(n, _)| *n == plain).map(|&(_, block)| block).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|&(n, _)| n).collect();
        Error::unsupported(format!("{field}: {name:?} is not supported; expected one of {}", names.join(", ")))
    })
}

/// Parses a config.json. Absent fields have the defaults of diffusers' `UNet2DModel`. `size`, if given, replaces
/// `sample_size`.
///
/// ```
/// let json = r#"{"sample_size": 32, "block_out_channels": [32, 64, 64, 64], "attention_head_dim": null}"#;
/// let config = skipstone::io::checkpoint::config_from_json(json, None).unwrap();
/// assert_eq!((config.sample_size, config.norm_eps, config.flip_sin_to_cos), ([32, 32], 1e-5, true));
/// ```
///
/// # Errors
/// The message names the first field that is malformed or unsupported.
pub fn config_from_json(json: &str, size: Option<[usize; 2]>) -> Result<Config> {
    let fields = Fields::parse(json)?;
    if let Some(class) = fields.str("_class_name")?
        && !matches!(class, "UNet2DModel" | "UNetUnconditionalModel")
    {
        return Err(Error::unsupported(format!("_class_name: {class:?} is not supported; expected UNet2DModel")));
    }
    let block_out_channels = fields.usizes("block_out_channels", &[224, 448, 672, 896])?;
    let down_names = [&["DownBlock2D"][..], &["AttnDownBlock2D"; 3]].concat();
    let up_names = [&["AttnUpBlock2D"; 3][..], &["UpBlock2D"]].concat();
    let down = fields.strs("down_block_types", &down_names)?;
    let up = fields.strs("up_block_types", &up_names)?;
    refuse_unsupported(&fields, &block_out_channels)?;
    let time_embedding = time_embedding(&fields)?;
    let class_embedding = fields.choice("class_embed_type", CLASS_EMBEDDINGS, ClassEmbedding::Table)?;
    let heads = heads(&fields, &block_out_channels)?;
    let conv_or_resnet = |name| fields.choice(name, &[("conv", false), ("resnet", true)], false);
    let config = Config {
        sample_size: match size {
            Some(size) => size,
            None => sample_size(&fields)?,
        },
        in_channels: fields.usize("in_channels", 3)?,
        out_channels: fields.usize("out_channels", 3)?,
        center_input_sample: fields.bool("center_input_sample", false)?,
        time_embedding,
        time_scale: fields.f64("time_scale", 1.0)?,
        freq_shift: fields.f64("freq_shift", 0.0)?,
        flip_sin_to_cos: fields.bool("flip_sin_to_cos", true)?,
        down_blocks: down.iter().map(|n| block("down_block_types", n, DOWN_BLOCKS)).collect::<Result<_>>()?,
        up_blocks: up.iter().map(|n| block("up_block_types", n, UP_BLOCKS)).collect::<Result<_>>()?,
        block_out_channels,
        layers_per_block: fields.usize("layers_per_block", 2)?,
        mid_block_scale_factor: fields.f64("mid_block_scale_factor", 1.0)?,
        downsample_padding: fields.usize("downsample_padding", 1)?,
        downsample_resnet: conv_or_resnet("downsample_type")?,
        upsample_resnet: conv_or_resnet("upsample_type")?,
        dropout: fields.f64("dropout", 0.0)?,
        attention_head_dim: heads.dim,
        num_attention_heads: heads.number,
        norm_num_groups: fields.usize("norm_num_groups", 32)?,
        attn_norm_num_groups: fields.optional_usize("attn_norm_num_groups", None)?,
        norm_eps: fields.f64("norm_eps", 1e-5)?,
        resnet_time_scale_shift: fields.choice(
            "resnet_time_scale_shift",
            &[("default", TimeScaleShift::Default), ("scale_shift", TimeScaleShift::ScaleShift)],
            TimeScaleShift::Default,
        )?,
        activation: fields.choice("act_fn", ACTIVATIONS, Activation::Silu)?,
        mid_block: match fields.raw("mid_block_type") {
            Some(Value::Null) => false,
            _ => fields.choice("mid_block_type", &[("UNetMidBlock2D", true)], true)?,
        },
        add_attention: fields.bool("add_attention", true)?,
        num_class_embeds: match (fields.optional_usize("num_class_embeds", None)?, class_embedding) {
            (Some(classes), _) => Some(classes),
            (None, ClassEmbedding::Table) => None,
            // diffusers does not limit the labels of these, unless they are rows of the table of times.
            (None, _) => match time_embedding {
                TimeEmbedding::Learned { num_train_timesteps } => Some(num_train_timesteps),
                TimeEmbedding::Positional => Some(MAX_CLASSES),
            },
        },
        class_embedding,
    };
    check(&config, size)?;
    Ok(config)
}

/// Checks a config, of whose images the caller may have chosen the `size`. What is wrong with that size is not the
/// file's fault.
pub(super) fn check(config: &Config, size: Option<[usize; 2]>) -> Result<()> {
    let checked = config.validate();
    if size.is_none() {
        return checked;
    }
    checked.and_then(|()| fits_memory(config)).map_err(|e| match e.message().strip_prefix("sample_size: ") {
        Some(what) => Error::argument(format!("size: {what}")),
        None => e,
    })
}

/// Refuses images of which not even one fits in memory.
fn fits_memory(config: &Config) -> Result<()> {
    MemoryPlan::inference(&Graph::new(config, false)?, CACHE_LINE).check()
}

fn sample_size(fields: &Fields) -> Result<[usize; 2]> {
    match fields.get("sample_size") {
        // Also null, diffusers' default.
        None => Err(Error::data(
            "sample_size: missing, the config does not say the size of the images; set it with --size N or --size HxW",
        )),
        Some(Value::Array(_)) => {
            let sizes = fields.usizes("sample_size", &[])?;
            <[usize; 2]>::try_from(sizes).map_err(|s| {
                Error::data(format!("sample_size: expected one number, or height and width, found {} numbers", s.len()))
            })
        }
        Some(_) => fields.usize("sample_size", 0).map(|size| [size, size]),
    }
}

/// Heads by their width or by their number.
struct Heads {
    dim: Option<usize>,
    number: Option<usize>,
}

/// `attention_head_dim`: one width for all levels, or a list with the width on each level, which is how a fixed number
/// of heads is written. diffusers' `UNet2DModel` refuses the list rather than compute another network.
fn heads(fields: &Fields, channels: &[usize]) -> Result<Heads> {
    const NAME: &str = "attention_head_dim";
    if !matches!(fields.get(NAME), Some(Value::Array(_))) {
        return Ok(Heads { dim: fields.optional_usize(NAME, Some(8))?, number: None });
    }
    let widths = fields.usizes(NAME, &[])?;
    let number = channels.iter().zip(&widths).map(|(&channels, &width)| channels.checked_div(width));
    let first = number.clone().next().flatten();
    let fits = |(&channels, &width): (&usize, &usize)| first.and_then(|n| n.checked_mul(width)) == Some(channels);
    if widths.len() != channels.len() || !channels.iter().zip(&widths).all(fits) {
        return Err(Error::unsupported(format!(
            "{NAME}: {widths:?} is not supported; expected one width, or a list with a width for each level that gives \
             all levels of block_out_channels the same number of heads"
        )));
    }
    Ok(Heads { dim: None, number: first })
}

fn time_embedding(fields: &Fields) -> Result<TimeEmbedding> {
    match fields.str("time_embedding_type")?.unwrap_or("positional") {
        "positional" => Ok(TimeEmbedding::Positional),
        "learned" => match fields.optional_usize("num_train_timesteps", None)? {
            Some(num_train_timesteps) => Ok(TimeEmbedding::Learned { num_train_timesteps }),
            None => Err(Error::data("num_train_timesteps: missing; time_embedding_type \"learned\" needs it")),
        },
        "fourier" => Err(Error::unsupported(
            "time_embedding_type: \"fourier\" is not supported: it embeds the continuous σ of variance-exploding \
             models, which are not trained on DDPM's discrete timesteps; expected positional or learned",
        )),
        other => Err(Error::unsupported(format!(
            "time_embedding_type: {other:?} is not supported; expected positional or learned"
        ))),
    }
}

/// Refuses settings that change the network's computation but that [`Config`] cannot express.
fn refuse_unsupported(fields: &Fields, channels: &[usize]) -> Result<()> {
    if let Some(dim) = fields.optional_usize("time_embedding_dim", None)?
        && channels.first().is_none_or(|&first| first.checked_mul(4) != Some(dim))
    {
        return Err(Error::unsupported(format!(
            "time_embedding_dim: {dim} is not supported; expected null or 4·block_out_channels[0]"
        )));
    }
    Ok(())
}

/// An integral value as a JSON integer: Python prints integers and floats differently.
fn whole(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// A config.json that diffusers' `UNet2DModel` loads, with every field. The same config gives the same bytes.
pub fn config_to_json(config: &Config) -> String {
    let [height, width] = config.sample_size;
    let (time_embedding_type, num_train_timesteps) = match config.time_embedding {
        TimeEmbedding::Positional => ("positional", None),
        TimeEmbedding::Learned { num_train_timesteps } => ("learned", Some(num_train_timesteps)),
    };
    let head_widths = config.num_attention_heads.map(|heads| {
        let widths = config.block_out_channels.iter().map(|channels| channels / heads);
        widths.collect::<Vec<_>>()
    });
    let conv_or_resnet = |resnet| if resnet { "resnet" } else { "conv" };
    let mut value = json!({
        "_class_name": "UNet2DModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "act_fn": name_of(&config.activation, ACTIVATIONS),
        "add_attention": config.add_attention,
        "attention_head_dim": head_widths.map_or_else(|| json!(config.attention_head_dim), |widths| json!(widths)),
        "attn_norm_num_groups": config.attn_norm_num_groups,
        "block_out_channels": config.block_out_channels,
        "center_input_sample": config.center_input_sample,
        "class_embed_type": match config.class_embedding {
            ClassEmbedding::Table => Value::Null,
            kind => name_of(&kind, CLASS_EMBEDDINGS).into(),
        },
        "down_block_types": config.down_blocks.iter().map(|b| name_of(b, DOWN_BLOCKS)).collect::<Vec<_>>(),
        "downsample_padding": config.downsample_padding,
        "downsample_type": conv_or_resnet(config.downsample_resnet),
        "dropout": config.dropout,
        "flip_sin_to_cos": config.flip_sin_to_cos,
        "freq_shift": whole(config.freq_shift),
        "in_channels": config.in_channels,
        "layers_per_block": config.layers_per_block,
        "mid_block_scale_factor": whole(config.mid_block_scale_factor),
        "mid_block_type": config.mid_block.then_some("UNetMidBlock2D"),
        "norm_eps": config.norm_eps,
        "norm_num_groups": config.norm_num_groups,
        "num_class_embeds": config.num_class_embeds.filter(|&classes| {
            config.class_embedding == ClassEmbedding::Table || classes != MAX_CLASSES
        }),
        "num_train_timesteps": num_train_timesteps,
        "out_channels": config.out_channels,
        "resnet_time_scale_shift": match config.resnet_time_scale_shift {
            TimeScaleShift::Default => "default",
            TimeScaleShift::ScaleShift => "scale_shift",
        },
        "sample_size": if height == width { json!(height) } else { json!([height, width]) },
        "time_embedding_dim": null,
        "time_embedding_type": time_embedding_type,
        "up_block_types": config.up_blocks.iter().map(|b| name_of(b, UP_BLOCKS)).collect::<Vec<_>>(),
        "upsample_type": conv_or_resnet(config.upsample_resnet),
    });
    // diffusers has no such field. Absent, it leaves the hash of every other model as it was.
    if config.time_scale != 1.0 {
        value["time_scale"] = json!(config.time_scale);
    }
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn absent_fields_have_the_defaults_of_diffusers() {
        // inspect.signature(UNet2DModel.__init__) of diffusers 0.42.
        let config = config_from_json("{\"sample_size\": 64}", None).unwrap();
        assert_eq!(
            config,
            Config {
                sample_size: [64, 64],
                in_channels: 3,
                out_channels: 3,
                center_input_sample: false,
                time_embedding: TimeEmbedding::Positional,
                time_scale: 1.0,
                freq_shift: 0.0,
                flip_sin_to_cos: true,
                down_blocks: vec![DownBlock::Plain, DownBlock::Attention, DownBlock::Attention, DownBlock::Attention],
                up_blocks: vec![UpBlock::Attention, UpBlock::Attention, UpBlock::Attention, UpBlock::Plain],
                block_out_channels: vec![224, 448, 672, 896],
                layers_per_block: 2,
                mid_block_scale_factor: 1.0,
                downsample_padding: 1,
                downsample_resnet: false,
                upsample_resnet: false,
                dropout: 0.0,
                attention_head_dim: Some(8),
                num_attention_heads: None,
                norm_num_groups: 32,
                attn_norm_num_groups: None,
                norm_eps: 1e-5,
                resnet_time_scale_shift: TimeScaleShift::Default,
                activation: Activation::Silu,
                mid_block: true,
                add_attention: true,
                num_class_embeds: None,
                class_embedding: ClassEmbedding::Table,
            }
        );
    }

    /// The published config of google/ddpm-cifar10-32.
    const CIFAR10: &str = r#"{"_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu",
        "attention_head_dim": null, "block_out_channels": [128, 256, 256, 256], "center_input_sample": false,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "downsample_padding": 0, "flip_sin_to_cos": false, "freq_shift": 1, "in_channels": 3, "layers_per_block": 2,
        "mid_block_scale_factor": 1, "norm_eps": 1e-06, "norm_num_groups": 32, "out_channels": 3, "sample_size": 32,
        "time_embedding_type": "positional",
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]}"#;

    #[test]
    fn a_published_config_survives_a_round_trip() {
        let config = config_from_json(CIFAR10, None).unwrap();
        assert_eq!((config.freq_shift, config.norm_eps, config.attention_head_dim), (1.0, 1e-6, None));
        assert_eq!(config.up_blocks[2], UpBlock::Attention);
        assert_eq!(config_from_json(&config_to_json(&config), None).unwrap(), config);
        let unusual = Config {
            sample_size: [16, 24],
            time_embedding: TimeEmbedding::Learned { num_train_timesteps: 50 },
            downsample_resnet: true,
            upsample_resnet: true,
            down_blocks: vec![DownBlock::ResnetDownsample, DownBlock::Attention],
            up_blocks: vec![UpBlock::Attention, UpBlock::ResnetUpsample],
            resnet_time_scale_shift: TimeScaleShift::ScaleShift,
            num_class_embeds: Some(11),
            attn_norm_num_groups: Some(8),
            attention_head_dim: Some(16),
            mid_block_scale_factor: 1.5,
            ..Config::default()
        };
        assert_eq!(config_from_json(&config_to_json(&unusual), None).unwrap(), unusual);
        for activation in [Activation::Gelu, Activation::Mish, Activation::Relu] {
            for (class_embedding, classes) in [
                (ClassEmbedding::Timestep, MAX_CLASSES),
                (ClassEmbedding::Identity, 7),
                (ClassEmbedding::Table, MAX_CLASSES),
            ] {
                let config = Config {
                    activation,
                    mid_block: false,
                    class_embedding,
                    num_class_embeds: Some(classes),
                    ..Config::default()
                };
                assert_eq!(config_from_json(&config_to_json(&config), None).unwrap(), config);
            }
        }
        let unlimited = "{\"sample_size\": 8, \"class_embed_type\": \"timestep\", \"time_embedding_type\": \"learned\", \
                         \"num_train_timesteps\": 50}";
        assert_eq!(config_from_json(unlimited, None).unwrap().num_class_embeds, Some(50));
    }

    #[test]
    fn what_is_not_implemented_is_refused_naming_the_field() {
        for (field, value, hint) in [
            ("act_fn", "\"tanh\"", "gelu, mish, relu"),
            ("act_fn", "3", "string"),
            (
                "down_block_types",
                "[\"DownBlock2D\",\"SkipDownBlock2D\",\"DownBlock2D\",\"DownBlock2D\"]",
                "AttnDownBlock2D",
            ),
            ("up_block_types", "[\"KUpBlock2D\",\"UpBlock2D\",\"UpBlock2D\",\"UpBlock2D\"]", "AttnUpBlock2D"),
            ("time_embedding_type", "\"fourier\"", "variance-exploding"),
            ("time_embedding_type", "\"other\"", "learned"),
            ("num_train_timesteps", "null, \"time_embedding_type\": \"learned\"", "missing"),
            ("class_embed_type", "\"projection\"", "timestep, identity"),
            ("downsample_type", "\"fir\"", "conv, resnet"),
            ("upsample_type", "\"fir\"", "conv, resnet"),
            ("mid_block_type", "\"UNetMidBlock2DCrossAttn\"", "UNetMidBlock2D"),
            ("time_embedding_dim", "77", "null"),
            ("_class_name", "\"UNet2DConditionModel\"", "UNet2DModel"),
            ("resnet_time_scale_shift", "\"spatial\"", "scale_shift"),
            ("layers_per_block", "1000000000", "64"),
            ("block_out_channels", "[1000000000,1,1,1]", "65536"),
            ("block_out_channels", "[-1]", "whole"),
            ("layers_per_block", "2.5", "whole"),
            ("in_channels", "null", "whole"),
            ("norm_eps", "\"small\"", "number"),
            ("add_attention", "1", "true or false"),
            ("sample_size", "[1,2,3]", "height and width"),
            ("sample_size", "null", "--size HxW"),
        ] {
            let size = if field == "sample_size" { "" } else { "\"sample_size\":32," };
            let e = config_from_json(&format!("{{{size}\"{field}\":{value}}}"), None).unwrap_err();
            assert!(e.message().starts_with(field), "{field} {value}: {e}");
            assert!(e.message().contains(hint), "{field} {value}: {e}");
        }
    }

    #[test]
    fn a_billion_levels_are_refused_before_anything_is_built() {
        let many = vec!["32"; 100_000].join(",");
        let e = config_from_json(&format!("{{\"sample_size\":32,\"block_out_channels\":[{many}]}}"), None).unwrap_err();
        assert!(e.message().contains("found 100000"), "{e}");
        for json in ["", "[]", "{", "null", "{\"sample_size\": 1e400}", &"[".repeat(100_000)] {
            assert!(config_from_json(json, None).is_err());
        }
    }

    #[test]
    fn the_size_may_come_from_the_caller() {
        let config = config_from_json("{\"block_out_channels\": [32, 32, 32, 32]}", Some([48, 64])).unwrap();
        assert_eq!(config.sample_size, [48, 64]);
        let e = config_from_json("{\"block_out_channels\": [32, 32, 32, 32]}", Some([48, 60])).unwrap_err();
        assert_eq!(e.message(), "size: 4 levels need a size divisible by 8 (2^(levels − 1)), found 60");
        assert_eq!(e.kind(), Kind::InvalidArgument);
        let e = config_from_json("{}", Some([16384, 16384])).unwrap_err();
        assert!(e.kind() == Kind::InvalidArgument && e.message().starts_with("size: one image needs"), "{e}");
    }
}
