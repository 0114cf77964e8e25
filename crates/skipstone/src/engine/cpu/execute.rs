//! The forward pass over a graph.

use std::ops::Range;

use skipstone_kernels::conv::{self, Epilogue, Source};
use skipstone_kernels::{Buffer, View, ViewMut, activation, attention, dropout, elementwise, norm};

use super::conditions::Machine;
use super::shapes;
use crate::engine::inputs::{RowLayout, site_keys};
use crate::unet::graph::{Graph, NormId, Op, ValueId};
use crate::unet::plan::MemoryPlan;

/// The memory of one forward pass.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    pub arena: Buffer,
    /// The conditioning vectors of each image, `[n, row]`.
    pub rows: Vec<f32>,
    /// a and b of each normalisation, `[n, 2, channels]`, and its statistics.
    pub coefficients: Vec<Vec<f32>>,
    pub statistics: Vec<Vec<f32>>,
}

/// Provides convolutions with packed weights.
pub(crate) trait Layers {
    /// Calls `f` with the layer of operation `op`.
    fn with(&mut self, op: usize, f: impl FnOnce(&conv::Layer));
}

/// Weights packed once and kept.
#[derive(Debug)]
pub(crate) struct Packed(pub Vec<Option<conv::Layer>>);

impl Layers for &Packed {
    fn with(&mut self, op: usize, f: impl FnOnce(&conv::Layer)) {
        f(self.0[op].as_ref().expect("every convolution is packed"));
    }
}

/// What a pass over the graph needs besides values.
#[derive(Clone, Copy)]
pub(crate) struct Walk<'a> {
    pub graph: &'a Graph,
    pub plan: &'a MemoryPlan,
    pub rows: &'a RowLayout,
    pub machine: Machine<'a>,
    /// Number of images.
    pub n: usize,
    pub parameters: Store<'a>,
    /// A dropout key per image; `None` disables dropout.
    pub dropout: Option<&'a [u64]>,
}

/// Parameters by their index in the layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Store<'a> {
    pub data: &'a [f32],
    /// The range of each parameter in `data`; empty for absent ones.
    pub ranges: &'a [Range<usize>],
}

impl<'a> Store<'a> {
    pub fn get(&self, parameter: usize) -> &'a [f32] {
        &self.data[self.ranges[parameter].clone()]
    }
}

impl<'a> Walk<'a> {
    /// A value's pixels, within the part of the arena that belongs to its root.
    pub fn view<'b>(&self, root: &'b [f32], id: ValueId) -> View<'b> {
        let (root_id, offset) = self.graph.root(id);
        View::part(root, self.graph.value(root_id).channels, offset)
    }

    /// As [`view`](Self::view), writable.
    pub fn view_mut<'b>(&self, root: &'b mut [f32], id: ValueId) -> ViewMut<'b> {
        let (root_id, offset) = self.graph.root(id);
        ViewMut::part(root, self.graph.value(root_id).channels, offset)
    }

    /// The range of a value's root in the arena.
    pub fn range(&self, id: ValueId) -> Range<usize> {
        self.plan.range(self.graph.root(id).0, self.n)
    }

    /// The learned and the per-image factors of a normalisation.
    pub fn affine<'b>(&self, id: NormId, rows: &'b [f32]) -> norm::Affine<'b>
    where
        'a: 'b,
    {
        let norm = &self.graph.norms[id];
        norm::Affine {
            gamma: self.parameters.get(norm.gamma),
            beta: self.parameters.get(norm.beta),
            scale_shift: norm.scale_shift.map(|v| self.rows.view(rows, v)),
        }
    }

    /// Copies the images into the arena; `x` is `[n, channels, pixels]`.
    pub fn put(&self, workspace: &mut Workspace, x: &[f32]) {
        workspace.arena.at_least(self.n * self.plan.len());
        workspace.coefficients.resize_with(self.graph.norms.len(), Vec::new);
        workspace.statistics.resize_with(self.graph.norms.len(), Vec::new);
        let range = self.range(self.graph.input);
        let mut view = self.view_mut(&mut workspace.arena[range], self.graph.input);
        elementwise::from_planes(self.n, self.graph.value(self.graph.input).channels, self.graph.centre, x, &mut view);
    }

    /// Copies the output out of the arena.
    pub fn take(&self, workspace: &Workspace, y: &mut [f32]) {
        let output = self.graph.output;
        let view = self.view(&workspace.arena[self.range(output)], output);
        elementwise::to_planes(self.n, self.graph.value(output).channels, 1.0, view, y);
    }

    /// Runs all operations.
    pub fn forward(&self, workspace: &mut Workspace, layers: &mut impl Layers) {
        for op in 0..self.graph.ops.len() {
            self.prepare(op, workspace);
            self.step(op, workspace, layers);
        }
    }

    /// Computes the coefficients of the normalisation that an operation applies. Describes its size, if there is one.
    pub fn prepare(&self, op: usize, workspace: &mut Workspace) -> Option<String> {
        let (Op::Conv { norm: Some(norm), .. } | Op::Activate { norm, .. }) = self.graph.ops[op] else { return None };
        self.find_coefficients(norm, workspace);
        let shape = self.graph.norms[norm].shape;
        Some(format!("{} channels, {} pixels", shape.channels, shape.pixels))
    }

    /// Runs one [prepared](Self::prepare) operation.
    pub fn step(&self, index: usize, workspace: &mut Workspace, layers: &mut impl Layers) {
        let Machine { isa, team, .. } = self.machine;
        let n = self.n;
        let op = &self.graph.ops[index];
        let Workspace { arena, rows, coefficients, .. } = workspace;
        let output = op.output();
        // The pixels written and the pixels read.
        macro_rules! apart {
            ($x:expr) => {
                arena
                    .get_disjoint_mut([self.range(output), self.range(*$x)])
                    .expect("an operation's operands lie apart")
            };
        }
        match op {
            Op::Conv { x, norm, vector, residual, scale, .. } => {
                let source_norm =
                    |id: NormId| conv::Norm { ab: &coefficients[id], silu: self.graph.norms[id].shape.silu };
                let mut epilogue = Epilogue { scale: *scale, ..Epilogue::default() };
                epilogue.vector = vector.map(|v| self.rows.view(rows, v));
                let residual_range = residual.map_or(0..0, |r| self.range(r));
                let ranges = [self.range(output), self.range(*x), residual_range];
                let [y, from, other] = arena.get_disjoint_mut(ranges).expect("an operation's operands lie apart");
                epilogue.residual = residual.map(|r| self.view(other, r));
                let source = Source { x: self.view(from, *x), norm: norm.map(source_norm) };
                let mut y = self.view_mut(y, output);
                layers.with(index, |layer| layer.forward(team, n, source, epilogue, &mut y));
            }
            Op::Attention { shape, qkv: x, .. } => {
                let [y, from] = apart!(x);
                attention::forward(
                    &(*shape).into(),
                    isa,
                    self.machine.units,
                    team,
                    n,
                    self.view(from, *x),
                    &mut self.view_mut(y, output),
                );
            }
            Op::Activate { norm: id, x, .. } => {
                let [y, from] = apart!(x);
                let shape = self.graph.norms[*id].shape.into();
                let (from, mut y) = (self.view(from, *x), self.view_mut(y, output));
                norm::apply(&shape, isa, team, n, from, &coefficients[*id], &mut y);
            }
            Op::Nonlinear { kind, x, .. } => {
                // Both values are dense, because they are written and read within one block.
                let [y, from] = apart!(x);
                let kind = shapes::activation(*kind).expect("SiLU is part of the normalisation");
                activation::forward(kind, isa, team, from, y);
            }
            Op::Copy { x, .. } => {
                let [y, from] = apart!(x);
                let value = self.graph.value(*x);
                let (from, mut y) = (self.view(from, *x), self.view_mut(y, output));
                elementwise::add_rows(isa, team, n * value.pixels(), value.channels, 1.0, from, &mut y, false);
            }
            Op::Upsample { x, .. } => {
                let [y, from] = apart!(x);
                let value = self.graph.value(*x);
                let (from, mut y) = (self.view(from, *x), self.view_mut(y, output));
                elementwise::upsample(team, n, value.size, value.channels, from, &mut y);
            }
            Op::AveragePool { x, .. } => {
                let [y, from] = apart!(x);
                let value = self.graph.value(output);
                let (from, mut y) = (self.view(from, *x), self.view_mut(y, output));
                elementwise::average_pool(team, isa, n, value.size, value.channels, from, &mut y);
            }
            Op::Dropout { p, site, x, .. } => {
                // Both values are dense, because they are written and read within one block.
                let [y, from] = apart!(x);
                match self.dropout {
                    Some(keys) => dropout::forward(isa, *p, &site_keys(keys, *site), from, y),
                    None => y.copy_from_slice(from),
                }
            }
        }
    }

    /// Computes a and b of a normalisation whose input is available.
    fn find_coefficients(&self, id: NormId, workspace: &mut Workspace) {
        let norm = &self.graph.norms[id];
        let Machine { isa, team, .. } = self.machine;
        let Workspace { arena, rows, coefficients, statistics } = workspace;
        let (ab, statistics) = (&mut coefficients[id], &mut statistics[id]);
        ab.resize(self.n * 2 * norm.shape.channels, 0.0);
        statistics.resize(self.n * 2 * norm.shape.groups, 0.0);
        let x = self.view(&arena[self.range(norm.x)], norm.x);
        norm::coefficients(&norm.shape.into(), isa, team, self.n, x, self.affine(id, rows), ab, statistics);
    }
}
