//! Training recipes: TOML files that say everything a training depends on.

use serde::{Deserialize, Serialize};

use crate::checkpoint::SchedulerConfig;
use crate::error::{Error, Result};
use crate::trajectory::Spacing;
use crate::unet::{Config, DownBlock, TimeEmbedding, TimeScaleShift, UpBlock};

/// Everything a training depends on besides its data. Every key has a default; an unknown key is an error.
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
    /// The forward process and what the network predicts.
    pub diffusion: DiffusionRecipe,
    /// How images are read and varied.
    pub data: DataRecipe,
    /// Length, batches, logs.
    pub train: TrainRecipe,
    /// The optimiser.
    pub optimizer: OptimizerRecipe,
    /// The moving average of the weights.
    pub ema: EmaRecipe,
}

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

/// The forward process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiffusionRecipe {
    /// T.
    pub timesteps: usize,
    /// linear | scaled_linear | squaredcos_cap_v2 | sigmoid | const | jsd.
    pub schedule: String,
    /// First β.
    pub beta_start: f64,
    /// Last β.
    pub beta_end: f64,
    /// Rescale to zero terminal signal-to-noise ratio (needs v or sample prediction).
    pub zero_snr: bool,
    /// epsilon | sample | v_prediction.
    pub prediction: String,
    /// none (the paper's L_simple) | min_snr: the weight of each time.
    pub weighting: String,
    /// γ of min_snr (Hang et al., arXiv 2303.09556).
    pub min_snr_gamma: f64,
}

impl Default for DiffusionRecipe {
    fn default() -> Self {
        Self {
            timesteps: 1000,
            schedule: "linear".into(),
            beta_start: 1e-4,
            beta_end: 0.02,
            zero_snr: false,
            prediction: "epsilon".into(),
            weighting: "none".into(),
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
    pub kind: String,
    /// Peak learning rate.
    pub lr: f64,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// constant | cosine: what follows the warm-up.
    pub decay: String,
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
            kind: "adam".into(),
            lr: 2e-4,
            warmup: 500,
            decay: "constant".into(),
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

/// How the loss weighs a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weighting {
    /// All alike: L_simple.
    None,
    /// min(SNR, γ) in terms of x₀ (Hang et al., arXiv 2303.09556).
    MinSnr(f64),
}

impl Recipe {
    /// Reads a recipe and overrides single values, given as `section.key=value`.
    ///
    /// # Errors
    /// Text that is no TOML, an unknown key (naming the nearest known one), a value of the wrong type or out of range.
    pub fn parse(text: &str, overrides: &[String]) -> Result<Self> {
        let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| Error::data(e.to_string()))?;
        for assignment in overrides {
            let (key, value) = assignment.split_once('=').ok_or_else(|| {
                Error::argument(format!("--set {assignment}: expected section.key=value, for example train.steps=1000"))
            })?;
            let (section, name) = key.trim().split_once('.').ok_or_else(|| unknown(key.trim()))?;
            // A bare word is a string; everything else is TOML.
            let value = format!("v = {}", value.trim())
                .parse::<toml::Table>()
                .ok()
                .and_then(|mut t| t.remove("v"))
                .unwrap_or_else(|| toml::Value::String(value.trim().into()));
            let entry = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            match entry {
                toml::Value::Table(entry) => entry.insert(name.to_string(), value),
                _ => return Err(unknown(section)),
            };
        }
        check_keys(&table)?;
        let recipe: Self = table.try_into().map_err(|e: toml::de::Error| Error::data(e.message().to_string()))?;
        recipe.validate()?;
        Ok(recipe)
    }

    /// The recipe as TOML, every key spelled out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe is plain tables of plain values")
    }

    fn validate(&self) -> Result<()> {
        let fail = |message: String| Err(Error::argument(message));
        let t = &self.train;
        for (name, value) in [
            ("train.steps", t.steps),
            ("train.batch", t.batch as u64),
            ("train.accumulate", t.accumulate as u64),
            ("train.shard", t.shard as u64),
            ("train.checkpoint_every", t.checkpoint_every),
            ("train.log_every", t.log_every),
            ("train.preview_images", t.preview_images as u64),
            ("train.preview_steps", t.preview_steps as u64),
        ] {
            if value == 0 || value > 1 << 40 {
                return fail(format!("{name}: {value}; expected 1 to 2^40"));
            }
        }
        if t.batch.checked_mul(t.accumulate).is_none_or(|n| n > 1 << 24) {
            return fail(format!("train.batch: {} × train.accumulate {} is too large", t.batch, t.accumulate));
        }
        let o = &self.optimizer;
        for (name, value, low, high) in [
            ("optimizer.lr", o.lr, 0.0, 10.0),
            ("optimizer.final_lr", o.final_lr, 0.0, 1.0),
            ("optimizer.beta1", o.beta1, 0.0, 0.999_999_999),
            ("optimizer.beta2", o.beta2, 0.0, 0.999_999_999),
            ("optimizer.eps", o.eps, 1e-30, 1.0),
            ("optimizer.weight_decay", o.weight_decay, 0.0, 100.0),
            ("optimizer.clip", o.clip, 0.0, 1e12),
            ("ema.decay", self.ema.decay, 0.0, 1.0),
            ("data.class_dropout", self.data.class_dropout, 0.0, 1.0),
            ("diffusion.min_snr_gamma", self.diffusion.min_snr_gamma, 1e-6, 1e9),
        ] {
            if !(low..=high).contains(&value) {
                return fail(format!("{name}: {value}; expected {low} to {high}"));
            }
        }
        if self.data.class_dropout > 0.0 && !self.data.classes {
            return fail("data.class_dropout: needs data.classes = true".into());
        }
        self.decoupled()?;
        self.cosine()?;
        self.weighting()?;
        let scheduler = self.scheduler()?;
        scheduler.schedule()?.check_prediction(scheduler.prediction_type)?;
        self.config(self.data.classes.then_some(1))?;
        Ok(())
    }

    /// The architecture, for a data set of so many classes.
    ///
    /// # Errors
    /// The first field that makes no sense.
    pub fn config(&self, classes: Option<usize>) -> Result<Config> {
        let m = &self.model;
        if m.attention.len() != m.block_out_channels.len() {
            return Err(Error::argument(format!(
                "model.attention: {} entries for {} levels",
                m.attention.len(),
                m.block_out_channels.len()
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
            // diffusers leaves the middle attention without a norm under scale-shift unless told otherwise.
            attn_norm_num_groups: m.scale_shift.then_some(m.norm_num_groups),
            num_class_embeds: classes.filter(|_| self.data.classes).map(|k| k + null_class),
            ..Config::default()
        };
        config.validate()?;
        Ok(config)
    }

    /// The schedule, as the model folder will state it.
    ///
    /// # Errors
    /// An unknown schedule or prediction.
    pub fn scheduler(&self) -> Result<SchedulerConfig> {
        let d = &self.diffusion;
        Ok(SchedulerConfig {
            num_train_timesteps: d.timesteps,
            beta_start: d.beta_start,
            beta_end: d.beta_end,
            beta_schedule: d
                .schedule
                .parse()
                .map_err(|e: Error| Error::argument(format!("diffusion.schedule: {}", e.message())))?,
            prediction_type: d
                .prediction
                .parse()
                .map_err(|e: Error| Error::argument(format!("diffusion.prediction: {}", e.message())))?,
            rescale_betas_zero_snr: d.zero_snr,
            // diffusers would clip and start below T by default; these make it sample as we do.
            clip_sample: Some(false),
            timestep_spacing: Some(Spacing::Trailing),
            ..SchedulerConfig::default()
        })
    }

    /// How the loss weighs a time.
    ///
    /// # Errors
    /// An unknown name.
    pub fn weighting(&self) -> Result<Weighting> {
        let d = &self.diffusion;
        let known = [("none", Weighting::None), ("min_snr", Weighting::MinSnr(d.min_snr_gamma))];
        choose("diffusion.weighting", &d.weighting, &known)
    }

    /// Whether weight decay acts on the weights themselves.
    pub(super) fn decoupled(&self) -> Result<bool> {
        choose("optimizer.kind", &self.optimizer.kind, &[("adam", false), ("adamw", true)])
    }

    /// Whether the learning rate falls.
    pub(super) fn cosine(&self) -> Result<bool> {
        choose("optimizer.decay", &self.optimizer.decay, &[("constant", false), ("cosine", true)])
    }

    /// The learning rate of step `step` (from 1).
    ///
    /// # Errors
    /// An unknown decay.
    pub fn learning_rate(&self, step: u64) -> Result<f64> {
        let o = &self.optimizer;
        if step <= o.warmup {
            return Ok(o.lr * step as f64 / o.warmup as f64);
        }
        if !self.cosine()? {
            return Ok(o.lr);
        }
        let length = self.train.steps.saturating_sub(o.warmup).max(1);
        let progress = ((step - o.warmup) as f64 / length as f64).min(1.0);
        let share = 0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress));
        Ok(o.lr * (o.final_lr + (1.0 - o.final_lr) * share))
    }

    /// The decay of the moving average at step `step` (from 1).
    pub fn ema_decay(&self, step: u64) -> f64 {
        if self.ema.warmup { self.ema.decay.min((1.0 + step as f64) / (10.0 + step as f64)) } else { self.ema.decay }
    }
}

fn choose<T: Copy>(key: &str, value: &str, known: &[(&str, T)]) -> Result<T> {
    known.iter().find(|(name, _)| *name == value).map(|(_, t)| *t).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        Error::argument(format!("{key}: \"{value}\"; expected {}", names.join(" or ")))
    })
}

/// Every `section.key` there is.
fn known_keys() -> Vec<String> {
    let table = toml::Table::try_from(Recipe::default()).expect("a recipe is plain tables of plain values");
    let keys = |(section, entries): (&String, &toml::Value)| {
        let entries = entries.as_table().map(|t| t.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        entries.into_iter().map(|key| format!("{section}.{key}")).collect::<Vec<_>>()
    };
    table.iter().flat_map(keys).collect()
}

fn unknown(key: &str) -> Error {
    let nearest = known_keys().into_iter().max_by(|a, b| {
        let near = |k: &str| {
            let name = k.rsplit_once('.').map_or(k, |(_, name)| name);
            strsim::jaro_winkler(key, k).max(strsim::jaro_winkler(key, name))
        };
        near(a).total_cmp(&near(b))
    });
    Error::argument(format!("unknown key {key}; did you mean {}?", nearest.unwrap_or_default()))
}

fn check_keys(table: &toml::Table) -> Result<()> {
    let known = known_keys();
    for (section, entries) in table {
        let Some(entries) = entries.as_table() else { return Err(unknown(section)) };
        if let Some(key) = entries.keys().map(|k| format!("{section}.{k}")).find(|k| !known.contains(k)) {
            return Err(unknown(&key));
        }
        if !known.iter().any(|k| k.starts_with(&format!("{section}."))) {
            return Err(unknown(section));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_names_the_nearest() {
        for (text, nearest) in [
            ("[train]\nbatchsize = 3", "train.batch"),
            ("[optimizer]\nlearning_rate = 3", "optimizer."),
            ("[trian]\nsteps = 3", "train.steps"),
            ("steps = 3", "train.steps"),
        ] {
            let e = Recipe::parse(text, &[]).unwrap_err().to_string();
            assert!(e.contains("unknown key") && e.contains(nearest), "{text}: {e}");
        }
    }

    #[test]
    fn a_recipe_written_out_reads_back_the_same() {
        let overrides = ["optimizer.kind=adamw".to_string(), "model.block_out_channels=[16, 32]".into()];
        let recipe = Recipe::parse("[model]\nattention = [false, true]", &overrides).unwrap();
        assert_eq!(recipe.model.block_out_channels, [16, 32]);
        assert_eq!(Recipe::parse(&recipe.to_toml(), &[]).unwrap(), recipe);
    }

    #[test]
    fn values_out_of_range_are_named() {
        for (set, name) in [
            ("train.batch=0", "train.batch"),
            ("optimizer.beta2=1.5", "optimizer.beta2"),
            ("model.sample_size=[30, 28]", "sample_size"),
            ("diffusion.prediction=noise", "diffusion.prediction"),
            ("data.class_dropout=0.1", "data.class_dropout"),
            ("diffusion.zero_snr=true", "v"),
        ] {
            let e = Recipe::parse("", &[set.into()]).unwrap_err().to_string();
            assert!(e.contains(name), "{set}: {e}");
        }
    }

    #[test]
    fn the_rate_warms_up_and_falls_to_its_end() {
        let set = ["optimizer.decay=cosine".into(), "optimizer.warmup=10".into(), "optimizer.final_lr=0.1".into()];
        let mut recipe = Recipe::parse("[train]\nsteps = 110", &set).unwrap();
        recipe.optimizer.lr = 1.0;
        let rate = |step| recipe.learning_rate(step).unwrap();
        assert!((rate(5) - 0.5).abs() < 1e-12 && (rate(10) - 1.0).abs() < 1e-12);
        // Half-way down a cosine from 1 to 0.1 is their mean.
        assert!((rate(60) - 0.55).abs() < 1e-12 && (rate(110) - 0.1).abs() < 1e-12);
    }
}
