//! Gradients of a network over a batch.

use std::ops::Range;

use ndarray::Array4;
use skipstone_gpu::{Buffer, Element, Gpu, elementwise, optimizer};

use super::backward::{Back, BackWorkspace, PackBuffers, Repacked, Wanted, all_places};
use super::conditions::{Table, VectorValues, Vectoriser};
use super::execute::{DropoutKeys, Store, Walk, Workspace};
use crate::engine::inputs::{ConditioningKey, RowLayout, check, conditions};
use crate::engine::{Batch, Sharding};
use crate::error::{Error, Result};
use crate::sampling::denoiser;
use crate::unet::graph::Graph;
use crate::unet::plan::MemoryPlan;
use crate::unet::{Config, Layout};

/// The derivative of what is minimised by the output, for images `[n, channels, height, width]`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slope<'a> {
    /// These values.
    Given(&'a [f32]),
    /// That of Σ fᵢ/2·‖output − target‖², with the factor of each image.
    Targets { target: &'a [f32], factors: &'a [f32] },
}

/// The backward pass of a network. A batch is processed in shards of a fixed number of images, one after the other.
#[derive(Debug)]
pub(super) struct Backprop {
    config: Config,
    graph: Graph,
    forward: MemoryPlan,
    gradients: MemoryPlan,
    rows: RowLayout,
    places: Vec<(usize, usize)>,
    shard: usize,
    recompute: bool,
    element: Element,
    pub gpu: Gpu,
    memory: Option<Memory>,
}

/// Memory for shards of up to `images` images, reused from call to call.
#[derive(Debug)]
struct Memory {
    forward: Workspace,
    back: BackWorkspace,
    values: VectorValues,
    table: Table,
    packed: PackBuffers,
    target: Buffer,
    factors: Buffer,
    sums: Buffer,
    images: usize,
}

impl Backprop {
    /// A backward pass in which activations, their gradients and packed weights are stored as `element`.
    pub fn new(gpu: Gpu, config: Config, sharding: Sharding, element: Element) -> Result<Self> {
        let Sharding { images: shard, recompute } = sharding;
        if shard == 0 {
            return Err(Error::argument("expected at least 1 image per shard, found 0"));
        }
        let graph = Graph::new(&config, true)?;
        let forward = MemoryPlan::training(&graph, recompute, element.alignment());
        let gradients = MemoryPlan::gradients(&graph, element.alignment());
        forward.check()?;
        let (rows, places) = (RowLayout::new(&graph), all_places(&graph));
        Ok(Self { config, graph, forward, gradients, rows, places, shard, recompute, element, gpu, memory: None })
    }

    pub fn layout(&self) -> &Layout {
        &self.graph.layout
    }

    /// Bytes that activations and their gradients take for a batch of `n` images.
    pub fn bytes(&self, n: usize) -> usize {
        4 * self.element.words(self.forward.len() + self.gradients.len()) * self.shard.min(n)
    }

    fn allocate(&self, images: usize) -> skipstone_gpu::Result<Memory> {
        let (gpu, graph) = (&self.gpu, &self.graph);
        let table = Table::new(gpu, &self.rows, images, images)?;
        // Image i has row i.
        gpu.write_integers(&table.row_of, &(0..images as u32).collect::<Vec<_>>());
        Ok(Memory {
            forward: Workspace::new(gpu, graph, &self.forward, self.element, images)?,
            back: BackWorkspace::new(gpu, graph, &self.gradients, self.element, images)?,
            values: VectorValues::default(),
            table,
            packed: PackBuffers::new(gpu, graph, self.element)?,
            target: gpu.reserve(images * graph.value(graph.output).len())?,
            factors: gpu.reserve(images)?,
            sums: gpu.reserve(images)?,
            images,
        })
    }

    /// Runs the batch and adds its gradient to `gradient`, laid out as `parameters`. Returns Σ (output − target)² of each image,
    /// if there are targets. Writes the outputs to `output` and the gradient of the images to `by_image`, where these are wanted.
    ///
    /// # Errors
    /// As [`Denoiser::predict`](crate::sampling::denoiser::Denoiser::predict); or the device fails. The gradient is then
    /// undefined.
    pub fn add_gradient(
        &mut self,
        parameters: &Buffer,
        batch: Batch<'_>,
        slope: Slope<'_>,
        gradient: &Buffer,
        mut wanted: Option<(&mut [f32], &mut Array4<f32>)>,
    ) -> Result<Vec<f64>> {
        let classes = denoiser::classes(batch.conditions, batch.x_t.dim().0, self.config.num_class_embeds)?;
        let n = check(&self.config, batch.x_t, batch.times.len(), classes.as_deref())?;
        let conditions = conditions(&self.config, batch.times, classes.as_deref())?;
        assert_eq!((parameters.len(), gradient.len()), (self.graph.layout.len(), self.graph.layout.len()));
        assert!(batch.dropout.is_none_or(|keys| keys.len() == n), "a dropout key for each image");
        let x = batch.x_t.as_standard_layout();
        let x = x.as_slice().expect("standard layout");
        let images = self.shard.min(n);
        let mut memory = match self.memory.take().filter(|memory| memory.images >= images) {
            Some(memory) => memory,
            None => self.allocate(images)?,
        };
        let mut errors = Vec::with_capacity(n);
        for begin in (0..n).step_by(self.shard) {
            let images = begin..(begin + self.shard).min(n);
            let keys = batch.dropout.filter(|_| self.graph.dropout_sites > 0).map(|keys| &keys[images.clone()]);
            let wanted = wanted
                .as_mut()
                .map(|(output, by_image)| (&mut **output, by_image.as_slice_mut().expect("standard layout")));
            let here = &conditions[images.clone()];
            errors.extend(self.shard(&mut memory, parameters, x, images, here, keys, slope, gradient, wanted)?);
        }
        // Only now: what a failed pass has left may be incomplete.
        self.memory = Some(memory);
        Ok(errors)
    }

    #[allow(clippy::too_many_arguments)] // the parts of a batch that a shard takes, and the results
    fn shard(
        &self,
        memory: &mut Memory,
        parameters: &Buffer,
        x: &[f32],
        images: Range<usize>,
        conditions: &[ConditioningKey],
        keys: Option<&[u64]>,
        slope: Slope<'_>,
        gradient: &Buffer,
        wanted: Option<(&mut [f32], &mut [f32])>,
    ) -> skipstone_gpu::Result<Vec<f64>> {
        let (gpu, graph, n) = (&self.gpu, &self.graph, images.len());
        let (input, output) = (graph.value(graph.input), graph.value(graph.output));
        let part = |len: usize| images.start * len..images.end * len;
        let store = Store { buffer: parameters, places: &self.places };
        let Memory { forward, back, values, table, packed, target, factors, sums, .. } = memory;
        let vectoriser = Vectoriser { gpu, graph, config: &self.config, layout: &self.rows, parameters: store };
        vectoriser.compute(conditions, values, table, 0)?;
        let keys = keys.map(|keys| DropoutKeys::upload(gpu, graph.dropout_sites, keys)).transpose()?;
        let walk = Walk {
            gpu,
            graph,
            plan: &self.forward,
            element: self.element,
            rows: &self.rows,
            table,
            n,
            parameters: store,
            dropout: keys.as_ref(),
        };
        walk.put(forward, &x[part(input.len())]);
        walk.forward(forward, &mut Repacked { gpu, graph, parameters: store, buffers: packed });
        let wanted_input = wanted.is_some();
        let (mut out, mut by_image) = wanted.unzip();
        if let Some(out) = &mut out {
            out[part(output.len())].copy_from_slice(&walk.take(forward)?);
        }
        let backwards = Back {
            walk,
            plan: &self.gradients,
            wanted: Wanted { input: wanted_input, recompute: self.recompute },
            packed,
            gradient,
        };
        let dy = backwards.slope(back, graph.output);
        let (channels, pixels) = (output.channels, output.pixels());
        match slope {
            Slope::Given(values) => {
                gpu.write(target, &values[part(output.len())]);
                elementwise::from_planes(gpu, n, channels, pixels, (1.0, 0.0), target, &dy);
            }
            Slope::Targets { target: values, factors: of } => {
                gpu.write(target, &values[part(output.len())]);
                gpu.write(factors, &of[images.clone()]);
                let y = walk.view(forward, graph.output);
                optimizer::squared_error(gpu, n, channels, pixels, &y, target, factors, &dy, sums);
            }
        }
        backwards.run(forward, back)?;
        vectoriser.backward(conditions, values, table, &mut back.by_vector, gradient)?;
        if let Some(by_image) = &mut by_image {
            let dx = backwards.slope(back, graph.input);
            let planes = forward.planes.slice(0, n * input.len());
            elementwise::to_planes(gpu, n, input.channels, input.pixels(), graph.centre.0, &dx, &planes);
            by_image[part(input.len())].copy_from_slice(&gpu.read(&planes)?);
        }
        match slope {
            Slope::Given(_) => Ok(Vec::new()),
            Slope::Targets { .. } => Ok(gpu.read(&sums.slice(0, n))?.iter().map(|sum| f64::from(*sum)).collect()),
        }
    }
}
