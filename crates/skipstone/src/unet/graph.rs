//! The network as a list of operations on values, equivalent to diffusers' `UNet2DModel` with the same config.
//!
//! The builder below mirrors the structure of the model, block by block. It registers every parameter under its
//! checkpoint name, together with its initial distribution. An engine walks the list forwards or backwards.

use super::config::{Activation, ClassEmbedding, Config, DownBlock, TimeEmbedding, TimeScaleShift, UpBlock};
use super::initialise::Init;
use super::params::Layout;
use super::shapes::{Attention, Convolution, Normalisation};
use crate::error::{Error, Result};

/// An intermediate result: `[height, width, channels]` per image. Vectors have height and width 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ValueId(pub usize);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    pub channels: usize,
    pub size: [usize; 2],
    /// If this value is a range of channels of a wider value: that value and the first channel. A concatenation
    /// consists of two values that share a host.
    pub host: Option<(ValueId, usize)>,
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

/// Which per-image integer selects the row of an embedding table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    Time,
    Class,
}

/// An operation on vectors, which turns time and class into the vectors that condition the blocks.
#[derive(Clone, Debug)]
pub(crate) enum VectorOp {
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
    /// The config's activation, if that is not SiLU.
    Activate {
        x: ValueId,
        y: ValueId,
    },
    /// Every component is the class number.
    Class {
        y: ValueId,
    },
    Add {
        a: ValueId,
        b: ValueId,
        y: ValueId,
    },
    Embedding {
        table: Parameter,
        row: Row,
        y: ValueId,
    },
}

/// A group normalisation, with SiLU if its shape has it. The convolution or [`Op::Activate`] that refers to it applies
/// it.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub shape: Normalisation,
    pub x: ValueId,
    pub gamma: Parameter,
    pub beta: Parameter,
    pub scale_shift: Option<ValueId>,
}

/// Index of a normalisation in [`Graph::norms`].
pub(crate) type NormId = usize;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// y = (w ∗ norm(x) + b + vector + residual)·scale.
    Conv {
        shape: Convolution,
        x: ValueId,
        norm: Option<NormId>,
        /// Weight and bias; several pairs where layers with the same input are computed as one.
        weights: Vec<(Parameter, Parameter)>,
        vector: Option<ValueId>,
        residual: Option<ValueId>,
        scale: f32,
        y: ValueId,
    },
    Attention {
        shape: Attention,
        qkv: ValueId,
        y: ValueId,
    },
    /// y = norm(x), for readers other than a convolution.
    Activate {
        norm: NormId,
        x: ValueId,
        y: ValueId,
    },
    /// y = act(x), with the config's activation, if that is not SiLU.
    Nonlinear {
        kind: Activation,
        x: ValueId,
        y: ValueId,
    },
    /// y = x, for a value that is needed in two places.
    Copy {
        x: ValueId,
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
}

impl Op {
    /// The value that the operation writes.
    pub fn output(&self) -> ValueId {
        match *self {
            Op::Conv { y, .. }
            | Op::Attention { y, .. }
            | Op::Activate { y, .. }
            | Op::Nonlinear { y, .. }
            | Op::Copy { y, .. }
            | Op::Upsample { y, .. }
            | Op::AveragePool { y, .. }
            | Op::Dropout { y, .. } => y,
        }
    }

    /// The images that the operation reads.
    pub fn inputs(&self) -> impl Iterator<Item = ValueId> {
        let (first, second) = match *self {
            Op::Conv { x, residual, .. } => (x, residual),
            Op::Attention { qkv: x, .. }
            | Op::Activate { x, .. }
            | Op::Nonlinear { x, .. }
            | Op::Copy { x, .. }
            | Op::Upsample { x, .. }
            | Op::AveragePool { x, .. }
            | Op::Dropout { x, .. } => (x, None),
        };
        std::iter::once(first).chain(second)
    }
}

/// The whole network.
#[derive(Clone, Debug)]
pub(crate) struct Graph {
    pub values: Vec<Value>,
    /// Operations from time and class to the conditioning vectors.
    pub vector_ops: Vec<VectorOp>,
    pub norms: Vec<Norm>,
    /// Operations from the image to the output.
    pub ops: Vec<Op>,
    /// The block of the network that each operation belongs to.
    pub blocks: Vec<usize>,
    /// Which values are written and read within one block only, so that they can be recomputed from the block's input.
    pub transient: Vec<bool>,
    pub layout: Layout,
    /// The initial distribution of each parameter, in the order of the layout.
    pub inits: Vec<Init>,
    /// The image; (a, b) of `centre` map it to a·pixel + b first.
    pub input: ValueId,
    pub centre: (f32, f32),
    /// The sines and cosines of the time, for positional embeddings.
    pub time: Option<ValueId>,
    /// The sines and cosines of the class number, where it is embedded like a time.
    pub label: Option<ValueId>,
    pub output: ValueId,
    /// Number of places where dropout applies.
    pub dropout_sites: u32,
}

impl Graph {
    /// Builds the network of a config. `dropout` enables its dropout, as in training.
    pub fn new(config: &Config, dropout: bool) -> Result<Self> {
        config.validate()?;
        let mut b = Builder {
            config,
            dropout: if dropout { config.dropout } else { 0.0 },
            block: 0,
            graph: Graph {
                values: Vec::new(),
                vector_ops: Vec::new(),
                norms: Vec::new(),
                ops: Vec::new(),
                blocks: Vec::new(),
                transient: Vec::new(),
                layout: Layout::default(),
                inits: Vec::new(),
                input: ValueId(0),
                centre: if config.center_input_sample { (2.0, -1.0) } else { (1.0, 0.0) },
                time: None,
                label: None,
                output: ValueId(0),
                dropout_sites: 0,
            },
            temb: ValueId(0),
        };
        b.network()?;
        b.graph.transient = b.graph.find_transient();
        Ok(b.graph)
    }

    pub fn value(&self, id: ValueId) -> Value {
        self.values[id.0]
    }

    /// The value in whose memory a value is stored, and its first channel there.
    pub fn root(&self, id: ValueId) -> (ValueId, usize) {
        let (mut id, mut offset) = (id, 0);
        while let Some((host, at)) = self.value(id).host {
            (id, offset) = (host, offset + at);
        }
        (id, offset)
    }

    fn find_transient(&self) -> Vec<bool> {
        let mut block: Vec<Option<usize>> = vec![None; self.values.len()];
        let mut transient = vec![true; self.values.len()];
        for (op, b) in self.ops.iter().zip(&self.blocks) {
            for value in op.inputs().chain([op.output()]) {
                let (root, _) = self.root(value);
                if *block[root.0].get_or_insert(*b) != *b || root != value {
                    transient[root.0] = false;
                    transient[value.0] = false;
                }
            }
        }
        transient[self.input.0] = false;
        transient[self.output.0] = false;
        transient
    }

    /// Floating-point operations of one call for one image; a multiply-add counts as two. Counts convolutions, linear
    /// layers and attention; the rest is small.
    pub fn flops(&self) -> u64 {
        let images = self.ops.iter().map(|op| match op {
            Op::Conv { shape, .. } => shape.flops(),
            Op::Attention { shape, .. } => shape.flops(),
            _ => 0,
        });
        let vectors = self.vector_ops.iter().map(|op| match op {
            VectorOp::Linear { x, y, .. } => 2 * (self.value(*x).len() * self.value(*y).len()) as u64,
            _ => 0,
        });
        images.chain(vectors).fold(0, u64::saturating_add)
    }
}

struct Builder<'a> {
    config: &'a Config,
    dropout: f64,
    /// Number of the current block.
    block: usize,
    graph: Graph,
    /// The activated time (and class) embedding, which every residual block projects.
    temb: ValueId,
}

/// The parameters of a residual block.
struct Resnet {
    channels: usize,
    /// Divisor of the residual sum.
    output_scale: f64,
    resample: Resample,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Resample {
    None,
    Down,
    Up,
}

/// A convolution's input and the operations fused into the convolution.
#[derive(Clone, Copy)]
struct Fold {
    x: ValueId,
    norm: Option<NormId>,
    upsample: bool,
    vector: Option<ValueId>,
    residual: Option<ValueId>,
    /// Divisor of the result.
    divide_by: f64,
}

impl Fold {
    fn plain(x: ValueId) -> Self {
        Self { x, norm: None, upsample: false, vector: None, residual: None, divide_by: 1.0 }
    }
}

/// Initial distribution of a layer's weights and bias.
#[derive(Clone, Copy)]
enum Start {
    /// PyTorch's default: uniform in ±1/√(fan in).
    Fresh,
    /// Zero, so that the block the layer ends starts as the identity.
    Zero,
}

/// Side length, stride and padding of a kernel.
#[derive(Clone, Copy)]
struct Kernel {
    side: usize,
    stride: usize,
    pad_before: usize,
    pad_after: usize,
}

impl Kernel {
    /// A kernel that preserves the image size.
    fn same(side: usize) -> Self {
        Self { side, stride: 1, pad_before: side / 2, pad_after: side / 2 }
    }
}

impl Builder<'_> {
    fn new_value(&mut self, channels: usize, size: [usize; 2]) -> ValueId {
        self.graph.values.push(Value { channels, size, host: None });
        ValueId(self.graph.values.len() - 1)
    }

    fn vector(&mut self, len: usize) -> ValueId {
        self.new_value(len, [1, 1])
    }

    fn like(&mut self, x: ValueId) -> ValueId {
        let Value { channels, size, .. } = self.graph.value(x);
        self.new_value(channels, size)
    }

    fn op(&mut self, op: Op) -> ValueId {
        let y = op.output();
        self.graph.ops.push(op);
        self.graph.blocks.push(self.block);
        y
    }

    fn parameter(&mut self, name: String, shape: &[usize], init: Init) -> Result<Parameter> {
        self.graph.inits.push(init);
        self.graph.layout.push(name, shape.to_vec())
    }

    /// Registers the weight (`[outputs, …]`) and the bias of a layer.
    fn weight_and_bias(&mut self, name: &str, shape: &[usize], start: Start) -> Result<(Parameter, Parameter)> {
        let init = match start {
            Start::Fresh => Init::Uniform { fan_in: shape[1..].iter().product() },
            Start::Zero => Init::Zero,
        };
        let w = self.parameter(format!("{name}.weight"), shape, init)?;
        Ok((w, self.parameter(format!("{name}.bias"), &shape[..1], init)?))
    }

    fn conv(&mut self, name: &str, from: Fold, c_out: usize, kernel: Kernel, start: Start) -> Result<ValueId> {
        let Kernel { side, .. } = kernel;
        let c_in = self.graph.value(from.x).channels;
        let weights = self.weight_and_bias(name, &[c_out, c_in, side, side], start)?;
        Ok(self.push_conv(from, c_out, kernel, vec![weights]))
    }

    /// Linear layers applied to every pixel. Their weights are `[c_out, c_in]`: those of a 1×1 convolution, reshaped.
    fn pointwise(&mut self, names: &[String], from: Fold, c_out: usize, start: Start) -> Result<ValueId> {
        let c_in = self.graph.value(from.x).channels;
        let weights =
            names.iter().map(|name| self.weight_and_bias(name, &[c_out, c_in], start)).collect::<Result<_>>()?;
        Ok(self.push_conv(from, c_out * names.len(), Kernel::same(1), weights))
    }

    fn push_conv(&mut self, from: Fold, c_out: usize, kernel: Kernel, weights: Vec<(Parameter, Parameter)>) -> ValueId {
        let Value { channels, size, .. } = self.graph.value(from.x);
        let Kernel { side, stride, pad_before, pad_after } = kernel;
        let Fold { x, norm, upsample, vector, residual, divide_by } = from;
        let shape =
            Convolution { c_in: channels, c_out, input: size, kernel: side, stride, pad_before, pad_after, upsample };
        let y = self.new_value(c_out, shape.output());
        let scale = (1.0 / divide_by) as f32;
        self.op(Op::Conv { shape, x, norm, weights, vector, residual, scale, y })
    }

    fn linear(&mut self, name: &str, x: ValueId, outputs: usize) -> Result<ValueId> {
        let inputs = self.graph.value(x).len();
        let (w, b) = self.weight_and_bias(name, &[outputs, inputs], Start::Fresh)?;
        let y = self.vector(outputs);
        self.graph.vector_ops.push(VectorOp::Linear { x, w, b, y });
        Ok(y)
    }

    fn silu(&mut self, x: ValueId) -> ValueId {
        let y = self.like(x);
        self.graph.vector_ops.push(VectorOp::Silu { x, y });
        y
    }

    fn norm(
        &mut self,
        name: &str,
        x: ValueId,
        groups: usize,
        silu: bool,
        scale_shift: Option<ValueId>,
    ) -> Result<NormId> {
        let value = self.graph.value(x);
        if !value.channels.is_multiple_of(groups) {
            return Err(Error::data(format!(
                "norm_num_groups: {groups} does not divide the {} channels of {name}",
                value.channels
            )));
        }
        let shape = Normalisation {
            channels: value.channels,
            pixels: value.pixels(),
            groups,
            eps: self.config.norm_eps as f32,
            silu,
        };
        let gamma = self.parameter(format!("{name}.weight"), &[value.channels], Init::One)?;
        let beta = self.parameter(format!("{name}.bias"), &[value.channels], Init::Zero)?;
        self.graph.norms.push(Norm { shape, x, gamma, beta, scale_shift });
        Ok(self.graph.norms.len() - 1)
    }

    /// A normalised and activated value, for readers other than a convolution.
    fn activate(&mut self, x: ValueId, norm: NormId) -> ValueId {
        let y = self.like(x);
        let x = self.op(Op::Activate { norm, x, y });
        match self.config.activation {
            Activation::Silu => x,
            kind => {
                let y = self.like(x);
                self.op(Op::Nonlinear { kind, x, y })
            }
        }
    }

    /// A normalised and activated value, for a convolution. Convolutions compute SiLU, but no other activation, while
    /// reading.
    fn activated(&mut self, x: ValueId, norm: NormId) -> Fold {
        match self.config.activation {
            Activation::Silu => Fold { norm: Some(norm), ..Fold::plain(x) },
            _ => Fold::plain(self.activate(x, norm)),
        }
    }

    fn halve(&mut self, x: ValueId) -> ValueId {
        let Value { channels, size: [h, w], .. } = self.graph.value(x);
        let y = self.new_value(channels, [h / 2, w / 2]);
        self.op(Op::AveragePool { x, y })
    }

    /// A residual block: GN–activation–conv, time embedding, GN–activation–dropout–conv, plus the (possibly projected) input.
    fn resnet(&mut self, name: &str, x: ValueId, block: &Resnet) -> Result<ValueId> {
        self.block += 1;
        let groups = self.config.norm_num_groups;
        let silu = self.config.activation == Activation::Silu;
        let norm1 = self.norm(&format!("{name}.norm1"), x, groups, silu, None)?;
        let (from, x) = match block.resample {
            Resample::None => (self.activated(x, norm1), x),
            // Nearest-neighbour upsampling commutes with the activation.
            Resample::Up => {
                let Value { channels, size: [h, w], .. } = self.graph.value(x);
                let doubled = self.new_value(channels, [h * 2, w * 2]);
                (Fold { upsample: true, ..self.activated(x, norm1) }, self.op(Op::Upsample { x, y: doubled }))
            }
            // Average pooling does not.
            Resample::Down => {
                let h = self.activate(x, norm1);
                (Fold::plain(self.halve(h)), self.halve(x))
            }
        };
        let project = format!("{name}.time_emb_proj");
        // Parameters are registered in the order in which the network uses them.
        let c_in = self.graph.value(from.x).channels;
        let conv1 = self.weight_and_bias(&format!("{name}.conv1"), &[block.channels, c_in, 3, 3], Start::Fresh)?;
        let temb = self.temb;
        let (vector, scale_shift) = match self.config.resnet_time_scale_shift {
            TimeScaleShift::Default => (Some(self.linear(&project, temb, block.channels)?), None),
            TimeScaleShift::ScaleShift => (None, Some(self.linear(&project, temb, 2 * block.channels)?)),
        };
        let h = self.push_conv(Fold { vector, ..from }, block.channels, Kernel::same(3), vec![conv1]);
        let norm2 = self.norm(&format!("{name}.norm2"), h, groups, silu, scale_shift)?;
        let from = if self.dropout > 0.0 {
            let x = self.activate(h, norm2);
            let y = self.like(x);
            let (p, site) = (self.dropout, self.graph.dropout_sites);
            self.graph.dropout_sites += 1;
            Fold::plain(self.op(Op::Dropout { p, site, x, y }))
        } else {
            self.activated(h, norm2)
        };
        // Checkpoints list conv2 first, but it adds the shortcut, which must be computed before it.
        let shape = [block.channels, block.channels, 3, 3];
        let conv2 = self.weight_and_bias(&format!("{name}.conv2"), &shape, Start::Zero)?;
        let x = if self.graph.value(x).channels == block.channels {
            x
        } else {
            let shortcut = format!("{name}.conv_shortcut");
            self.conv(&shortcut, Fold::plain(x), block.channels, Kernel::same(1), Start::Fresh)?
        };
        let from = Fold { residual: Some(x), divide_by: block.output_scale, ..from };
        Ok(self.push_conv(from, block.channels, Kernel::same(3), vec![conv2]))
    }

    fn attention(&mut self, name: &str, x: ValueId, groups: Option<usize>, output_scale: f64) -> Result<ValueId> {
        self.block += 1;
        let value = self.graph.value(x);
        let norm = match groups {
            Some(groups) => Some(self.norm(&format!("{name}.group_norm"), x, groups, false, None)?),
            None => None,
        };
        let names = ["to_q", "to_k", "to_v"].map(|part| format!("{name}.{part}"));
        let qkv = self.pointwise(&names, Fold { norm, ..Fold::plain(x) }, value.channels, Start::Fresh)?;
        let channels = value.channels;
        // `validate` has checked that both divide the channels.
        let heads = match (self.config.num_attention_heads, self.config.attention_head_dim) {
            (Some(heads), _) => heads,
            (None, Some(dim)) => channels / dim,
            (None, None) => 1,
        };
        let shape = Attention { channels: value.channels, heads, pixels: value.pixels() };
        let y = self.like(x);
        let h = self.op(Op::Attention { shape, qkv, y });
        let from = Fold { residual: Some(x), divide_by: output_scale, ..Fold::plain(h) };
        self.pointwise(&[format!("{name}.to_out.0")], from, value.channels, Start::Zero)
    }

    fn embeddings(&mut self) -> Result<()> {
        let config = self.config;
        let (base, width) = (config.block_out_channels[0], config.time_embed_dim());
        let time = self.vector(base);
        let mut time_table = None;
        match config.time_embedding {
            TimeEmbedding::Positional => self.graph.time = Some(time),
            TimeEmbedding::Learned { num_train_timesteps } => {
                let table = self.parameter("time_proj.weight".into(), &[num_train_timesteps, base], Init::Gaussian)?;
                time_table = Some(table);
                self.graph.vector_ops.push(VectorOp::Embedding { table, row: Row::Time, y: time });
            }
        }
        let h = self.linear("time_embedding.linear_1", time, width)?;
        let h = self.silu(h);
        let mut embedding = self.linear("time_embedding.linear_2", h, width)?;
        if let Some(classes) = config.num_class_embeds {
            let class = match config.class_embedding {
                ClassEmbedding::Table => {
                    let table = self.parameter("class_embedding.weight".into(), &[classes, width], Init::Gaussian)?;
                    let y = self.vector(width);
                    self.graph.vector_ops.push(VectorOp::Embedding { table, row: Row::Class, y });
                    y
                }
                ClassEmbedding::Timestep => {
                    let y = self.vector(base);
                    match time_table {
                        Some(table) => self.graph.vector_ops.push(VectorOp::Embedding { table, row: Row::Class, y }),
                        None => self.graph.label = Some(y),
                    }
                    let h = self.linear("class_embedding.linear_1", y, width)?;
                    let h = self.silu(h);
                    self.linear("class_embedding.linear_2", h, width)?
                }
                ClassEmbedding::Identity => {
                    let y = self.vector(width);
                    self.graph.vector_ops.push(VectorOp::Class { y });
                    y
                }
            };
            let sum = self.vector(width);
            self.graph.vector_ops.push(VectorOp::Add { a: embedding, b: class, y: sum });
            embedding = sum;
        }
        self.temb = match config.activation {
            Activation::Silu => self.silu(embedding),
            _ => {
                let y = self.like(embedding);
                self.graph.vector_ops.push(VectorOp::Activate { x: embedding, y });
                y
            }
        };
        Ok(())
    }

    fn network(&mut self) -> Result<()> {
        let config = self.config;
        let plain = |channels| Resnet { channels, output_scale: 1.0, resample: Resample::None };
        let groups = config.norm_num_groups;

        let input = self.new_value(config.in_channels, config.sample_size);
        self.graph.input = input;
        self.embeddings()?;
        let width = config.block_out_channels[0];
        let mut h = self.conv("conv_in", Fold::plain(input), width, Kernel::same(3), Start::Fresh)?;

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
            self.block += 1;
            if i + 1 < levels {
                let name = format!("{name}.downsamplers.0");
                h = if block == DownBlock::ResnetDownsample || block == DownBlock::Attention && config.downsample_resnet
                {
                    self.resnet(&name, h, &Resnet { resample: Resample::Down, ..plain(channels) })?
                } else {
                    let pad = config.downsample_padding;
                    let kernel = Kernel { side: 3, stride: 2, pad_before: pad, pad_after: pad.max(1) };
                    self.conv(&format!("{name}.conv"), Fold::plain(h), channels, kernel, Start::Fresh)?
                };
                skips.push(h);
            }
        }

        let channels = config.block_out_channels[levels - 1];
        let scale = config.mid_block_scale_factor;
        let middle = Resnet { output_scale: scale, ..plain(channels) };
        if config.mid_block {
            h = self.resnet("mid_block.resnets.0", h, &middle)?;
            if config.add_attention {
                h = self.attention("mid_block.attentions.0", h, config.mid_attention_groups(), scale)?;
            }
            h = self.resnet("mid_block.resnets.1", h, &middle)?;
        } else {
            // The first block on the way up concatenates the value with itself. Both halves lie in one value, so the copy
            // goes by way of another.
            self.block += 1;
            for _ in 0..2 {
                let y = self.like(h);
                h = self.op(Op::Copy { x: h, y });
            }
        }

        for (i, (&block, &channels)) in config.up_blocks.iter().zip(config.block_out_channels.iter().rev()).enumerate()
        {
            let name = format!("up_blocks.{i}");
            for j in 0..=config.layers_per_block {
                let skip = skips.pop().expect("a skip for every residual block on the way up");
                let (a, b) = (self.graph.value(h), self.graph.value(skip));
                let both = self.new_value(a.channels + b.channels, a.size);
                self.graph.values[h.0].host = Some((both, 0));
                self.graph.values[skip.0].host = Some((both, a.channels));
                h = self.resnet(&format!("{name}.resnets.{j}"), both, &plain(channels))?;
                if block == UpBlock::Attention {
                    h = self.attention(&format!("{name}.attentions.{j}"), h, Some(groups), 1.0)?;
                }
            }
            self.block += 1;
            if i + 1 < levels {
                let name = format!("{name}.upsamplers.0");
                h = if block == UpBlock::ResnetUpsample || block == UpBlock::Attention && config.upsample_resnet {
                    self.resnet(&name, h, &Resnet { resample: Resample::Up, ..plain(channels) })?
                } else {
                    let from = Fold { upsample: true, ..Fold::plain(h) };
                    self.conv(&format!("{name}.conv"), from, channels, Kernel::same(3), Start::Fresh)?
                };
            }
        }
        self.block += 1;
        let norm = self.norm("conv_norm_out", h, groups, true, None)?;
        let from = Fold { norm: Some(norm), ..Fold::plain(h) };
        self.graph.output = self.conv("conv_out", from, config.out_channels, Kernel::same(3), Start::Zero)?;
        Ok(())
    }
}
