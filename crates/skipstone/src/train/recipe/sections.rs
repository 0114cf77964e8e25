//! The sections of a recipe, with defaults for every key.

use serde::{Deserialize, Serialize};

use crate::engine::Precision;
use crate::math::schedule::BetaSchedule;
use crate::sampling::denoiser::Prediction;

/// The network, in the terms of diffusers' `UNet2DModel`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelRecipe {
    /// Height and width of the images.
    pub sample_size: [usize; 2],
    /// Channels of the images: 1 or 3, or any number for arrays.
    pub channels: usize,
    /// Channels of each level, finest first.
    pub block_out_channels: Vec<usize>,
    /// Whether self-attention follows the residual blocks of each level.
    pub attention: Vec<bool>,
    /// Residual blocks per level (one more in the upsampling path).
    pub layers_per_block: usize,
    /// Channels per attention head; 0 means one head.
    pub attention_head_dim: usize,
    /// Whether the middle block has self-attention.
    pub mid_attention: bool,
    /// Groups of the group normalisations.
    pub norm_num_groups: usize,
    /// Whether the time embedding scales and shifts instead of being added.
    pub scale_shift: bool,
    /// Dropout probability in the residual blocks.
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

/// The weighting of timesteps in the loss, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossWeight {
    /// Equal weights: the paper's L_simple.
    None,
    /// min(SNR, γ).
    MinSnr,
}

/// The kind of optimiser, which differs in what weight decay acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Weight decay is added to the gradient.
    Adam,
    /// Weight decay acts on the weights (Loshchilov & Hutter, arXiv 1711.05101).
    AdamW,
}

/// The learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Constant.
    Constant,
    /// Falls along half a cosine.
    Cosine,
}

/// The order in which a step adds the gradients of its shards. It changes the last bits of the result, nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sum {
    /// One after the other, in one process.
    Chain,
    /// By a fixed tree over the shards: the same bits for any number of ranks.
    Tree,
}

/// The forward process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiffusionRecipe {
    /// T, the number of training timesteps.
    pub timesteps: usize,
    /// linear | scaled_linear | squaredcos_cap_v2 | sigmoid | const | jsd.
    pub schedule: BetaSchedule,
    /// First β.
    pub beta_start: f64,
    /// Last β.
    pub beta_end: f64,
    /// Whether to rescale to zero terminal signal-to-noise ratio (needs v or sample prediction).
    pub zero_snr: bool,
    /// epsilon | sample | v_prediction.
    pub prediction: Prediction,
    /// none (the paper's L_simple) | min_snr: the weighting of timesteps.
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

/// The output of a student.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StudentPrediction {
    /// The teacher's, except that ε becomes v: ε̂ does not determine x̂₀ well at high noise, where few steps begin.
    Auto,
    /// x₀.
    Sample,
    /// v.
    VPrediction,
}

/// The weighting of noise levels in the loss of a student, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DistillWeight {
    /// max(SNR, 1) on the error of x̂₀.
    TruncatedSnr,
    /// SNR + 1 on the error of x̂₀.
    SnrPlusOne,
}

/// How the first teacher of a distillation steps, by name. Later teachers are students, which only know steps of DDIM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TeacherSolver {
    /// Euler's method, one call a step.
    #[default]
    Ddim,
    /// Heun's method, two calls a step: a quarter of DDIM's steps lead as near to the exact images.
    Heun,
}

impl TeacherSolver {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Progressive distillation (Salimans & Ho, arXiv 2202.00512).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DistillRecipe {
    /// Steps of the last student. They divide T, so that diffusers takes the same ones.
    pub steps: usize,
    /// Steps of the first teacher: `steps` doubled at least once. 0 doubles `steps` until it is 32 or more, or 8 with `heun`.
    pub from: usize,
    /// ddim | heun: the solver of the first teacher.
    // Left out where it is the default, as recipes in older states have no such key.
    #[serde(skip_serializing_if = "TeacherSolver::is_default")]
    pub solver: TeacherSolver,
    /// auto | sample | v_prediction: what the students predict.
    pub prediction: StudentPrediction,
    /// truncated_snr | snr_plus_one: the weighting of noise levels.
    pub weighting: DistillWeight,
    /// The weight of classifier-free guidance that the first student learns from its teacher; 1 is none.
    pub guidance: f64,
    /// Whether a student that predicts something else than its teacher first learns single steps of it, in a round of its
    /// own.
    pub conversion: bool,
}

impl Default for DistillRecipe {
    fn default() -> Self {
        Self {
            steps: 4,
            from: 0,
            solver: TeacherSolver::Ddim,
            prediction: StudentPrediction::Auto,
            weighting: DistillWeight::TruncatedSnr,
            guidance: 1.0,
            conversion: true,
        }
    }
}

/// How images are read and augmented.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataRecipe {
    /// Whether half of the images are mirrored left to right.
    pub flip: bool,
    /// Colour behind transparent pixels: red, green, blue.
    pub background: [u8; 3],
    /// Whether the network is conditioned on the data set's classes.
    pub classes: bool,
    /// Probability of replacing a class by the null class, for classifier-free guidance.
    pub class_dropout: f64,
}

impl Default for DataRecipe {
    fn default() -> Self {
        Self { flip: false, background: [255; 3], classes: false, class_dropout: 0.0 }
    }
}

/// Length, batches and logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainRecipe {
    /// Optimiser steps.
    pub steps: u64,
    /// Images per batch.
    pub batch: usize,
    /// Batches per optimiser step.
    pub accumulate: usize,
    /// Images per pass through the network, on all threads: trades memory for speed. The summation order depends on
    /// this number, and so do the last bits.
    pub shard: usize,
    /// tree | chain: the order in which the gradients of shards are added. A new run sets tree if the recipe does not say;
    /// a run whose recipe has no such key is older than trees and keeps its chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum: Option<Sum>,
    /// f32 | bf16 | f16. bf16 needs a processor with AMX: convolutions round their operands, on their matrix units. f16 needs a
    /// graphics processor, stores activations, their gradients and the weights of convolutions so, and scales the loss. The
    /// trained weights, their moments and all sums stay in f32. Written only if it is not f32: older runs have no such key.
    #[serde(skip_serializing_if = "Precision::is_exact")]
    pub precision: Precision,
    /// Whether the backward pass recomputes activations used within one block only: less memory, more time, identical
    /// bits.
    pub recompute: bool,
    /// Seed of weights, data order, timesteps, noise and dropout.
    pub seed: u64,
    /// Whether to draw timesteps in pairs t, T+1−t.
    pub antithetic: bool,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Steps between log lines.
    pub log_every: u64,
    /// Steps between preview grids; 0 disables them.
    pub preview_every: u64,
    /// Images per preview.
    pub preview_images: usize,
    /// DDIM steps per preview.
    pub preview_steps: usize,
}

impl Default for TrainRecipe {
    fn default() -> Self {
        Self {
            steps: 10_000,
            batch: 64,
            accumulate: 1,
            shard: 32,
            sum: Some(Sum::Tree),
            precision: Precision::F32,
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
    /// Final learning rate as a fraction of the peak, for cosine decay.
    pub final_lr: f64,
    /// Decay rate of the first moment, β₁.
    pub beta1: f64,
    /// Decay rate of the second moment, β₂.
    pub beta2: f64,
    /// ε, added to the square root of the second moment.
    pub eps: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Maximum gradient norm; larger gradients are scaled down to it. 0 disables clipping.
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

/// The moving average (EMA) of the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EmaRecipe {
    /// Decay per step.
    pub decay: f64,
    /// Whether the decay starts as (1 + step)/(10 + step), so that the initial weights are forgotten faster.
    pub warmup: bool,
}

impl Default for EmaRecipe {
    fn default() -> Self {
        Self { decay: 0.9999, warmup: true }
    }
}
