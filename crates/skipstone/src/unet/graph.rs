//! The network as a list of operations on values: what diffusers' `UNet2DModel` computes, read off its config.
//!
//! The builder below mirrors the structure of the model, block by block, and registers every parameter under its
//! checkpoint name on the way. Execution ([`super::execute`]) walks the list forwards or backwards.

use skipstone_kernels::{attention, conv, norm};

use super::config::{Config, DownBlock, TimeEmbedding, TimeScaleShift, UpBlock};
use super::params::Layout;
use crate::error::{Error, Result};

/// An intermediate result: `[channels, height, width]` per image; vectors have height and width 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ValueId(pub usize);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    pub channels: usize,
    pub size: [usize; 2],
}

impl Value {
    pub fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Elements per image.
    pub fn len(&self) -> usize {
        self.channels * self.pixels()
    }
}

/// Index of a parameter in the layout.
pub(crate) type Parameter = usize;

/// Which per-image integer selects a row of an embedding table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    Time,
    Class,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Conv {
        shape: conv::Shape,
        x: ValueId,
        w: Parameter,
        b: Parameter,
        y: ValueId,
    },
    Norm {
        shape: norm::Shape,
        x: ValueId,
        gamma: Parameter,
        beta: Parameter,
        scale_shift: Option<ValueId>,
        y: ValueId,
    },
    Attention {
        shape: attention::Shape,
        q: ValueId,
        k: ValueId,
        v: ValueId,
        y: ValueId,
    },
    Linear {
        x: ValueId,
        w: Parameter,
        b: Parameter,
        y: ValueId,
    },
    Silu {
        x: ValueId,
        y: ValueId,
    },
    Affine {
        a: f32,
        b: f32,
        x: ValueId,
        y: ValueId,
    },
    AddPerPlane {
        x: ValueId,
        v: ValueId,
        y: ValueId,
    },
    /// y = (a + b)·scale.
    Add {
        a: ValueId,
        b: ValueId,
        scale: f32,
        y: ValueId,
    },
    Concat {
        a: ValueId,
        b: ValueId,
        y: ValueId,
    },
    Upsample {
        x: ValueId,
        y: ValueId,
    },
    AveragePool {
        x: ValueId,
        y: ValueId,
    },
    Dropout {
        p: f64,
        site: u32,
        x: ValueId,
        y: ValueId,
    },
    Embedding {
        table: Parameter,
        row: Row,
        y: ValueId,
    },
}

impl Op {
    /// The value it writes.
    pub fn output(&self) -> ValueId {
        match *self {
            Op::Conv { y, .. }
            | Op::Norm { y, .. }
            | Op::Attention { y, .. }
            | Op::Linear { y, .. }
            | Op::Silu { y, .. }
            | Op::Affine { y, .. }
            | Op::AddPerPlane { y, .. }
            | Op::Add { y, .. }
            | Op::Concat { y, .. }
            | Op::Upsample { y, .. }
            | Op::AveragePool { y, .. }
            | Op::Dropout { y, .. }
            | Op::Embedding { y, .. } => y,
        }
    }

    /// The values it reads.
    pub fn inputs(&self) -> Vec<ValueId> {
        match *self {
            Op::Conv { x, .. }
            | Op::Linear { x, .. }
            | Op::Silu { x, .. }
            | Op::Affine { x, .. }
            | Op::Upsample { x, .. }
            | Op::AveragePool { x, .. }
            | Op::Dropout { x, .. }
            | Op::Norm { x, scale_shift: None, .. } => vec![x],
            Op::Norm { x, scale_shift: Some(v), .. } | Op::AddPerPlane { x, v, .. } => vec![x, v],
            Op::Add { a, b, .. } | Op::Concat { a, b, .. } => vec![a, b],
            Op::Attention { q, k, v, .. } => vec![q, k, v],
            Op::Embedding { .. } => vec![],
        }
    }
}

/// The whole network.
#[derive(Clone, Debug)]
pub(crate) struct Graph {
    pub values: Vec<Value>,
    pub ops: Vec<Op>,
    pub layout: Layout,
    /// The image.
    pub input: ValueId,
    /// The sines and cosines of the time, for positional embeddings.
    pub time: Option<ValueId>,
    pub output: ValueId,
    /// Places where dropout applies.
    pub dropout_sites: u32,
}

impl Graph {
    /// Builds the network of a config.
    pub fn new(config: &Config) -> Result<Self> {
        config.validate()?;
        let mut b = Builder {
            config,
            graph: Graph {
                values: Vec::new(),
                ops: Vec::new(),
                layout: Layout::default(),
                input: ValueId(0),
                time: None,
                output: ValueId(0),
                dropout_sites: 0,
            },
            temb: ValueId(0),
        };
        b.network()?;
        Ok(b.graph)
    }

    pub fn value(&self, id: ValueId) -> Value {
        self.values[id.0]
    }

    /// Floating-point operations of one call for one image (convolutions, products and attention; the rest is small),
    /// a multiplication and an addition counted as two.
    pub fn flops(&self) -> u64 {
        self.ops
            .iter()
            .map(|op| match op {
                Op::Conv { shape, .. } => shape.flops(),
                Op::Attention { shape, .. } => shape.flops(),
                Op::Linear { x, y, .. } => 2 * (self.value(*x).len() * self.value(*y).len()) as u64,
                _ => 0,
            })
            .fold(0, u64::saturating_add)
    }
}

struct Builder<'a> {
    config: &'a Config,
    graph: Graph,
    /// SiLU of the embedding, which every residual block projects.
    temb: ValueId,
}

/// What distinguishes one residual block from another.
struct Resnet {
    channels: usize,
    /// Divides the residual sum.
    output_scale: f64,
    resample: Resample,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Resample {
    None,
    Down,
    Up,
}

impl Builder<'_> {
    fn new_value(&mut self, channels: usize, size: [usize; 2]) -> ValueId {
        self.graph.values.push(Value { channels, size });
        ValueId(self.graph.values.len() - 1)
    }

    fn like(&mut self, x: ValueId) -> ValueId {
        let Value { channels, size } = self.graph.value(x);
        self.new_value(channels, size)
    }

    fn op(&mut self, op: Op) -> ValueId {
        let y = op.output();
        self.graph.ops.push(op);
        y
    }

    fn parameter(&mut self, name: String, shape: &[usize]) -> Result<Parameter> {
        self.graph.layout.push(name, shape.to_vec())
    }

    fn conv(&mut self, name: &str, x: ValueId, c_out: usize, kernel: usize) -> Result<ValueId> {
        self.strided_conv(name, x, c_out, kernel, 1, kernel / 2, kernel / 2)
    }

    #[allow(clippy::too_many_arguments)] // the numbers of a convolution
    fn strided_conv(
        &mut self,
        name: &str,
        x: ValueId,
        c_out: usize,
        kernel: usize,
        stride: usize,
        pad_before: usize,
        pad_after: usize,
    ) -> Result<ValueId> {
        let Value { channels, size } = self.graph.value(x);
        let shape = conv::Shape { c_in: channels, c_out, input: size, kernel, stride, pad_before, pad_after };
        let w = self.parameter(format!("{name}.weight"), &[c_out, channels, kernel, kernel])?;
        let b = self.parameter(format!("{name}.bias"), &[c_out])?;
        let y = self.new_value(c_out, shape.output());
        Ok(self.op(Op::Conv { shape, x, w, b, y }))
    }

    /// A linear layer applied to every pixel: its weight is `[c_out, c_in]`, a 1×1 convolution's without the ones.
    fn pointwise(&mut self, name: &str, x: ValueId, c_out: usize) -> Result<ValueId> {
        let Value { channels, size } = self.graph.value(x);
        let shape =
            conv::Shape { c_in: channels, c_out, input: size, kernel: 1, stride: 1, pad_before: 0, pad_after: 0 };
        let w = self.parameter(format!("{name}.weight"), &[c_out, channels])?;
        let b = self.parameter(format!("{name}.bias"), &[c_out])?;
        let y = self.new_value(c_out, size);
        Ok(self.op(Op::Conv { shape, x, w, b, y }))
    }

    fn linear(&mut self, name: &str, x: ValueId, outputs: usize) -> Result<ValueId> {
        let inputs = self.graph.value(x).len();
        let w = self.parameter(format!("{name}.weight"), &[outputs, inputs])?;
        let b = self.parameter(format!("{name}.bias"), &[outputs])?;
        let y = self.new_value(outputs, [1, 1]);
        Ok(self.op(Op::Linear { x, w, b, y }))
    }

    fn silu(&mut self, x: ValueId) -> ValueId {
        let y = self.like(x);
        self.op(Op::Silu { x, y })
    }

    fn norm(
        &mut self,
        name: &str,
        x: ValueId,
        groups: usize,
        silu: bool,
        scale_shift: Option<ValueId>,
    ) -> Result<ValueId> {
        let value = self.graph.value(x);
        if !value.channels.is_multiple_of(groups) {
            return Err(Error::data(format!(
                "norm_num_groups: {groups} does not divide the {} channels of {name}",
                value.channels
            )));
        }
        let shape = norm::Shape {
            channels: value.channels,
            pixels: value.pixels(),
            groups,
            eps: self.config.norm_eps as f32,
            silu,
        };
        let gamma = self.parameter(format!("{name}.weight"), &[value.channels])?;
        let beta = self.parameter(format!("{name}.bias"), &[value.channels])?;
        let y = self.like(x);
        Ok(self.op(Op::Norm { shape, x, gamma, beta, scale_shift, y }))
    }

    fn add(&mut self, a: ValueId, b: ValueId, divide_by: f64) -> ValueId {
        let y = self.like(a);
        self.op(Op::Add { a, b, scale: (1.0 / divide_by) as f32, y })
    }

    fn resample(&mut self, x: ValueId, how: Resample) -> ValueId {
        let Value { channels, size: [h, w] } = self.graph.value(x);
        match how {
            Resample::None => x,
            Resample::Down => {
                let y = self.new_value(channels, [h / 2, w / 2]);
                self.op(Op::AveragePool { x, y })
            }
            Resample::Up => {
                let y = self.new_value(channels, [h * 2, w * 2]);
                self.op(Op::Upsample { x, y })
            }
        }
    }

    /// GN–SiLU–conv, time, GN–SiLU–dropout–conv, and the (possibly projected) input.
    fn resnet(&mut self, name: &str, x: ValueId, block: &Resnet) -> Result<ValueId> {
        let groups = self.config.norm_num_groups;
        let h = self.norm(&format!("{name}.norm1"), x, groups, true, None)?;
        let h = self.resample(h, block.resample);
        let x = self.resample(x, block.resample);
        let h = self.conv(&format!("{name}.conv1"), h, block.channels, 3)?;
        let temb = self.temb;
        let project = format!("{name}.time_emb_proj");
        let norm2 = format!("{name}.norm2");
        let h = match self.config.resnet_time_scale_shift {
            TimeScaleShift::Default => {
                let v = self.linear(&project, temb, block.channels)?;
                let y = self.like(h);
                let h = self.op(Op::AddPerPlane { x: h, v, y });
                self.norm(&norm2, h, groups, true, None)?
            }
            TimeScaleShift::ScaleShift => {
                let v = self.linear(&project, temb, 2 * block.channels)?;
                self.norm(&norm2, h, groups, true, Some(v))?
            }
        };
        let h = if self.config.dropout > 0.0 {
            let (p, site) = (self.config.dropout, self.graph.dropout_sites);
            self.graph.dropout_sites += 1;
            let y = self.like(h);
            self.op(Op::Dropout { p, site, x: h, y })
        } else {
            h
        };
        let h = self.conv(&format!("{name}.conv2"), h, block.channels, 3)?;
        let x = if self.graph.value(x).channels == block.channels {
            x
        } else {
            self.conv(&format!("{name}.conv_shortcut"), x, block.channels, 1)?
        };
        Ok(self.add(x, h, block.output_scale))
    }

    fn attention(&mut self, name: &str, x: ValueId, groups: Option<usize>, output_scale: f64) -> Result<ValueId> {
        let value = self.graph.value(x);
        let h = match groups {
            Some(groups) => self.norm(&format!("{name}.group_norm"), x, groups, false, None)?,
            None => x,
        };
        let q = self.pointwise(&format!("{name}.to_q"), h, value.channels)?;
        let k = self.pointwise(&format!("{name}.to_k"), h, value.channels)?;
        let v = self.pointwise(&format!("{name}.to_v"), h, value.channels)?;
        let heads = match self.config.attention_head_dim {
            Some(dim) if dim == 0 || !value.channels.is_multiple_of(dim) => {
                let channels = value.channels;
                return Err(Error::data(format!(
                    "attention_head_dim: {dim} does not divide the {channels} channels of {name}"
                )));
            }
            Some(dim) => value.channels / dim,
            None => 1,
        };
        let shape = attention::Shape { channels: value.channels, heads, pixels: value.pixels() };
        let y = self.like(x);
        let h = self.op(Op::Attention { shape, q, k, v, y });
        let h = self.pointwise(&format!("{name}.to_out.0"), h, value.channels)?;
        Ok(self.add(x, h, output_scale))
    }

    fn embeddings(&mut self) -> Result<()> {
        let config = self.config;
        let (base, width) = (config.block_out_channels[0], config.time_embed_dim());
        let time = match config.time_embedding {
            TimeEmbedding::Positional => {
                let time = self.new_value(base, [1, 1]);
                self.graph.time = Some(time);
                time
            }
            TimeEmbedding::Learned { num_train_timesteps } => {
                let table = self.parameter("time_proj.weight".into(), &[num_train_timesteps, base])?;
                let y = self.new_value(base, [1, 1]);
                self.op(Op::Embedding { table, row: Row::Time, y })
            }
        };
        let h = self.linear("time_embedding.linear_1", time, width)?;
        let h = self.silu(h);
        let mut embedding = self.linear("time_embedding.linear_2", h, width)?;
        if let Some(classes) = config.num_class_embeds {
            let table = self.parameter("class_embedding.weight".into(), &[classes, width])?;
            let y = self.new_value(width, [1, 1]);
            let class = self.op(Op::Embedding { table, row: Row::Class, y });
            embedding = self.add(embedding, class, 1.0);
        }
        self.temb = self.silu(embedding);
        Ok(())
    }

    fn network(&mut self) -> Result<()> {
        let config = self.config;
        let plain = |channels| Resnet { channels, output_scale: 1.0, resample: Resample::None };
        let groups = config.norm_num_groups;

        let input = self.new_value(config.in_channels, config.sample_size);
        self.graph.input = input;
        self.embeddings()?;
        let mut h = input;
        if config.center_input_sample {
            let y = self.like(h);
            h = self.op(Op::Affine { a: 2.0, b: -1.0, x: h, y });
        }
        h = self.conv("conv_in", h, config.block_out_channels[0], 3)?;

        let mut skips = vec![h];
        let levels = config.block_out_channels.len();
        for (i, (&block, &channels)) in config.down_blocks.iter().zip(&config.block_out_channels).enumerate() {
            let name = format!("down_blocks.{i}");
            for j in 0..config.layers_per_block {
                h = self.resnet(&format!("{name}.resnets.{j}"), h, &plain(channels))?;
                if block == DownBlock::Attention {
                    h = self.attention(&format!("{name}.attentions.{j}"), h, Some(groups), 1.0)?;
                }
                skips.push(h);
            }
            if i + 1 < levels {
                let name = format!("{name}.downsamplers.0");
                h = if block == DownBlock::ResnetDownsample || block == DownBlock::Attention && config.downsample_resnet
                {
                    self.resnet(&name, h, &Resnet { resample: Resample::Down, ..plain(channels) })?
                } else {
                    let pad = config.downsample_padding;
                    self.strided_conv(&format!("{name}.conv"), h, channels, 3, 2, pad, pad.max(1))?
                };
                skips.push(h);
            }
        }

        let channels = config.block_out_channels[levels - 1];
        let scale = config.mid_block_scale_factor;
        let middle = Resnet { output_scale: scale, ..plain(channels) };
        h = self.resnet("mid_block.resnets.0", h, &middle)?;
        if config.add_attention {
            h = self.attention("mid_block.attentions.0", h, config.mid_attention_groups(), scale)?;
        }
        h = self.resnet("mid_block.resnets.1", h, &middle)?;

        for (i, (&block, &channels)) in config.up_blocks.iter().zip(config.block_out_channels.iter().rev()).enumerate()
        {
            let name = format!("up_blocks.{i}");
            for j in 0..=config.layers_per_block {
                let skip = skips.pop().expect("a skip for every residual block on the way up");
                let (a, b) = (self.graph.value(h), self.graph.value(skip));
                let y = self.new_value(a.channels + b.channels, a.size);
                h = self.op(Op::Concat { a: h, b: skip, y });
                h = self.resnet(&format!("{name}.resnets.{j}"), h, &plain(channels))?;
                if block == UpBlock::Attention {
                    h = self.attention(&format!("{name}.attentions.{j}"), h, Some(groups), 1.0)?;
                }
            }
            if i + 1 < levels {
                let name = format!("{name}.upsamplers.0");
                h = if block == UpBlock::ResnetUpsample || block == UpBlock::Attention && config.upsample_resnet {
                    self.resnet(&name, h, &Resnet { resample: Resample::Up, ..plain(channels) })?
                } else {
                    let up = self.resample(h, Resample::Up);
                    self.conv(&format!("{name}.conv"), up, channels, 3)?
                };
            }
        }
        h = self.norm("conv_norm_out", h, groups, true, None)?;
        self.graph.output = self.conv("conv_out", h, config.out_channels, 3)?;
        Ok(())
    }
}
