//! Products of tiles by multiply-adds in single precision, on any device.

use cubecl::prelude::*;

use super::{DEPTH, Multiplier, SIDE, Tiling};

/// Each unit holds its sums, 16 apart in both directions, so that neighbouring units read and write neighbouring elements.
pub(crate) struct Plain;

/// Both tiles are `[depth][row or column]`, with one column more than they need: columns of a power of two would meet in the same
/// memory banks.
#[derive(CubeType)]
pub(crate) struct PlainTiles {
    left: Shared<[f32]>,
    right: Shared<[f32]>,
    sums: Array<f32>,
}

#[cube]
impl Multiplier for Plain {
    type Tiles = PlainTiles;

    fn begin(#[comptime] t: Tiling) -> PlainTiles {
        let mut sums = Array::<f32>::new(comptime!(t.rows * t.columns));
        #[unroll]
        for i in 0..comptime!(t.rows * t.columns) {
            sums[i] = 0.0f32;
        }
        PlainTiles {
            left: Shared::<[f32]>::new_slice(comptime!(DEPTH * (t.height() + 1))),
            right: Shared::<[f32]>::new_slice(comptime!(DEPTH * (t.width() + 1))),
            sums,
        }
    }

    fn set_left(tiles: &mut PlainTiles, row: usize, depth: usize, value: f32, #[comptime] t: Tiling) {
        tiles.left[depth * comptime!(t.height() + 1) + row] = value;
    }

    fn set_right(tiles: &mut PlainTiles, depth: usize, column: usize, value: f32, #[comptime] t: Tiling) {
        tiles.right[depth * comptime!(t.width() + 1) + column] = value;
    }

    fn multiply(tiles: &mut PlainTiles, #[comptime] t: Tiling) {
        sync_cube();
        let unit = UNIT_POS as usize;
        let (row, column) = (unit / SIDE, unit % SIDE);
        let (left_width, right_width) = comptime!((t.height() + 1, t.width() + 1));
        let mut a = Array::<f32>::new(t.rows);
        let mut b = Array::<f32>::new(t.columns);
        for k in 0..DEPTH {
            #[unroll]
            for i in 0..t.rows {
                a[i] = tiles.left[k * left_width + row + SIDE * i];
            }
            #[unroll]
            for j in 0..t.columns {
                b[j] = tiles.right[k * right_width + column + SIDE * j];
            }
            #[unroll]
            for i in 0..t.rows {
                #[unroll]
                for j in 0..t.columns {
                    tiles.sums[i * t.columns + j] = fma(a[i], b[j], tiles.sums[i * t.columns + j]);
                }
            }
        }
        sync_cube();
    }

    fn end(_tiles: &mut PlainTiles, #[comptime] _t: Tiling) {}

    fn sum(tiles: &PlainTiles, #[comptime] i: usize, #[comptime] j: usize, #[comptime] t: Tiling) -> f32 {
        tiles.sums[comptime!(i * t.columns + j)]
    }
}
