//! Walking a graph forwards and backwards.
//!
//! A [`Plan`] assigns every value a buffer. For inference buffers are reused as soon as nothing reads them any more;
//! training keeps every value, because backward reads them again.

use std::collections::HashMap;
use std::ops::Range;

use skipstone_kernels::{Threads, attention, conv, dropout, elementwise, linear, norm};

use super::config::Config;
use super::graph::{Graph, Op, Row, ValueId};
use crate::error::{Error, Result};

/// Most activations per image, in elements: 16 GiB of f32.
const MAX_ELEMENTS: usize = 1 << 32;

/// Which buffer holds each value, and how long (per image) each buffer must be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    slot_of: Vec<usize>,
    slot_len: Vec<usize>,
    /// Whether each value has a buffer of its own.
    keeps_all: bool,
}

impl Plan {
    /// Every value keeps its own buffer.
    pub fn training(graph: &Graph) -> Self {
        Self {
            slot_of: (0..graph.values.len()).collect(),
            slot_len: graph.values.iter().map(|v| v.len()).collect(),
            keeps_all: true,
        }
    }

    /// Buffers are shared by values that are never needed at the same time.
    pub fn inference(graph: &Graph) -> Self {
        let mut last_use: HashMap<ValueId, usize> = HashMap::new();
        for (i, op) in graph.ops.iter().enumerate() {
            for input in op.inputs() {
                last_use.insert(input, i);
            }
        }
        last_use.insert(graph.output, graph.ops.len());
        let mut plan = Self { slot_of: vec![usize::MAX; graph.values.len()], slot_len: Vec::new(), keeps_all: false };
        let mut free: Vec<usize> = Vec::new();
        let place = |plan: &mut Self, free: &mut Vec<usize>, id: ValueId| {
            let len = graph.value(id).len();
            // The smallest free buffer that is long enough, else the longest, which grows.
            let fitting = free.iter().enumerate().filter(|(_, s)| plan.slot_len[**s] >= len);
            let choice = fitting
                .min_by_key(|(_, s)| plan.slot_len[**s])
                .or_else(|| free.iter().enumerate().max_by_key(|(_, s)| plan.slot_len[**s]))
                .map(|(at, _)| at);
            let slot = match choice {
                Some(at) => free.swap_remove(at),
                None => {
                    plan.slot_len.push(0);
                    plan.slot_len.len() - 1
                }
            };
            plan.slot_len[slot] = plan.slot_len[slot].max(len);
            plan.slot_of[id.0] = slot;
        };
        place(&mut plan, &mut free, graph.input);
        if let Some(time) = graph.time {
            place(&mut plan, &mut free, time);
        }
        for (i, op) in graph.ops.iter().enumerate() {
            place(&mut plan, &mut free, op.output());
            let mut inputs = op.inputs();
            inputs.dedup();
            for input in inputs {
                if last_use[&input] == i {
                    free.push(plan.slot_of[input.0]);
                }
            }
        }
        plan
    }

    /// Refuses a network whose buffers no machine would hold: a config file may ask for any image size.
    pub fn check(&self) -> Result<()> {
        if self.len() > MAX_ELEMENTS {
            return Err(Error::unsupported(format!(
                "sample_size: one image needs {} GiB of activations; at most {} are granted",
                self.len() >> 28,
                MAX_ELEMENTS >> 28
            )));
        }
        Ok(())
    }

    /// Elements per image of all buffers together.
    pub fn len(&self) -> usize {
        self.slot_len.iter().sum()
    }
}

/// The buffers of one plan for up to so many images.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    buffers: Vec<Vec<f32>>,
    /// Statistics of each normalisation, by operation.
    statistics: Vec<Vec<f32>>,
    /// The gradient of each value.
    gradients: Vec<Vec<f32>>,
}

/// What the network is asked about: `n` images one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a> {
    pub x: &'a [f32],
    /// The time index of each image.
    pub times: &'a [u32],
    /// The class of each image, for a conditional network.
    pub classes: Option<&'a [usize]>,
    /// A key per image; `None` switches dropout off.
    pub dropout: Option<&'a [u64]>,
}

/// The mask of every dropout site comes from a key of its own.
fn site_keys(keys: &[u64], site: u32) -> Vec<u64> {
    keys.iter().map(|key| key.wrapping_add(u64::from(site).wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect()
}

/// Sines, then cosines, of a time index at geometrically spaced frequencies (Vaswani et al., arXiv 1706.03762), as the
/// networks were trained with it: angles are rounded to f32.
pub(crate) fn time_embedding(config: &Config, time: u32, out: &mut [f32]) {
    let half = out.len() / 2;
    for i in 0..half {
        let exponent = -(10_000f64.ln()) * i as f64 / (half as f64 - config.freq_shift);
        let angle = f64::from(time as f32 * (exponent as f32).exp());
        let (sin, cos) = (libm::sin(angle) as f32, libm::cos(angle) as f32);
        let (first, second) = if config.flip_sin_to_cos { (cos, sin) } else { (sin, cos) };
        out[i] = first;
        out[half + i] = second;
    }
}

/// Elements `range` of `data` for `n` images of `len` each.
fn images(data: &[f32], n: usize, len: usize) -> &[f32] {
    &data[..n * len]
}

impl Graph {
    /// Computes the output, which the workspace then holds.
    pub fn forward<'w>(
        &self,
        config: &Config,
        plan: &Plan,
        workspace: &'w mut Workspace,
        parameters: &[f32],
        inputs: Inputs<'_>,
        threads: Threads,
    ) -> &'w [f32] {
        let n = inputs.times.len();
        let Workspace { buffers, statistics, .. } = workspace;
        buffers.resize_with(plan.slot_len.len(), Vec::new);
        for (buffer, len) in buffers.iter_mut().zip(&plan.slot_len) {
            if buffer.len() < n * len {
                buffer.resize(n * len, 0.0);
            }
        }
        statistics.resize_with(self.ops.len(), Vec::new);
        let slot = |id: ValueId| plan.slot_of[id.0];
        let len = |id: ValueId| self.value(id).len();
        buffers[slot(self.input)][..inputs.x.len()].copy_from_slice(inputs.x);
        if let Some(time) = self.time {
            for (t, out) in inputs.times.iter().zip(buffers[slot(time)].chunks_exact_mut(len(time))) {
                time_embedding(config, *t, out);
            }
        }
        let parameter = |p: usize| &parameters[self.layout.specs()[p].range()];
        for (index, op) in self.ops.iter().enumerate() {
            let output = op.output();
            let mut taken = std::mem::take(&mut buffers[slot(output)]);
            let y = &mut taken[..n * len(output)];
            let get = |id: ValueId| images(&buffers[slot(id)], n, len(id));
            match op {
                Op::Conv { shape, x, w, b, .. } => {
                    conv::forward(shape, n, get(*x), parameter(*w), parameter(*b), y, threads);
                }
                Op::Norm { shape, x, gamma, beta, scale_shift, .. } => {
                    let affine = norm::Affine {
                        gamma: parameter(*gamma),
                        beta: parameter(*beta),
                        scale_shift: scale_shift.map(&get),
                    };
                    let statistics = &mut statistics[index];
                    statistics.resize(n * shape.groups * 2, 0.0);
                    norm::forward(shape, n, get(*x), affine, y, statistics, threads);
                }
                Op::Attention { shape, q, k, v, .. } => {
                    attention::forward(shape, n, get(*q), get(*k), get(*v), y, threads);
                }
                Op::Linear { x, w, b, .. } => linear::forward(n, get(*x), parameter(*w), parameter(*b), y),
                Op::Silu { x, .. } => elementwise::silu(get(*x), y),
                Op::Affine { a, b, x, .. } => elementwise::affine(*a, *b, get(*x), y),
                Op::AddPerPlane { x, v, .. } => {
                    elementwise::add_per_plane(self.value(*x).pixels(), get(*x), get(*v), y);
                }
                Op::Add { a, b, scale, .. } => elementwise::add(get(*a), get(*b), *scale, y),
                Op::Concat { a, b, .. } => elementwise::concat(n, get(*a), get(*b), y),
                Op::Upsample { x, .. } => elementwise::upsample(self.value(*x).size[1], get(*x), y),
                Op::AveragePool { x, .. } => elementwise::average_pool(self.value(output).size[1], get(*x), y),
                Op::Dropout { p, site, x, .. } => match inputs.dropout {
                    Some(keys) => dropout::forward(*p, &site_keys(keys, *site), get(*x), y),
                    None => y.copy_from_slice(get(*x)),
                },
                Op::Embedding { table, row, .. } => {
                    let width = len(output);
                    for (i, y) in y.chunks_exact_mut(width).enumerate() {
                        let row = self.row(*row, &inputs, i);
                        y.copy_from_slice(&parameter(*table)[row * width..(row + 1) * width]);
                    }
                }
            }
            buffers[slot(output)] = taken;
        }
        images(&buffers[slot(self.output)], n, len(self.output))
    }

    fn row(&self, row: Row, inputs: &Inputs<'_>, image: usize) -> usize {
        match row {
            Row::Time => inputs.times[image] as usize,
            Row::Class => inputs.classes.expect("classes are checked before")[image],
        }
    }

    /// After [`forward`](Self::forward) with a training plan: adds to `gradient` (in the layout's order) what the
    /// output's cotangent `dy` implies, and leaves the input's gradient in the workspace if it is wanted.
    #[allow(clippy::too_many_arguments)] // forward's operands and their cotangents
    pub fn backward<'w>(
        &self,
        plan: &Plan,
        workspace: &'w mut Workspace,
        parameters: &[f32],
        inputs: Inputs<'_>,
        dy: &[f32],
        gradient: &mut [f32],
        want_input: bool,
    ) -> &'w [f32] {
        assert!(plan.keeps_all, "backward needs a training plan");
        let n = inputs.times.len();
        let Workspace { buffers, statistics, gradients } = workspace;
        let len = |id: ValueId| self.value(id).len();
        gradients.resize_with(self.values.len(), Vec::new);
        for (gradient, value) in gradients.iter_mut().zip(&self.values) {
            gradient.clear();
            gradient.resize(n * value.len(), 0.0);
        }
        gradients[self.output.0].copy_from_slice(dy);
        let get = |id: ValueId| images(&buffers[id.0], n, len(id));
        let specs = self.layout.specs();
        let parameter = |p: usize| &parameters[specs[p].range()];
        for (index, op) in self.ops.iter().enumerate().rev() {
            let output = op.output();
            let dy = std::mem::take(&mut gradients[output.0]);
            let mut take = |id: ValueId| std::mem::take(&mut gradients[id.0]);
            let mut back: [Option<(ValueId, Vec<f32>)>; 3] = [None, None, None];
            match op {
                Op::Conv { shape, x, w, b, .. } => {
                    let [dw, db] = disjoint(gradient, [specs[*w].range(), specs[*b].range()]);
                    conv::backward_weights(shape, n, get(*x), &dy, dw, db);
                    if *x != self.input || want_input {
                        let mut dx = take(*x);
                        conv::backward_data(shape, n, &dy, parameter(*w), &mut dx);
                        back[0] = Some((*x, dx));
                    }
                }
                Op::Norm { shape, x, gamma, beta, scale_shift, .. } => {
                    let [dgamma, dbeta] = disjoint(gradient, [specs[*gamma].range(), specs[*beta].range()]);
                    let affine = norm::Affine {
                        gamma: parameter(*gamma),
                        beta: parameter(*beta),
                        scale_shift: scale_shift.map(&get),
                    };
                    let mut dx = take(*x);
                    let mut dv = scale_shift.map(&mut take);
                    let into = norm::Gradients { dx: &mut dx, dgamma, dbeta, dscale_shift: dv.as_deref_mut() };
                    norm::backward(shape, n, get(*x), affine, &statistics[index], &dy, into);
                    back[0] = Some((*x, dx));
                    back[1] = scale_shift.zip(dv);
                }
                Op::Attention { shape, q, k, v, .. } => {
                    let (mut dq, mut dk, mut dv) = (take(*q), take(*k), take(*v));
                    attention::backward(shape, n, get(*q), get(*k), get(*v), &dy, &mut dq, &mut dk, &mut dv);
                    back = [Some((*q, dq)), Some((*k, dk)), Some((*v, dv))];
                }
                Op::Linear { x, w, b, .. } => {
                    let [dw, db] = disjoint(gradient, [specs[*w].range(), specs[*b].range()]);
                    let mut dx = take(*x);
                    linear::backward(n, get(*x), parameter(*w), &dy, &mut dx, dw, db);
                    back[0] = Some((*x, dx));
                }
                Op::Silu { x, .. } => {
                    let mut dx = take(*x);
                    elementwise::silu_backward(get(*x), &dy, &mut dx);
                    back[0] = Some((*x, dx));
                }
                Op::Affine { a, x, .. } => {
                    let mut dx = take(*x);
                    elementwise::axpy(*a, &dy, &mut dx);
                    back[0] = Some((*x, dx));
                }
                Op::AddPerPlane { x, v, .. } => {
                    let (mut dx, mut dv) = (take(*x), take(*v));
                    elementwise::axpy(1.0, &dy, &mut dx);
                    elementwise::add_per_plane_backward(self.value(*x).pixels(), &dy, &mut dv);
                    back = [Some((*x, dx)), Some((*v, dv)), None];
                }
                Op::Add { a, b, scale, .. } => {
                    let (mut da, mut db) = (take(*a), take(*b));
                    elementwise::axpy(*scale, &dy, &mut da);
                    elementwise::axpy(*scale, &dy, &mut db);
                    back = [Some((*a, da)), Some((*b, db)), None];
                }
                Op::Concat { a, b, .. } => {
                    let (mut da, mut db) = (take(*a), take(*b));
                    elementwise::concat_backward(n, &dy, &mut da, &mut db);
                    back = [Some((*a, da)), Some((*b, db)), None];
                }
                Op::Upsample { x, .. } => {
                    let mut dx = take(*x);
                    elementwise::upsample_backward(self.value(*x).size[1], &dy, &mut dx);
                    back[0] = Some((*x, dx));
                }
                Op::AveragePool { x, .. } => {
                    let mut dx = take(*x);
                    elementwise::average_pool_backward(self.value(output).size[1], &dy, &mut dx);
                    back[0] = Some((*x, dx));
                }
                Op::Dropout { p, site, x, .. } => {
                    let mut dx = take(*x);
                    match inputs.dropout {
                        Some(keys) => dropout::backward(*p, &site_keys(keys, *site), &dy, &mut dx),
                        None => elementwise::axpy(1.0, &dy, &mut dx),
                    }
                    back[0] = Some((*x, dx));
                }
                Op::Embedding { table, row, .. } => {
                    let width = len(output);
                    let dtable = &mut gradient[specs[*table].range()];
                    for (i, dy) in dy.chunks_exact(width).enumerate() {
                        let row = self.row(*row, &inputs, i);
                        elementwise::axpy(1.0, dy, &mut dtable[row * width..(row + 1) * width]);
                    }
                }
            }
            for (id, dx) in back.into_iter().flatten() {
                gradients[id.0] = dx;
            }
            gradients[output.0] = dy;
        }
        &gradients[self.input.0]
    }
}

/// Two different parameters' places in the gradient.
fn disjoint<const N: usize>(gradient: &mut [f32], ranges: [Range<usize>; N]) -> [&mut [f32]; N] {
    gradient.get_disjoint_mut(ranges).expect("parameters do not overlap")
}
