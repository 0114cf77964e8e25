//! The architecture of a network: the fields of `UNet2DModel`'s config.json as types.

use crate::error::{Error, Result};

/// A block of the downsampling path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownBlock {
    /// `DownBlock2D`: residual blocks.
    Plain,
    /// `AttnDownBlock2D`: an attention layer after each residual block.
    Attention,
    /// `ResnetDownsampleBlock2D`: residual blocks, with a residual block as the downsampler.
    ResnetDownsample,
}

/// A block of the upsampling path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpBlock {
    /// `UpBlock2D`: residual blocks.
    Plain,
    /// `AttnUpBlock2D`: an attention layer after each residual block.
    Attention,
    /// `ResnetUpsampleBlock2D`: residual blocks, with a residual block as the upsampler.
    ResnetUpsample,
}

/// How a time index becomes an embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeEmbedding {
    /// Sines and cosines at `block_out_channels[0] / 2` frequencies.
    Positional,
    /// A learned table with a row for each of `num_train_timesteps` times.
    Learned {
        /// Number of rows.
        num_train_timesteps: usize,
    },
}

/// How the time embedding enters a residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeScaleShift {
    /// It is added between the two convolutions.
    Default,
    /// It scales and shifts the output of the second normalisation.
    ScaleShift,
}

/// The activation of the residual blocks and of the time embedding that they project. The time embedding's own layers and
/// the output have SiLU in every network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·σ(x), also called swish.
    Silu,
    /// x·Φ(x), with the normal distribution Φ.
    Gelu,
    /// x·tanh(ln(1 + e^x)).
    Mish,
    /// max(x, 0).
    Relu,
}

/// How a class becomes a vector, which is added to the time embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassEmbedding {
    /// A learned table with a row for each class.
    Table,
    /// The class number is embedded as a time index is, by layers of its own.
    Timestep,
    /// The class number itself, added to every component: diffusers' result for labels of shape `[n, 1]`.
    Identity,
}

/// Number of classes of a network that does not limit them.
pub(crate) const MAX_CLASSES: usize = 1_000_000;

/// Upper bounds of the config's values, which keep a malicious file from requesting absurd sizes.
const MAX_CHANNELS: usize = 1 << 16;
const MAX_LEVELS: usize = 16;
const MAX_LAYERS: usize = 64;
const MAX_SIZE: usize = 1 << 14;

/// The architecture. The fields have the names of diffusers' `UNet2DModel` config.
///
/// ```
/// let config = skipstone::unet::Config { block_out_channels: vec![32, 64], ..Default::default() };
/// config.validate().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Height and width of an image.
    pub sample_size: [usize; 2],
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Whether the input is first mapped from x to 2x − 1.
    pub center_input_sample: bool,
    /// How a time index becomes an embedding.
    pub time_embedding: TimeEmbedding,
    /// Factor by which time indices are multiplied before they are embedded: 1000/T where a network was trained with
    /// rescaled times (Nichol & Dhariwal's code), else 1. diffusers does not know it.
    pub time_scale: f64,
    /// Offset in the denominator of the positional embedding's frequencies.
    pub freq_shift: f64,
    /// Whether cosines come before sines.
    pub flip_sin_to_cos: bool,
    /// The blocks of the downsampling path, finest first.
    pub down_blocks: Vec<DownBlock>,
    /// The blocks of the upsampling path, coarsest first.
    pub up_blocks: Vec<UpBlock>,
    /// Channels of each level, finest first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level (one more in the upsampling path).
    pub layers_per_block: usize,
    /// Divisor of the residual sums in the middle block.
    pub mid_block_scale_factor: f64,
    /// Padding of the strided convolution: 0 pads (0,1,0,1), 1 pads symmetrically.
    pub downsample_padding: usize,
    /// Whether attention blocks downsample by a residual block instead of a strided convolution.
    pub downsample_resnet: bool,
    /// Whether attention blocks upsample by a residual block instead of nearest neighbour and convolution.
    pub upsample_resnet: bool,
    /// Dropout probability in the residual blocks during training.
    pub dropout: f64,
    /// Channels per attention head; `None` means one head.
    pub attention_head_dim: Option<usize>,
    /// Heads of every attention layer, whatever its width, instead of `attention_head_dim`. diffusers cannot express it
    /// where attention layers have different widths.
    pub num_attention_heads: Option<usize>,
    /// Groups of the group normalisations.
    pub norm_num_groups: usize,
    /// Groups of the middle attention's normalisation; see [`Config::mid_attention_groups`].
    pub attn_norm_num_groups: Option<usize>,
    /// ε of the normalisations.
    pub norm_eps: f64,
    /// How the time embedding enters a residual block.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// The activation (`act_fn`).
    pub activation: Activation,
    /// Whether there is a middle block (`mid_block_type`).
    pub mid_block: bool,
    /// Whether the middle block has an attention layer.
    pub add_attention: bool,
    /// Number of classes; `None` means unconditional.
    pub num_class_embeds: Option<usize>,
    /// How a class becomes a vector (`class_embed_type`).
    pub class_embedding: ClassEmbedding,
}

impl Default for Config {
    /// A small network for 28×28 gray images, the starting point of the recipes.
    fn default() -> Self {
        Self {
            sample_size: [28, 28],
            in_channels: 1,
            out_channels: 1,
            center_input_sample: false,
            time_embedding: TimeEmbedding::Positional,
            time_scale: 1.0,
            freq_shift: 1.0,
            flip_sin_to_cos: false,
            down_blocks: vec![DownBlock::Plain, DownBlock::Attention],
            up_blocks: vec![UpBlock::Attention, UpBlock::Plain],
            block_out_channels: vec![32, 64],
            layers_per_block: 2,
            mid_block_scale_factor: 1.0,
            downsample_padding: 0,
            downsample_resnet: false,
            upsample_resnet: false,
            dropout: 0.0,
            attention_head_dim: None,
            num_attention_heads: None,
            norm_num_groups: 32,
            attn_norm_num_groups: None,
            norm_eps: 1e-6,
            resnet_time_scale_shift: TimeScaleShift::Default,
            activation: Activation::Silu,
            mid_block: true,
            add_attention: true,
            num_class_embeds: None,
            class_embedding: ClassEmbedding::Table,
        }
    }
}

impl Config {
    /// A very small network, for tests of programs that use networks: 8×8 gray images, one level of 8 channels, no
    /// attention.
    pub fn smallest() -> Self {
        Self {
            sample_size: [8, 8],
            block_out_channels: vec![8],
            down_blocks: vec![DownBlock::Plain],
            up_blocks: vec![UpBlock::Plain],
            layers_per_block: 1,
            norm_num_groups: 4,
            add_attention: false,
            ..Self::default()
        }
    }

    /// What is known of a network that is none of ours: the size of its images, its classes, and whether it takes whole
    /// timesteps only (`timesteps` of them). It has no levels, so [`validate`](Self::validate) refuses it: nothing can
    /// build a U-Net from it.
    pub fn outline([channels, height, width]: [usize; 3], classes: Option<usize>, timesteps: Option<usize>) -> Self {
        Self {
            sample_size: [height, width],
            in_channels: channels,
            out_channels: channels,
            time_embedding: timesteps.map_or(TimeEmbedding::Positional, |num_train_timesteps| TimeEmbedding::Learned {
                num_train_timesteps,
            }),
            down_blocks: Vec::new(),
            up_blocks: Vec::new(),
            block_out_channels: Vec::new(),
            layers_per_block: 0,
            add_attention: false,
            num_class_embeds: classes,
            ..Self::default()
        }
    }

    /// Width of the time embedding, four times the first level's.
    pub fn time_embed_dim(&self) -> usize {
        4 * self.block_out_channels[0]
    }

    /// The frequency of the i-th of `half` sines of the positional time embedding, rounded as in training.
    pub(crate) fn frequency(&self, i: usize, half: usize) -> f32 {
        let exponent = -(10_000f64.ln()) * i as f64 / (half as f64 - self.freq_shift);
        (exponent as f32).exp()
    }

    /// The channels of each level with attention, finest first; the middle block counts as the coarsest level.
    pub fn attention_widths(&self) -> Vec<usize> {
        let levels = self.block_out_channels.len();
        let attends = |level: &usize| {
            self.down_blocks[*level] == DownBlock::Attention
                || self.up_blocks[levels - 1 - level] == UpBlock::Attention
                || (self.mid_block && self.add_attention && level + 1 == levels)
        };
        (0..levels).filter(attends).map(|level| self.block_out_channels[level]).collect()
    }

    /// Channels of an image. Half of the output, if the network [learns its variance](Self::learns_variance).
    pub fn image_channels(&self) -> usize {
        if self.learns_variance() { self.in_channels } else { self.out_channels }
    }

    /// Whether the output has a second half, which interpolates the variance of a step (Nichol & Dhariwal, arXiv
    /// 2102.09672, Eq. 15).
    pub fn learns_variance(&self) -> bool {
        self.out_channels == 2 * self.in_channels
    }

    /// Groups of the middle attention's normalisation. With scale-shift and no explicit number, that attention has no
    /// normalisation, as in diffusers.
    pub fn mid_attention_groups(&self) -> Option<usize> {
        match (self.attn_norm_num_groups, self.resnet_time_scale_shift) {
            (Some(groups), _) => Some(groups),
            (None, TimeScaleShift::Default) => Some(self.norm_num_groups),
            (None, TimeScaleShift::ScaleShift) => None,
        }
    }

    /// Checks that the config describes a valid, supported network.
    ///
    /// # Errors
    /// The message names the first invalid field by its name in config.json.
    pub fn validate(&self) -> Result<()> {
        let fail = |message: String| Err(Error::data(message));
        let levels = self.block_out_channels.len();
        if levels == 0 || levels > MAX_LEVELS {
            return fail(format!("block_out_channels: expected 1 to {MAX_LEVELS} levels, found {levels}"));
        }
        for (name, blocks) in [("down_block_types", self.down_blocks.len()), ("up_block_types", self.up_blocks.len())] {
            if blocks != levels {
                return fail(format!("{name}: expected {levels} blocks, one per level, found {blocks}"));
            }
        }
        for (name, value, max) in [
            ("in_channels", self.in_channels, MAX_CHANNELS),
            ("out_channels", self.out_channels, MAX_CHANNELS),
            ("layers_per_block", self.layers_per_block, MAX_LAYERS),
            ("norm_num_groups", self.norm_num_groups, MAX_CHANNELS),
            ("sample_size", self.sample_size[0], MAX_SIZE),
            ("sample_size", self.sample_size[1], MAX_SIZE),
        ] {
            if value == 0 || value > max {
                return fail(format!("{name}: expected 1 to {max}, found {value}"));
            }
        }
        for &channels in &self.block_out_channels {
            if channels == 0 || channels > MAX_CHANNELS {
                return fail(format!("block_out_channels: expected 1 to {MAX_CHANNELS}, found {channels}"));
            }
            if channels % self.norm_num_groups != 0 {
                return fail(format!(
                    "norm_num_groups: {} does not divide the {channels} channels of a level",
                    self.norm_num_groups
                ));
            }
        }
        if !self.block_out_channels[0].is_multiple_of(2) && self.time_embedding == TimeEmbedding::Positional {
            return fail(format!(
                "block_out_channels: the positional time embedding needs an even first width, found {}",
                self.block_out_channels[0]
            ));
        }
        let factor = 1usize << (levels - 1);
        for size in self.sample_size {
            if size % factor != 0 {
                return Err(Error::unsupported(format!(
                    "sample_size: {levels} levels need a size divisible by {factor} (2^(levels − 1)), found {size}"
                )));
            }
        }
        if self.downsample_padding > 1 {
            return Err(Error::unsupported(format!(
                "downsample_padding: 0 and 1 are supported, found {}",
                self.downsample_padding
            )));
        }
        if let Some(groups) = self.mid_attention_groups() {
            let channels = self.block_out_channels[levels - 1];
            if !channels.is_multiple_of(groups) {
                return fail(format!("attn_norm_num_groups: {groups} does not divide {channels} channels"));
            }
        }
        if self.attention_head_dim.is_some() && self.num_attention_heads.is_some() {
            return fail("num_attention_heads: cannot be combined with attention_head_dim".to_owned());
        }
        for (name, of, widths) in [
            ("attention_head_dim", self.attention_head_dim, self.attention_widths()),
            // The config's file lists the heads' width on every level.
            ("num_attention_heads", self.num_attention_heads, self.block_out_channels.clone()),
        ] {
            let Some(of) = of else { continue };
            if let Some(channels) = widths.into_iter().find(|channels| of == 0 || channels % of != 0) {
                return fail(format!("{name}: {of} does not divide the {channels} channels of a level"));
            }
        }
        if !(self.time_scale.is_finite() && self.time_scale > 0.0) {
            return fail(format!("time_scale: expected a positive number, found {}", self.time_scale));
        }
        if self.time_scale != 1.0 && self.time_embedding != TimeEmbedding::Positional {
            return fail("time_scale: needs the positional time embedding".to_owned());
        }
        if let TimeEmbedding::Learned { num_train_timesteps } = self.time_embedding
            && !(1..=1_000_000).contains(&num_train_timesteps)
        {
            return fail(format!("num_train_timesteps: expected 1 to 1000000, found {num_train_timesteps}"));
        }
        if let Some(classes) = self.num_class_embeds
            && !(1..=MAX_CLASSES).contains(&classes)
        {
            return fail(format!("num_class_embeds: expected 1 to {MAX_CLASSES}, found {classes}"));
        }
        match (self.class_embedding, self.num_class_embeds) {
            (ClassEmbedding::Timestep | ClassEmbedding::Identity, None) => {
                return fail("num_class_embeds: missing; class_embed_type needs it".into());
            }
            (ClassEmbedding::Timestep, Some(classes)) => {
                if let TimeEmbedding::Learned { num_train_timesteps } = self.time_embedding
                    && classes > num_train_timesteps
                {
                    return fail(format!(
                        "num_class_embeds: the table of times, which also embeds the classes, has {num_train_timesteps} \
                         rows, found {classes} classes"
                    ));
                }
            }
            _ => {}
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return fail(format!("dropout: expected 0 ≤ p < 1, found {}", self.dropout));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return fail(format!("norm_eps: expected a positive number, found {}", self.norm_eps));
        }
        if !(self.mid_block_scale_factor.is_finite() && self.mid_block_scale_factor != 0.0) {
            return fail(format!(
                "mid_block_scale_factor: expected a finite number other than 0, found {}",
                self.mid_block_scale_factor
            ));
        }
        Ok(())
    }
}
