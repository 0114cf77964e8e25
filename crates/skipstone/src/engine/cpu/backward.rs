//! The backward pass over a graph.

use std::collections::HashMap;

use skipstone_kernels::conv::{self, Layer, Source};
use skipstone_kernels::norm::{self, Gradients};
use skipstone_kernels::{Buffer, View, ViewMut, activation, attention, dropout, elementwise};

use super::conditions::Machine;
use super::execute::{Layers, Store, Walk, Workspace};
use super::shapes;
use crate::engine::inputs::site_keys;
use crate::unet::graph::{Graph, NormId, Op, ValueId};
use crate::unet::plan::MemoryPlan;

/// The memory of a backward pass.
#[derive(Debug, Default)]
pub(crate) struct BackWorkspace {
    pub arena: Buffer,
    /// The gradient of a convolution's normalised input, or of a scaled output.
    scratch: [Buffer; 2],
    /// Gradients of the conditioning vectors, `[n, len]`.
    pub by_vector: HashMap<ValueId, Vec<f32>>,
    /// For each root value, whether its gradient already has a contribution.
    touched: Vec<bool>,
}

/// Weights packed one layer at a time, in reused memory.
#[derive(Debug)]
pub(crate) struct Repacked<'a> {
    pub graph: &'a Graph,
    pub machine: Machine<'a>,
    pub parameters: Store<'a>,
    pub buffers: &'a mut PackBuffers,
}

/// The memory of packed weights.
#[derive(Debug, Default)]
pub(crate) struct PackBuffers {
    weights: Buffer,
    bias: Buffer,
}

impl PackBuffers {
    /// Lends the memory to a layer while `f` runs.
    fn lend<R>(&mut self, mut layer: Layer, f: impl FnOnce(&mut Layer) -> R) -> R {
        layer.swap_memory(&mut self.weights, &mut self.bias);
        let result = f(&mut layer);
        layer.swap_memory(&mut self.weights, &mut self.bias);
        result
    }
}

impl Layers for Repacked<'_> {
    fn with(&mut self, op: usize, f: impl FnOnce(&Layer)) {
        let Op::Conv { shape, weights, .. } = &self.graph.ops[op] else {
            unreachable!("only convolutions have weights")
        };
        let shape = conv::Shape::from(*shape);
        let (algorithm, precision) = self.machine.way(&shape);
        let layer = Layer::empty(self.machine.isa, shape, algorithm).in_precision(precision);
        let parts: Vec<_> = weights.iter().map(|(w, b)| (self.parameters.get(*w), self.parameters.get(*b))).collect();
        let team = self.machine.team;
        self.buffers.lend(layer, |layer| {
            layer.repack(team, &parts);
            f(layer);
        });
    }
}

/// Options of the backward pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Compute the gradient of the image.
    pub input: bool,
    /// Values within a block were not stored and have to be recomputed.
    pub recompute: bool,
}

/// A backward pass over the graph of the forward pass `walk`.
pub(crate) struct Back<'a> {
    pub walk: Walk<'a>,
    /// Where each gradient is stored.
    pub plan: &'a MemoryPlan,
    pub wanted: Wanted,
}

impl Back<'_> {
    fn range(&self, id: ValueId) -> std::ops::Range<usize> {
        self.plan.range(self.walk.graph.root(id).0, self.walk.n)
    }

    /// Marks a gradient as having a contribution; returns whether it already had one.
    fn touch(&self, touched: &mut [bool], id: ValueId) -> bool {
        std::mem::replace(&mut touched[self.walk.graph.root(id).0.0], true)
    }

    /// Adds the parameters' gradient to `gradient` (in the order of the layout), given the output's cotangent `dy`,
    /// `[n, channels, pixels]`. Leaves the gradient of the input in the arena. `watch` receives the gradient after each
    /// operation, with its index.
    pub fn run(
        &self,
        dy: &[f32],
        forward: &mut Workspace,
        back: &mut BackWorkspace,
        buffers: &mut PackBuffers,
        gradient: &mut [f32],
        watch: &mut dyn FnMut(Option<usize>, &[f32]),
    ) {
        let Walk { graph, n, .. } = self.walk;
        back.arena.at_least(n * self.plan.len());
        back.touched.clear();
        back.touched.resize(graph.values.len(), false);
        let output = graph.output;
        let range = self.range(output);
        let mut view = self.walk.view_mut(&mut back.arena[range], output);
        elementwise::from_planes(n, graph.value(output).channels, (1.0, 0.0), dy, &mut view);
        self.touch(&mut back.touched, output);
        let mut end = graph.ops.len();
        while end > 0 {
            let begin = graph.blocks[..end].iter().rposition(|b| *b != graph.blocks[end - 1]).map_or(0, |i| i + 1);
            if self.wanted.recompute {
                let (machine, parameters) = (self.walk.machine, self.walk.parameters);
                let mut layers = Repacked { graph, machine, parameters, buffers };
                // The last operation of a block writes a stored value.
                for op in begin..end {
                    if self.is_remade(op) {
                        self.walk.prepare(op, forward);
                        self.walk.step(op, forward, &mut layers);
                    }
                }
            }
            for op in (begin..end).rev() {
                self.step(op, forward, back, buffers, gradient);
                watch(Some(op), gradient);
            }
            end = begin;
        }
    }

    /// The gradient of the image as the first layer received it.
    pub fn input_gradient<'b>(&self, back: &'b BackWorkspace) -> View<'b> {
        self.walk.view(&back.arena[self.range(self.walk.graph.input)], self.walk.graph.input)
    }

    /// Whether an operation's result was not stored and has to be recomputed.
    fn is_remade(&self, op: usize) -> bool {
        self.walk.graph.transient[self.walk.graph.ops[op].output().0]
    }

    fn step(
        &self,
        index: usize,
        forward: &mut Workspace,
        back: &mut BackWorkspace,
        buffers: &mut PackBuffers,
        gradient: &mut [f32],
    ) {
        let walk = &self.walk;
        let Walk { graph, n, .. } = *walk;
        let Machine { isa, team, .. } = walk.machine;
        let BackWorkspace { arena, scratch, by_vector, touched } = back;
        let op = &graph.ops[index];
        let output = op.output();
        // The gradients of the output and of an input.
        macro_rules! apart {
            ($x:expr) => {
                arena.get_disjoint_mut([self.range(output), self.range(*$x)]).expect("gradients lie apart")
            };
        }
        match op {
            Op::Conv { shape, x, norm, weights, vector, residual, scale, .. } => {
                let shape = &conv::Shape::from(*shape);
                let [first, second] = scratch;
                if *scale != 1.0 {
                    // Everything before the scale receives the gradient times the scale.
                    let range = self.range(output);
                    let mut view = walk.view_mut(&mut arena[range], output);
                    let rows = n * shape.output_pixels();
                    let mut scaled = ViewMut::dense(second.room(rows * shape.c_out), shape.c_out);
                    elementwise::add_rows(isa, team, rows, shape.c_out, *scale, view.view(), &mut scaled, false);
                    elementwise::add_rows(isa, team, rows, shape.c_out, 1.0, scaled.view(), &mut view, false);
                }
                if let Some(vector) = vector {
                    let dy = walk.view(&arena[self.range(output)], output);
                    let dv = by_vector.entry(*vector).or_insert_with(|| vec![0.0; n * shape.c_out]);
                    elementwise::sum_pixels(isa, team, n, shape.output_pixels(), shape.c_out, dy, dv);
                }
                if let Some(residual) = residual {
                    let accumulate = self.touch(touched, *residual);
                    let [dy, dr] = apart!(residual);
                    let rows = n * shape.output_pixels();
                    let mut dr = walk.view_mut(dr, *residual);
                    elementwise::add_rows(
                        isa,
                        team,
                        rows,
                        shape.c_out,
                        1.0,
                        walk.view(dy, output),
                        &mut dr,
                        accumulate,
                    );
                }
                let source = Source {
                    x: walk.view(&forward.arena[walk.range(*x)], *x),
                    norm: norm.map(|id| conv::Norm { ab: &forward.coefficients[id], silu: graph.norms[id].shape.silu }),
                };
                {
                    let dy = walk.view(&arena[self.range(output)], output);
                    let mut into = parts(graph, weights, gradient);
                    let (algorithm, precision) = walk.machine.way(shape);
                    conv::backward_weights(shape, algorithm, precision, isa, team, n, source, dy, &mut into);
                }
                if *x == graph.input && !self.wanted.input {
                    return;
                }
                // The gradient of the normalised input.
                let first = first.room(norm.map_or(0, |_| n * shape.input_pixels() * shape.c_in));
                let layer = Layer::transpose(isa, *shape, |transposed| walk.machine.way(transposed).0);
                let (_, precision) = walk.machine.way(layer.shape());
                let layer = layer.in_precision(precision);
                let kernels: Vec<_> = weights.iter().map(|(w, _)| walk.parameters.get(*w)).collect();
                buffers.lend(layer, |layer| {
                    layer.repack_transposed(team, &kernels);
                    match norm {
                        None => {
                            let accumulate = self.touch(touched, *x);
                            let [dy, dx] = apart!(x);
                            let mut dx = walk.view_mut(dx, *x);
                            conv::backward_data(layer, shape, team, n, walk.view(dy, output), &mut dx, accumulate);
                        }
                        Some(_) => {
                            let dy = walk.view(&arena[self.range(output)], output);
                            let mut d = ViewMut::dense(first, shape.c_in);
                            conv::backward_data(layer, shape, team, n, dy, &mut d, false);
                        }
                    }
                });
                if let Some(id) = norm {
                    self.norm_backward(*id, *x, forward, first, arena, by_vector, touched, gradient);
                }
            }
            Op::Activate { norm, x, .. } => {
                let value = graph.value(*x);
                let first = scratch[0].room(n * value.len());
                let dy = walk.view(&arena[self.range(output)], output);
                let mut d = ViewMut::dense(first, value.channels);
                elementwise::add_rows(isa, team, n * value.pixels(), value.channels, 1.0, dy, &mut d, false);
                self.norm_backward(*norm, *x, forward, first, arena, by_vector, touched, gradient);
            }
            Op::Attention { shape, qkv, .. } => {
                self.touch(touched, *qkv);
                let [dy, dx] = apart!(qkv);
                let x = walk.view(&forward.arena[walk.range(*qkv)], *qkv);
                let mut dx = walk.view_mut(dx, *qkv);
                attention::backward(&(*shape).into(), isa, team, n, x, walk.view(dy, output), &mut dx);
            }
            Op::Nonlinear { kind, x, .. } => {
                let accumulate = self.touch(touched, *x);
                let [dy, dx] = apart!(x);
                let kind = shapes::activation(*kind).expect("SiLU is part of the normalisation");
                activation::backward(kind, isa, team, &forward.arena[walk.range(*x)], dy, dx, accumulate);
            }
            Op::Copy { x, .. } => {
                let accumulate = self.touch(touched, *x);
                let value = graph.value(*x);
                let [dy, dx] = apart!(x);
                let (dy, mut dx) = (walk.view(dy, output), walk.view_mut(dx, *x));
                elementwise::add_rows(isa, team, n * value.pixels(), value.channels, 1.0, dy, &mut dx, accumulate);
            }
            Op::Upsample { x, .. } => {
                let accumulate = self.touch(touched, *x);
                let value = graph.value(*x);
                let [dy, dx] = apart!(x);
                let (dy, mut dx) = (walk.view(dy, output), walk.view_mut(dx, *x));
                elementwise::upsample_backward(team, isa, n, value.size, value.channels, dy, &mut dx, accumulate);
            }
            Op::AveragePool { x, .. } => {
                let accumulate = self.touch(touched, *x);
                let value = graph.value(output);
                let [dy, dx] = apart!(x);
                let (dy, mut dx) = (walk.view(dy, output), walk.view_mut(dx, *x));
                elementwise::average_pool_backward(team, isa, n, value.size, value.channels, dy, &mut dx, accumulate);
            }
            Op::Dropout { p, site, x, .. } => {
                let accumulate = self.touch(touched, *x);
                let [dy, dx] = apart!(x);
                if !accumulate {
                    dx.fill(0.0);
                }
                match walk.dropout {
                    Some(keys) => dropout::backward(isa, *p, &site_keys(keys, *site), dy, dx),
                    None => elementwise::axpy(isa, team, 1.0, dy, dx),
                }
            }
        }
    }

    /// Turns the gradient `dy` of a normalised and activated value into the gradient of the value itself.
    #[allow(clippy::too_many_arguments)] // the places of everything a normalisation touches
    fn norm_backward(
        &self,
        id: NormId,
        x: ValueId,
        forward: &Workspace,
        dy: &mut [f32],
        arena: &mut Buffer,
        by_vector: &mut HashMap<ValueId, Vec<f32>>,
        touched: &mut [bool],
        gradient: &mut [f32],
    ) {
        let walk = &self.walk;
        let graph = walk.graph;
        let Machine { isa, team, .. } = walk.machine;
        let norm = &graph.norms[id];
        let specs = graph.layout.specs();
        let accumulate = self.touch(touched, x);
        let range = self.range(x);
        let mut dx = walk.view_mut(&mut arena[range], x);
        let [dgamma, dbeta] = gradient
            .get_disjoint_mut([specs[norm.gamma].range(), specs[norm.beta].range()])
            .expect("parameters do not overlap");
        let dscale_shift = norm
            .scale_shift
            .map(|v| by_vector.entry(v).or_insert_with(|| vec![0.0; walk.n * 2 * norm.shape.channels]).as_mut_slice());
        let into = Gradients { dx: &mut dx, accumulate, dgamma, dbeta, dscale_shift };
        let from = walk.view(&forward.arena[walk.range(x)], x);
        let (ab, statistics) = (&forward.coefficients[id], &forward.statistics[id]);
        norm::backward(
            &norm.shape.into(),
            isa,
            team,
            walk.n,
            from,
            walk.affine(id, &forward.rows),
            ab,
            statistics,
            dy,
            into,
        );
    }
}

/// The slices of the gradient that belong to weights and biases.
fn parts<'g>(
    graph: &Graph,
    weights: &[(usize, usize)],
    gradient: &'g mut [f32],
) -> Vec<(&'g mut [f32], &'g mut [f32])> {
    let specs = graph.layout.specs();
    let mut rest = gradient;
    let mut at = 0;
    let mut next = |range: std::ops::Range<usize>| {
        let (_, tail) = std::mem::take(&mut rest).split_at_mut(range.start - at);
        let (part, tail) = tail.split_at_mut(range.len());
        at = range.end;
        rest = tail;
        part
    };
    // A layer's parameters are registered in this order, so each lies after the previous one.
    weights.iter().map(|(w, b)| (next(specs[*w].range()), next(specs[*b].range()))).collect()
}
