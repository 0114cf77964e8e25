//! The product of two tiles in shared memory: the inner loop of convolutions, their gradients and attention.
//!
//! A group of 256 units computes `rows`×`columns` sums for each unit, a square of 16×16 of them at a time. Kernels fill a tile
//! of the left and one of the right factor, [`DEPTH`] deep, and multiply them, until the depth is done. [`Plain`] does so by
//! multiply-adds in single precision, [`Units`] on matrix units (tensor cores). Every sum is one chain over the depth in its
//! order, whatever the tiling: a kernel's result does not depend on it.

mod plain;
mod units;

use cubecl::prelude::*;

pub(crate) use plain::Plain;
pub(crate) use units::{MatrixUnits, Units};

/// Side of the square of units.
pub(crate) const SIDE: usize = 16;

/// Depth of a pair of tiles.
pub(crate) const DEPTH: usize = 16;

/// The part of a product that is compiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tiling {
    /// Sums of a unit in each direction. The left tile has [`SIDE`]·rows rows, the right one [`SIDE`]·columns columns.
    pub rows: usize,
    pub columns: usize,
    /// Whether neighbouring units fill neighbours along the depth, for the left and the right tile.
    pub left_deep: bool,
    pub right_deep: bool,
    /// What [`Units`] multiplies with.
    pub units: Option<MatrixUnits>,
}

impl Tiling {
    /// Rows of the left tile.
    pub const fn height(&self) -> usize {
        SIDE * self.rows
    }

    /// Columns of the right tile.
    pub const fn width(&self) -> usize {
        SIDE * self.columns
    }

    /// Groups that compute a matrix of this size.
    pub fn groups(&self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.height()) * columns.div_ceil(self.width())
    }
}

/// How a group multiplies tiles.
#[cube]
pub(crate) trait Multiplier: Send + Sync + 'static {
    /// Two tiles and the sums.
    type Tiles: CubeType;

    /// Tiles of undefined content and sums of zero.
    fn begin(#[comptime] t: Tiling) -> Self::Tiles;

    /// Sets an element of the left tile.
    fn set_left(tiles: &mut Self::Tiles, row: usize, depth: usize, value: f32, #[comptime] t: Tiling);

    /// Sets an element of the right tile.
    fn set_right(tiles: &mut Self::Tiles, depth: usize, column: usize, value: f32, #[comptime] t: Tiling);

    /// Waits until the tiles are filled, adds their product to the sums, and waits until they may be filled again.
    fn multiply(tiles: &mut Self::Tiles, #[comptime] t: Tiling);

    /// Ends the sums: then they can be read.
    fn end(tiles: &mut Self::Tiles, #[comptime] t: Tiling);

    /// The unit's sum (`i`, `j`), which is in row [`row_of`]`(i)` and column [`column_of`]`(j)` of the product.
    fn sum(tiles: &Self::Tiles, #[comptime] i: usize, #[comptime] j: usize, #[comptime] t: Tiling) -> f32;
}

/// The row of the unit's `i`th sums.
#[cube]
pub(crate) fn row_of(#[comptime] i: usize) -> usize {
    UNIT_POS as usize / SIDE + comptime!(SIDE * i)
}

/// The column of the unit's `j`th sums.
#[cube]
pub(crate) fn column_of(#[comptime] j: usize) -> usize {
    UNIT_POS as usize % SIDE + comptime!(SIDE * j)
}

/// Row and depth of the `i`th element that the unit sets in a tile of `len` rows (or columns): neighbouring units set
/// neighbours along the depth if `deep`, else along the rows.
#[cube]
pub(crate) fn element_of(#[comptime] i: usize, #[comptime] len: usize, #[comptime] deep: bool) -> (usize, usize) {
    let element = UNIT_POS as usize + comptime!(SIDE * SIDE * i);
    if comptime!(deep) { (element / DEPTH, element % DEPTH) } else { (element % len, element / len) }
}
