//! The vectors that condition the blocks. They are functions of time and class alone. One row serves all images with
//! the same time and class, and all rows of a trajectory are computed at once.

use std::collections::HashMap;

use skipstone_kernels::conv::{self, Algorithm};
use skipstone_kernels::{Buffer, Isa, Team, View, ViewMut, activation, elementwise, linear};

use super::execute::Store;
use super::shapes;
use crate::engine::inputs::{ConditioningKey, RowLayout, class_of, embedding_row, time_embedding};
use crate::unet::Config;
use crate::unet::graph::{Graph, ValueId, VectorOp};

impl RowLayout {
    /// A view of one vector in all rows.
    pub fn view<'a>(&self, rows: &'a [f32], value: ValueId) -> View<'a> {
        View::part(rows, self.len(), self.place(value).expect("a vector that blocks read").start)
    }
}

/// All vectors of some conditions, by value, `[rows, len]`; the backward pass needs them.
#[derive(Debug, Default)]
pub(crate) struct Vectors {
    values: HashMap<ValueId, Buffer>,
}

/// What the vector operations need besides their operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine<'a> {
    pub isa: Isa,
    pub team: &'a Team,
    /// Whether attention, and a training's convolutions, run in bf16 on matrix units.
    pub units: bool,
}

impl Machine<'_> {
    /// How a training computes a convolution of this shape.
    pub fn way(&self, shape: &conv::Shape) -> (Algorithm, conv::Precision) {
        let with_units = || conv::Precision::training_with_units(self.isa, shape);
        let precision = if self.units { with_units() } else { conv::Precision::Single };
        (precision.algorithm(shape.training_algorithm()), precision)
    }
}

impl Graph {
    /// Computes the vectors of `conditions`, one row per condition.
    pub fn vectors(
        &self,
        config: &Config,
        machine: Machine<'_>,
        parameters: Store<'_>,
        conditions: &[ConditioningKey],
        vectors: &mut Vectors,
    ) {
        let n = conditions.len();
        let Machine { isa, team, .. } = machine;
        let len = |id: ValueId| self.value(id).len();
        let values = &mut vectors.values;
        let fresh = |values: &mut HashMap<ValueId, Buffer>, id: ValueId| {
            let mut buffer = values.remove(&id).unwrap_or_default();
            buffer.at_least(n * len(id));
            buffer
        };
        if let Some(time) = self.time {
            let mut y = fresh(values, time);
            for (condition, y) in conditions.iter().zip(y.chunks_exact_mut(len(time))) {
                time_embedding(config, f32::from_bits(condition.time), y);
            }
            values.insert(time, y);
        }
        if let Some(label) = self.label {
            let mut y = fresh(values, label);
            for (condition, y) in conditions.iter().zip(y.chunks_exact_mut(len(label))) {
                time_embedding(config, class_of(condition) as f32, y);
            }
            values.insert(label, y);
        }
        for op in &self.vector_ops {
            let (VectorOp::Linear { y: id, .. }
            | VectorOp::Silu { y: id, .. }
            | VectorOp::Activate { y: id, .. }
            | VectorOp::Class { y: id }
            | VectorOp::Add { y: id, .. }
            | VectorOp::Embedding { y: id, .. }) = *op;
            let mut y = fresh(values, id);
            let width = len(id);
            match *op {
                VectorOp::Linear { x, w, b, .. } => {
                    let (inputs, x) = (len(x), View::dense(&values[&x], len(x)));
                    let y = &mut ViewMut::dense(&mut y, width);
                    linear::forward(isa, team, n, inputs, x, parameters.get(w), parameters.get(b), y);
                }
                VectorOp::Silu { x, .. } => elementwise::silu(isa, &values[&x][..n * width], &mut y[..n * width]),
                VectorOp::Activate { x, .. } => {
                    let kind = shapes::activation(config.activation).expect("SiLU has an operation of its own");
                    activation::forward(kind, isa, team, &values[&x][..n * width], &mut y[..n * width]);
                }
                VectorOp::Class { .. } => {
                    for (condition, y) in conditions.iter().zip(y.chunks_exact_mut(width)) {
                        y.fill(class_of(condition) as f32);
                    }
                }
                VectorOp::Add { a, b, .. } => {
                    for ((y, a), b) in y.iter_mut().zip(values[&a].iter()).zip(values[&b].iter()) {
                        *y = a + b;
                    }
                }
                VectorOp::Embedding { table, row, .. } => {
                    for (condition, y) in conditions.iter().zip(y.chunks_exact_mut(width)) {
                        let row = embedding_row(row, condition);
                        y.copy_from_slice(&parameters.get(table)[row * width..(row + 1) * width]);
                    }
                }
            }
            values.insert(id, y);
        }
    }

    /// Adds the parameters' gradient to `gradient` (of all parameters), given the gradients of the vectors. Overwrites
    /// the latter as scratch memory.
    #[allow(clippy::too_many_arguments)] // what the forward pass took, and the gradients
    pub fn vectors_backward(
        &self,
        config: &Config,
        machine: Machine<'_>,
        parameters: Store<'_>,
        conditions: &[ConditioningKey],
        vectors: &Vectors,
        by_vector: &mut HashMap<ValueId, Vec<f32>>,
        gradient: &mut [f32],
    ) {
        let n = conditions.len();
        let Machine { isa, team, .. } = machine;
        let len = |id: ValueId| self.value(id).len();
        let specs = self.layout.specs();
        let values = &vectors.values;
        let take =
            |by: &mut HashMap<ValueId, Vec<f32>>, id: ValueId| by.remove(&id).unwrap_or_else(|| vec![0.0; n * len(id)]);
        for op in self.vector_ops.iter().rev() {
            match *op {
                VectorOp::Linear { x, w, b, y } => {
                    let (dy, mut dx) = (take(by_vector, y), take(by_vector, x));
                    let [dw, db] = gradient
                        .get_disjoint_mut([specs[w].range(), specs[b].range()])
                        .expect("parameters do not overlap");
                    let into = linear::Gradients { dx: &mut dx, dw, db };
                    let weights = parameters.get(w);
                    linear::backward(isa, team, n, len(x), View::dense(&values[&x], len(x)), weights, &dy, into);
                    by_vector.insert(x, dx);
                }
                VectorOp::Silu { x, y } => {
                    let mut dy = take(by_vector, y);
                    elementwise::silu_backward(isa, &values[&x][..dy.len()], &mut dy);
                    add_to(&mut take(by_vector, x), &dy, |dx| by_vector.insert(x, dx));
                }
                VectorOp::Activate { x, y } => {
                    let kind = shapes::activation(config.activation).expect("SiLU has an operation of its own");
                    let (dy, mut dx) = (take(by_vector, y), take(by_vector, x));
                    activation::backward(kind, isa, team, &values[&x][..dy.len()], &dy, &mut dx, true);
                    by_vector.insert(x, dx);
                }
                // A class number has no gradient.
                VectorOp::Class { .. } => {}
                VectorOp::Add { a, b, y } => {
                    let dy = take(by_vector, y);
                    add_to(&mut take(by_vector, a), &dy, |da| by_vector.insert(a, da));
                    add_to(&mut take(by_vector, b), &dy, |db| by_vector.insert(b, db));
                }
                VectorOp::Embedding { table, row, y } => {
                    let dy = take(by_vector, y);
                    let width = len(y);
                    let dtable = &mut gradient[specs[table].range()];
                    for (condition, dy) in conditions.iter().zip(dy.chunks_exact(width)) {
                        let row = embedding_row(row, condition);
                        for (d, dy) in dtable[row * width..(row + 1) * width].iter_mut().zip(dy) {
                            *d += dy;
                        }
                    }
                }
            }
        }
    }

    /// Copies the vectors that blocks read into rows.
    pub fn gather_rows(&self, layout: &RowLayout, vectors: &Vectors, n: usize, rows: &mut [f32]) {
        for (value, place) in layout.places() {
            let values = vectors.values[&value].chunks_exact(place.len());
            for (row, values) in rows.chunks_exact_mut(layout.len().max(1)).zip(values).take(n) {
                row[place.clone()].copy_from_slice(values);
            }
        }
    }
}

fn add_to(sum: &mut Vec<f32>, more: &[f32], put: impl FnOnce(Vec<f32>) -> Option<Vec<f32>>) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum += more;
    }
    put(std::mem::take(sum));
}
