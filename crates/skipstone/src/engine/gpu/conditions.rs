//! The vectors that condition the blocks, computed on the device: rows of a table, one for each condition.

use std::collections::HashMap;

use skipstone_gpu::conv::Vectors;
use skipstone_gpu::elementwise::{self, Activation};
use skipstone_gpu::matmul::{self, Matrix};
use skipstone_gpu::{ALIGNMENT, Buffer, Element, Gpu, Result, View, embedding};

use super::execute::Store;
use crate::engine::inputs::{ConditioningKey, RowLayout, class_of, embedding_row, time_embedding};
use crate::unet::Config;
use crate::unet::graph::{Graph, Row, ValueId, VectorOp};

/// The vectors that blocks read, `[capacity, row]`, and the row of each image of a call.
#[derive(Debug)]
pub(super) struct Table {
    rows: Buffer,
    width: usize,
    capacity: usize,
    pub row_of: Buffer,
}

impl Table {
    pub fn new(gpu: &Gpu, layout: &RowLayout, capacity: usize, images: usize) -> Result<Self> {
        let width = layout.len().max(1).next_multiple_of(ALIGNMENT);
        let (rows, row_of) = (gpu.reserve(capacity * width)?, gpu.reserve(images)?);
        Ok(Self { rows, width, capacity, row_of })
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The vectors of a value that blocks read.
    pub fn vectors(&self, layout: &RowLayout, value: ValueId) -> Vectors {
        let place = layout.place(value).expect("a vector that blocks read");
        let view = View::part(self.rows.clone(), self.width, place.start);
        Vectors { view, rows: self.capacity, row_of: self.row_of.clone() }
    }

    /// Copies the rows of `other` to the beginning.
    pub fn copy_from(&self, gpu: &Gpu, other: &Self) {
        let rows = other.capacity.min(self.capacity);
        let views = [&other.rows, &self.rows].map(|rows| View::dense(rows.clone(), self.width));
        elementwise::add_rows(gpu, rows, self.width, 1.0, &views[0], &views[1], false);
    }
}

/// All vectors of some conditions that no block reads, by value, `[n, len]`, and the table rows that they select.
#[derive(Debug, Default)]
pub(super) struct VectorValues {
    values: HashMap<ValueId, Buffer>,
    rows: HashMap<Selector, Buffer>,
    capacity: usize,
}

/// [`Row`], as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Selector {
    Time,
    Class,
}

impl From<Row> for Selector {
    fn from(row: Row) -> Self {
        match row {
            Row::Time => Self::Time,
            Row::Class => Self::Class,
        }
    }
}

impl VectorValues {
    /// Memory for a value of `n` conditions; one allocation serves all later calls of this size.
    fn fresh(&mut self, gpu: &Gpu, id: ValueId, len: usize) -> Result<Buffer> {
        if let Some(buffer) = self.values.get(&id) {
            return Ok(buffer.clone());
        }
        let buffer = gpu.reserve(self.capacity * len)?;
        self.values.insert(id, buffer.clone());
        Ok(buffer)
    }

    fn set_capacity(&mut self, n: usize) {
        if n > self.capacity {
            *self = Self { capacity: n, ..Self::default() };
        }
    }

    fn select(&mut self, gpu: &Gpu, row: Row, conditions: &[ConditioningKey]) -> Result<Buffer> {
        let rows: Vec<u32> = conditions.iter().map(|key| embedding_row(row, key) as u32).collect();
        let capacity = self.capacity;
        let buffer = match self.rows.entry(row.into()) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.get().clone(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(gpu.reserve(capacity)?).clone(),
        };
        gpu.write_integers(&buffer, &rows);
        Ok(buffer)
    }
}

/// What the vector operations need.
#[derive(Clone, Copy)]
pub(super) struct Vectoriser<'a> {
    pub gpu: &'a Gpu,
    pub graph: &'a Graph,
    pub config: &'a Config,
    pub layout: &'a RowLayout,
    pub parameters: Store<'a>,
}

impl Vectoriser<'_> {
    fn len(&self, id: ValueId) -> usize {
        self.graph.value(id).len()
    }

    /// Where a value's vectors are: in the table from row `first` on, if blocks read them.
    fn view(&self, id: ValueId, values: &mut VectorValues, table: &Table, first: usize) -> Result<View> {
        Ok(match self.layout.place(id) {
            Some(place) => {
                let rows = table.rows.slice(first * table.width, (table.capacity - first) * table.width);
                View::part(rows, table.width, place.start)
            }
            None => View::dense(values.fresh(self.gpu, id, self.len(id))?, self.len(id)),
        })
    }

    /// Rows of numbers computed by the host.
    fn put(&self, n: usize, view: &View, len: usize, row: impl Fn(usize, &mut [f32])) -> Result<()> {
        let mut rows = vec![0.0; n * len];
        rows.chunks_exact_mut(len).enumerate().for_each(|(i, out)| row(i, out));
        let rows = View::dense(self.gpu.upload(&rows)?, len);
        elementwise::add_rows(self.gpu, n, len, 1.0, &rows, view, false);
        Ok(())
    }

    /// Computes the vectors of `conditions` into the table's rows from `first` on.
    pub fn compute(
        &self,
        conditions: &[ConditioningKey],
        values: &mut VectorValues,
        table: &Table,
        first: usize,
    ) -> Result<()> {
        let (gpu, n) = (self.gpu, conditions.len());
        values.set_capacity(n);
        if let Some(time) = self.graph.time {
            let view = self.view(time, values, table, first)?;
            let number = |i: usize, out: &mut [f32]| {
                time_embedding(self.config, f32::from_bits(conditions[i].time), out);
            };
            self.put(n, &view, self.len(time), number)?;
        }
        if let Some(label) = self.graph.label {
            let view = self.view(label, values, table, first)?;
            let number = |i: usize, out: &mut [f32]| time_embedding(self.config, class_of(&conditions[i]) as f32, out);
            self.put(n, &view, self.len(label), number)?;
        }
        for op in &self.graph.vector_ops {
            match *op {
                VectorOp::Linear { x, w, b, y } => {
                    let (inputs, outputs) = (self.len(x), self.len(y));
                    let (from, to) = (self.view(x, values, table, first)?, self.view(y, values, table, first)?);
                    let shape = linear(n, outputs, inputs);
                    let bias = (self.parameters.buffer, self.parameters.place(b));
                    let weights = weights(self.parameters.buffer, self.parameters.place(w), inputs).transpose();
                    matmul::multiply(gpu, &shape, 1.0, &rows_of(&from), &weights, Some(bias), &rows_of(&to), false);
                }
                VectorOp::Silu { x, y } | VectorOp::Activate { x, y } => {
                    let (from, to) = (self.view(x, values, table, first)?, self.view(y, values, table, first)?);
                    elementwise::activation(gpu, self.activation(op), n, self.len(x), &from, &to);
                }
                VectorOp::Class { y } => {
                    let view = self.view(y, values, table, first)?;
                    self.put(n, &view, self.len(y), |i, out| out.fill(class_of(&conditions[i]) as f32))?;
                }
                VectorOp::Add { a, b, y } => {
                    let to = self.view(y, values, table, first)?;
                    for (x, accumulate) in [(a, false), (b, true)] {
                        let from = self.view(x, values, table, first)?;
                        elementwise::add_rows(gpu, n, self.len(y), 1.0, &from, &to, accumulate);
                    }
                }
                VectorOp::Embedding { table: parameter, row, y } => {
                    let to = self.view(y, values, table, first)?;
                    let rows = values.select(gpu, row, conditions)?;
                    let table = self.parameters.table(parameter, self.len(y));
                    embedding::look_up(gpu, n, self.len(y), self.parameters.buffer, table, &rows, &to);
                }
            }
        }
        Ok(())
    }

    fn activation(&self, op: &VectorOp) -> Activation {
        match op {
            VectorOp::Activate { .. } => self.config.activation.into(),
            _ => Activation::Silu,
        }
    }

    /// Adds the parameters' gradient to `gradient`, given those of the vectors, `[n, len]`, which are left changed. `values` and
    /// `table` are those of [`compute`](Self::compute) with the same conditions, from row 0 on.
    pub fn backward(
        &self,
        conditions: &[ConditioningKey],
        values: &mut VectorValues,
        table: &Table,
        by_vector: &mut VectorGradients,
        gradient: &Buffer,
    ) -> Result<()> {
        let (gpu, n) = (self.gpu, conditions.len());
        for op in self.graph.vector_ops.iter().rev() {
            match *op {
                VectorOp::Linear { x, w, b, y } => {
                    let (inputs, outputs) = (self.len(x), self.len(y));
                    let (dy, dx) = (by_vector.get(gpu, y, n * outputs)?, by_vector.get(gpu, x, n * inputs)?);
                    let from = self.view(x, values, table, 0)?;
                    let (dy_rows, dx_rows) = (View::dense(dy.clone(), outputs), View::dense(dx, inputs));
                    let w_rows = weights(self.parameters.buffer, self.parameters.place(w), inputs);
                    let (dy_matrix, dx_matrix) = (rows_of(&dy_rows), rows_of(&dx_rows));
                    matmul::multiply(
                        gpu,
                        &linear(n, inputs, outputs),
                        1.0,
                        &dy_matrix,
                        &w_rows,
                        None,
                        &dx_matrix,
                        true,
                    );
                    let dw = weights(gradient, self.parameters.place(w), inputs);
                    let shape = matmul::Shape { rows_are_images: false, ..linear(outputs, inputs, n) };
                    matmul::multiply(gpu, &shape, 1.0, &dy_matrix.transpose(), &rows_of(&from), None, &dw, true);
                    elementwise::sum_rows(gpu, 1, n, outputs, &dy_rows, gradient, self.parameters.place(b), true);
                }
                VectorOp::Silu { x, y } | VectorOp::Activate { x, y } => {
                    let len = self.len(x);
                    let (dy, dx) = (by_vector.get(gpu, y, n * len)?, by_vector.get(gpu, x, n * len)?);
                    let from = self.view(x, values, table, 0)?;
                    let (dy, dx) = (View::dense(dy, len), View::dense(dx, len));
                    elementwise::activation_backward(gpu, self.activation(op), n, len, &from, &dy, &dx, true);
                }
                // A class number has no gradient.
                VectorOp::Class { .. } => {}
                VectorOp::Add { a, b, y } => {
                    let len = self.len(y);
                    let dy = View::dense(by_vector.get(gpu, y, n * len)?, len);
                    for x in [a, b] {
                        let dx = View::dense(by_vector.get(gpu, x, n * len)?, len);
                        elementwise::add_rows(gpu, n, len, 1.0, &dy, &dx, true);
                    }
                }
                VectorOp::Embedding { table: parameter, row, y } => {
                    let len = self.len(y);
                    let dy = by_vector.get(gpu, y, n * len)?;
                    let rows = values.select(gpu, row, conditions)?;
                    embedding::look_up_backward(
                        gpu,
                        n,
                        len,
                        &dy,
                        &rows,
                        gradient,
                        self.parameters.table(parameter, len),
                    );
                }
            }
        }
        Ok(())
    }
}

fn linear(rows: usize, columns: usize, depth: usize) -> matmul::Shape {
    matmul::Shape { images: 1, heads: 1, rows, columns, depth, rows_are_images: true }
}

/// The vectors of a view, one per row.
fn rows_of(view: &View) -> Matrix {
    let View { buffer, stride, offset, element } = view.clone();
    Matrix { buffer, offset, by_image: 0, by_head: 0, by_row: stride, by_column: 1, element }
}

/// The weights of a linear layer, `[outputs, inputs]`.
fn weights(parameters: &Buffer, offset: usize, inputs: usize) -> Matrix {
    let element = Element::F32;
    Matrix { buffer: parameters.clone(), offset, by_image: 0, by_head: 0, by_row: inputs, by_column: 1, element }
}

/// Gradients of vectors, zero until something is added.
#[derive(Debug, Default)]
pub(super) struct VectorGradients {
    buffers: HashMap<ValueId, Buffer>,
    /// Values that have a contribution in this pass.
    used: std::collections::HashSet<ValueId>,
    capacity: usize,
}

impl VectorGradients {
    /// Forgets all contributions. `n` is the number of images of the pass.
    pub fn clear(&mut self, n: usize) {
        self.used.clear();
        if n > self.capacity {
            *self = Self { capacity: n, ..Self::default() };
        }
    }

    /// The gradient of a vector, of `len` elements for the pass.
    pub fn get(&mut self, gpu: &Gpu, id: ValueId, len: usize) -> Result<Buffer> {
        let buffer = match self.buffers.get(&id).filter(|buffer| buffer.len() >= len) {
            Some(buffer) => buffer.clone(),
            None => {
                let buffer = gpu.reserve(len)?;
                self.buffers.insert(id, buffer.clone());
                buffer
            }
        };
        if self.used.insert(id) {
            elementwise::fill(gpu, &buffer, len, 0.0);
        }
        Ok(buffer)
    }
}
