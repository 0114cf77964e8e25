//! A U-Net's graph in ONNX operators.

use std::collections::HashMap;

use super::builder::{Attribute, Builder, Element};
use crate::unet::graph::{Graph, NormId, Op, Row, ValueId, VectorOp};
use crate::unet::shapes::{Attention, Convolution};
use crate::unet::{Activation, Config, Parameters, TimeEmbedding};

/// The input of the images, float32 `[n, c, h, w]`.
pub(super) const SAMPLE: &str = "sample";
/// The input of the time indices: float32 `[n]`, or int64 `[n]` where they select rows of a table.
pub(super) const TIMESTEP: &str = "timestep";
/// The input of the classes, int64 `[n]`.
pub(super) const CLASS: &str = "class_labels";
/// The output.
pub(super) const OUTPUT: &str = "out_sample";

/// Translates the graph of a network, which has no dropout.
pub(super) struct Translation<'a> {
    config: &'a Config,
    graph: &'a Graph,
    parameters: &'a Parameters,
    builder: Builder<'a>,
    /// The ONNX name of each value computed so far.
    names: HashMap<ValueId, String>,
    /// The names of weights already in the file.
    weights: HashMap<usize, String>,
}

impl<'a> Translation<'a> {
    pub fn run(config: &'a Config, graph: &'a Graph, parameters: &'a Parameters) -> Builder<'a> {
        let (builder, names, weights) = (Builder::default(), HashMap::new(), HashMap::new());
        let mut translation = Self { config, graph, parameters, builder, names, weights };
        translation.inputs();
        graph.vector_ops.iter().for_each(|op| translation.vector_op(op));
        graph.ops.iter().for_each(|op| translation.op(op));
        let output = translation.read(graph.output);
        let mut builder = translation.builder;
        builder.op_to("Identity", &[&output], &[], &[OUTPUT.to_owned()]);
        let [height, width] = config.sample_size;
        builder.declare(12, OUTPUT, Element::F32, &[config.out_channels, height, width]);
        builder
    }

    fn inputs(&mut self) {
        let [height, width] = self.config.sample_size;
        self.builder.declare(11, SAMPLE, Element::F32, &[self.config.in_channels, height, width]);
        let element = match self.config.time_embedding {
            TimeEmbedding::Positional => Element::F32,
            TimeEmbedding::Learned { .. } => Element::I64,
        };
        self.builder.declare(11, TIMESTEP, element, &[]);
        if self.config.num_class_embeds.is_some() {
            self.builder.declare(11, CLASS, Element::I64, &[]);
        }
        let (a, b) = self.graph.centre;
        let mut image = SAMPLE.to_owned();
        if (a, b) != (1.0, 0.0) {
            let scaled = self.with_constant("Mul", &image, a);
            image = self.with_constant("Add", &scaled, b);
        }
        self.names.insert(self.graph.input, image);
        if let Some(time) = self.graph.time {
            let mut column = self.reshape(TIMESTEP, &[-1, 1]);
            if self.config.time_scale != 1.0 {
                column = self.with_constant("Mul", &column, self.config.time_scale as f32);
            }
            self.sines(time, &column);
        }
        if let Some(class) = self.graph.label {
            let column = self.class_column();
            self.sines(class, &column);
        }
    }

    /// The sines and cosines of a column of numbers.
    fn sines(&mut self, into: ValueId, column: &str) {
        let half = self.graph.value(into).len() / 2;
        let frequencies: Vec<f32> = (0..half).map(|i| self.config.frequency(i, half)).collect();
        let frequencies = self.builder.floats(&[1, frequencies.len()], &frequencies);
        let angles = self.builder.op("Mul", &[column, &frequencies], &[]);
        let sines = self.builder.op("Sin", &[&angles], &[]);
        let cosines = self.builder.op("Cos", &[&angles], &[]);
        let both = if self.config.flip_sin_to_cos { [cosines.as_str(), &sines] } else { [sines.as_str(), &cosines] };
        let both = self.builder.op("Concat", &both, &[("axis", Attribute::Int(1))]);
        self.names.insert(into, both);
    }

    /// The class numbers as a float32 column.
    fn class_column(&mut self) -> String {
        let float = self.builder.op("Cast", &[CLASS], &[("to", Attribute::Int(1))]);
        self.reshape(&float, &[-1, 1])
    }

    /// An activation as ONNX operators of opset 17.
    fn activation(&mut self, kind: Activation, x: &str) -> String {
        match kind {
            Activation::Silu => self.silu(x),
            Activation::Gelu => {
                let scaled = self.with_constant("Mul", x, std::f32::consts::FRAC_1_SQRT_2);
                let erf = self.builder.op("Erf", &[&scaled], &[]);
                let gate = self.with_constant("Add", &erf, 1.0);
                let gate = self.with_constant("Mul", &gate, 0.5);
                self.builder.op("Mul", &[x, &gate], &[])
            }
            Activation::Mish => {
                let soft = self.builder.op("Softplus", &[x], &[]);
                let gate = self.builder.op("Tanh", &[&soft], &[]);
                self.builder.op("Mul", &[x, &gate], &[])
            }
            Activation::Relu => self.builder.op("Relu", &[x], &[]),
        }
    }

    /// The name of a value that has been computed. A value that consists of others, side by side, is concatenated here.
    fn read(&mut self, id: ValueId) -> String {
        if let Some(name) = self.names.get(&id) {
            return name.clone();
        }
        let mut parts: Vec<(usize, ValueId)> = (0..self.graph.values.len())
            .filter_map(|part| match self.graph.values[part].host {
                Some((host, at)) if host == id => Some((at, ValueId(part))),
                _ => None,
            })
            .collect();
        parts.sort_unstable_by_key(|part| part.0);
        let parts: Vec<String> = parts.into_iter().map(|(_, part)| self.read(part)).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let name = self.builder.op("Concat", &parts, &[("axis", Attribute::Int(1))]);
        self.names.insert(id, name.clone());
        name
    }

    /// The name of a parameter, viewed in `shape`.
    fn parameter(&mut self, index: usize, shape: &[usize]) -> String {
        if let Some(name) = self.weights.get(&index) {
            return name.clone();
        }
        let spec = &self.graph.layout.specs()[index];
        let name = self.builder.weight(&spec.name, shape, vec![&self.parameters.data()[spec.range()]]);
        self.weights.insert(index, name.clone());
        name
    }

    fn reshape(&mut self, x: &str, shape: &[i64]) -> String {
        let shape = self.builder.ints(shape);
        self.builder.op("Reshape", &[x, &shape], &[])
    }

    fn with_constant(&mut self, operator: &str, x: &str, value: f32) -> String {
        let value = self.builder.floats(&[], &[value]);
        self.builder.op(operator, &[x, &value], &[])
    }

    fn silu(&mut self, x: &str) -> String {
        let gate = self.builder.op("Sigmoid", &[x], &[]);
        self.builder.op("Mul", &[x, &gate], &[])
    }

    /// Equal parts of the channels.
    fn split<const N: usize>(&mut self, x: &str, channels: usize) -> [String; N] {
        let sizes = self.builder.ints(&[channels as i64; N]);
        self.builder.ops("Split", &[x, &sizes], &[("axis", Attribute::Int(1))])
    }

    fn vector_op(&mut self, op: &VectorOp) {
        let specs = self.graph.layout.specs();
        let (y, name) = match *op {
            VectorOp::Linear { x, w, b, y } => {
                let (x, w, b) = (self.read(x), self.parameter(w, &specs[w].shape), self.parameter(b, &specs[b].shape));
                (y, self.builder.op("Gemm", &[&x, &w, &b], &[("transB", Attribute::Int(1))]))
            }
            VectorOp::Silu { x, y } => {
                let x = self.read(x);
                (y, self.silu(&x))
            }
            VectorOp::Activate { x, y } => {
                let x = self.read(x);
                (y, self.activation(self.config.activation, &x))
            }
            VectorOp::Class { y } => {
                let width = self.graph.value(y).len();
                let ones = self.builder.floats(&[1, width], &vec![1.0; width]);
                let column = self.class_column();
                (y, self.builder.op("Mul", &[&column, &ones], &[]))
            }
            VectorOp::Add { a, b, y } => {
                let (a, b) = (self.read(a), self.read(b));
                (y, self.builder.op("Add", &[&a, &b], &[]))
            }
            VectorOp::Embedding { table, row, y } => {
                let table = self.parameter(table, &specs[table].shape);
                let row = match row {
                    Row::Time => TIMESTEP,
                    Row::Class => CLASS,
                };
                (y, self.builder.op("Gather", &[&table, row], &[]))
            }
        };
        self.names.insert(y, name);
    }

    fn op(&mut self, op: &Op) {
        let name = match op {
            Op::Conv { shape, x, norm, weights, vector, residual, scale, .. } => {
                let x = match norm {
                    Some(norm) => self.norm(*norm),
                    None => self.read(*x),
                };
                let mut y = self.convolution(shape, x, weights);
                if let Some(vector) = vector {
                    let vector = self.read(*vector);
                    let vector = self.reshape(&vector, &[0, shape.c_out as i64, 1, 1]);
                    y = self.builder.op("Add", &[&y, &vector], &[]);
                }
                if let Some(residual) = residual {
                    let residual = self.read(*residual);
                    y = self.builder.op("Add", &[&y, &residual], &[]);
                }
                if *scale == 1.0 { y } else { self.with_constant("Mul", &y, *scale) }
            }
            Op::Attention { shape, qkv, .. } => {
                let size = self.graph.value(*qkv).size;
                let qkv = self.read(*qkv);
                self.attention(shape, size, &qkv)
            }
            Op::Activate { norm, .. } => self.norm(*norm),
            Op::Nonlinear { kind, x, .. } => {
                let x = self.read(*x);
                self.activation(*kind, &x)
            }
            Op::Upsample { x, .. } => {
                let x = self.read(*x);
                self.double(&x)
            }
            Op::AveragePool { x, .. } => {
                let x = self.read(*x);
                let two = Attribute::Ints(&[2, 2]);
                self.builder.op("AveragePool", &[&x], &[("kernel_shape", two), ("strides", two)])
            }
            // A graph of names needs no copy, and inference drops nothing.
            Op::Copy { x, .. } | Op::Dropout { x, .. } => self.read(*x),
        };
        self.names.insert(op.output(), name);
    }

    fn convolution(&mut self, shape: &Convolution, x: String, weights: &[(usize, usize)]) -> String {
        let x = if shape.upsample { self.double(&x) } else { x };
        let Convolution { c_in, c_out, kernel, stride, pad_before, pad_after, .. } = *shape;
        let sizes = [c_out, c_in, kernel, kernel];
        let (w, b) = match *weights {
            [(w, b)] => (self.parameter(w, &sizes), self.parameter(b, &[c_out])),
            // Layers with the same input become one.
            _ => {
                let specs = self.graph.layout.specs();
                let data = self.parameters.data();
                let all = |of: fn(&(usize, usize)) -> usize| -> Vec<&'a [f32]> {
                    weights.iter().map(|pair| &data[specs[of(pair)].range()]).collect()
                };
                let name = |index: usize| specs[index].name.replace("to_q", "to_qkv");
                let (w, b) = (all(|pair| pair.0), all(|pair| pair.1));
                (
                    self.builder.weight(&name(weights[0].0), &sizes, w),
                    self.builder.weight(&name(weights[0].1), &[c_out], b),
                )
            }
        };
        let (before, after) = (pad_before as i64, pad_after as i64);
        self.builder.op(
            "Conv",
            &[&x, &w, &b],
            &[
                ("dilations", Attribute::Ints(&[1, 1])),
                ("group", Attribute::Int(1)),
                ("kernel_shape", Attribute::Ints(&[kernel as i64; 2])),
                ("pads", Attribute::Ints(&[before, before, after, after])),
                ("strides", Attribute::Ints(&[stride as i64; 2])),
            ],
        )
    }

    /// Every pixel repeated to 2×2.
    fn double(&mut self, x: &str) -> String {
        let scales = self.builder.floats(&[4], &[1.0, 1.0, 2.0, 2.0]);
        self.builder.op(
            "Resize",
            &[x, "", &scales],
            &[
                ("coordinate_transformation_mode", Attribute::Text("asymmetric")),
                ("mode", Attribute::Text("nearest")),
                ("nearest_mode", Attribute::Text("floor")),
            ],
        )
    }

    /// A group normalisation: that of instances, with each group as one channel, and the factors of the channels after it.
    fn norm(&mut self, id: NormId) -> String {
        let norm = &self.graph.norms[id];
        let (shape, [height, width]) = (norm.shape, self.graph.value(norm.x).size);
        let x = self.read(norm.x);
        let grouped = self.reshape(&x, &[0, shape.groups as i64, -1]);
        let ones = self.builder.floats(&[shape.groups], &vec![1.0; shape.groups]);
        let zeros = self.builder.floats(&[shape.groups], &vec![0.0; shape.groups]);
        let epsilon = [("epsilon", Attribute::Float(shape.eps))];
        let normalised = self.builder.op("InstanceNormalization", &[&grouped, &ones, &zeros], &epsilon);
        let channels = shape.channels;
        let mut y = self.reshape(&normalised, &[0, channels as i64, height as i64, width as i64]);
        let (gamma, beta) =
            (self.parameter(norm.gamma, &[channels, 1, 1]), self.parameter(norm.beta, &[channels, 1, 1]));
        y = self.builder.op("Mul", &[&y, &gamma], &[]);
        y = self.builder.op("Add", &[&y, &beta], &[]);
        if let Some(vector) = norm.scale_shift {
            let vector = self.read(vector);
            let vector = self.reshape(&vector, &[0, 2 * channels as i64, 1, 1]);
            let [scale, shift] = self.split(&vector, channels);
            let scale = self.with_constant("Add", &scale, 1.0);
            y = self.builder.op("Mul", &[&y, &scale], &[]);
            y = self.builder.op("Add", &[&y, &shift], &[]);
        }
        if shape.silu { self.silu(&y) } else { y }
    }

    /// softmax(qᵀ·k/√d)·v for each head, whose channels are rows and whose pixels are columns.
    fn attention(&mut self, shape: &Attention, [height, width]: [usize; 2], qkv: &str) -> String {
        let Attention { channels, heads, pixels } = *shape;
        let dim = channels / heads;
        let transpose = [("perm", Attribute::Ints(&[0, 1, 3, 2]))];
        let parts: [String; 3] = self.split(qkv, channels);
        let [q, k, v] = parts.map(|part| self.reshape(&part, &[0, heads as i64, dim as i64, pixels as i64]));
        let q = self.with_constant("Mul", &q, (1.0 / (dim as f64).sqrt()) as f32);
        let q = self.builder.op("Transpose", &[&q], &transpose);
        let scores = self.builder.op("MatMul", &[&q, &k], &[]);
        let weights = self.builder.op("Softmax", &[&scores], &[("axis", Attribute::Int(-1))]);
        let weights = self.builder.op("Transpose", &[&weights], &transpose);
        let y = self.builder.op("MatMul", &[&v, &weights], &[]);
        self.reshape(&y, &[0, channels as i64, height as i64, width as i64])
    }
}
