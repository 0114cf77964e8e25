//! The forward pass over a graph.

use skipstone_gpu::conv::{self, Epilogue};
use skipstone_gpu::norm::{self, Affine};
use skipstone_gpu::{ALIGNMENT, Buffer, Element, Gpu, Result, View, attention, elementwise, embedding};

use super::conditions::Table;
use crate::engine::inputs::{RowLayout, site_keys};
use crate::unet::graph::{Graph, NormId, Op, ValueId};
use crate::unet::plan::MemoryPlan;

/// Parameters by their index in the layout.
#[derive(Clone, Copy, Debug)]
pub(super) struct Store<'a> {
    pub buffer: &'a Buffer,
    /// The first element and the number of elements of each parameter; empty for absent ones.
    pub places: &'a [(usize, usize)],
}

impl Store<'_> {
    /// Place of a parameter's first element.
    pub fn place(&self, parameter: usize) -> usize {
        self.places[parameter].0
    }

    /// Place and number of rows of a table of `width`.
    pub fn table(&self, parameter: usize, width: usize) -> (usize, usize) {
        let (begin, len) = self.places[parameter];
        (begin, len / width)
    }
}

/// A convolution's weights in the kernels' order, and its bias: the buffer and the first one's place.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub weights: conv::Weights,
    pub bias: (Buffer, usize),
}

/// Provides convolutions with packed weights.
pub(super) trait Layers {
    /// The layer of operation `op`, until the next call.
    fn get(&mut self, op: usize) -> Layer;
}

/// Weights packed once and kept.
impl Layers for &[Option<Layer>] {
    fn get(&mut self, op: usize) -> Layer {
        self[op].clone().expect("every convolution is packed")
    }
}

/// The memory of forward passes over up to `images` images.
#[derive(Debug)]
pub(super) struct Workspace {
    pub arena: Buffer,
    /// a and b of each normalisation, `[n, 2, channels]`, and its statistics.
    pub coefficients: Vec<Buffer>,
    pub statistics: Vec<Buffer>,
    /// Attention scores.
    pub scores: Buffer,
    /// Images as they come and go, `[n, channels, pixels]`.
    pub planes: Buffer,
    pub images: usize,
}

impl Workspace {
    pub fn new(gpu: &Gpu, graph: &Graph, plan: &MemoryPlan, element: Element, images: usize) -> Result<Self> {
        let norms = |len: fn(&norm::Shape) -> usize| -> Result<Vec<Buffer>> {
            graph.norms.iter().map(|norm| gpu.reserve(images * len(&norm.shape.into()))).collect()
        };
        let planes = [graph.input, graph.output].map(|id| graph.value(id).len());
        Ok(Self {
            arena: gpu.reserve(element.words(images * plan.len()))?,
            coefficients: norms(|shape| 2 * shape.channels)?,
            statistics: norms(|shape| 2 * shape.groups)?,
            scores: gpu.reserve(scores(graph, images))?,
            planes: gpu.reserve(images * planes[0].max(planes[1]))?,
            images,
        })
    }
}

/// Elements of attention scores that a pass over `images` images holds at once.
pub(super) fn scores(graph: &Graph, images: usize) -> usize {
    let of = |op: &Op| match op {
        Op::Attention { shape, .. } => {
            let shape = attention::Shape::from(*shape);
            shape.images_at_once(images) * shape.scores()
        }
        _ => 0,
    };
    graph.ops.iter().map(of).max().unwrap_or(0)
}

/// The dropout keys of a pass, for every site.
#[derive(Clone, Debug)]
pub(super) struct DropoutKeys {
    keys: Buffer,
    n: usize,
}

impl DropoutKeys {
    /// Uploads the keys of each site for these images.
    pub fn upload(gpu: &Gpu, sites: u32, keys: &[u64]) -> Result<Self> {
        let halves = |site| site_keys(keys, site).into_iter().flat_map(|key| [key as u32, (key >> 32) as u32]);
        let row = |site| {
            let mut row: Vec<u32> = halves(site).collect();
            row.resize(Self::stride(keys.len()), 0);
            row
        };
        let all: Vec<u32> = (0..sites).flat_map(row).collect();
        Ok(Self { keys: gpu.upload_integers(&all)?, n: keys.len() })
    }

    fn stride(n: usize) -> usize {
        (2 * n).next_multiple_of(ALIGNMENT)
    }

    pub fn site(&self, site: u32) -> Buffer {
        self.keys.slice(site as usize * Self::stride(self.n), 2 * self.n)
    }
}

/// What a pass over the graph needs besides values.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a> {
    pub gpu: &'a Gpu,
    pub graph: &'a Graph,
    pub plan: &'a MemoryPlan,
    /// How pixels are stored.
    pub element: Element,
    pub rows: &'a RowLayout,
    pub table: &'a Table,
    /// Number of images.
    pub n: usize,
    pub parameters: Store<'a>,
    /// `None` disables dropout.
    pub dropout: Option<&'a DropoutKeys>,
}

impl Walk<'_> {
    /// A value's pixels in an arena planned by `plan`.
    pub fn place(&self, arena: &Buffer, plan: &MemoryPlan, id: ValueId) -> View {
        let (root, offset) = self.graph.root(id);
        let range = plan.range(root, self.n);
        let words = arena.slice(range.start / self.element.per_word(), self.element.words(range.len()));
        View::part(words, self.graph.value(root).channels, offset).stored(self.element)
    }

    /// A value's pixels.
    pub fn view(&self, workspace: &Workspace, id: ValueId) -> View {
        self.place(&workspace.arena, self.plan, id)
    }

    /// The learned and the per-image factors of a normalisation.
    pub fn affine(&self, id: NormId) -> Affine {
        let norm = &self.graph.norms[id];
        Affine {
            parameters: self.parameters.buffer.clone(),
            gamma: self.parameters.place(norm.gamma),
            beta: self.parameters.place(norm.beta),
            scale_shift: norm.scale_shift.map(|v| self.table.vectors(self.rows, v)),
        }
    }

    /// Copies the images into the arena; `x` is `[n, channels, pixels]`.
    pub fn put(&self, workspace: &Workspace, x: &[f32]) {
        let input = self.graph.value(self.graph.input);
        self.gpu.write(&workspace.planes, x);
        let view = self.view(workspace, self.graph.input);
        let (channels, pixels) = (input.channels, input.pixels());
        elementwise::from_planes(self.gpu, self.n, channels, pixels, self.graph.centre, &workspace.planes, &view);
    }

    /// The output, `[n, channels, pixels]`. Waits for the device.
    pub fn take(&self, workspace: &Workspace) -> Result<Vec<f32>> {
        let output = self.graph.value(self.graph.output);
        let view = self.view(workspace, self.graph.output);
        let planes = workspace.planes.slice(0, self.n * output.len());
        elementwise::to_planes(self.gpu, self.n, output.channels, output.pixels(), 1.0, &view, &planes);
        self.gpu.read(&planes)
    }

    /// Runs all operations.
    pub fn forward(&self, workspace: &Workspace, layers: &mut impl Layers) {
        for op in 0..self.graph.ops.len() {
            self.prepare(op, workspace);
            self.step(op, workspace, layers);
        }
    }

    /// Computes the coefficients of the normalisation that an operation applies. Returns whether there is one.
    pub fn prepare(&self, op: usize, workspace: &Workspace) -> bool {
        let (Op::Conv { norm: Some(id), .. } | Op::Activate { norm: id, .. }) = self.graph.ops[op] else {
            return false;
        };
        let norm = &self.graph.norms[id];
        let x = self.view(workspace, norm.x);
        let (ab, statistics) = (&workspace.coefficients[id], &workspace.statistics[id]);
        norm::coefficients(self.gpu, &norm.shape.into(), self.n, &x, &self.affine(id), ab, statistics);
        true
    }

    /// The normalisation that a convolution applies to its input.
    pub fn source(&self, workspace: &Workspace, norm: Option<NormId>) -> Option<conv::Norm> {
        norm.map(|id| conv::Norm { ab: workspace.coefficients[id].clone(), silu: self.graph.norms[id].shape.silu })
    }

    /// Runs one [prepared](Self::prepare) operation.
    pub fn step(&self, index: usize, workspace: &Workspace, layers: &mut impl Layers) {
        let (gpu, n) = (self.gpu, self.n);
        let op = &self.graph.ops[index];
        let output = op.output();
        let y = self.view(workspace, output);
        match op {
            Op::Conv { shape, x, norm, vector, residual, scale, .. } => {
                let layer = layers.get(index);
                let epilogue = Epilogue {
                    bias: Some(layer.bias),
                    vector: vector.map(|v| self.table.vectors(self.rows, v)),
                    residual: residual.map(|r| self.view(workspace, r)),
                    accumulate: false,
                    scale: *scale,
                };
                let (x, norm) = (self.view(workspace, *x), self.source(workspace, *norm));
                conv::forward(gpu, &(*shape).into(), n, &x, norm.as_ref(), &layer.weights, &epilogue, &y);
            }
            Op::Attention { shape, qkv, .. } => {
                attention::forward(gpu, &(*shape).into(), n, &self.view(workspace, *qkv), &workspace.scores, &y);
            }
            Op::Activate { norm: id, x, .. } => {
                let shape = self.graph.norms[*id].shape.into();
                norm::apply(gpu, &shape, n, &self.view(workspace, *x), &workspace.coefficients[*id], &y);
            }
            Op::Nonlinear { kind, x, .. } => {
                let value = self.graph.value(*x);
                let rows = n * value.pixels();
                elementwise::activation(gpu, (*kind).into(), rows, value.channels, &self.view(workspace, *x), &y);
            }
            Op::Copy { x, .. } => {
                let value = self.graph.value(*x);
                let x = self.view(workspace, *x);
                elementwise::add_rows(gpu, n * value.pixels(), value.channels, 1.0, &x, &y, false);
            }
            Op::Upsample { x, .. } => {
                let value = self.graph.value(*x);
                elementwise::upsample(gpu, n, value.size, value.channels, &self.view(workspace, *x), &y);
            }
            Op::AveragePool { x, .. } => {
                let value = self.graph.value(output);
                elementwise::average_pool(gpu, n, value.size, value.channels, &self.view(workspace, *x), &y);
            }
            Op::Dropout { p, site, x, .. } => {
                // Both values are dense, because they are written and read within one block.
                let value = self.graph.value(*x);
                let x = self.view(workspace, *x);
                match self.dropout {
                    Some(keys) => {
                        let keys = keys.site(*site);
                        embedding::dropout(gpu, *p, n, value.len(), &keys, &x, &y, false);
                    }
                    None => elementwise::add_rows(gpu, n * value.pixels(), value.channels, 1.0, &x, &y, false),
                }
            }
        }
    }
}
