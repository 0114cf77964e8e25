//! Rows of tables, and dropout: what integers select.

use cubecl::prelude::*;

use crate::buffer::{Buffer, Element, View, instance};
use crate::device::Gpu;
use crate::grid;

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn look_up_kernel(
    parameters: &[f32],
    rows: &[u32],
    y: &mut [f32],
    table: usize,
    len: usize,
    elements: usize,
    width: usize,
    stride: usize,
    offset: usize,
) {
    if ABSOLUTE_POS < elements {
        let (i, column) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
        let row = min(rows[i] as usize, len - 1);
        y[i * stride + offset + column] = parameters[table + row * width + column];
    }
}

/// Copies row `rows[i]` of a table into row i of y. The table is `[len, width]` at `table` among the parameters; a number
/// that is too large means its last row.
///
/// # Panics
/// A buffer or view is too short.
#[allow(clippy::too_many_arguments)] // operands and result
pub fn look_up(
    gpu: &Gpu,
    n: usize,
    width: usize,
    parameters: &Buffer,
    (table, len): (usize, usize),
    rows: &Buffer,
    y: &View,
) {
    assert!(len > 0 && table + len * width <= parameters.len(), "table of {len} rows");
    assert!(rows.len() >= n, "rows of {n} images");
    assert_eq!(y.element, Element::F32, "rows of a table");
    y.check(n, width, "rows of a table");
    let elements = n * width;
    // SAFETY: the row is clamped to the table, which was checked, as were the other operands.
    unsafe {
        look_up_kernel::launch_unchecked(
            &gpu.client,
            grid::units(elements),
            grid::dim(),
            parameters.arg(),
            rows.arg(),
            y.buffer.arg(),
            table,
            len,
            elements,
            width,
            y.stride,
            y.offset,
        );
    }
}

#[cube(launch_unchecked)]
fn look_up_backward_kernel(
    dy: &[f32],
    rows: &[u32],
    gradient: &mut [f32],
    table: usize,
    len: usize,
    n: usize,
    width: usize,
) {
    // One unit per column, which takes the images in order: several may select the same row.
    let column = ABSOLUTE_POS;
    if column < width {
        for i in 0..n {
            let row = min(rows[i] as usize, len - 1);
            gradient[table + row * width + column] += dy[i * width + column];
        }
    }
}

/// Adds row i of `dy`, `[n, width]`, to row `rows[i]` of the table's gradient.
///
/// # Panics
/// A buffer is too short.
pub fn look_up_backward(
    gpu: &Gpu,
    n: usize,
    width: usize,
    dy: &Buffer,
    rows: &Buffer,
    gradient: &Buffer,
    (table, len): (usize, usize),
) {
    assert!(len > 0 && table + len * width <= gradient.len(), "table of {len} rows");
    assert!(rows.len() >= n && dy.len() >= n * width, "rows of {n} images");
    // SAFETY: the row is clamped to the table, which was checked, as were the other operands.
    unsafe {
        look_up_backward_kernel::launch_unchecked(
            &gpu.client,
            grid::units(width),
            grid::dim(),
            dy.arg(),
            rows.arg(),
            gradient.arg(),
            table,
            len,
            n,
            width,
        );
    }
}

/// A 32-bit hash of an element and its image's key: two rounds of xor-shift-multiply (lowbias32) over the index and both
/// halves of the key.
#[cube]
fn hash(low: u32, high: u32, index: u32) -> u32 {
    let mut h = (index * 0x9E37_79B9u32) ^ low;
    h = (h ^ (h >> 16)) * 0x7FEB_352Du32;
    h = ((h ^ (h >> 15)) * 0x846C_A68Bu32) ^ high;
    h = (h ^ (h >> 16)) * 0x7FEB_352Du32;
    h = (h ^ (h >> 15)) * 0x846C_A68Bu32;
    h ^ (h >> 16)
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn dropout_kernel<A: Float>(
    x: &[A],
    keys: &[u32],
    y: &mut [A],
    elements: usize,
    per_image: usize,
    threshold: u32,
    scale: f32,
    #[comptime] accumulate: bool,
) {
    let i = ABSOLUTE_POS;
    if i < elements {
        let image = i / per_image;
        let mut value = 0.0f32;
        if hash(keys[2 * image], keys[2 * image + 1], (i % per_image) as u32) >= threshold {
            value = scale * f32::cast_from(x[i]);
        }
        if comptime!(accumulate) {
            value += f32::cast_from(y[i]);
        }
        y[i] = A::cast_from(value);
    }
}

/// y = x/(1−p) where an element survives, else 0, or y += that. `keys` are the low and high half of a 64-bit key per image, from
/// which the mask follows: the backward pass is the same function of the gradient. Both views are of images without gaps.
///
/// # Panics
/// A buffer is too short, or a view has gaps.
#[allow(clippy::too_many_arguments)] // operands and result
pub fn dropout(gpu: &Gpu, p: f64, n: usize, per_image: usize, keys: &Buffer, x: &View, y: &View, accumulate: bool) {
    let elements = n * per_image;
    assert!(keys.len() >= 2 * n && x.element == y.element, "dropout of {n} images");
    for view in [x, y] {
        assert!(view.offset == 0 && per_image.is_multiple_of(view.stride), "images with gaps");
        view.check(elements / view.stride, view.stride, "images of dropout");
    }
    let launch = instance!(dropout_kernel, y.element);
    // SAFETY: elements and keys were checked against the buffers.
    unsafe {
        launch(
            &gpu.client,
            grid::units(elements),
            grid::dim(),
            x.arg(),
            keys.arg(),
            y.arg(),
            elements,
            per_image,
            (p * f64::from(u32::MAX)) as u32,
            (1.0 / (1.0 - p)) as f32,
            accumulate,
        );
    }
}
