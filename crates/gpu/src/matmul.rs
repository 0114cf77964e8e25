//! Batched matrix products with arbitrary strides: linear layers and attention.

use cubecl::prelude::*;

use half::{bf16, f16};

use crate::buffer::{Buffer, Element};
use crate::device::Gpu;
use crate::grid;
use crate::tile::{self, DEPTH, Multiplier, Plain, Tiling, Units};
use crate::tuning;

/// A matrix for each image and head: element (i, j) is at `offset + image·by_image + head·by_head + i·by_row + j·by_column`.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// The memory.
    pub buffer: Buffer,
    /// Place of the first element.
    pub offset: usize,
    /// Elements from one image's matrix to the next.
    pub by_image: usize,
    /// Elements from one head's matrix to the next.
    pub by_head: usize,
    /// Elements from one row to the next.
    pub by_row: usize,
    /// Elements from one column to the next.
    pub by_column: usize,
    /// How the elements are stored.
    pub element: Element,
}

impl Matrix {
    /// The transposed matrix.
    pub fn transpose(&self) -> Self {
        Self { by_row: self.by_column, by_column: self.by_row, ..self.clone() }
    }

    fn check(&self, shape: &Shape, rows: usize, columns: usize, what: &str) {
        let last = self.offset
            + (shape.images - 1) * self.by_image
            + (shape.heads - 1) * self.by_head
            + (rows - 1) * self.by_row
            + (columns - 1) * self.by_column;
        let len = self.element.per_word() * self.buffer.len();
        assert!(last < len, "{what} of {shape:?} ends at {last} of {len}");
    }

    fn arg(&self) -> BufferArg {
        self.buffer.arg_of(self.element)
    }

    fn launch(&self) -> PlaceLaunch {
        PlaceLaunch::new(self.offset, self.by_image, self.by_head, self.by_row, self.by_column)
    }
}

/// Sizes of a product of `rows`×`depth` by `depth`×`columns`, for each image and head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Number of images.
    pub images: usize,
    /// Number of heads.
    pub heads: usize,
    /// Rows of the left factor.
    pub rows: usize,
    /// Columns of the right factor.
    pub columns: usize,
    /// Length of each sum.
    pub depth: usize,
    /// Whether rows are images, as in a linear layer: their number then does not choose the tile.
    pub rows_are_images: bool,
}

#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Place {
    offset: usize,
    by_image: usize,
    by_head: usize,
    by_row: usize,
    by_column: usize,
}

#[cube]
fn place(p: &Place, image: usize, head: usize) -> usize {
    p.offset + image * p.by_image + head * p.by_head
}

#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Extent {
    batches: usize,
    heads: usize,
    rows: usize,
    columns: usize,
    depth: usize,
}

/// What is compiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Variant {
    bias: bool,
    accumulate: bool,
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn product<L: Float, R: Float, O: Float, P: Multiplier>(
    left: &[L],
    right: &[R],
    bias: &[f32],
    out: &mut [O],
    l: Place,
    r: Place,
    o: Place,
    e: Extent,
    bias_offset: usize,
    scale: f32,
    #[comptime] v: Variant,
    #[comptime] t: Tiling,
) {
    let row_tiles = e.rows.div_ceil(comptime!(t.height()));
    let column_tiles = e.columns.div_ceil(comptime!(t.width()));
    let batch = CUBE_POS / (row_tiles * column_tiles);
    let first_row = CUBE_POS / column_tiles % row_tiles * comptime!(t.height());
    let first_column = CUBE_POS % column_tiles * comptime!(t.width());
    if batch < e.batches {
        let (image, head) = (batch / e.heads, batch % e.heads);
        let (l_at, r_at, o_at) = (place(&l, image, head), place(&r, image, head), place(&o, image, head));
        let mut tiles = P::begin(t);
        let mut begin = 0usize;
        while begin < e.depth {
            #[unroll]
            for i in 0..t.rows {
                let (row, depth) = tile::element_of(i, comptime!(t.height()), t.left_deep);
                let mut value = 0.0f32;
                if begin + depth < e.depth && first_row + row < e.rows {
                    value = f32::cast_from(left[l_at + (first_row + row) * l.by_row + (begin + depth) * l.by_column]);
                }
                P::set_left(&mut tiles, row, depth, value, t);
            }
            #[unroll]
            for j in 0..t.columns {
                let (column, depth) = tile::element_of(j, comptime!(t.width()), t.right_deep);
                let mut value = 0.0f32;
                if begin + depth < e.depth && first_column + column < e.columns {
                    value = f32::cast_from(
                        right[r_at + (begin + depth) * r.by_row + (first_column + column) * r.by_column],
                    );
                }
                P::set_right(&mut tiles, depth, column, value, t);
            }
            P::multiply(&mut tiles, t);
            begin += DEPTH;
        }
        P::end(&mut tiles, t);
        #[unroll]
        for i in 0..t.rows {
            let row = first_row + tile::row_of(i);
            if row < e.rows {
                #[unroll]
                for j in 0..t.columns {
                    let column = first_column + tile::column_of(j);
                    if column < e.columns {
                        let mut sum = P::sum(&tiles, i, j, t) * scale;
                        if comptime!(v.bias) {
                            sum += bias[bias_offset + column];
                        }
                        let at = o_at + row * o.by_row + column * o.by_column;
                        if comptime!(v.accumulate) {
                            sum += f32::cast_from(out[at]);
                        }
                        out[at] = O::cast_from(sum);
                    }
                }
            }
        }
    }
}

/// out = scale·left·right + bias, or out += that. The bias has one element per column, from its place on.
///
/// Each element is one chain of multiply-adds, whatever the tile and the number of images.
///
/// # Panics
/// A matrix does not fit its buffer. Of matrices in half precision, only the products that attention needs are there: of two
/// into one in single precision, and of one in single by one in half into one in half precision.
#[allow(clippy::too_many_arguments)] // operands and result
pub fn multiply(
    gpu: &Gpu,
    shape: &Shape,
    scale: f32,
    left: &Matrix,
    right: &Matrix,
    bias: Option<(&Buffer, usize)>,
    out: &Matrix,
    accumulate: bool,
) {
    let Shape { images, heads, rows, columns, depth, rows_are_images } = *shape;
    let batches = images * heads;
    if batches * rows * columns == 0 {
        return;
    }
    assert!(depth > 0, "{shape:?} sums nothing");
    left.check(shape, rows, depth, "left factor");
    right.check(shape, depth, columns, "right factor");
    out.check(shape, rows, columns, "product");
    let (bias_buffer, bias_offset) = bias.unwrap_or((&left.buffer, 0));
    assert!(bias.is_none() || bias_offset + columns <= bias_buffer.len(), "bias of {shape:?}");
    let sums = |len: usize| {
        if len > 32 {
            4
        } else if len > 16 {
            2
        } else {
            1
        }
    };
    // A tile is filled in the order that its factor has in memory.
    let guess = Tiling {
        rows: if rows_are_images { 2 } else { sums(rows) },
        columns: sums(columns),
        left_deep: left.by_column == 1,
        right_deep: right.by_row == 1,
        units: gpu.units_for(right.element),
    };
    use Element::{BF16, F16, F32};
    let kernel = match (left.element, right.element, out.element, guess.units) {
        (F32, F32, F32, _) => product::launch_unchecked::<f32, f32, f32, Plain>,
        (F16, F16, F32, None) => product::launch_unchecked::<f16, f16, f32, Plain>,
        (F16, F16, F32, Some(_)) => product::launch_unchecked::<f16, f16, f32, Units<f16>>,
        (F32, F16, F16, None) => product::launch_unchecked::<f32, f16, f16, Plain>,
        (F32, F16, F16, Some(_)) => product::launch_unchecked::<f32, f16, f16, Units<f16>>,
        (BF16, BF16, F32, None) => product::launch_unchecked::<bf16, bf16, f32, Plain>,
        (BF16, BF16, F32, Some(_)) => product::launch_unchecked::<bf16, bf16, f32, Units<bf16>>,
        (F32, BF16, BF16, None) => product::launch_unchecked::<f32, bf16, bf16, Plain>,
        (F32, BF16, BF16, Some(_)) => product::launch_unchecked::<f32, bf16, bf16, Units<bf16>>,
        (left, right, out, _) => panic!("no product of matrices stored as {left:?} and {right:?} into one of {out:?}"),
    };
    let launch = |tiling: Tiling, into: &Buffer| {
        // SAFETY: the last element of each matrix, and with it all others, was checked against its buffer; the one to write into
        // is as long as the product's.
        unsafe {
            kernel(
                &gpu.client,
                grid::groups(batches * tiling.groups(rows, columns)),
                grid::dim(),
                left.arg(),
                right.arg(),
                bias_buffer.arg(),
                into.arg_of(out.element),
                left.launch(),
                right.launch(),
                out.launch(),
                ExtentLaunch::new(batches, heads, rows, columns, depth),
                bias_offset,
                scale,
                Variant { bias: bias.is_some(), accumulate },
                tiling,
            );
        }
    };
    let product = tuning::Product {
        kind: match (guess.left_deep, guess.right_deep) {
            (true, true) => "product by the transposed matrix",
            (true, false) => "product",
            (false, true) => "product of both transposed matrices",
            (false, false) => "product of the transposed matrix",
        },
        rows,
        columns,
        depth,
        images: batches,
        fused: "",
        element: right.element,
    };
    // A linear layer is too small to matter; its rows are images.
    let tiling = if rows_are_images { guess } else { gpu.tiling(product, guess, out.buffer.len(), launch) };
    launch(tiling, &out.buffer);
}
