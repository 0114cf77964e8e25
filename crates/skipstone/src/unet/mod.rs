//! The U-Net of DDPM on the CPU, forward and backward.
//!
//! A [`Config`] says what the network is, in the words of diffusers' `UNet2DModel`. [`layout`] lists the parameters it
//! has; [`UNet`] asks a trained one; [`Backprop`] takes gradients. Inside, `graph` turns the config into a list of
//! operations and `execute` walks it.

mod backprop;
mod config;
mod execute;
mod graph;
mod network;
mod params;

pub use backprop::{Backprop, Batch};
pub use config::{Config, DownBlock, TimeEmbedding, TimeScaleShift, UpBlock};
pub use network::{UNet, flops, initialise, layout};
pub use params::{Layout, ParameterSpec, Parameters};

use crate::error::{Error, Result};

/// Every parameter of the network, under diffusers' names.
///
/// # Errors
/// A config that is not valid.
pub fn layout(config: &Config) -> Result<Layout> {
    config.validate()?;
    if config.time_embedding != TimeEmbedding::Positional
        || config.down_blocks.contains(&DownBlock::ResnetDownsample)
        || config.up_blocks.contains(&UpBlock::ResnetUpsample)
        || config.resnet_time_scale_shift != TimeScaleShift::Default
    {
        return Err(Error::unsupported("placeholder layout"));
    }
    let mut l = Layout::default();
    let mut add = |name: String, shape: &[usize]| -> Result<()> {
        l.push(format!("{name}.weight"), shape.to_vec())?;
        l.push(format!("{name}.bias"), vec![shape[0]])?;
        Ok(())
    };
    let c = &config.block_out_channels;
    let (temb, n) = (config.time_embed_dim(), c.len());
    let mut todo: Vec<(String, Vec<usize>)> = vec![
        ("conv_in".into(), vec![c[0], config.in_channels, 3, 3]),
        ("time_embedding.linear_1".into(), vec![temb, c[0]]),
        ("time_embedding.linear_2".into(), vec![temb, temb]),
    ];
    let resnet = |todo: &mut Vec<(String, Vec<usize>)>, p: String, i: usize, o: usize| {
        for (part, shape) in [
            ("norm1", vec![i]),
            ("conv1", vec![o, i, 3, 3]),
            ("time_emb_proj", vec![o, temb]),
            ("norm2", vec![o]),
            ("conv2", vec![o, o, 3, 3]),
        ] {
            todo.push((format!("{p}.{part}"), shape));
        }
        if i != o {
            todo.push((format!("{p}.conv_shortcut"), vec![o, i, 1, 1]));
        }
    };
    let attention = |todo: &mut Vec<(String, Vec<usize>)>, p: String, ch: usize| {
        todo.push((format!("{p}.group_norm"), vec![ch]));
        for part in ["to_q", "to_k", "to_v", "to_out.0"] {
            todo.push((format!("{p}.{part}"), vec![ch, ch]));
        }
    };
    let (mut ch, mut skips) = (c[0], vec![c[0]]);
    for i in 0..n {
        for j in 0..config.layers_per_block {
            resnet(&mut todo, format!("down_blocks.{i}.resnets.{j}"), ch, c[i]);
            ch = c[i];
            skips.push(ch);
            if config.down_blocks[i] == DownBlock::Attention {
                attention(&mut todo, format!("down_blocks.{i}.attentions.{j}"), ch);
            }
        }
        if i + 1 < n {
            todo.push((format!("down_blocks.{i}.downsamplers.0.conv"), vec![ch, ch, 3, 3]));
            skips.push(ch);
        }
    }
    resnet(&mut todo, "mid_block.resnets.0".into(), ch, ch);
    if config.add_attention {
        attention(&mut todo, "mid_block.attentions.0".into(), ch);
    }
    resnet(&mut todo, "mid_block.resnets.1".into(), ch, ch);
    for i in 0..n {
        let out = c[n - 1 - i];
        for j in 0..=config.layers_per_block {
            let skip = skips.pop().unwrap_or(0);
            resnet(&mut todo, format!("up_blocks.{i}.resnets.{j}"), ch + skip, out);
            ch = out;
            if config.up_blocks[i] == UpBlock::Attention {
                attention(&mut todo, format!("up_blocks.{i}.attentions.{j}"), ch);
            }
        }
        if i + 1 < n {
            todo.push((format!("up_blocks.{i}.upsamplers.0.conv"), vec![ch, ch, 3, 3]));
        }
    }
    todo.push(("conv_norm_out".into(), vec![c[0]]));
    todo.push(("conv_out".into(), vec![config.out_channels, c[0], 3, 3]));
    for (name, shape) in todo {
        add(name, &shape)?;
    }
    if let Some(classes) = config.num_class_embeds {
        l.push("class_embedding.weight".into(), vec![classes, temb])?;
    }
    Ok(l)
}
