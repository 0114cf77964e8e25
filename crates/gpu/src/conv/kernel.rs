//! The kernel of a convolution: what it gathers and what it writes.

use cubecl::prelude::*;

use super::{Norm, Shape};
use crate::buffer::View;
use crate::math::silu;
use crate::tile::{self, DEPTH, Multiplier, SIDE, Tiling};

/// The part of a kernel that is compiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    pub kernel: usize,
    pub stride: usize,
    pub upsample: bool,
    /// Gathers the pixels that *wrote* to a pixel: the convolution's transpose.
    pub transposed: bool,
    pub norm: bool,
    pub silu: bool,
    pub bias: bool,
    pub vector: bool,
    pub residual: bool,
    pub accumulate: bool,
}

impl Variant {
    /// Reads the pixels that the layer's kernel covers, normalised.
    pub fn gathering(shape: &Shape, norm: Option<&Norm>) -> Self {
        Self {
            kernel: shape.kernel,
            stride: shape.stride,
            upsample: shape.upsample,
            transposed: false,
            norm: norm.is_some(),
            silu: norm.is_some_and(|norm| norm.silu),
            bias: false,
            vector: false,
            residual: false,
            accumulate: false,
        }
    }
}

/// Sizes that a kernel reads at run time.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(crate) struct Sizes {
    /// Output pixels of all images.
    pub rows: usize,
    pub out_height: usize,
    pub out_width: usize,
    pub in_height: usize,
    pub in_width: usize,
    pub c_in: usize,
    pub c_out: usize,
    pub pad: usize,
    pub x_stride: usize,
    pub x_offset: usize,
}

/// The value that tap (`ky`, `kx`) of channel `ci` reads for output pixel (`oy`, `ox`) of an image, normalised; 0 outside.
#[cube]
#[allow(clippy::too_many_arguments)]
pub(crate) fn gather<A: Float>(
    x: &[A],
    ab: &[f32],
    s: &Sizes,
    image: usize,
    oy: usize,
    ox: usize,
    ky: usize,
    kx: usize,
    ci: usize,
    #[comptime] v: Variant,
) -> f32 {
    let up = comptime!(v.upsample as usize);
    let mut value = 0.0f32;
    let mut inside = false;
    let mut iy = 0usize;
    let mut ix = 0usize;
    if comptime!(v.transposed) {
        let (y, x) = (oy + s.pad, ox + s.pad);
        if y >= ky && x >= kx {
            iy = (y - ky) / v.stride;
            ix = (x - kx) / v.stride;
            inside = iy * v.stride + ky == y && ix * v.stride + kx == x && iy < s.in_height && ix < s.in_width;
        }
    } else {
        let (y, x) = (oy * v.stride + ky, ox * v.stride + kx);
        if y >= s.pad && x >= s.pad {
            iy = (y - s.pad) >> up;
            ix = (x - s.pad) >> up;
            inside = iy < s.in_height && ix < s.in_width;
        }
    }
    if inside {
        let pixel = (image * s.in_height + iy) * s.in_width + ix;
        value = f32::cast_from(x[pixel * s.x_stride + s.x_offset + ci]);
        if comptime!(v.norm) {
            let at = image * 2 * s.c_in + ci;
            value = fma(ab[at], value, ab[at + s.c_in]);
            if comptime!(v.silu) {
                value = silu(value);
            }
        }
    }
    value
}

/// The images and positions of the output pixels `row`, `row` + [`SIDE`], …, as many as the unit has rows.
#[cube]
fn locate(
    row: usize,
    s: &Sizes,
    image: &mut Array<usize>,
    oy: &mut Array<usize>,
    ox: &mut Array<usize>,
    #[comptime] rows: usize,
) {
    let out_pixels = s.out_height * s.out_width;
    #[unroll]
    for i in 0..rows {
        let at = row + SIDE * i;
        let pixel = at % out_pixels;
        image[i] = at / out_pixels;
        oy[i] = pixel / s.out_width;
        ox[i] = pixel % s.out_width;
    }
}

/// Where a kernel writes, and what it adds.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Target {
    bias_offset: usize,
    vector_rows: usize,
    vector_stride: usize,
    vector_offset: usize,
    residual_stride: usize,
    residual_offset: usize,
    y_stride: usize,
    y_offset: usize,
    scale: f32,
}

/// `t` fills both tiles in the order that the factors have in memory: pixels by depth, weights by output channel.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn convolve<A: Float, P: Multiplier>(
    x: &[A],
    w: &[A],
    bias: &[f32],
    ab: &[f32],
    vectors: &[f32],
    row_of: &[u32],
    residual: &[A],
    y: &mut [A],
    s: Sizes,
    e: Target,
    #[comptime] v: Variant,
    #[comptime] t: Tiling,
) {
    let column_tiles = s.c_out.div_ceil(comptime!(t.width()));
    let first_row = CUBE_POS / column_tiles * comptime!(t.height());
    let first_column = CUBE_POS % column_tiles * comptime!(t.width());
    if first_row < s.rows {
        let mut tiles = P::begin(t);
        // The pixels that this unit gathers, and the depth at which it does: neighbours read neighbouring channels.
        let unit = UNIT_POS as usize;
        let depth = unit % DEPTH;
        let mut image = Array::<usize>::new(comptime!(t.rows));
        let mut oy = Array::<usize>::new(comptime!(t.rows));
        let mut ox = Array::<usize>::new(comptime!(t.rows));
        locate(first_row + unit / DEPTH, &s, &mut image, &mut oy, &mut ox, t.rows);
        let length = comptime!(v.kernel * v.kernel) * s.c_in;
        let mut begin = 0usize;
        while begin < length {
            let k = begin + depth;
            let (tap, ci) = (k / s.c_in, k % s.c_in);
            let (ky, kx) = (tap / v.kernel, tap % v.kernel);
            #[unroll]
            for i in 0..t.rows {
                let row = unit / DEPTH + SIDE * i;
                let mut value = 0.0f32;
                if k < length && first_row + row < s.rows {
                    value = gather(x, ab, &s, image[i], oy[i], ox[i], ky, kx, ci, v);
                }
                P::set_left(&mut tiles, row, depth, value, t);
            }
            #[unroll]
            for j in 0..t.columns {
                let (column, depth) = tile::element_of(j, comptime!(t.width()), t.right_deep);
                let mut value = 0.0f32;
                if begin + depth < length && first_column + column < s.c_out {
                    value = f32::cast_from(w[(begin + depth) * s.c_out + first_column + column]);
                }
                P::set_right(&mut tiles, depth, column, value, t);
            }
            P::multiply(&mut tiles, t);
            begin += DEPTH;
        }
        P::end(&mut tiles, t);
        let out_pixels = s.out_height * s.out_width;
        #[unroll]
        for i in 0..t.rows {
            let row = first_row + tile::row_of(i);
            if row < s.rows {
                #[unroll]
                for j in 0..t.columns {
                    let column = first_column + tile::column_of(j);
                    if column < s.c_out {
                        let sum = P::sum(&tiles, i, j, t);
                        finish(sum, row, row / out_pixels, column, bias, vectors, row_of, residual, y, &e, v);
                    }
                }
            }
        }
    }
}

/// Adds what the epilogue adds to a sum of products and writes the result.
#[cube]
#[allow(clippy::too_many_arguments)]
fn finish<A: Float>(
    sum: f32,
    row: usize,
    image: usize,
    column: usize,
    bias: &[f32],
    vectors: &[f32],
    row_of: &[u32],
    residual: &[A],
    y: &mut [A],
    e: &Target,
    #[comptime] v: Variant,
) {
    let mut sum = sum;
    if comptime!(v.bias) {
        sum += bias[e.bias_offset + column];
    }
    if comptime!(v.vector) {
        let vector = min(row_of[image] as usize, e.vector_rows - 1);
        sum += vectors[vector * e.vector_stride + e.vector_offset + column];
    }
    if comptime!(v.residual) {
        sum += f32::cast_from(residual[row * e.residual_stride + e.residual_offset + column]);
    }
    let at = row * e.y_stride + e.y_offset + column;
    if comptime!(v.accumulate) {
        sum += f32::cast_from(y[at]);
    }
    y[at] = A::cast_from(sum * e.scale);
}

pub(crate) fn sizes(
    n: usize,
    x: &View,
    pad: usize,
    (c_in, input): (usize, [usize; 2]),
    (c_out, output): (usize, [usize; 2]),
) -> SizesLaunch {
    let [out_height, out_width] = output;
    let rows = n * out_height * out_width;
    SizesLaunch::new(rows, out_height, out_width, input[0], input[1], c_in, c_out, pad, x.stride, x.offset)
}
