//! The backward pass over a graph.

use skipstone_gpu::conv::{self, Part};
use skipstone_gpu::norm::{self, Gradients};
use skipstone_gpu::{Buffer, Element, Gpu, Result, View, attention, elementwise, embedding, gradient};

use super::conditions::VectorGradients;
use super::execute::{Layer, Layers, Store, Walk, Workspace, scores};
use crate::unet::graph::{Graph, NormId, Op, ValueId};
use crate::unet::plan::MemoryPlan;

/// The memory of backward passes over up to `images` images.
#[derive(Debug)]
pub(super) struct BackWorkspace {
    arena: Buffer,
    /// The gradient of a convolution's normalised or upsampled input, and of a scaled output.
    scratch: [Buffer; 2],
    /// Partial sums of the gradient of a convolution's weights, and the sums of its bias's.
    partial: Buffer,
    sums: Buffer,
    /// Attention scores' gradients.
    scores: Buffer,
    pub by_vector: VectorGradients,
    /// For each root value, whether its gradient already has a contribution.
    touched: Vec<bool>,
}

impl BackWorkspace {
    pub fn new(gpu: &Gpu, graph: &Graph, plan: &MemoryPlan, element: Element, images: usize) -> Result<Self> {
        let convs = || {
            graph.ops.iter().filter_map(|op| match op {
                Op::Conv { shape, .. } => Some(conv::Shape::from(*shape)),
                _ => None,
            })
        };
        let largest = |of: &dyn Fn(conv::Shape) -> usize| convs().map(of).max().unwrap_or(0);
        let inputs = largest(&|shape| shape.grid_pixels() * shape.c_in);
        let outputs = largest(&|shape| shape.output_pixels() * shape.c_out);
        let scratch = element.words(images * inputs.max(outputs));
        let norms = graph.norms.iter().map(|norm| 2 * norm.shape.channels).max().unwrap_or(0);
        let widest = largest(&|shape| shape.c_out).max(norms);
        Ok(Self {
            arena: gpu.reserve(element.words(images * plan.len()))?,
            scratch: [gpu.reserve(scratch)?, gpu.reserve(scratch)?],
            partial: gpu.reserve(largest(&|shape| gradient::scratch(&shape, images)))?,
            sums: gpu.reserve(images * widest)?,
            scores: gpu.reserve(scores(graph, images))?,
            by_vector: VectorGradients::default(),
            touched: Vec::new(),
        })
    }
}

/// Weights packed one layer at a time, in reused memory.
#[derive(Debug)]
pub(super) struct Repacked<'a> {
    pub gpu: &'a Gpu,
    pub graph: &'a Graph,
    pub parameters: Store<'a>,
    pub buffers: &'a PackBuffers,
}

/// The memory of packed weights.
#[derive(Debug)]
pub(super) struct PackBuffers {
    weights: conv::Weights,
    bias: Buffer,
}

impl PackBuffers {
    pub fn new(gpu: &Gpu, graph: &Graph, element: Element) -> Result<Self> {
        let shapes: Vec<conv::Shape> = graph
            .ops
            .iter()
            .filter_map(|op| match op {
                Op::Conv { shape, .. } => Some((*shape).into()),
                _ => None,
            })
            .collect();
        let largest = shapes.iter().max_by_key(|shape| shape.weights()).expect("a network has convolutions");
        let widest = shapes.iter().map(|shape| shape.c_out).max().unwrap_or(0);
        Ok(Self { weights: conv::Weights::reserve(gpu, largest, element)?, bias: gpu.reserve(widest)? })
    }
}

/// Where a layer's weights, or its biases, are among the parameters.
pub(super) fn parts(graph: &Graph, weights: &[(usize, usize)], parameters: Store<'_>) -> [Vec<Part>; 2] {
    let mut found = [Vec::new(), Vec::new()];
    let mut first = 0;
    for (w, b) in weights {
        let channels = graph.layout.specs()[*b].len();
        for (parts, parameter) in found.iter_mut().zip([w, b]) {
            parts.push(Part { offset: parameters.place(*parameter), first, channels });
        }
        first += channels;
    }
    found
}

/// Packs the weights of an operation into `weights` and, if the layer has several biases, these into `bias`.
pub(super) fn pack(
    gpu: &Gpu,
    graph: &Graph,
    op: usize,
    parameters: Store<'_>,
    weights: &conv::Weights,
    bias: &Buffer,
) -> Layer {
    let Op::Conv { shape, weights: pairs, .. } = &graph.ops[op] else { unreachable!("only convolutions have weights") };
    let shape = conv::Shape::from(*shape);
    let [w, b] = parts(graph, pairs, parameters);
    for part in w {
        conv::pack(gpu, &shape, parameters.buffer, part, weights);
    }
    if let [only] = b[..] {
        return Layer { weights: weights.clone(), bias: (parameters.buffer.clone(), only.offset) };
    }
    for Part { offset, first, channels } in b {
        let from = View::part(parameters.buffer.clone(), parameters.buffer.len(), offset);
        let to = View::part(bias.clone(), bias.len(), first);
        elementwise::add_rows(gpu, 1, channels, 1.0, &from, &to, false);
    }
    Layer { weights: weights.clone(), bias: (bias.clone(), 0) }
}

impl Layers for Repacked<'_> {
    fn get(&mut self, op: usize) -> Layer {
        pack(self.gpu, self.graph, op, self.parameters, &self.buffers.weights, &self.buffers.bias)
    }
}

/// Options of the backward pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Compute the gradient of the image.
    pub input: bool,
    /// Values within a block were not stored and have to be recomputed.
    pub recompute: bool,
}

/// A backward pass over the graph of the forward pass `walk`.
pub(super) struct Back<'a> {
    pub walk: Walk<'a>,
    /// Where each gradient is stored.
    pub plan: &'a MemoryPlan,
    pub wanted: Wanted,
    pub packed: &'a PackBuffers,
    /// The parameters' gradient, laid out as the parameters.
    pub gradient: &'a Buffer,
}

impl Back<'_> {
    /// Scratch memory as rows of `channels`.
    fn scratch(&self, back: &BackWorkspace, which: usize, channels: usize) -> View {
        View::dense(back.scratch[which].clone(), channels).stored(self.walk.element)
    }

    /// The gradient of a value.
    pub fn slope(&self, back: &BackWorkspace, id: ValueId) -> View {
        self.walk.place(&back.arena, self.plan, id)
    }

    /// Marks a gradient as having a contribution; returns whether it already had one.
    fn touch(&self, back: &mut BackWorkspace, id: ValueId) -> bool {
        std::mem::replace(&mut back.touched[self.walk.graph.root(id).0.0], true)
    }

    /// Adds the parameters' gradient, given that of the output, which the caller has put in its place. Leaves the gradient of
    /// the input in its.
    pub fn run(&self, forward: &Workspace, back: &mut BackWorkspace) -> Result<()> {
        let graph = self.walk.graph;
        back.touched.clear();
        back.touched.resize(graph.values.len(), false);
        back.by_vector.clear(self.walk.n);
        self.touch(back, graph.output);
        let mut end = graph.ops.len();
        while end > 0 {
            let begin = graph.blocks[..end].iter().rposition(|b| *b != graph.blocks[end - 1]).map_or(0, |i| i + 1);
            if self.wanted.recompute {
                let (gpu, parameters) = (self.walk.gpu, self.walk.parameters);
                let mut layers = Repacked { gpu, graph, parameters, buffers: self.packed };
                // The last operation of a block writes a stored value.
                for op in (begin..end).filter(|op| graph.transient[graph.ops[*op].output().0]) {
                    self.walk.prepare(op, forward);
                    self.walk.step(op, forward, &mut layers);
                }
            }
            for op in (begin..end).rev() {
                self.step(op, forward, back)?;
            }
            end = begin;
        }
        Ok(())
    }

    fn step(&self, index: usize, forward: &Workspace, back: &mut BackWorkspace) -> Result<()> {
        let walk = &self.walk;
        let (gpu, graph, n) = (walk.gpu, walk.graph, walk.n);
        let op = &graph.ops[index];
        let dy = self.slope(back, op.output());
        match op {
            Op::Conv { x, vector, residual, scale, shape, .. } => {
                let shape = conv::Shape::from(*shape);
                let rows = n * shape.output_pixels();
                if *scale != 1.0 {
                    // Everything before the scale receives the gradient times the scale.
                    let scaled = self.scratch(back, 1, shape.c_out);
                    elementwise::add_rows(gpu, rows, shape.c_out, *scale, &dy, &scaled, false);
                    elementwise::add_rows(gpu, rows, shape.c_out, 1.0, &scaled, &dy, false);
                }
                if let Some(vector) = vector {
                    let dv = back.by_vector.get(gpu, *vector, n * shape.c_out)?;
                    elementwise::sum_rows(gpu, n, shape.output_pixels(), shape.c_out, &dy, &dv, 0, true);
                }
                if let Some(residual) = residual {
                    let accumulate = self.touch(back, *residual);
                    let dr = self.slope(back, *residual);
                    elementwise::add_rows(gpu, rows, shape.c_out, 1.0, &dy, &dr, accumulate);
                }
                self.weights(index, forward, back, &dy);
                if *x != graph.input || self.wanted.input {
                    self.data(index, forward, back, &dy)?;
                }
            }
            Op::Activate { norm, x, .. } => self.norm(*norm, *x, forward, back, &dy)?,
            Op::Attention { shape, qkv, .. } => {
                self.touch(back, *qkv);
                let (x, dx) = (walk.view(forward, *qkv), self.slope(back, *qkv));
                let scores = [&forward.scores, &back.scores];
                attention::backward(gpu, &(*shape).into(), n, &x, &dy, scores, &dx);
            }
            Op::Nonlinear { kind, x, .. } => {
                let accumulate = self.touch(back, *x);
                let value = graph.value(*x);
                let (from, dx) = (walk.view(forward, *x), self.slope(back, *x));
                let (kind, rows) = ((*kind).into(), n * value.pixels());
                elementwise::activation_backward(gpu, kind, rows, value.channels, &from, &dy, &dx, accumulate);
            }
            Op::Copy { x, .. } => {
                let accumulate = self.touch(back, *x);
                let value = graph.value(*x);
                let dx = self.slope(back, *x);
                elementwise::add_rows(gpu, n * value.pixels(), value.channels, 1.0, &dy, &dx, accumulate);
            }
            Op::Upsample { x, .. } => {
                let accumulate = self.touch(back, *x);
                let value = graph.value(*x);
                let dx = self.slope(back, *x);
                elementwise::upsample_backward(gpu, n, value.size, value.channels, &dy, &dx, accumulate);
            }
            Op::AveragePool { x, y } => {
                let accumulate = self.touch(back, *x);
                let value = graph.value(*y);
                let dx = self.slope(back, *x);
                elementwise::average_pool_backward(gpu, n, value.size, value.channels, &dy, &dx, accumulate);
            }
            Op::Dropout { p, site, x, .. } => {
                let accumulate = self.touch(back, *x);
                let value = graph.value(*x);
                let dx = self.slope(back, *x);
                match walk.dropout {
                    Some(keys) => {
                        let keys = keys.site(*site);
                        embedding::dropout(gpu, *p, n, value.len(), &keys, &dy, &dx, accumulate);
                    }
                    None => {
                        elementwise::add_rows(gpu, n * value.pixels(), value.channels, 1.0, &dy, &dx, accumulate);
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds the gradients of a convolution's weights and biases.
    fn weights(&self, index: usize, forward: &Workspace, back: &BackWorkspace, dy: &View) {
        let walk = &self.walk;
        let (gpu, graph, n) = (walk.gpu, walk.graph, walk.n);
        let Op::Conv { shape, x, norm, weights, .. } = &graph.ops[index] else { return };
        let shape = conv::Shape::from(*shape);
        let [w, b] = parts(graph, weights, walk.parameters);
        let (x, norm) = (walk.view(forward, *x), walk.source(forward, *norm));
        gradient::weights(gpu, &shape, n, &x, norm.as_ref(), dy, &back.partial, self.gradient, &w);
        // First over the pixels of each image, then over the images.
        elementwise::sum_rows(gpu, n, shape.output_pixels(), shape.c_out, dy, &back.sums, 0, false);
        for Part { offset, first, channels } in b {
            let sums = View::part(back.sums.clone(), shape.c_out, first);
            elementwise::sum_rows(gpu, 1, n, channels, &sums, self.gradient, offset, true);
        }
    }

    /// Adds the gradient of a convolution's input.
    fn data(&self, index: usize, forward: &Workspace, back: &mut BackWorkspace, dy: &View) -> Result<()> {
        let walk = &self.walk;
        let (gpu, graph, n) = (walk.gpu, walk.graph, walk.n);
        let Op::Conv { shape, x, norm, weights, .. } = &graph.ops[index] else { return Ok(()) };
        let (x, shape) = (*x, conv::Shape::from(*shape));
        let packed = &self.packed.weights;
        for part in &parts(graph, weights, walk.parameters)[0] {
            conv::pack_transposed(gpu, &shape, walk.parameters.buffer, *part, packed);
        }
        if norm.is_none() && !shape.upsample {
            let accumulate = self.touch(back, x);
            conv::backward_data(gpu, &shape, n, dy, packed, &self.slope(back, x), accumulate);
            return Ok(());
        }
        let mut d = self.scratch(back, 0, shape.c_in);
        conv::backward_data(gpu, &shape, n, dy, packed, &d, false);
        if shape.upsample {
            // Of the doubled input, back to the input itself.
            let (accumulate, dx) = match norm {
                None => (self.touch(back, x), self.slope(back, x)),
                Some(_) => (false, self.scratch(back, 1, shape.c_in)),
            };
            elementwise::upsample_backward(gpu, n, shape.input, shape.c_in, &d, &dx, accumulate);
            d = dx;
        }
        match norm {
            Some(id) => self.norm(*id, x, forward, back, &d),
            None => Ok(()),
        }
    }

    /// Turns the gradient `dy` of a normalised and activated value into the gradient of the value itself.
    fn norm(&self, id: NormId, x: ValueId, forward: &Workspace, back: &mut BackWorkspace, dy: &View) -> Result<()> {
        let walk = &self.walk;
        let norm = &walk.graph.norms[id];
        let accumulate = self.touch(back, x);
        let dx = self.slope(back, x);
        let by_vector = match norm.scale_shift {
            Some(v) => Some(back.by_vector.get(walk.gpu, v, walk.n * 2 * norm.shape.channels)?),
            None => None,
        };
        let into = Gradients { dx: &dx, accumulate, parameters: self.gradient, scale_shift: by_vector.as_ref() };
        let (from, affine) = (walk.view(forward, x), walk.affine(id));
        let (ab, statistics) = (&forward.coefficients[id], &forward.statistics[id]);
        norm::backward(walk.gpu, &norm.shape.into(), walk.n, &from, &affine, ab, statistics, dy, &back.sums, into);
        Ok(())
    }
}

/// Where each parameter is in a buffer that holds all of them, in the order of the layout.
pub(super) fn all_places(graph: &Graph) -> Vec<(usize, usize)> {
    graph.layout.specs().iter().map(|spec| (spec.offset, spec.len())).collect()
}
