//! Gradients of a network over a batch, bit-identical for any number of threads.

use std::ops::Range;
use std::sync::Arc;

use ndarray::Array4;
use skipstone_kernels::conv::has_units;
use skipstone_kernels::{Isa, Team, elementwise};

use super::backward::{Back, BackWorkspace, PackBuffers, Repacked, Wanted};
use super::conditions::{Machine, Vectors};
use super::execute::{Store, Walk, Workspace};
use super::team;
use crate::engine::inputs::{RowLayout, check, conditions};
use crate::engine::{Batch, Precision};
use crate::error::{Error, Kind, Result};
use crate::sampling::denoiser;
use crate::unet::graph::{Graph, Op};
use crate::unet::plan::{CACHE_LINE, MemoryPlan};
use crate::unet::{Config, Layout};

/// The backward pass of a network.
///
/// A batch is processed in shards of a fixed number of images, one after the other, each on all threads. Kernels sum
/// in an order that depends on the shard alone, so the gradient does not depend on the number of threads.
#[derive(Debug)]
pub struct Backprop {
    config: Config,
    graph: Graph,
    forward: MemoryPlan,
    gradients: MemoryPlan,
    rows: RowLayout,
    /// The range of each parameter in the flat buffer.
    ranges: Vec<Range<usize>>,
    shard: usize,
    recompute: bool,
    isa: Isa,
    team: Arc<Team>,
    precision: Precision,
    memory: Memory,
}

/// Memory reused from call to call.
#[derive(Debug, Default)]
struct Memory {
    forward: Workspace,
    back: BackWorkspace,
    vectors: Vectors,
    packed: PackBuffers,
    y: Vec<f32>,
    dy: Vec<f32>,
}

impl Backprop {
    /// Prepares the gradient of networks of this architecture, on `threads` threads with `shard` images per shard.
    ///
    /// # Errors
    /// The config is invalid, or `threads` or `shard` is 0.
    pub fn new(config: Config, threads: usize, shard: usize) -> Result<Self> {
        Self::with_recomputation(config, threads, shard, false)
    }

    /// As [`new`](Self::new). With `recompute`, values that are produced and read within one block are not stored; the
    /// backward pass recomputes them. This takes about half the memory and about a third more time. The gradient is
    /// bit-identical.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_recomputation(config: Config, threads: usize, shard: usize, recompute: bool) -> Result<Self> {
        if threads == 0 || shard == 0 {
            return Err(Error::argument(format!(
                "expected at least 1 thread and 1 image per shard, found {threads} and {shard}"
            )));
        }
        let graph = Graph::new(&config, true)?;
        let forward = MemoryPlan::training(&graph, recompute, CACHE_LINE);
        let gradients = MemoryPlan::gradients(&graph, CACHE_LINE);
        forward.check()?;
        let ranges = graph.layout.specs().iter().map(|spec| spec.range()).collect();
        let (rows, team, isa) = (RowLayout::new(&graph), team::of(threads), Isa::best());
        let memory = Memory::default();
        let precision = Precision::F32;
        Ok(Self { config, graph, forward, gradients, rows, ranges, shard, recompute, isa, team, precision, memory })
    }

    /// Selects a precision other than f32.
    ///
    /// # Errors
    /// Gradients are not computed in it, or not on this processor.
    pub fn in_precision(self, precision: Precision) -> Result<Self> {
        let it = Self { precision, ..self };
        it.check_precision()?;
        Ok(it)
    }

    fn check_precision(&self) -> Result<()> {
        match self.precision {
            Precision::F32 => Ok(()),
            Precision::Bf16 if has_units(self.isa) => Ok(()),
            Precision::Bf16 => {
                let isa = self.isa.name();
                let message =
                    format!("precision bf16: there are no matrix units (AMX) on this processor with {isa}; use f32");
                Err(Error::new(Kind::Device, message))
            }
            Precision::F16 => Err(Error::unsupported("precision f16: training on the processor needs f32 or bf16")),
        }
    }

    /// Selects an instruction set other than the best.
    pub fn with_isa(self, isa: Isa) -> Self {
        Self { isa, ..self }
    }

    /// The layout of the network's parameters.
    pub fn layout(&self) -> &Layout {
        &self.graph.layout
    }

    /// The thread team.
    pub fn team(&self) -> &Team {
        &self.team
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes that activations and their gradients take for a batch of `n` images.
    pub fn bytes(&self, n: usize) -> usize {
        4 * (self.forward.len() + self.gradients.len()) * self.shard.min(n)
    }

    /// For each parameter, in the order of the layout, the operation whose backward step completes its gradient, or `None`
    /// if only the end of the backward pass does. The steps go from the last operation to the first.
    pub(super) fn completed_by(&self) -> Vec<Option<usize>> {
        let mut by = vec![None; self.ranges.len()];
        // From the last operation to the first, so that the first one that reads a parameter remains.
        for (index, op) in self.graph.ops.iter().enumerate().rev() {
            let (weights, norm) = match op {
                Op::Conv { weights, norm, .. } => (&weights[..], *norm),
                Op::Activate { norm, .. } => (&[][..], Some(*norm)),
                _ => (&[][..], None),
            };
            let norm = norm.map(|id| [self.graph.norms[id].gamma, self.graph.norms[id].beta]);
            let read = weights.iter().flat_map(|(w, b)| [*w, *b]).chain(norm.into_iter().flatten());
            read.for_each(|parameter| by[parameter] = Some(index));
        }
        by
    }

    /// Runs the batch and adds its gradient to `gradient` (as long as the layout). For each shard, in order,
    /// `cotangent(images, y, dy)` receives the output `y` and writes the derivative of the loss with respect to `y`.
    ///
    /// # Errors
    /// As [`Denoiser::predict`](crate::sampling::denoiser::Denoiser::predict).
    ///
    /// # Panics
    /// The length of `parameters` or `gradient` is not that of the layout.
    pub fn add_gradient(
        &mut self,
        parameters: &[f32],
        batch: Batch<'_>,
        cotangent: impl FnMut(Range<usize>, &[f32], &mut [f32]),
        gradient: &mut [f32],
        input_gradient: Option<&mut Array4<f32>>,
    ) -> Result<()> {
        self.add_gradient_watched(parameters, batch, cotangent, gradient, input_gradient, &mut |_, _| {})
    }

    /// As [`add_gradient`](Self::add_gradient). In each shard, `watch` receives the gradient after the backward step of
    /// every operation, with its index, and at the end.
    pub(super) fn add_gradient_watched(
        &mut self,
        parameters: &[f32],
        batch: Batch<'_>,
        mut cotangent: impl FnMut(Range<usize>, &[f32], &mut [f32]),
        gradient: &mut [f32],
        input_gradient: Option<&mut Array4<f32>>,
        watch: &mut dyn FnMut(Option<usize>, &[f32]),
    ) -> Result<()> {
        self.check_precision()?;
        let classes = denoiser::classes(batch.conditions, batch.x_t.dim().0, self.config.num_class_embeds)?;
        let n = check(&self.config, batch.x_t, batch.times.len(), classes.as_deref())?;
        let conditions = conditions(&self.config, batch.times, classes.as_deref())?;
        assert_eq!((parameters.len(), gradient.len()), (self.graph.layout.len(), self.graph.layout.len()));
        assert!(batch.dropout.is_none_or(|keys| keys.len() == n), "a dropout key for each image");
        let x = batch.x_t.as_standard_layout();
        let x = x.as_slice().expect("standard layout");
        let len = x.len().checked_div(n).unwrap_or(0);
        let mut input_gradient = input_gradient.map(|g| g.as_slice_mut().expect("standard layout"));
        let wanted = Wanted { input: input_gradient.is_some(), recompute: self.recompute };
        let machine = Machine { isa: self.isa, team: &self.team, units: self.precision == Precision::Bf16 };
        let store = Store { data: parameters, ranges: &self.ranges };
        let graph = &self.graph;
        let Memory { forward, back, vectors, packed, y, dy } = &mut self.memory;
        for begin in (0..n).step_by(self.shard) {
            let images = begin..(begin + self.shard).min(n);
            let here = &conditions[images.clone()];
            graph.vectors(&self.config, machine, store, here, vectors);
            forward.rows.resize(images.len() * self.rows.len(), 0.0);
            graph.gather_rows(&self.rows, vectors, images.len(), &mut forward.rows);
            let walk = Walk {
                graph,
                plan: &self.forward,
                rows: &self.rows,
                machine,
                n: images.len(),
                parameters: store,
                dropout: batch.dropout.map(|keys| &keys[images.clone()]),
            };
            walk.put(forward, &x[images.start * len..images.end * len]);
            walk.forward(forward, &mut Repacked { graph, machine, parameters: store, buffers: packed });
            y.resize(images.len() * graph.value(graph.output).len(), 0.0);
            walk.take(forward, y);
            dy.clear();
            dy.resize(y.len(), 0.0);
            cotangent(images.clone(), y, dy);
            let backwards = Back { walk, plan: &self.gradients, wanted };
            back.by_vector.clear();
            backwards.run(dy, forward, back, packed, gradient, watch);
            graph.vectors_backward(&self.config, machine, store, here, vectors, &mut back.by_vector, gradient);
            watch(None, gradient);
            if let Some(into) = &mut input_gradient {
                let dx = backwards.input_gradient(back);
                let into = &mut into[images.start * len..images.end * len];
                elementwise::to_planes(images.len(), self.config.in_channels, graph.centre.0, dx, into);
            }
        }
        Ok(())
    }
}
