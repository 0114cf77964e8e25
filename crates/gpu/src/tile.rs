//! The matrix product of two tiles in shared memory: the inner loop of convolutions, their gradients and attention.
//!
//! A group of 256 units is a square of 16×16. Each unit holds `rows`×`columns` sums, 16 apart in both directions, so that
//! neighbouring units read and write neighbouring elements. Every sum is one chain of multiply-adds over the depth.

use cubecl::prelude::*;

/// Side of the square of units.
pub(crate) const SIDE: usize = 16;

/// Depth of a pair of tiles.
pub(crate) const DEPTH: usize = 16;

/// Elements of a tile of `width`, which has one column more than it needs: columns of a power of two would meet in the same
/// memory banks.
pub(crate) const fn len(width: usize) -> usize {
    DEPTH * (width + 1)
}

/// Adds the product of the tiles `[depth][16·rows]` and `[depth][16·columns]` to the unit's sums, `[rows][columns]`.
#[cube]
pub(crate) fn multiply(
    left: &Shared<[f32]>,
    right: &Shared<[f32]>,
    sums: &mut Array<f32>,
    #[comptime] rows: usize,
    #[comptime] columns: usize,
) {
    let unit = UNIT_POS as usize;
    let (row, column) = (unit / SIDE, unit % SIDE);
    let (left_width, right_width) = comptime!((SIDE * rows + 1, SIDE * columns + 1));
    let mut a = Array::<f32>::new(rows);
    let mut b = Array::<f32>::new(columns);
    for k in 0..DEPTH {
        #[unroll]
        for i in 0..rows {
            a[i] = left[k * left_width + row + SIDE * i];
        }
        #[unroll]
        for j in 0..columns {
            b[j] = right[k * right_width + column + SIDE * j];
        }
        #[unroll]
        for i in 0..rows {
            #[unroll]
            for j in 0..columns {
                sums[i * columns + j] = fma(a[i], b[j], sums[i * columns + j]);
            }
        }
    }
}

/// Sets the unit's sums to zero.
#[cube]
pub(crate) fn clear(sums: &mut Array<f32>, #[comptime] len: usize) {
    #[unroll]
    for i in 0..len {
        sums[i] = 0.0f32;
    }
}
