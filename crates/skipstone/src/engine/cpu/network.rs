//! A network ready to run: packed weights, a memory plan and cached conditions.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ndarray::Array4;
use skipstone_kernels::conv::{self, Layer, Shape};

use super::Options;
use super::conditions::{Machine, Vectors};
use super::execute::{Packed, Store, Walk, Workspace};
use crate::engine::inputs::{ConditioningKey, RowLayout, check, conditions, every_condition};
use crate::engine::{Cost, Network, Precision};
use crate::error::{Error, Result};
use crate::math::schedule::Time;
use crate::sampling::denoiser::{self, Denoiser, Prediction};
use crate::unet::graph::{Graph, Op, VectorOp};
use crate::unet::plan::{CACHE_LINE, MemoryPlan};
use crate::unet::shapes::Convolution;
use crate::unet::{Config, Parameters, TimeEmbedding};

/// Bytes of activations up to which images pass through the network together. Larger batches are split into parts,
/// whose activations stay in nearer caches (measured: a tenth of the time for 64 images of a narrow network).
const TOGETHER: usize = 96 << 20;

/// Maximum number of cached conditions: the times of a schedule for a few classes.
const REMEMBERED: usize = 8192;

/// A U-Net on the CPU.
///
/// An image's result depends on that image, its time and its class only, not on the batch or the number of threads.
/// Weights are packed once, for the processor's instruction set.
#[derive(Debug)]
pub struct UNet {
    config: Config,
    graph: Graph,
    plan: MemoryPlan,
    rows: RowLayout,
    options: Options,
    layers: Packed,
    kept: Kept,
    prediction: Prediction,
    state: Mutex<State>,
}

/// What changes from call to call.
#[derive(Debug, Default)]
struct State {
    workspace: Workspace,
    vectors: Vectors,
    /// The conditioning vectors of each condition seen so far.
    conditions: HashMap<ConditioningKey, Arc<[f32]>>,
}

/// The parameters that are used unpacked: those of normalisations, linear layers and embeddings.
#[derive(Debug)]
struct Kept {
    data: Vec<f32>,
    ranges: Vec<Range<usize>>,
}

impl Kept {
    fn new(graph: &Graph, parameters: &Parameters) -> Self {
        let norms = graph.norms.iter().flat_map(|norm| [norm.gamma, norm.beta]);
        let vectors = graph.vector_ops.iter().flat_map(|op| match *op {
            VectorOp::Linear { w, b, .. } => vec![w, b],
            VectorOp::Embedding { table, .. } => vec![table],
            VectorOp::Silu { .. } | VectorOp::Activate { .. } | VectorOp::Class { .. } | VectorOp::Add { .. } => vec![],
        });
        let specs = graph.layout.specs();
        let mut kept = Self { data: Vec::new(), ranges: vec![0..0; specs.len()] };
        for parameter in norms.chain(vectors) {
            let begin = kept.data.len();
            kept.data.extend_from_slice(&parameters.data()[specs[parameter].range()]);
            kept.ranges[parameter] = begin..kept.data.len();
        }
        kept
    }

    fn store(&self) -> Store<'_> {
        Store { data: &self.data, ranges: &self.ranges }
    }
}

impl UNet {
    /// A network with the given architecture, parameters and prediction type.
    ///
    /// # Errors
    /// The config is invalid or its images are too large, or the parameters belong to another architecture.
    pub fn new(config: Config, parameters: Parameters, prediction: Prediction) -> Result<Self> {
        Self::with_options(config, parameters, prediction, Options::default())
    }

    /// As [`new`](Self::new), with `options`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_options(
        config: Config,
        parameters: Parameters,
        prediction: Prediction,
        options: Options,
    ) -> Result<Self> {
        let graph = Graph::new(&config, false)?;
        if graph.layout != **parameters.layout() {
            return Err(Error::data("the parameters do not fit the config: they belong to another architecture"));
        }
        let plan = MemoryPlan::inference(&graph, CACHE_LINE);
        plan.check()?;
        let kept = Kept::new(&graph, &parameters);
        let layers = pack(&graph, parameters.into_data(), &options);
        let rows = RowLayout::new(&graph);
        Ok(Self { config, graph, plan, rows, options, layers, kept, prediction, state: Mutex::default() })
    }

    fn activation_bytes(&self) -> usize {
        4 * self.plan.len()
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
        let at_once = (TOGETHER / self.activation_bytes().max(1)).clamp(1, n);
        let parts = n.div_ceil(at_once);
        let out = y.as_slice_mut().expect("standard layout");
        let mut state = self.state();
        for part in 0..parts {
            // As even as possible: a last part of one image would take nearly as long as a whole part.
            let images = n * part / parts..n * (part + 1) / parts;
            self.find(&mut state, &conditions[images.clone()]);
            let State { workspace, conditions: known, .. } = &mut *state;
            workspace.rows.clear();
            for condition in &conditions[images.clone()] {
                workspace.rows.extend_from_slice(&known[condition]);
            }
            let walk = Walk {
                graph: &self.graph,
                plan: &self.plan,
                rows: &self.rows,
                machine: self.machine(),
                n: images.len(),
                parameters: self.kept.store(),
                dropout: None,
            };
            walk.put(workspace, &x[images.start * x_len..images.end * x_len]);
            for op in 0..self.graph.ops.len() {
                let begun = took.is_some().then(Instant::now);
                if let Some(norm) = walk.prepare(op, workspace)
                    && let (Some(took), Some(begun)) = (&mut took, begun)
                {
                    took(format!("statistics of {norm}"), begun.elapsed(), 0);
                }
                let begun = took.is_some().then(Instant::now);
                walk.step(op, workspace, &mut &self.layers);
                if let (Some(took), Some(begun)) = (&mut took, begun) {
                    let elapsed = begun.elapsed();
                    let (what, flops) = self.describe(op);
                    took(what, elapsed, flops * images.len() as u64);
                }
            }
            walk.take(workspace, &mut out[images.start * y_len..images.end * y_len]);
        }
        Ok(y)
    }

    /// A description of an operation, and its floating-point operations per image.
    fn describe(&self, op: usize) -> (String, u64) {
        match &self.graph.ops[op] {
            Op::Conv { shape, .. } => {
                let Convolution { c_in, c_out, kernel, stride, .. } = *shape;
                let [height, width] = shape.output();
                let algorithm = self.layers.0[op].as_ref().map(Layer::algorithm);
                let stride = if stride > 1 { format!("/{stride}") } else { String::new() };
                let up = if shape.upsample { " doubled" } else { "" };
                let algorithm = algorithm.map_or(String::new(), |a| format!(" {a:?}"));
                (format!("{kernel}×{kernel}{stride} {c_in}→{c_out} at {height}×{width}{up}{algorithm}"), shape.flops())
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

    fn machine(&self) -> Machine<'_> {
        Machine { isa: self.options.isa, team: &self.options.team, units: self.options.precision == Precision::Bf16 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in another call at worst leaves values that the next call overwrites.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ensures that the vectors of these conditions are cached.
    fn find(&self, state: &mut State, conditions: &[ConditioningKey]) {
        let State { vectors, conditions: known, .. } = state;
        if known.len() > REMEMBERED {
            known.clear();
        }
        let mut missing: Vec<ConditioningKey> = Vec::new();
        for condition in conditions {
            if !known.contains_key(condition) && !missing.contains(condition) {
                missing.push(*condition);
            }
        }
        if missing.is_empty() {
            return;
        }
        self.graph.vectors(&self.config, self.machine(), self.kept.store(), &missing, vectors);
        let mut rows = vec![0.0; missing.len() * self.rows.len()];
        self.graph.gather_rows(&self.rows, vectors, missing.len(), &mut rows);
        for (i, condition) in missing.into_iter().enumerate() {
            known.insert(condition, rows[i * self.rows.len()..(i + 1) * self.rows.len()].into());
        }
    }
}

/// Packs every convolution, last first, and releases the memory of each as soon as its weights are packed. Holding
/// all weights packed and unpacked would take twice the memory.
fn pack(graph: &Graph, mut data: Vec<f32>, options: &Options) -> Packed {
    let specs = graph.layout.specs();
    let mut layers: Vec<Option<Layer>> = (0..graph.ops.len()).map(|_| None).collect();
    let first = |op: usize| match &graph.ops[op] {
        Op::Conv { weights, .. } => specs[weights[0].0].offset,
        _ => 0,
    };
    let mut order: Vec<usize> = (0..graph.ops.len()).collect();
    order.sort_by_key(|op| std::cmp::Reverse(first(*op)));
    for op in order {
        if let Op::Conv { shape, weights, .. } = &graph.ops[op] {
            let parts: Vec<_> =
                weights.iter().map(|(w, b)| (&data[specs[*w].range()], &data[specs[*b].range()])).collect();
            let shape = Shape::from(*shape);
            let algorithm = (options.algorithm)(&shape);
            let precision = match options.precision {
                Precision::F32 => conv::Precision::Single,
                Precision::F16 => conv::Precision::least(options.isa, algorithm),
                Precision::Bf16 => conv::Precision::with_units(options.isa, &shape),
            };
            let layer = Layer::empty(options.isa, shape, precision.algorithm(algorithm));
            let mut layer = layer.in_precision(precision);
            layer.repack(&options.team, &parts);
            layers[op] = Some(layer);
            data.truncate(first(op));
            data.shrink_to_fit();
        }
    }
    Packed(layers)
}

impl Network for UNet {
    fn config(&self) -> &Config {
        &self.config
    }

    fn cost(&self) -> Cost {
        let packed: usize = self.layers.0.iter().flatten().map(Layer::bytes).sum();
        Cost {
            flops: self.graph.flops(),
            activation_bytes: self.activation_bytes(),
            weight_bytes: 4 * self.kept.data.len() + packed,
            batch: None,
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
        if all.len() <= REMEMBERED {
            self.find(&mut self.state(), &all);
        }
    }
}
