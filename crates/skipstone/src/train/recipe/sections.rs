//! The sections of a recipe, each key with its default.

use serde::{Deserialize, Serialize};

use crate::math::schedule::BetaSchedule;
use crate::sampling::denoiser::Prediction;

/// The network, in the words of diffusers' `UNet2DModel`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelRecipe {
    /// Height and width of the images.
    pub sample_size: [usize; 2],
    /// Channels of the images: 1 or 3.
    pub channels: usize,
    /// Width of each level, finest first.
    pub block_out_channels: Vec<usize>,
    /// For each level, whether attention follows its residual blocks.
    pub attention: Vec<bool>,
    /// Residual blocks of each level.
    pub layers_per_block: usize,
    /// Channels of an attention head; 0 is one head.
    pub attention_head_dim: usize,
    /// Attention in the middle.
    pub mid_attention: bool,
    /// Groups of the normalisations.
    pub norm_num_groups: usize,
    /// Scale-shift time conditioning instead of addition.
    pub scale_shift: bool,
    /// Dropout in the residual blocks.
    pub dropout: f64,
}

impl Default for ModelRecipe {
    fn default() -> Self {
        Self {
            sample_size: [28, 28],
            channels: 1,
            block_out_channels: vec![32, 64, 64],
            attention: vec![false, true, false],
            layers_per_block: 1,
            attention_head_dim: 0,
            mid_attention: true,
            norm_num_groups: 8,
            scale_shift: false,
            dropout: 0.0,
        }
    }
}

/// How the loss weighs a time, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossWeight {
    /// All alike: the paper's L_simple.
    None,
    /// min(SNR, γ).
    MinSnr,
}

/// What weight decay acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// The gradient.
    Adam,
    /// The weights themselves (Loshchilov & Hutter, arXiv 1711.05101).
    AdamW,
}

/// How the learning rate goes on after its warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// It stays.
    Constant,
    /// It falls along half a cosine.
    Cosine,
}

/// The forward process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiffusionRecipe {
    /// T.
    pub timesteps: usize,
    /// linear | scaled_linear | squaredcos_cap_v2 | sigmoid | const | jsd.
    pub schedule: BetaSchedule,
    /// First β.
    pub beta_start: f64,
    /// Last β.
    pub beta_end: f64,
    /// Rescale to zero terminal signal-to-noise ratio (needs v or sample prediction).
    pub zero_snr: bool,
    /// epsilon | sample | v_prediction.
    pub prediction: Prediction,
    /// none (the paper's L_simple) | min_snr: the weight of each time.
    pub weighting: LossWeight,
    /// γ of min_snr (Hang et al., arXiv 2303.09556).
    pub min_snr_gamma: f64,
}

impl Default for DiffusionRecipe {
    fn default() -> Self {
        Self {
            timesteps: 1000,
            schedule: BetaSchedule::Linear,
            beta_start: 1e-4,
            beta_end: 0.02,
            zero_snr: false,
            prediction: Prediction::Epsilon,
            weighting: LossWeight::None,
            min_snr_gamma: 5.0,
        }
    }
}

/// How images are read and varied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataRecipe {
    /// Mirror half of the images left to right.
    pub flip: bool,
    /// What shows through transparent pixels: red, green, blue.
    pub background: [u8; 3],
    /// Condition the network on the data set's classes.
    pub classes: bool,
    /// How often a class is replaced by the null class, for classifier-free guidance.
    pub class_dropout: f64,
}

impl Default for DataRecipe {
    fn default() -> Self {
        Self { flip: false, background: [255; 3], classes: false, class_dropout: 0.0 }
    }
}

/// Length, batches, logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainRecipe {
    /// Optimiser steps.
    pub steps: u64,
    /// Images per step and accumulation.
    pub batch: usize,
    /// Batches whose gradients make one step.
    pub accumulate: usize,
    /// Images that go through the network together, on all threads: memory against speed. The sum's order, and with it
    /// the last bits, depend on it.
    pub shard: usize,
    /// Makes what matters within a block only again on the way back instead of keeping it: less memory, more time, the
    /// same bits.
    pub recompute: bool,
    /// Seed of weights, order, times, noise, dropout.
    pub seed: u64,
    /// Draw times in pairs t, T+1−t.
    pub antithetic: bool,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Steps between log lines.
    pub log_every: u64,
    /// Steps between preview grids; 0 for none.
    pub preview_every: u64,
    /// Images of a preview.
    pub preview_images: usize,
    /// DDIM steps of a preview.
    pub preview_steps: usize,
}

impl Default for TrainRecipe {
    fn default() -> Self {
        Self {
            steps: 10_000,
            batch: 64,
            accumulate: 1,
            shard: 32,
            recompute: false,
            seed: 0,
            antithetic: true,
            checkpoint_every: 500,
            log_every: 50,
            preview_every: 1000,
            preview_images: 36,
            preview_steps: 20,
        }
    }
}

/// The optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OptimizerRecipe {
    /// adam | adamw.
    pub kind: OptimizerKind,
    /// Peak learning rate.
    pub lr: f64,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// constant | cosine: what follows the warm-up.
    pub decay: Decay,
    /// The learning rate's last value as a share of its peak, for cosine.
    pub final_lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Largest gradient norm; longer gradients are shortened to it. 0 switches this off.
    pub clip: f64,
}

impl Default for OptimizerRecipe {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adam,
            lr: 2e-4,
            warmup: 500,
            decay: Decay::Constant,
            final_lr: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            clip: 1.0,
        }
    }
}

/// The moving average of the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EmaRecipe {
    /// Its decay per step.
    pub decay: f64,
    /// Let the decay grow as (1 + step)/(10 + step) first, so that the start is forgotten.
    pub warmup: bool,
}

impl Default for EmaRecipe {
    fn default() -> Self {
        Self { decay: 0.9999, warmup: true }
    }
}
