//! The weight gradient in Winograd's domain: each of the side² points is a product of two matrices whose inner
//! dimension is the tiles.
//!
//! The tiles are divided into a few parts, each with sums of its own. With a part for every thread, each thread takes its
//! part through both phases, transforms and products, in its own cache. Otherwise, the threads share each phase of one
//! part after the other. Either way, a product is one chain over the tiles of its part, and the parts are added in
//! order.

use std::ops::Range;

use super::{Operands, parts};
use crate::conv::transform::{F2, F4, Transform, both_axes};
use crate::conv::winograd::{Matrices, Reader, Ring, Tiling};
use crate::conv::{Algorithm, Shape, padded};
use crate::isa::{Isa, Simd, kernel};
use crate::micro::columns_times_rows;
use crate::shared::SharedMut;
use crate::team::{Team, with_scratch};
use crate::view::View;

/// Elements of the transformed tiles of a chunk: what the caches of several threads hold.
const CHUNK: usize = 512 << 10;
/// The same for a chunk that a thread processes on its own: what a second-level cache holds.
const ALONE: usize = 96 << 10;
/// Fewest tiles of a chunk: every chunk reads and writes all sums once.
const FEWEST: usize = 96;

/// Adds the gradient of the weights of each output channel.
pub(super) fn add(operands: &Operands<'_>, algorithm: Algorithm) {
    let &Operands { shape, isa, team, n, source, dy, weights } = operands;
    let tiling = Tiling::new(shape, algorithm);
    let (c_in, c_out) = (padded(shape.c_in, isa.lanes()), padded(shape.c_out, 2 * isa.lanes()));
    let strips = n * tiling.down;
    let parts = parts(strips * tiling.across, shape);
    let plane = shape.c_in * c_out;
    with_scratch(parts * tiling.points() * plane + c_in, |scratch| {
        let (u, zeros) = scratch.split_at_mut(parts * tiling.points() * plane);
        zeros.fill(0.0);
        let reader = Reader::new(isa, shape, algorithm, source, zeros);
        let u = SharedMut::new(u);
        let sums = InTiles { shape, isa, tiling, reader, dy, c_out, u: &u, plane };
        let strips_of = |part: usize| strips * part / parts..strips * (part + 1) / parts;
        if parts >= team.threads() {
            team.run(parts, |part| sums.alone(part, strips_of(part)));
        } else {
            (0..parts).for_each(|part| sums.together(team, part, strips_of(part)));
        }
        sums.add(team, parts, weights);
    });
}

/// The weight gradient in Winograd's domain.
struct InTiles<'a> {
    shape: &'a Shape,
    isa: Isa,
    tiling: Tiling,
    reader: Reader,
    dy: View<'a>,
    /// Output channels padded to whole panels.
    c_out: usize,
    /// The sums, `[part, point, panel, c_in, two vectors]`.
    u: &'a SharedMut<'a>,
    /// Sums of a point.
    plane: usize,
}

/// The transformed tiles of a chunk: a matrix \[tile, channels\] for each point.
#[derive(Clone, Copy)]
struct Tiles {
    at: *mut f32,
    row: usize,
    plane: usize,
}

// SAFETY: tasks write only their own rows.
unsafe impl Send for Tiles {}
// SAFETY: as above.
unsafe impl Sync for Tiles {}

impl InTiles<'_> {
    /// Strips of a chunk of at most `elements` transformed elements.
    fn strips(&self, elements: usize, most: usize) -> usize {
        let tiles = elements / (self.tiling.points() * (self.reader.c_in + self.c_out));
        tiles.max(FEWEST).div_ceil(self.tiling.across).min(most)
    }

    /// Lends memory for the transformed input and the transformed gradient of `strips` strips.
    fn with_tiles(&self, strips: usize, f: impl FnOnce(Tiles, Tiles)) {
        let tiles = strips * self.tiling.across;
        // Rows slightly longer than a power of two, so that they do not all map to the same cache sets.
        let [v, m] = [self.reader.c_in, self.c_out].map(|channels| {
            let row = channels + self.isa.lanes();
            (row, tiles * row + 16)
        });
        let points = self.tiling.points();
        with_scratch(points * (v.1 + m.1), |scratch| {
            let (at_v, at_m) = scratch.split_at_mut(points * v.1);
            f(
                Tiles { at: at_v.as_mut_ptr(), row: v.0, plane: v.1 },
                Tiles { at: at_m.as_mut_ptr(), row: m.0, plane: m.1 },
            );
        });
    }

    /// Transforms the input of strip `strip`, which is the `i`th of the chunk.
    ///
    /// # Safety
    /// The strip exists, nobody else accesses its tiles, and the ring belongs to this thread.
    unsafe fn transform(&self, strip: usize, i: usize, ring: &mut Ring, v: Tiles) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let at = v.at.add(i * self.tiling.across * v.row);
            self.reader.transform(strip, ring, Matrices::Single(at), v.plane, v.row);
        }
    }

    /// Transforms the gradient of strip `strip`, which is the `i`th of the chunk.
    ///
    /// # Safety
    /// As [`transform`](Self::transform).
    unsafe fn transform_gradient(&self, strip: usize, i: usize, m: Tiles) {
        let sizes = [self.shape.c_out, self.dy.stride, m.plane, m.row];
        // SAFETY: guaranteed by the caller.
        unsafe {
            let at = m.at.add(i * self.tiling.across * m.row);
            adjoint_strip(self.isa, &self.tiling, self.shape.output(), strip, self.dy.pointer(), sizes, at);
        }
    }

    /// Adds the products of a panel of a point to the sums of `part`, or sets these if `replace`.
    ///
    /// # Safety
    /// Nobody writes the tiles, and nobody else accesses these sums.
    #[allow(clippy::too_many_arguments)] // the operands of a product
    unsafe fn multiply(
        &self,
        part: usize,
        point: usize,
        panel: usize,
        tiles: usize,
        v: Tiles,
        m: Tiles,
        replace: bool,
    ) {
        let width = 2 * self.isa.lanes();
        // SAFETY: guaranteed by the caller.
        unsafe {
            let a = v.at.add(point * v.plane);
            let b = m.at.add(point * m.plane + panel * width);
            let c = self.u.pointer().add((part * self.tiling.points() + point) * self.plane + self.panel(panel));
            columns_times_rows(self.isa, tiles, self.shape.c_in, a, v.row, b, m.row, c, width, replace);
        }
    }

    /// Where the sums of a panel begin in those of a point.
    fn panel(&self, panel: usize) -> usize {
        panel * self.shape.c_in * 2 * self.isa.lanes()
    }

    fn panels(&self) -> usize {
        self.c_out / (2 * self.isa.lanes())
    }

    /// Computes the sums of a part on this thread.
    fn alone(&self, part: usize, strips: Range<usize>) {
        let per_chunk = self.strips(ALONE, strips.len());
        let ring = Ring::len(&self.tiling, self.reader.c_in);
        self.with_tiles(per_chunk, |v, m| {
            with_scratch(ring, |ring| {
                // SAFETY: `ring` has the required length; only this task accesses the part's sums and these tiles.
                unsafe {
                    let mut ring = Ring::new(&self.tiling, self.reader.c_in, ring.as_mut_ptr());
                    for begin in strips.clone().step_by(per_chunk) {
                        let chunk = begin..(begin + per_chunk).min(strips.end);
                        for (i, strip) in chunk.clone().enumerate() {
                            self.transform(strip, i, &mut ring, v);
                            self.transform_gradient(strip, i, m);
                        }
                        let tiles = chunk.len() * self.tiling.across;
                        for point in 0..self.tiling.points() {
                            for panel in 0..self.panels() {
                                self.multiply(part, point, panel, tiles, v, m, begin == strips.start);
                            }
                        }
                    }
                }
            });
        });
    }

    /// Computes the sums of a part on all threads together.
    fn together(&self, team: &Team, part: usize, strips: Range<usize>) {
        let per_chunk = self.strips(CHUNK, strips.len());
        let ring = Ring::len(&self.tiling, self.reader.c_in);
        self.with_tiles(per_chunk, |v, m| {
            for begin in strips.clone().step_by(per_chunk) {
                let chunk = begin..(begin + per_chunk).min(strips.end);
                team.run(2 * chunk.len(), |task| {
                    let (i, strip) = (task / 2, chunk.start + task / 2);
                    // SAFETY: only this task accesses the strip's tiles of `v` or `m`.
                    unsafe {
                        if task % 2 == 0 {
                            with_scratch(ring, |ring| {
                                let mut ring = Ring::new(&self.tiling, self.reader.c_in, ring.as_mut_ptr());
                                self.transform(strip, i, &mut ring, v);
                            });
                        } else {
                            self.transform_gradient(strip, i, m);
                        }
                    }
                });
                let (tiles, panels) = (chunk.len() * self.tiling.across, self.panels());
                team.run(self.tiling.points() * panels, |task| {
                    // SAFETY: only this task accesses this panel's columns of the point's sums; nobody writes `v` or
                    // `m` now.
                    unsafe { self.multiply(part, task / panels, task % panels, tiles, v, m, begin == strips.start) };
                });
            }
        });
    }

    /// Transforms the sums of all parts back and adds them to the weights.
    fn add(&self, team: &Team, parts: usize, weights: &[SharedMut<'_>]) {
        /// Input channels of a task: their weights fill whole cache lines.
        const INPUTS: usize = 16;
        let (c_in, lanes) = (self.shape.c_in, self.isa.lanes());
        team.run(c_in.div_ceil(INPUTS), |task| {
            let mut g = [0.0f32; 9 * 16];
            for first in (0..self.shape.c_out).step_by(lanes) {
                for input in task * INPUTS..c_in.min((task + 1) * INPUTS) {
                    // SAFETY: nobody writes `u` now, `g` holds nine vectors, and only this task accesses the channel's
                    // weights.
                    unsafe {
                        let width = 2 * lanes;
                        let u = self.u.pointer().add(self.panel(first / width) + input * width + first % width);
                        weights_back(self.isa, self.tiling.algorithm, parts, u, self.plane, g.as_mut_ptr());
                        for (lane, dw) in weights[first..].iter().take(lanes).enumerate() {
                            for (tap, dw) in dw.part(input * 9, 9).iter_mut().enumerate() {
                                *dw += g[tap * lanes + lane];
                            }
                        }
                    }
                }
            }
        });
    }
}

kernel! {
    /// A·dy·Aᵀ of the tiles of a strip; the sizes are `[channels, dy's stride, plane, row]`. Channels beyond the last,
    /// up to the next whole panel, become 0.
    unsafe fn adjoint_strip<S>(
        s, tiling: &Tiling, output: [usize; 2], strip: usize, dy: *const f32, sizes: [usize; 4], m: *mut f32,
    ) {
        #[inline(always)]
        #[allow(clippy::needless_range_loop)] // (i, j) is a point of a tile
        unsafe fn run<S: Simd, T: Transform<SIDE, OUT>, const SIDE: usize, const OUT: usize>(
            s: S, tiling: &Tiling, [height, width]: [usize; 2], strip: usize, dy: *const f32,
            [channels, stride, plane, row]: [usize; 4], m: *mut f32,
        ) {
            let (image, top) = (strip / tiling.down, strip % tiling.down * OUT);
            for tile in 0..tiling.across {
                let left = tile * OUT;
                let m = m.wrapping_add(tile * row);
                for c in (0..channels.next_multiple_of(2 * S::LANES)).step_by(S::LANES) {
                    let len = channels.saturating_sub(c).min(S::LANES);
                    let mut d = [[s.zero(); OUT]; OUT];
                    for (i, d) in d.iter_mut().enumerate().take(height - top) {
                        for (j, d) in d.iter_mut().enumerate().take(width - left) {
                            let pixel = (image * height + top + i) * width + left + j;
                            // SAFETY: existing channels of an existing pixel.
                            unsafe { *d = s.load_up_to(dy.add(pixel * stride).wrapping_add(c), len) };
                        }
                    }
                    let d = both_axes!(s, d, T::output_adjoint, OUT, SIDE);
                    for i in 0..SIDE {
                        for j in 0..SIDE {
                            // SAFETY: guaranteed by the caller.
                            unsafe { s.store(m.add((i * SIDE + j) * plane + c), d[i][j]) };
                        }
                    }
                }
            }
        }
        // SAFETY: guaranteed by the caller.
        unsafe {
            match tiling.algorithm {
                Algorithm::Winograd4 => run::<S, F4, 6, 4>(s, tiling, output, strip, dy, sizes, m),
                _ => run::<S, F2, 4, 2>(s, tiling, output, strip, dy, sizes, m),
            }
        }
    }
}

kernel! {
    /// Gᵀ·u·G for one vector of output channels, where u is the sum of `parts` parts: reads point (i, j) of part p at
    /// `u + ((p·side + i)·side + j)·plane`, writes the nine weights to `g`.
    unsafe fn weights_back<S>(s, algorithm: Algorithm, parts: usize, u: *const f32, plane: usize, g: *mut f32) {
        #[inline(always)]
        unsafe fn run<S: Simd, T: Transform<SIDE, OUT>, const SIDE: usize, const OUT: usize>(
            s: S, parts: usize, u: *const f32, plane: usize, g: *mut f32,
        ) {
            let mut rows = [[s.zero(); SIDE]; 3];
            for j in 0..SIDE {
                for (i, k) in T::G.iter().enumerate() {
                    // SAFETY: guaranteed by the caller.
                    let mut v = unsafe { s.load(u.add((i * SIDE + j) * plane)) };
                    for part in 1..parts {
                        // SAFETY: as above.
                        v = s.add(v, unsafe { s.load(u.add(((part * SIDE + i) * SIDE + j) * plane)) });
                    }
                    for (row, k) in rows.iter_mut().zip(k) {
                        row[j] = s.fma(s.splat(*k as f32), v, row[j]);
                    }
                }
            }
            for (y, row) in rows.into_iter().enumerate() {
                for x in 0..3 {
                    let mut sum = s.zero();
                    for (v, k) in row.into_iter().zip(&T::G) {
                        sum = s.fma(s.splat(k[x] as f32), v, sum);
                    }
                    // SAFETY: guaranteed by the caller.
                    unsafe { s.store(g.add((y * 3 + x) * S::LANES), sum) };
                }
            }
        }
        // SAFETY: guaranteed by the caller.
        unsafe {
            match algorithm {
                Algorithm::Winograd4 => run::<S, F4, 6, 4>(s, parts, u, plane, g),
                _ => run::<S, F2, 4, 2>(s, parts, u, plane, g),
            }
        }
    }
}
