//! A network ready to run: packed weights, a memory plan and cached conditions.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ndarray::Array4;
use skipstone_gpu::{Buffer, Element, Gpu, conv};

use super::backward::pack;
use super::conditions::{Table, VectorValues, Vectoriser};
use super::execute::{Layer, Store, Walk, Workspace};
use super::{element, limit};
use crate::engine::inputs::{ConditioningKey, RowLayout, check, conditions, every_condition};
use crate::engine::{Cost, Network, Precision};
use crate::error::{Error, Result};
use crate::math::schedule::Time;
use crate::sampling::denoiser::{self, Denoiser, Prediction};
use crate::unet::graph::{Graph, Op, VectorOp};
use crate::unet::plan::MemoryPlan;
use crate::unet::shapes::Convolution;
use crate::unet::{Config, Parameters, TimeEmbedding};

/// Maximum number of cached conditions: the times of a schedule for a few classes.
const REMEMBERED: usize = 8192;

/// Maximum size of the cached vectors in elements: 64 MiB.
const REMEMBERED_ELEMENTS: usize = 1 << 24;

/// A U-Net on a graphics processor.
///
/// An image's result depends on that image, its time and its class only, not on the batch. Weights are on the device once, in
/// the order in which its kernels read them.
#[derive(Debug)]
pub struct UNet {
    config: Config,
    graph: Graph,
    plan: MemoryPlan,
    element: Element,
    rows: RowLayout,
    gpu: Gpu,
    layers: Vec<Option<Layer>>,
    kept: Kept,
    prediction: Prediction,
    state: Mutex<State>,
}

/// What changes from call to call.
#[derive(Debug, Default)]
struct State {
    workspace: Option<Workspace>,
    values: VectorValues,
    table: Option<Table>,
    /// The row of each condition in the table.
    conditions: HashMap<ConditioningKey, u32>,
    /// The most images that fitted the device's memory together, once more did not.
    fits: Option<usize>,
}

/// The parameters that are used unpacked: those of normalisations, linear layers and embeddings.
#[derive(Debug)]
struct Kept {
    buffer: Buffer,
    places: Vec<(usize, usize)>,
}

impl Kept {
    fn new(gpu: &Gpu, graph: &Graph, parameters: &Parameters) -> Result<Self> {
        let norms = graph.norms.iter().flat_map(|norm| [norm.gamma, norm.beta]);
        let vectors = graph.vector_ops.iter().flat_map(|op| match *op {
            VectorOp::Linear { w, b, .. } => vec![w, b],
            VectorOp::Embedding { table, .. } => vec![table],
            VectorOp::Silu { .. } | VectorOp::Activate { .. } | VectorOp::Class { .. } | VectorOp::Add { .. } => vec![],
        });
        let specs = graph.layout.specs();
        let (mut data, mut places) = (Vec::new(), vec![(0, 0); specs.len()]);
        for parameter in norms.chain(vectors) {
            let values = &parameters.data()[specs[parameter].range()];
            places[parameter] = (data.len(), values.len());
            data.extend_from_slice(values);
        }
        Ok(Self { buffer: gpu.upload(&data)?, places })
    }

    fn store(&self) -> Store<'_> {
        Store { buffer: &self.buffer, places: &self.places }
    }
}

/// Uploads and packs every convolution.
fn layers(gpu: &Gpu, graph: &Graph, parameters: &Parameters, element: Element) -> Result<Vec<Option<Layer>>> {
    let specs = graph.layout.specs();
    let layer = |op: usize| {
        let Op::Conv { shape, weights, .. } = &graph.ops[op] else { return Ok(None) };
        let shape = conv::Shape::from(*shape);
        // The layer's parameters as they come, which are released as soon as they are packed.
        let (mut data, mut places) = (Vec::new(), vec![(0, 0); specs.len()]);
        for parameter in weights.iter().flat_map(|(w, b)| [*w, *b]) {
            let values = &parameters.data()[specs[parameter].range()];
            places[parameter] = (data.len(), values.len());
            data.extend_from_slice(values);
        }
        let raw = gpu.upload(&data)?;
        let (packed, bias) = (conv::Weights::reserve(gpu, &shape, element)?, gpu.reserve(shape.c_out)?);
        let layer = pack(gpu, graph, op, Store { buffer: &raw, places: &places }, &packed, &bias);
        // A bias among the unpacked parameters would keep all of them.
        let biases: Vec<f32> =
            weights.iter().flat_map(|(_, b)| parameters.data()[specs[*b].range()].iter().copied()).collect();
        gpu.write(&bias, &biases);
        Ok(Some(Layer { bias: (bias, 0), ..layer }))
    };
    (0..graph.ops.len()).map(layer).collect()
}

impl UNet {
    /// A network with the given architecture, parameters and prediction type on a device. In f16, activations and
    /// the weights of convolutions are stored in half precision; products, sums, statistics and the vectors of conditions stay
    /// in f32.
    ///
    /// # Errors
    /// The config is invalid or its images are too large, the parameters belong to another architecture, or the device has
    /// too little memory or lacks the precision.
    pub fn new(
        gpu: Gpu,
        config: Config,
        parameters: Parameters,
        prediction: Prediction,
        precision: Precision,
    ) -> Result<Self> {
        let graph = Graph::new(&config, false)?;
        if graph.layout != **parameters.layout() {
            return Err(Error::data("the parameters do not fit the config: they belong to another architecture"));
        }
        let element = element(&gpu, precision)?;
        let plan = MemoryPlan::inference(&graph, element.alignment());
        plan.check()?;
        let kept = Kept::new(&gpu, &graph, &parameters)?;
        let layers = layers(&gpu, &graph, &parameters, element)?;
        drop(parameters);
        let rows = RowLayout::new(&graph);
        Ok(Self { config, graph, plan, element, rows, gpu, layers, kept, prediction, state: Mutex::default() })
    }

    fn run(
        &self,
        x_t: &Array4<f32>,
        times: &[Time],
        classes: Option<&[usize]>,
        mut took: Option<&mut dyn FnMut(String, Duration, u64)>,
    ) -> Result<Array4<f32>> {
        let n = check(&self.config, x_t, times.len(), classes)?;
        let conditions = conditions(&self.config, times, classes)?;
        let [height, width] = self.config.sample_size;
        let mut y = Array4::zeros((n, self.config.out_channels, height, width));
        if n == 0 {
            return Ok(y);
        }
        let x = x_t.as_standard_layout();
        let x = x.as_slice().expect("standard layout");
        let (x_len, y_len) = (x.len() / n, y.len() / n);
        let out = y.as_slice_mut().expect("standard layout");
        let mut state = self.state();
        let mut begin = 0;
        while begin < n {
            let most = limit::images(&self.gpu, &self.plan, self.element).min(state.fits.unwrap_or(usize::MAX)).max(1);
            // As even as possible: a last part of one image would take nearly as long as a whole part.
            let images = begin..begin + (n - begin).div_ceil((n - begin).div_ceil(most));
            let part = &x[images.start * x_len..images.end * x_len];
            match self.part(&mut state, part, &conditions[images.clone()], &mut took) {
                Ok(values) => out[images.start * y_len..images.end * y_len].copy_from_slice(&values),
                Err(error) => {
                    // What a failed pass has left may be incomplete.
                    *state = State { fits: state.fits, ..State::default() };
                    limit::halve(&self.gpu, error, images.len(), &mut state.fits)?;
                    continue;
                }
            }
            begin = images.end;
        }
        Ok(y)
    }

    /// One pass over images that fit the device's memory together.
    fn part(
        &self,
        state: &mut State,
        x: &[f32],
        conditions: &[ConditioningKey],
        took: &mut Option<&mut dyn FnMut(String, Duration, u64)>,
    ) -> skipstone_gpu::Result<Vec<f32>> {
        let n = conditions.len();
        self.find(state, conditions, n)?;
        if state.workspace.as_ref().is_none_or(|workspace| workspace.images < n) {
            // The old one goes first.
            state.workspace = None;
            state.workspace = Some(Workspace::new(&self.gpu, &self.graph, &self.plan, self.element, n)?);
        }
        let (Some(workspace), Some(table)) = (&state.workspace, &state.table) else {
            unreachable!("both were made above")
        };
        let row_of: Vec<u32> = conditions.iter().map(|condition| state.conditions[condition]).collect();
        self.gpu.write_integers(&table.row_of, &row_of);
        let walk = Walk {
            gpu: &self.gpu,
            graph: &self.graph,
            plan: &self.plan,
            element: self.element,
            rows: &self.rows,
            table,
            n,
            parameters: self.kept.store(),
            dropout: None,
        };
        walk.put(workspace, x);
        match took {
            None => walk.forward(workspace, &mut &self.layers[..]),
            Some(took) => self.measure(&walk, workspace, took)?,
        }
        walk.take(workspace)
    }

    /// Runs all operations and waits for each, so that the sum is longer than a call.
    fn measure(
        &self,
        walk: &Walk<'_>,
        workspace: &Workspace,
        took: &mut dyn FnMut(String, Duration, u64),
    ) -> skipstone_gpu::Result<()> {
        self.gpu.wait()?;
        for op in 0..self.graph.ops.len() {
            let begun = Instant::now();
            if walk.prepare(op, workspace) {
                self.gpu.wait()?;
                took("statistics".into(), begun.elapsed(), 0);
            }
            let begun = Instant::now();
            walk.step(op, workspace, &mut &self.layers[..]);
            self.gpu.wait()?;
            let (what, flops) = self.describe(op);
            took(what, begun.elapsed(), flops * walk.n as u64);
        }
        Ok(())
    }

    /// A description of an operation, and its floating-point operations per image.
    fn describe(&self, op: usize) -> (String, u64) {
        match &self.graph.ops[op] {
            Op::Conv { shape, .. } => {
                let Convolution { c_in, c_out, kernel, stride, .. } = *shape;
                let [height, width] = shape.output();
                let stride = if stride > 1 { format!("/{stride}") } else { String::new() };
                let up = if shape.upsample { " doubled" } else { "" };
                (format!("{kernel}×{kernel}{stride} {c_in}→{c_out} at {height}×{width}{up}"), shape.flops())
            }
            Op::Attention { shape, .. } => {
                (format!("attention {} channels, {} pixels", shape.channels, shape.pixels), shape.flops())
            }
            Op::Activate { .. } => ("normalising".into(), 0),
            Op::Nonlinear { kind, .. } => (format!("{kind:?}").to_lowercase(), 0),
            Op::Copy { .. } => ("copying".into(), 0),
            Op::Upsample { .. } => ("doubling".into(), 0),
            Op::AveragePool { .. } => ("halving".into(), 0),
            Op::Dropout { .. } => ("dropout".into(), 0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in another call at worst leaves values that the next call overwrites.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most conditions to remember.
    fn remembered(&self) -> usize {
        (REMEMBERED_ELEMENTS / self.rows.len().max(1)).min(REMEMBERED)
    }

    /// Ensures that the table has the vectors of these conditions, and room for the rows of `images` images.
    fn find(&self, state: &mut State, conditions: &[ConditioningKey], images: usize) -> skipstone_gpu::Result<()> {
        let gpu = &self.gpu;
        let mut missing = unknown(conditions, &state.conditions);
        if state.conditions.len() + missing.len() > self.remembered() {
            state.conditions.clear();
            missing = unknown(conditions, &state.conditions);
        }
        let first = state.conditions.len();
        let (rows, places) = state.table.as_ref().map_or((0, 0), |table| (table.capacity(), table.row_of.len()));
        if rows < first + missing.len() || places < images {
            let capacity = rows.max((first + missing.len()).next_power_of_two());
            let table = Table::new(gpu, &self.rows, capacity, images.max(places))?;
            if let Some(old) = &state.table {
                table.copy_from(gpu, old);
            }
            state.table = Some(table);
        }
        let Some(table) = &state.table else { unreachable!("made above") };
        if missing.is_empty() {
            return Ok(());
        }
        let vectoriser = Vectoriser {
            gpu,
            graph: &self.graph,
            config: &self.config,
            layout: &self.rows,
            parameters: self.kept.store(),
        };
        vectoriser.compute(&missing, &mut state.values, table, first)?;
        state.conditions.extend(missing.into_iter().zip(first as u32..));
        Ok(())
    }
}

/// The conditions that are not known yet, each once.
fn unknown(conditions: &[ConditioningKey], known: &HashMap<ConditioningKey, u32>) -> Vec<ConditioningKey> {
    let mut seen = HashSet::new();
    conditions.iter().copied().filter(|condition| !known.contains_key(condition) && seen.insert(*condition)).collect()
}

impl Network for UNet {
    fn config(&self) -> &Config {
        &self.config
    }

    fn cost(&self) -> Cost {
        let packed: usize =
            self.layers.iter().flatten().map(|layer| layer.weights.bytes() + 4 * layer.bias.0.len()).sum();
        Cost {
            flops: self.graph.flops(),
            activation_bytes: 4 * self.element.words(self.plan.len()),
            weight_bytes: 4 * self.kept.buffer.len() + packed,
            batch: Some(limit::busy(&self.gpu, &self.plan, self.element)),
        }
    }

    fn profile(
        &self,
        x_t: &Array4<f32>,
        times: &[Time],
        conditions: &[denoiser::Condition],
        part: &mut dyn FnMut(String, Duration, u64),
    ) -> Result<()> {
        let classes = denoiser::classes(conditions, x_t.dim().0, self.config.num_class_embeds)?;
        self.run(x_t, times, classes.as_deref(), Some(part)).map(|_| ())
    }
}

impl Denoiser for UNet {
    fn shape(&self) -> [usize; 3] {
        let [height, width] = self.config.sample_size;
        [self.config.in_channels, height, width]
    }

    fn prediction(&self) -> Prediction {
        self.prediction
    }

    fn output_channels(&self) -> usize {
        self.config.out_channels
    }

    fn predict(&self, x_t: &Array4<f32>, times: &[Time], conditions: &[denoiser::Condition]) -> Result<Array4<f32>> {
        let classes = denoiser::classes(conditions, x_t.dim().0, self.config.num_class_embeds)?;
        self.run(x_t, times, classes.as_deref(), None)
    }

    fn takes_fractional_times(&self) -> bool {
        !matches!(self.config.time_embedding, TimeEmbedding::Learned { .. })
    }

    fn prepare(&self, times: &[Time], conditions: &[denoiser::Condition]) {
        // The calls themselves report invalid times or conditions.
        let Ok(all) = every_condition(&self.config, times, conditions) else { return };
        if all.len() <= self.remembered() {
            let mut state = self.state();
            if self.find(&mut state, &all, 0).is_err() {
                // The next call meets the same failure and reports it.
                *state = State::default();
            }
        }
    }
}
