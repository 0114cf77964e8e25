//! Convolutions in half precision on matrix units (tensor cores), through the API's cooperative matrices.
//!
//! Gathering and writing are those of the plain kernel. In between, the units of a plane (a subgroup) multiply blocks of the
//! tiles together. Operands are rounded to half precision after they are normalised; sums are in f32. As in the plain kernel,
//! each sum runs over the depth in the same order whatever the batch.

use cubecl::cmma::{self, MatrixIdent, MatrixLayout};
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use half::f16;

use super::{Sizes, Target, Variant, finish, gather, locate};
use crate::grid::UNITS;
use crate::tile::{DEPTH, SIDE};

/// Elements between the rows of a tile beyond those that it needs, so that rows do not meet in the same memory banks. 16 bytes,
/// to which rows of matrices must be aligned.
const GAP: usize = 8;

/// The largest tile, four times [`SIDE`] each way.
const LARGEST: usize = 4 * SIDE;

/// Bytes of shared memory that the largest tiles and their sums take.
const SHARED: usize = 2 * LARGEST * (DEPTH + GAP) + 2 * DEPTH * (LARGEST + GAP) + 4 * LARGEST * LARGEST;

/// Matrix units that multiply `[m, k]` by `[k, n]` matrices of f16 and add in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MatrixUnits {
    m: usize,
    n: usize,
    k: usize,
    /// Planes of a group.
    planes: usize,
}

impl MatrixUnits {
    /// Those of a device that suit the tiles, the largest first.
    pub fn of(properties: &cubecl::ir::DeviceProperties) -> Option<Self> {
        let (half, single) = (ElemType::Float(FloatKind::F16), ElemType::Float(FloatKind::F32));
        let fits = |side: u32| side > 0 && SIDE.is_multiple_of(side as usize);
        let found = properties.features.matmul.cmma.iter().filter(|unit| {
            (unit.a_type, unit.b_type, unit.cd_type) == (half, half, single)
                && [unit.m, unit.n].into_iter().all(fits)
                && unit.k > 0
                && DEPTH.is_multiple_of(unit.k as usize)
        });
        let unit = found.max_by_key(|unit| (unit.m * unit.n * unit.k, unit.m))?;
        let hardware = &properties.hardware;
        let plane = hardware.plane_size_max as usize;
        let suits = plane > 0 && plane <= UNITS && hardware.max_shared_memory_size >= SHARED;
        suits.then(|| Self { m: unit.m as usize, n: unit.n as usize, k: unit.k as usize, planes: UNITS / plane })
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn convolve_in_units(
    x: &[f16],
    w: &[f16],
    bias: &[f32],
    ab: &[f32],
    vectors: &[f32],
    row_of: &[u32],
    residual: &[f16],
    y: &mut [f16],
    s: Sizes,
    t: Target,
    #[comptime] v: Variant,
    #[comptime] u: MatrixUnits,
) {
    let (height, width) = comptime!((SIDE * v.rows, SIDE * v.columns));
    let (pixel_stride, weight_stride) = comptime!((DEPTH + GAP, SIDE * v.columns + GAP));
    // Blocks of the tile: their number, how many lie side by side, and how many a plane computes.
    let (blocks, across) = comptime!((SIDE * v.rows / u.m * (SIDE * v.columns / u.n), SIDE * v.columns / u.n));
    let each = comptime!((SIDE * v.rows / u.m * (SIDE * v.columns / u.n)).div_ceil(u.planes));
    let column_tiles = s.c_out.div_ceil(width);
    let first_row = CUBE_POS / column_tiles * height;
    let first_column = CUBE_POS % column_tiles * width;
    if first_row < s.rows {
        let unit = UNIT_POS as usize;
        let plane = PLANE_POS as usize;
        let mut pixels = Shared::<[f16]>::new_slice(comptime!(SIDE * v.rows * (DEPTH + GAP)));
        let mut weights = Shared::<[f16]>::new_slice(comptime!(DEPTH * (SIDE * v.columns + GAP)));
        let mut sums = Shared::<[f32]>::new_slice(comptime!(SIDE * SIDE * v.rows * v.columns));
        let mut products = Sequence::<cmma::Matrix<f32>>::new();
        #[unroll]
        for _ in 0..each {
            products.push(cmma::Matrix::<f32>::from_value(
                MatrixIdent::Accumulator,
                u.m,
                u.n,
                u.k,
                MatrixLayout::Undefined,
                0.0f32,
            ));
        }
        let depth = unit % DEPTH;
        let out_pixels = s.out_height * s.out_width;
        let mut image = Array::<usize>::new(comptime!(v.rows));
        let mut oy = Array::<usize>::new(comptime!(v.rows));
        let mut ox = Array::<usize>::new(comptime!(v.rows));
        locate(first_row + unit / DEPTH, &s, &mut image, &mut oy, &mut ox, v.rows);
        let length = comptime!(v.kernel * v.kernel) * s.c_in;
        let mut begin = 0usize;
        while begin < length {
            let k = begin + depth;
            let (tap, ci) = (k / s.c_in, k % s.c_in);
            let (ky, kx) = (tap / v.kernel, tap % v.kernel);
            #[unroll]
            for i in 0..v.rows {
                let place = unit / DEPTH + SIDE * i;
                let mut value = 0.0f32;
                if k < length && first_row + place < s.rows {
                    value = gather(x, ab, &s, image[i], oy[i], ox[i], ky, kx, ci, v);
                }
                pixels[place * pixel_stride + depth] = f16::cast_from(value);
            }
            #[unroll]
            for j in 0..v.columns {
                let element = unit + comptime!(SIDE * SIDE) * j;
                let (row, column) = (element / width, element % width);
                let mut value = f16::cast_from(0.0f32);
                if begin + row < length && first_column + column < s.c_out {
                    value = w[(begin + row) * s.c_out + first_column + column];
                }
                weights[row * weight_stride + column] = value;
            }
            sync_cube();
            #[unroll]
            for step in 0..comptime!(DEPTH / u.k) {
                #[unroll]
                for i in 0..each {
                    let block = plane + u.planes * i;
                    if plane < u.planes && block < blocks {
                        let (row, column) = (block / across * u.m, block % across * u.n);
                        let a = cmma::Matrix::<f16>::from_slice(
                            MatrixIdent::A,
                            u.m,
                            u.n,
                            u.k,
                            MatrixLayout::RowMajor,
                            &pixels[row * pixel_stride + u.k * step..comptime!(SIDE * v.rows * (DEPTH + GAP))],
                            comptime!((DEPTH + GAP) as u32),
                        );
                        let b = cmma::Matrix::<f16>::from_slice(
                            MatrixIdent::B,
                            u.m,
                            u.n,
                            u.k,
                            MatrixLayout::RowMajor,
                            &weights[u.k * step * weight_stride + column..comptime!(DEPTH * (SIDE * v.columns + GAP))],
                            comptime!((SIDE * v.columns + GAP) as u32),
                        );
                        let product = products.index(i);
                        cmma::execute(&a, &b, product, product);
                    }
                }
            }
            sync_cube();
            begin += DEPTH;
        }
        #[unroll]
        for i in 0..each {
            let block = plane + u.planes * i;
            if plane < u.planes && block < blocks {
                let (row, column) = (block / across * u.m, block % across * u.n);
                cmma::store(
                    &mut sums[row * width + column..comptime!(SIDE * SIDE * v.rows * v.columns)],
                    products.index(i),
                    comptime!((SIDE * v.columns) as u32),
                    MatrixLayout::RowMajor,
                );
            }
        }
        sync_cube();
        #[unroll]
        for i in 0..v.rows {
            let place = unit / SIDE + SIDE * i;
            let row = first_row + place;
            if row < s.rows {
                let image = row / out_pixels;
                #[unroll]
                for j in 0..v.columns {
                    let beside = unit % SIDE + SIDE * j;
                    let column = first_column + beside;
                    if column < s.c_out {
                        let sum = sums[place * width + beside];
                        finish(sum, row, image, column, bias, vectors, row_of, residual, y, &t, v);
                    }
                }
            }
        }
    }
}
