//! Checkpoints of guided-diffusion (ADM; Dhariwal & Nichol, arXiv 2105.05233) and of improved-diffusion (Nichol &
//! Dhariwal, arXiv 2102.09672): state dicts of their `UNetModel`.
//!
//! The tensors tell the widths, the number of blocks, where attention is, how blocks are conditioned and resampled,
//! the classes and whether the variance is learned. [`AdmFlags`] must tell the rest, and may not contradict the tensors.

mod flags;
mod names;
mod structure;

pub use flags::{AdmFlags, Published};

use std::path::Path;

use super::config::check;
use super::scheduler::{SchedulerConfig, VarianceName};
use super::tensors::TensorFile;
use super::{LoadOptions, Weights};
use crate::error::{Error, Kind, Result};
use crate::math::schedule::BetaSchedule;
use crate::sampling::denoiser::Prediction;
use crate::unet::{Config, DownBlock, TimeScaleShift, UpBlock};
use structure::Structure;

/// The number of times over which both projects define their linear schedule and their network's times.
const REFERENCE_STEPS: f64 = 1000.0;

/// Whether the tensors have the names of these projects.
pub(super) fn has_names(tensors: &TensorFile<'_>) -> bool {
    ["input_blocks.0.0.weight", "time_embed.0.weight"].iter().all(|name| tensors.entries().contains_key(*name))
}

/// The error for a checkpoint that is opened without its flags.
pub(super) fn needs_flags(path: &Path) -> Error {
    let file = path.display();
    Error::unsupported(format!(
        "a checkpoint of guided-diffusion or improved-diffusion, whose file does not tell the image size, the attention \
         heads and the noise schedule; convert it first, with the flags of its model: skipstone convert --from {file} \
         --to DIR --flags \"--image_size 256 --num_head_channels 64 …\", or with the name of a published file: --flags \
         256x256_diffusion_uncond"
    ))
    .in_file(path)
}

/// What a file's name says of its weights: their training script saves `ema_0.9999_250000.pt` and `model250000.pt`.
pub(super) fn weights(path: &Path) -> Weights {
    let stem = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let numbered = |prefix| stem.strip_prefix(prefix).is_some_and(|n| n.parse::<u64>().is_ok());
    match stem {
        _ if stem.starts_with("ema_") => Weights::Ema,
        _ if numbered("model") => Weights::Raw,
        _ => Weights::Unspecified,
    }
}

/// The error for the state of the optimiser, which their training script saves beside each model.
pub(super) fn optimiser_state(path: &Path) -> Error {
    let stem = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let step = stem.strip_prefix("opt").filter(|n| n.parse::<u64>().is_ok()).unwrap_or("NNNNNN");
    Error::unsupported(format!(
        "the state of an optimiser, not a model; take ema_0.9999_{step}.pt (the moving average) or model{step}.pt from \
         the same training"
    ))
    .in_file(path)
}

/// The network and the schedule that tensors and flags describe, and the tensors under diffusers' names.
///
/// # Errors
/// A contradiction between flags and tensors, missing flags (both lists are complete), or a network that is not
/// supported.
pub(super) fn convert<'a>(
    tensors: TensorFile<'a>,
    flags: &AdmFlags,
    options: &LoadOptions,
) -> Result<(Config, SchedulerConfig, TensorFile<'a>)> {
    let label = tensors.label.clone();
    let read = || {
        let found = Structure::read(tensors.entries())?;
        let size = options.size.or(flags.image_size.map(|size| [size; 2]));
        refuse(&flags.contradictions(&found), "flags contradict the tensors")?;
        refuse(&flags.missing(&found, size), "flags are missing, which the tensors do not tell")?;
        let Some(size) = size else { unreachable!("a missing size was refused") };
        Ok((config(&found, flags, size), scheduler(flags, &found), found))
    };
    let (config, scheduler, found) = read().map_err(|e: Error| e.in_file(&label))?;
    check(&config, options.size).map_err(|e| e.in_file(&label))?;
    let order = names::Heads { flags, legacy: !flags.use_new_attention_order.unwrap_or(false) };
    let tensors = tensors.replaced(|name, entry| names::replace(name, entry, found.layers, order))?;
    Ok((config, scheduler, tensors))
}

fn refuse(problems: &[String], what: &str) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::InvalidArgument, list(problems, what)))
}

fn config(found: &Structure, flags: &AdmFlags, sample_size: [usize; 2]) -> Config {
    let resnet = found.resample_resnet;
    let down = |&attends: &bool| match (attends, resnet) {
        (true, _) => DownBlock::Attention,
        (false, true) => DownBlock::ResnetDownsample,
        (false, false) => DownBlock::Plain,
    };
    let up = |&attends: &bool| match (attends, resnet) {
        (true, _) => UpBlock::Attention,
        (false, true) => UpBlock::ResnetUpsample,
        (false, false) => UpBlock::Plain,
    };
    let rescaled = flags.rescale_timesteps.unwrap_or(false);
    let mut config = Config {
        sample_size,
        in_channels: found.in_channels,
        out_channels: found.out_channels,
        time_scale: if rescaled { REFERENCE_STEPS / flags.diffusion_steps.unwrap_or(1000) as f64 } else { 1.0 },
        freq_shift: 0.0,
        flip_sin_to_cos: true,
        down_blocks: found.attention.iter().map(down).collect(),
        up_blocks: found.attention.iter().rev().map(up).collect(),
        block_out_channels: found.channels.clone(),
        layers_per_block: found.layers,
        downsample_padding: 1,
        downsample_resnet: resnet,
        upsample_resnet: resnet,
        dropout: flags.dropout.unwrap_or(0.0),
        attention_head_dim: flags.num_head_channels,
        num_attention_heads: flags.num_heads.filter(|_| flags.num_head_channels.is_none()),
        norm_num_groups: 32,
        attn_norm_num_groups: Some(32),
        norm_eps: 1e-5,
        resnet_time_scale_shift: if found.scale_shift { TimeScaleShift::ScaleShift } else { TimeScaleShift::Default },
        add_attention: found.middle_attention,
        num_class_embeds: found.classes,
        ..Config::default()
    };
    // Where all attention layers have one width, the number of heads is also a width of heads, which diffusers knows.
    let widths = config.attention_widths();
    if let Some(heads) = config.num_attention_heads
        && let Some(&width) = widths.first()
        && heads > 0
        && width % heads == 0
        && widths.iter().all(|&other| other == width)
    {
        (config.num_attention_heads, config.attention_head_dim) = (None, Some(width / heads));
    }
    config
}

fn scheduler(flags: &AdmFlags, found: &Structure) -> SchedulerConfig {
    let steps = flags.diffusion_steps.unwrap_or(1000);
    let scale = REFERENCE_STEPS / steps as f64;
    let learned = found.out_channels == 2 * found.in_channels;
    SchedulerConfig {
        num_train_timesteps: steps,
        beta_start: scale * 1e-4,
        beta_end: scale * 0.02,
        beta_schedule: flags.noise_schedule.clone().unwrap_or(BetaSchedule::Linear),
        prediction_type: if flags.predict_xstart == Some(true) { Prediction::Sample } else { Prediction::Epsilon },
        // Their scripts clip by default, and derive ε̂ from the clipped x̂₀.
        clip_sample: Some(true),
        use_clipped_model_output: true,
        variance_type: match (learned, flags.sigma_small) {
            (true, _) => VarianceName::LearnedRange,
            (false, Some(true)) => VarianceName::FixedSmall,
            (false, _) => VarianceName::FixedLarge,
        },
        ..SchedulerConfig::default()
    }
}

/// A single problem, or a list of them under a line with their number. Long lists are cut.
fn list(problems: &[String], what: &str) -> String {
    const SHOWN: usize = 20;
    if let [only] = problems {
        return only.clone();
    }
    let mut text = format!("{} {what}:", problems.len());
    for problem in problems.iter().take(SHOWN) {
        text.push_str("\n  ");
        text.push_str(problem);
    }
    if problems.len() > SHOWN {
        text.push_str(&format!("\n  and {} more", problems.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests;
