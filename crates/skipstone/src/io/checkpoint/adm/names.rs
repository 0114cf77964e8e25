//! From the names of `UNetModel` to those of diffusers' `UNet2DModel`.

use super::super::tensors::Entry;
use super::AdmFlags;
use crate::error::Result;

/// How the rows of a layer for queries, keys and values are ordered.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    pub flags: &'a AdmFlags,
    /// Whether each head has its queries, keys and values together, as in improved-diffusion and, without
    /// `--use_new_attention_order`, in guided-diffusion. Else all heads' queries come first.
    pub legacy: bool,
}

impl Heads<'_> {
    /// Groups of rows in a layer with `rows` rows.
    fn groups(self, rows: usize) -> usize {
        match (self.legacy, self.flags.num_head_channels) {
            (false, _) => 1,
            (true, Some(width)) => (rows / 3).checked_div(width).unwrap_or(0),
            (true, None) => self.flags.num_heads.unwrap_or(0),
        }
    }
}

/// The tensors that stand for one. Unknown names stay unchanged and are reported later. `layers` is the number of
/// residual blocks per level.
pub(super) fn replace(name: &str, entry: Entry, layers: usize, heads: Heads<'_>) -> Result<Vec<(String, Entry)>> {
    let parts: Vec<&str> = name.split('.').collect();
    let one = |to: String, entry: Entry| Ok(vec![(to, entry)]);
    let (base, rest) = match parts[..] {
        ["time_embed", "0", leaf] => return one(format!("time_embedding.linear_1.{leaf}"), entry),
        ["time_embed", "2", leaf] => return one(format!("time_embedding.linear_2.{leaf}"), entry),
        ["label_emb", leaf] => return one(format!("class_embedding.{leaf}"), entry),
        ["input_blocks", "0", "0", leaf] => return one(format!("conv_in.{leaf}"), entry),
        ["out", "0", leaf] => return one(format!("conv_norm_out.{leaf}"), entry),
        ["out", "2", leaf] => return one(format!("conv_out.{leaf}"), entry),
        ["middle_block", at, ref rest @ ..] => (middle(at), rest),
        ["input_blocks", block, at, ref rest @ ..] => (input(block, at, layers), rest),
        ["output_blocks", block, at, ref rest @ ..] => (output(block, at, rest, layers), rest),
        _ => (None, &[][..]),
    };
    let Some(base) = base else { return one(name.to_owned(), entry) };
    let part = match *rest {
        ["in_layers", "0", leaf] => format!("norm1.{leaf}"),
        ["in_layers", "2", leaf] => format!("conv1.{leaf}"),
        ["emb_layers", "1", leaf] => format!("time_emb_proj.{leaf}"),
        ["out_layers", "0", leaf] => format!("norm2.{leaf}"),
        ["out_layers", "3", leaf] => format!("conv2.{leaf}"),
        ["skip_connection", leaf] => format!("conv_shortcut.{leaf}"),
        ["op", leaf] => format!("conv.{leaf}"),
        ["conv", leaf] => format!("conv.{leaf}"),
        ["norm", leaf] => format!("group_norm.{leaf}"),
        ["proj_out", leaf] => return one(format!("{base}.to_out.0.{leaf}"), linear(entry)?),
        ["qkv", leaf] => {
            let entry = linear(entry)?;
            let groups = heads.groups(entry.shape.first().copied().unwrap_or(0));
            let parts = ["to_q", "to_k", "to_v"].iter().enumerate();
            return parts
                .map(|(i, part)| Ok((format!("{base}.{part}.{leaf}"), entry.part_of_rows(groups, 3, i)?)))
                .collect();
        }
        _ => return one(name.to_owned(), entry),
    };
    one(format!("{base}.{part}"), entry)
}

/// The 1×1 convolutions of an attention layer are linear maps.
fn linear(entry: Entry) -> Result<Entry> {
    match entry.shape[..] {
        [rows, columns, 1] | [rows, columns, 1, 1] => entry.reshaped(vec![rows, columns]),
        _ => Ok(entry),
    }
}

fn middle(at: &str) -> Option<String> {
    Some(match at {
        "0" => "mid_block.resnets.0".to_owned(),
        "1" => "mid_block.attentions.0".to_owned(),
        "2" => "mid_block.resnets.1".to_owned(),
        _ => return None,
    })
}

fn input(block: &str, at: &str, layers: usize) -> Option<String> {
    let index = block.parse::<usize>().ok()?.checked_sub(1)?;
    let (level, i) = (index / (layers + 1), index % (layers + 1));
    Some(match at {
        "0" if i == layers => format!("down_blocks.{level}.downsamplers.0"),
        "0" => format!("down_blocks.{level}.resnets.{i}"),
        "1" => format!("down_blocks.{level}.attentions.{i}"),
        _ => return None,
    })
}

fn output(block: &str, at: &str, rest: &[&str], layers: usize) -> Option<String> {
    let index = block.parse::<usize>().ok()?;
    let (level, i) = (index / (layers + 1), index % (layers + 1));
    let attention = matches!(rest.first(), Some(&("norm" | "qkv" | "proj_out")));
    Some(match at {
        "0" => format!("up_blocks.{level}.resnets.{i}"),
        "1" if attention => format!("up_blocks.{level}.attentions.{i}"),
        "1" | "2" if i == layers => format!("up_blocks.{level}.upsamplers.0"),
        _ => return None,
    })
}
