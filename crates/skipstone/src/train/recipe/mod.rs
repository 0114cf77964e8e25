//! Training recipes: TOML files with every setting that a training run depends on.

mod distill;
mod parse;
mod sections;

pub use distill::Round;
pub(super) use distill::trajectory;
pub use sections::{
    DataRecipe, Decay, DiffusionRecipe, DistillRecipe, DistillWeight, EmaRecipe, LossWeight, ModelRecipe,
    OptimizerKind, OptimizerRecipe, StudentPrediction, Sum, TeacherSolver, TrainRecipe,
};

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::io::checkpoint::SchedulerConfig;
use crate::math::trajectory::Spacing;
use crate::objective::LossWeighting;
use crate::unet::{Config, DownBlock, TimeEmbedding, TimeScaleShift, UpBlock};

/// Everything a training run depends on except its data. Every key has a default; unknown keys are errors.
///
/// ```
/// use skipstone::train::Recipe;
/// let recipe = Recipe::parse("[train]\nsteps = 10", &["train.batch=4".into()]).unwrap();
/// assert_eq!((recipe.train.steps, recipe.train.batch), (10, 4));
/// let e = Recipe::parse("[train]\nstepz = 10", &[]).unwrap_err();
/// assert!(e.to_string().contains("train.steps"), "{e}");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recipe {
    /// The network.
    pub model: ModelRecipe,
    /// The forward process and the prediction type.
    pub diffusion: DiffusionRecipe,
    /// How images are read and augmented.
    pub data: DataRecipe,
    /// Length, batches and logs.
    pub train: TrainRecipe,
    /// The optimiser.
    pub optimizer: OptimizerRecipe,
    /// The moving average of the weights.
    pub ema: EmaRecipe,
    /// What makes this a distillation: `model` and `diffusion` are then the teacher's and not part of the recipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distill: Option<DistillRecipe>,
}

impl Recipe {
    /// Optimiser steps of the whole training: those of a round times the rounds.
    pub fn total_steps(&self) -> u64 {
        self.train.steps.saturating_mul(self.rounds() as u64)
    }

    /// Rounds of `train.steps` optimiser steps: one, or one per student.
    pub fn rounds(&self) -> usize {
        self.distill.as_ref().map_or(1, |distill| distill.rounds().len())
    }

    /// The round of optimiser step `step` (counted from 1), from 0, and the number of the step within it, from 1.
    pub(super) fn place(&self, step: u64) -> (usize, u64) {
        match &self.distill {
            None => (0, step),
            Some(_) => (((step - 1) / self.train.steps) as usize, (step - 1) % self.train.steps + 1),
        }
    }

    /// The architecture for a data set with this number of classes.
    ///
    /// # Errors
    /// The message names the first invalid field.
    pub fn config(&self, classes: Option<usize>) -> Result<Config> {
        let m = &self.model;
        if m.attention.len() != m.block_out_channels.len() {
            return Err(Error::argument(format!(
                "model.attention: expected {} entries, one per level, found {}",
                m.block_out_channels.len(),
                m.attention.len()
            )));
        }
        let null_class = usize::from(self.data.class_dropout > 0.0);
        let config = Config {
            sample_size: m.sample_size,
            in_channels: m.channels,
            out_channels: m.channels,
            time_embedding: TimeEmbedding::Positional,
            down_blocks: m.attention.iter().map(|a| if *a { DownBlock::Attention } else { DownBlock::Plain }).collect(),
            up_blocks: m.attention.iter().rev().map(|a| if *a { UpBlock::Attention } else { UpBlock::Plain }).collect(),
            block_out_channels: m.block_out_channels.clone(),
            layers_per_block: m.layers_per_block,
            dropout: m.dropout,
            attention_head_dim: (m.attention_head_dim > 0).then_some(m.attention_head_dim),
            norm_num_groups: m.norm_num_groups,
            resnet_time_scale_shift: if m.scale_shift { TimeScaleShift::ScaleShift } else { TimeScaleShift::Default },
            add_attention: m.mid_attention,
            // With scale-shift, diffusers omits the norm of the middle attention unless this is set.
            attn_norm_num_groups: m.scale_shift.then_some(m.norm_num_groups),
            num_class_embeds: classes.filter(|_| self.data.classes).map(|k| k + null_class),
            ..Config::default()
        };
        config.validate()?;
        Ok(config)
    }

    /// The number of shards of an optimiser step: those of each batch, one batch after the other.
    pub fn shards(&self) -> usize {
        self.train.accumulate * self.train.batch.div_ceil(self.train.shard)
    }

    /// The images of batch `micro` of a step that lie in these shards.
    pub(super) fn images(&self, micro: usize, shards: &Range<usize>) -> Range<usize> {
        let TrainRecipe { batch, shard, .. } = self.train;
        let before = micro * batch.div_ceil(shard);
        let place = |index: usize| (index.saturating_sub(before) * shard).min(batch);
        place(shards.start)..place(shards.end)
    }

    /// The noise schedule, as saved in the model folder.
    pub fn scheduler(&self) -> SchedulerConfig {
        let d = &self.diffusion;
        SchedulerConfig {
            num_train_timesteps: d.timesteps,
            beta_start: d.beta_start,
            beta_end: d.beta_end,
            beta_schedule: d.schedule.clone(),
            prediction_type: d.prediction,
            rescale_betas_zero_snr: d.zero_snr,
            // By default, diffusers would clip and start below T; these settings make it sample as skipstone does.
            clip_sample: Some(false),
            timestep_spacing: Some(Spacing::Trailing),
            ..SchedulerConfig::default()
        }
    }

    /// The loss weighting of the noise levels.
    pub fn weighting(&self) -> LossWeighting {
        match self.diffusion.weighting {
            LossWeight::None => LossWeighting::Uniform,
            LossWeight::MinSnr => LossWeighting::MinSnr(self.diffusion.min_snr_gamma),
        }
    }

    /// The learning rate of step `step` of a round (counted from 1).
    pub fn learning_rate(&self, step: u64) -> f64 {
        let o = &self.optimizer;
        if step <= o.warmup {
            return o.lr * step as f64 / o.warmup as f64;
        }
        if o.decay == Decay::Constant {
            return o.lr;
        }
        let length = self.train.steps.saturating_sub(o.warmup).max(1);
        let progress = ((step - o.warmup) as f64 / length as f64).min(1.0);
        let share = 0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress));
        o.lr * (o.final_lr + (1.0 - o.final_lr) * share)
    }

    /// The decay of the moving average at step `step` of a round (counted from 1).
    pub fn ema_decay(&self, step: u64) -> f64 {
        if self.ema.warmup { self.ema.decay.min((1.0 + step as f64) / (10.0 + step as f64)) } else { self.ema.decay }
    }
}

#[cfg(test)]
mod tests;
