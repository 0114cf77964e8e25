//! The gradients of a convolution's weights and bias.
//!
//! The gradient of the weights is the product of the transposed matrix of gathered pixels, `[taps·c_in]` × `[n·pixels]`, and
//! the output's gradient. The sum over pixels is long, so it is cut into parts, which are added up in order at the end:
//! the number of parts follows from the shape and the number of images.

use cubecl::prelude::*;

use crate::buffer::{Buffer, View, multiplying_instance};
use crate::conv::{Norm, Part, Shape, Sizes, Variant, gather, sizes, tile_of};
use crate::device::Gpu;
use crate::grid;
use crate::tile::{self, DEPTH, Multiplier, Tiling};
use crate::tuning::Product;

/// Groups that keep a device busy.
const GROUPS: usize = 512;

/// Least number of pixels that are summed at once.
const LEAST: usize = 512;

/// How the sum over the pixels of a batch is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    parts: usize,
    /// Pixels per part.
    length: usize,
}

impl Cut {
    fn new(shape: &Shape, n: usize) -> Self {
        let rows = n * shape.output_pixels();
        let groups = tiling(shape).groups(shape.taps() * shape.c_in, shape.c_out);
        let parts = GROUPS.div_ceil(groups).min(rows.div_ceil(LEAST)).max(1);
        let length = rows.div_ceil(parts).next_multiple_of(DEPTH);
        Self { parts: rows.div_ceil(length).max(1), length }
    }
}

/// Elements of scratch memory that [`weights`] needs for `n` images.
pub fn scratch(shape: &Shape, n: usize) -> usize {
    Cut::new(shape, n).parts * shape.weights()
}

/// Both tiles are filled in the order that memory has: pixels by channel, and so is their gradient.
fn tiling(shape: &Shape) -> Tiling {
    let (rows, columns) = tile_of(usize::MAX, shape.c_out);
    Tiling { rows, columns, left_deep: false, right_deep: false, units: None }
}

/// Partial sums of Σ x·dy, `[part][tap][c_in][c_out]`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn correlate<A: Float, P: Multiplier>(
    x: &[A],
    ab: &[f32],
    dy: &[A],
    partial: &mut [f32],
    s: Sizes,
    dy_stride: usize,
    dy_offset: usize,
    length: usize,
    #[comptime] v: Variant,
    #[comptime] t: Tiling,
) {
    let taps_channels = comptime!(v.kernel * v.kernel) * s.c_in;
    let row_tiles = taps_channels.div_ceil(comptime!(t.height()));
    let column_tiles = s.c_out.div_ceil(comptime!(t.width()));
    let part = CUBE_POS / (row_tiles * column_tiles);
    let first_row = CUBE_POS / column_tiles % row_tiles * comptime!(t.height());
    let first_column = CUBE_POS % column_tiles * comptime!(t.width());
    let begin = part * length;
    if begin < s.rows {
        let end = min(begin + length, s.rows);
        let unit = UNIT_POS as usize;
        let mut tiles = P::begin(t);
        // The image, row and column of each pixel of a tile.
        let mut places = Shared::<[u32]>::new_slice(comptime!(3 * DEPTH));
        let out_pixels = s.out_height * s.out_width;
        let mut at = begin;
        while at < end {
            if unit < DEPTH {
                let pixel = (at + unit) % out_pixels;
                places[unit] = ((at + unit) / out_pixels) as u32;
                places[DEPTH + unit] = (pixel / s.out_width) as u32;
                places[2 * DEPTH + unit] = (pixel % s.out_width) as u32;
            }
            sync_cube();
            #[unroll]
            for i in 0..t.rows {
                let (place, depth) = tile::element_of(i, comptime!(t.height()), t.left_deep);
                let row = first_row + place;
                let mut value = 0.0f32;
                if row < taps_channels && at + depth < end {
                    let (tap, ci) = (row / s.c_in, row % s.c_in);
                    let (ky, kx) = (tap / v.kernel, tap % v.kernel);
                    let (oy, ox) = (places[DEPTH + depth] as usize, places[2 * DEPTH + depth] as usize);
                    value = gather(x, ab, &s, places[depth] as usize, oy, ox, ky, kx, ci, v);
                }
                P::set_left(&mut tiles, place, depth, value, t);
            }
            #[unroll]
            for j in 0..t.columns {
                let (place, depth) = tile::element_of(j, comptime!(t.width()), t.right_deep);
                let mut value = 0.0f32;
                if at + depth < end && first_column + place < s.c_out {
                    value = f32::cast_from(dy[(at + depth) * dy_stride + dy_offset + first_column + place]);
                }
                P::set_right(&mut tiles, depth, place, value, t);
            }
            P::multiply(&mut tiles, t);
            at += DEPTH;
        }
        P::end(&mut tiles, t);
        #[unroll]
        for i in 0..t.rows {
            let row = first_row + tile::row_of(i);
            if row < taps_channels {
                #[unroll]
                for j in 0..t.columns {
                    let column = first_column + tile::column_of(j);
                    if column < s.c_out {
                        partial[(part * taps_channels + row) * s.c_out + column] = P::sum(&tiles, i, j, t);
                    }
                }
            }
        }
    }
}

/// Adds up the parts of some output channels, in order, and adds them to the parameters' gradient.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn collect(
    partial: &[f32],
    gradient: &mut [f32],
    parts: usize,
    offset: usize,
    first: usize,
    channels: usize,
    c_in: usize,
    c_out: usize,
    taps: usize,
) {
    let i = ABSOLUTE_POS;
    if i < channels * c_in * taps {
        let co = i % channels;
        let ci = i / channels % c_in;
        let tap = i / (channels * c_in);
        let mut sum = 0.0f32;
        for part in 0..parts {
            sum += partial[((part * taps + tap) * c_in + ci) * c_out + first + co];
        }
        gradient[offset + (co * c_in + ci) * taps + tap] += sum;
    }
}

/// Adds the gradient of the weights to `gradient`, at the places of `into`. `scratch` has [`scratch`] elements.
///
/// # Panics
/// A buffer or view is too short for the shape.
#[allow(clippy::too_many_arguments)] // operands and results
pub fn weights(
    gpu: &Gpu,
    shape: &Shape,
    n: usize,
    x: &View,
    norm: Option<&Norm>,
    dy: &View,
    scratch: &Buffer,
    gradient: &Buffer,
    into: &[Part],
) {
    let (c_in, c_out) = (shape.c_in, shape.c_out);
    let rows = n * shape.output_pixels();
    x.check(n * shape.input_pixels(), c_in, "input of a convolution");
    dy.check(rows, c_out, "gradient of a convolution");
    assert_eq!(x.element, dy.element, "pixels and gradient of {shape:?}");
    if n == 0 {
        return;
    }
    let cut = Cut::new(shape, n);
    assert!(scratch.len() >= cut.parts * shape.weights(), "scratch memory of {shape:?}");
    let ab = norm.map_or(scratch, |norm| {
        assert!(norm.ab.len() >= n * 2 * c_in, "normalisation of {shape:?}");
        &norm.ab
    });
    let guess = Tiling { units: gpu.units_for(x.element), ..tiling(shape) };
    let kernel = multiplying_instance!(correlate, x.element, guess.units);
    let launch = |tiling: Tiling, _: &Buffer| {
        // SAFETY: `gather` reads pixels of images below n and coefficients below n·2·c_in; `dy` is read below its rows, and the
        // partial sums written below parts·taps·c_in·c_out. All were checked against the buffers.
        unsafe {
            kernel(
                &gpu.client,
                grid::groups(tiling.groups(shape.taps() * c_in, c_out) * cut.parts),
                grid::dim(),
                x.arg(),
                ab.arg(),
                dy.arg(),
                scratch.arg(),
                sizes(n, x, shape.pad_before, (c_in, shape.input), (c_out, shape.output())),
                dy.stride,
                dy.offset,
                cut.length,
                Variant::gathering(shape, norm),
                tiling,
            );
        }
    };
    let product = Product {
        kind: "gradient of weights",
        rows: shape.taps() * c_in,
        columns: c_out,
        depth: shape.output_pixels(),
        images: n,
        fused: if norm.is_some() { " of normalised pixels" } else { "" },
        element: x.element,
    };
    launch(gpu.tiling(product, guess, 0, launch), scratch);
    for part in into {
        let len = part.channels * c_in * shape.taps();
        assert!(part.first + part.channels <= c_out && part.offset + len <= gradient.len(), "{part:?} of {shape:?}");
        // SAFETY: the part's gradient was checked against the buffer; the partial sums are those written above.
        unsafe {
            collect::launch_unchecked(
                &gpu.client,
                grid::units(len),
                grid::dim(),
                scratch.arg(),
                gradient.arg(),
                cut.parts,
                part.offset,
                part.first,
                part.channels,
                c_in,
                c_out,
                shape.taps(),
            );
        }
    }
}
