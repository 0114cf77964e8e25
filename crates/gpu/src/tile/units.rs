//! Products of tiles of 16-bit numbers on matrix units (tensor cores), through the API's cooperative matrices.
//!
//! The units of a plane (a subgroup) multiply blocks of the tiles together. Factors are rounded to 16 bits when they are
//! set; sums are in f32.

use std::marker::PhantomData;

use crate::buffer::Element;
use cubecl::cmma::{self, MatrixIdent, MatrixLayout};
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use super::{DEPTH, Multiplier, SIDE, Tiling, column_of, row_of};
use crate::grid::UNITS;

/// Elements between the rows of a tile beyond those that it needs, so that rows do not meet in the same memory banks. 16 bytes,
/// to which rows of matrices must be aligned.
const GAP: usize = 8;

/// Rows or columns of the largest tile.
const LARGEST: usize = 4 * SIDE;

/// Bytes of shared memory that the largest tiles and their sums take.
const SHARED: usize = 2 * 2 * LARGEST * (DEPTH + GAP) + 4 * LARGEST * LARGEST;

/// Matrix units that multiply `[m, k]` by `[k, n]` matrices of 16 bits and add in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MatrixUnits {
    m: usize,
    n: usize,
    k: usize,
    /// Planes of a group.
    planes: usize,
}

impl MatrixUnits {
    /// Those of a device for factors stored as `element` that suit the tiles, the largest first.
    pub fn of(properties: &cubecl::ir::DeviceProperties, element: Element) -> Option<Self> {
        let (half, single) = (element.kind()?, ElemType::Float(FloatKind::F32));
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

/// Where the elements of a tile are: `[row][depth]` if it is filled in the order of the depth, else `[depth][row]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Layout {
    deep: bool,
    /// Elements from one row of memory to the next.
    stride: usize,
    len: usize,
}

impl Layout {
    const fn new(rows: usize, deep: bool) -> Self {
        let (high, wide) = if deep { (rows, DEPTH) } else { (DEPTH, rows) };
        Self { deep, stride: wide + GAP, len: high * (wide + GAP) }
    }

    const fn left(t: &Tiling) -> Self {
        Self::new(t.height(), t.left_deep)
    }

    const fn right(t: &Tiling) -> Self {
        Self::new(t.width(), t.right_deep)
    }

    /// Of a matrix whose rows are those of memory if `deep` is what it is here.
    const fn order(&self, deep: bool) -> MatrixLayout {
        if self.deep == deep { MatrixLayout::RowMajor } else { MatrixLayout::ColMajor }
    }
}

#[cube]
fn place(row: usize, depth: usize, #[comptime] layout: Layout) -> usize {
    if comptime!(layout.deep) { row * layout.stride + depth } else { depth * layout.stride + row }
}

/// The number of the unit's plane. The planes count themselves, in any order: the number that the API gives them is an input whose
/// declaration by CubeCL is no valid SPIR-V.
#[cube]
fn number_of_plane() -> usize {
    let counter = Shared::<[Atomic<u32>]>::new_slice(1usize);
    if UNIT_POS == 0 {
        counter[0].store(0u32);
    }
    sync_cube();
    let mut number = 0u32;
    if plane_elect() {
        number = counter[0].fetch_add(1u32);
    }
    plane_broadcast(number, 0u32) as usize
}

/// How the sums are cut into blocks of a matrix unit's size, which the planes compute in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Blocks {
    number: usize,
    /// How many lie side by side.
    across: usize,
    /// How many a plane computes.
    each: usize,
}

impl Blocks {
    const fn new(t: &Tiling, u: &MatrixUnits) -> Self {
        let across = t.width() / u.n;
        let number = t.height() / u.m * across;
        Self { number, across, each: number.div_ceil(u.planes) }
    }
}

/// What the tiling multiplies with.
fn matrix_units(t: &Tiling) -> MatrixUnits {
    t.units.expect("a tiling for matrix units")
}

/// Multiplies factors of type `E` on matrix units: [`Tiling::units`] says which.
pub(crate) struct Units<E>(PhantomData<E>);

#[derive(CubeType)]
pub(crate) struct UnitTiles<E: Float> {
    left: Shared<[E]>,
    right: Shared<[E]>,
    /// The number of the unit's plane.
    plane: usize,
    /// The blocks of the plane.
    products: Sequence<cmma::Matrix<f32>>,
    /// The finished sums, `[row][column]`.
    sums: Shared<[f32]>,
}

#[cube]
impl<E: Float> Multiplier for Units<E> {
    type Tiles = UnitTiles<E>;

    fn begin(#[comptime] t: Tiling) -> UnitTiles<E> {
        let u = comptime!(matrix_units(&t));
        let mut products = Sequence::<cmma::Matrix<f32>>::new();
        #[unroll]
        for _ in 0..comptime!(Blocks::new(&t, &u).each) {
            products.push(cmma::Matrix::<f32>::from_value(
                MatrixIdent::Accumulator,
                u.m,
                u.n,
                u.k,
                MatrixLayout::Undefined,
                0.0f32,
            ));
        }
        UnitTiles::<E> {
            left: Shared::<[E]>::new_slice(comptime!(Layout::left(&t).len)),
            right: Shared::<[E]>::new_slice(comptime!(Layout::right(&t).len)),
            plane: number_of_plane(),
            products,
            sums: Shared::<[f32]>::new_slice(comptime!(t.height() * t.width())),
        }
    }

    fn set_left(tiles: &mut UnitTiles<E>, row: usize, depth: usize, value: f32, #[comptime] t: Tiling) {
        tiles.left[place(row, depth, comptime!(Layout::left(&t)))] = E::cast_from(value);
    }

    fn set_right(tiles: &mut UnitTiles<E>, depth: usize, column: usize, value: f32, #[comptime] t: Tiling) {
        tiles.right[place(column, depth, comptime!(Layout::right(&t)))] = E::cast_from(value);
    }

    fn multiply(tiles: &mut UnitTiles<E>, #[comptime] t: Tiling) {
        sync_cube();
        let u = comptime!(matrix_units(&t));
        let (left, right) = comptime!((Layout::left(&t), Layout::right(&t)));
        let blocks = comptime!(Blocks::new(&t, &u));
        let plane = tiles.plane;
        #[unroll]
        for step in 0..comptime!(DEPTH / u.k) {
            #[unroll]
            for i in 0..blocks.each {
                let block = plane + u.planes * i;
                if plane < u.planes && block < blocks.number {
                    let (row, column) = (block / blocks.across * u.m, block % blocks.across * u.n);
                    let a = cmma::Matrix::<E>::from_slice(
                        MatrixIdent::A,
                        u.m,
                        u.n,
                        u.k,
                        comptime!(left.order(true)),
                        &tiles.left[place(row, u.k * step, left)..comptime!(left.len)],
                        comptime!(left.stride as u32),
                    );
                    let b = cmma::Matrix::<E>::from_slice(
                        MatrixIdent::B,
                        u.m,
                        u.n,
                        u.k,
                        comptime!(right.order(false)),
                        &tiles.right[place(column, u.k * step, right)..comptime!(right.len)],
                        comptime!(right.stride as u32),
                    );
                    let product = tiles.products.index(i);
                    cmma::execute(&a, &b, product, product);
                }
            }
        }
        sync_cube();
    }

    fn end(tiles: &mut UnitTiles<E>, #[comptime] t: Tiling) {
        let u = comptime!(matrix_units(&t));
        let blocks = comptime!(Blocks::new(&t, &u));
        let plane = tiles.plane;
        #[unroll]
        for i in 0..blocks.each {
            let block = plane + u.planes * i;
            if plane < u.planes && block < blocks.number {
                let (row, column) = (block / blocks.across * u.m, block % blocks.across * u.n);
                cmma::store(
                    &mut tiles.sums[row * comptime!(t.width()) + column..comptime!(t.height() * t.width())],
                    tiles.products.index(i),
                    comptime!(t.width() as u32),
                    MatrixLayout::RowMajor,
                );
            }
        }
        sync_cube();
    }

    fn sum(tiles: &UnitTiles<E>, #[comptime] i: usize, #[comptime] j: usize, #[comptime] t: Tiling) -> f32 {
        tiles.sums[row_of(i) * comptime!(t.width()) + column_of(j)]
    }
}
