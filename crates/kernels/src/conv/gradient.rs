//! The gradients of a convolution.
//!
//! The gradient of the input is the transposed layer, which is itself a convolution. The gradient of the weights sums
//! products of an input channel and an output channel over all pixels. In Winograd's domain, each of the side² points
//! is a product of two matrices whose inner dimension is the tiles; by definition, each tap is such a product over the
//! pixels. Both are split into chunks of fixed size that are added one after the other, so the order of a sum does not
//! depend on the threads.

use super::direct::Gather;
use super::stage::Pixels;
use super::transform::{F2, F4, Transform, both_axes};
use super::winograd::{Matrices, Reader, Ring, Tiling};
use super::{Algorithm, Epilogue, Layer, Shape, Source, padded};
use crate::elementwise;
use crate::isa::{Isa, Simd, kernel};
use crate::micro::{columns_times_rows, sums, tiles, with_rows};
use crate::shared::SharedMut;
use crate::sums::column_sums;
use crate::team::{Team, with_scratch};
use crate::view::{View, ViewMut};

/// Elements of the transformed tiles of a chunk: what second-level caches hold.
const CHUNK: usize = 512 << 10;
/// Fewest tiles of a chunk: every chunk reads and writes all sums once.
const FEWEST: usize = 96;
/// Output pixels of a chunk when the gradient is computed by definition.
const PIXELS: usize = 512;

/// Writes the gradient of the input of the convolution `of` to `dx`, or adds it to `dx` if `accumulate`. `layer` is the
/// [transpose](Layer::transpose) of `of`.
///
/// # Panics
/// A view is too short for the shape.
pub fn backward_data(
    layer: &Layer,
    of: &Shape,
    team: &Team,
    n: usize,
    dy: View<'_>,
    dx: &mut ViewMut<'_>,
    accumulate: bool,
) {
    let epilogue = Epilogue { accumulate, ..Epilogue::default() };
    if !of.upsample {
        return layer.forward(team, n, Source::plain(dy), epilogue, dx);
    }
    let doubled = n * of.grid()[0] * of.grid()[1] * of.c_in;
    with_scratch(doubled, |doubled| {
        layer.forward(team, n, Source::plain(dy), Epilogue::default(), &mut ViewMut::dense(doubled, of.c_in));
        elementwise::upsample_backward(
            team,
            layer.isa,
            n,
            of.input,
            of.c_in,
            View::dense(doubled, of.c_in),
            dx,
            accumulate,
        );
    });
}

/// Adds the gradients of weights and bias to `into`, one pair of slices for each part of the weights, in order.
///
/// # Panics
/// A slice or view has another length than the shape implies, or the algorithm does not apply to the shape.
#[allow(clippy::too_many_arguments)] // the operands of a convolution's gradient
pub fn backward_weights(
    shape: &Shape,
    algorithm: Algorithm,
    isa: Isa,
    team: &Team,
    n: usize,
    source: Source<'_>,
    dy: View<'_>,
    into: &mut [(&mut [f32], &mut [f32])],
) {
    let &Shape { c_in, c_out, .. } = shape;
    shape.check();
    assert!(algorithm == Algorithm::Direct || shape.is_winograd(), "{algorithm:?} of {shape:?}");
    let pixels = n * shape.output_pixels();
    source.x.check(n * shape.input_pixels(), c_in, "input of a convolution");
    dy.check(pixels, c_out, "gradient of a convolution");
    assert!(source.norm.is_none_or(|norm| norm.ab.len() == n * 2 * c_in), "normalisation of {shape:?}");
    assert_eq!(into.iter().map(|(dw, _)| dw.len()).sum::<usize>(), c_out * shape.patch(), "weights of {shape:?}");
    assert_eq!(into.iter().map(|(_, db)| db.len()).sum::<usize>(), c_out, "bias of {shape:?}");
    if n == 0 {
        return;
    }
    let mut biases: Vec<&mut f32> = Vec::with_capacity(c_out);
    let mut weights: Vec<SharedMut<'_>> = Vec::with_capacity(c_out);
    for (dw, db) in into {
        biases.extend(db.iter_mut());
        weights.extend(dw.chunks_exact_mut(shape.patch()).map(SharedMut::new));
    }
    let mut sums = vec![0.0; c_out];
    column_sums(isa, team, pixels, c_out, dy, &mut sums);
    biases.into_iter().zip(sums).for_each(|(db, sum)| *db += sum as f32);
    match algorithm {
        Algorithm::Direct => direct(shape, isa, team, n, source, dy, &weights),
        _ => winograd(shape, algorithm, isa, team, n, source, dy, &weights),
    }
}

/// A read-only pointer shared by tasks.
#[derive(Clone, Copy)]
pub(crate) struct SendConst(pub *const f32);

// SAFETY: only reads, from slices borrowed for as long as the tasks run.
unsafe impl Send for SendConst {}
// SAFETY: as above.
unsafe impl Sync for SendConst {}

impl SendConst {
    pub(crate) fn get(self) -> *const f32 {
        self.0
    }
}

#[allow(clippy::too_many_arguments)]
fn winograd(
    shape: &Shape,
    algorithm: Algorithm,
    isa: Isa,
    team: &Team,
    n: usize,
    source: Source<'_>,
    dy: View<'_>,
    weights: &[SharedMut<'_>],
) {
    let tiling = Tiling::new(shape, algorithm);
    let points = tiling.points();
    let width = 2 * isa.lanes();
    let (c_in, c_out) = (padded(shape.c_in, isa.lanes()), padded(shape.c_out, width));
    // Rows slightly longer than a power of two, so that they do not all map to the same cache sets.
    let (v_row, m_row) = (c_in + isa.lanes(), c_out + isa.lanes());
    let strips = n * tiling.down;
    let tiles = (CHUNK / (points * (v_row + m_row))).max(FEWEST);
    let per_chunk = tiles.div_ceil(tiling.across).min(strips);
    let most = per_chunk * tiling.across;
    let (v_plane, m_plane, u_plane) = (most * v_row + 16, most * m_row + 16, shape.c_in * c_out);
    let (v_len, m_len) = (points * v_plane, points * m_plane);
    with_scratch(v_len + m_len + points * u_plane + c_in, |scratch| {
        let (v, rest) = scratch.split_at_mut(v_len);
        let (m, rest) = rest.split_at_mut(m_len);
        let (u, zeros) = rest.split_at_mut(points * u_plane);
        zeros.fill(0.0);
        let reader = Reader::new(isa, shape, algorithm, source, zeros);
        let (v, m, u) = (SharedMut::new(v), SharedMut::new(m), SharedMut::new(u));
        let dy_at = SendConst(dy.pointer());
        for begin in (0..strips).step_by(per_chunk) {
            let chunk = begin..(begin + per_chunk).min(strips);
            let tiles_here = chunk.len() * tiling.across;
            team.run(2 * chunk.len(), |task| {
                let strip = task / 2;
                // SAFETY: only this task accesses the strip's rows of the matrices of `v` and `m`.
                unsafe {
                    if task % 2 == 0 {
                        with_scratch(Ring::len(&tiling, c_in), |ring| {
                            let mut ring = Ring::new(&tiling, c_in, ring.as_mut_ptr());
                            let v = v.pointer().add(strip * tiling.across * v_row);
                            reader.transform(chunk.start + strip, &mut ring, Matrices::Single(v), v_plane, v_row);
                        });
                    } else {
                        let m = m.pointer().add(strip * tiling.across * m_row);
                        let sizes = [shape.c_out, dy.stride, m_plane, m_row];
                        adjoint_strip(isa, &tiling, shape.output(), chunk.start + strip, dy_at.get(), sizes, m);
                    }
                }
            });
            let panels = c_out / width;
            team.run(points * panels, |task| {
                let (point, panel) = (task / panels, task % panels);
                // SAFETY: only this task accesses this panel's columns of the point's sums; nobody writes `v` or `m`.
                unsafe {
                    let v = v.pointer().add(point * v_plane);
                    let m = m.pointer().add(point * m_plane + panel * width);
                    let u = u.pointer().add(point * u_plane + panel * width);
                    columns_times_rows(isa, tiles_here, shape.c_in, v, v_row, m, m_row, u, c_out, begin == 0);
                }
            });
        }
        let lanes = isa.lanes();
        team.run(shape.c_in, |input| {
            let mut g = [0.0f32; 9 * 16];
            for first in (0..shape.c_out).step_by(lanes) {
                // SAFETY: nobody writes `u` now, `g` holds nine vectors, and only this task accesses the channel's
                // weights.
                unsafe {
                    let u = u.pointer().add(input * c_out + first);
                    weights_back(isa, algorithm, u, u_plane, g.as_mut_ptr());
                    for (lane, dw) in weights[first..].iter().take(lanes).enumerate() {
                        for (tap, dw) in dw.part(input * 9, 9).iter_mut().enumerate() {
                            *dw += g[tap * lanes + lane];
                        }
                    }
                }
            }
        });
    });
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
                            unsafe {
                                let p = dy.add(pixel * stride).wrapping_add(c);
                                *d = if len == S::LANES { s.load(p) } else { s.load_first(p, len) };
                            }
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
    /// Gᵀ·u·G for one vector of output channels: reads point (i, j) at `u + (i·side + j)·plane`, writes the nine
    /// weights to `g`.
    unsafe fn weights_back<S>(s, algorithm: Algorithm, u: *const f32, plane: usize, g: *mut f32) {
        #[inline(always)]
        unsafe fn run<S: Simd, T: Transform<SIDE, OUT>, const SIDE: usize, const OUT: usize>(
            s: S, u: *const f32, plane: usize, g: *mut f32,
        ) {
            let mut rows = [[s.zero(); SIDE]; 3];
            for j in 0..SIDE {
                for (i, k) in T::G.iter().enumerate() {
                    // SAFETY: guaranteed by the caller.
                    let v = unsafe { s.load(u.add((i * SIDE + j) * plane)) };
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
                Algorithm::Winograd4 => run::<S, F4, 6, 4>(s, u, plane, g),
                _ => run::<S, F2, 4, 2>(s, u, plane, g),
            }
        }
    }
}

fn direct(shape: &Shape, isa: Isa, team: &Team, n: usize, source: Source<'_>, dy: View<'_>, weights: &[SharedMut<'_>]) {
    let pixels = Pixels::new(source, shape.c_in);
    if !pixels.is_normalised() {
        return by_taps(shape, isa, team, n, pixels.at(0), dy, weights);
    }
    let row = padded(shape.c_in, isa.lanes());
    with_scratch(n * shape.input_pixels() * row, |staged| {
        let staged = SharedMut::new(staged);
        // SAFETY: `staged` has a padded row for each pixel of the source.
        unsafe { pixels.stage_all(isa, team, n, shape.input_pixels(), &staged, row) };
        by_taps(shape, isa, team, n, (staged.pointer().cast_const(), row), dy, weights);
    });
}

fn by_taps(
    shape: &Shape,
    isa: Isa,
    team: &Team,
    n: usize,
    (x, x_stride): (*const f32, usize),
    dy: View<'_>,
    weights: &[SharedMut<'_>],
) {
    let &Shape { c_in, c_out, .. } = shape;
    let (taps, width) = (shape.taps(), 2 * isa.lanes());
    let panels = c_out.div_ceil(width);
    let pixels = n * shape.output_pixels();
    let gather = Gather::new(shape, None);
    let [height, out_width] = shape.output();
    // One task packs a panel of dy for all its taps. With few panels, tasks share the taps as well.
    let split = if panels >= 2 * team.threads() { 1 } else { taps };
    let x = SendConst(x);
    let dy_at = SendConst(dy.pointer());
    with_scratch(c_in, |zeros| {
        zeros.fill(0.0);
        let zeros = SendConst(zeros.as_ptr());
        team.run(panels * split, |task| {
            let (panel, part) = (task / split, task % split);
            let own = taps * part / split..taps * (part + 1) / split;
            let channels = width.min(c_out - panel * width);
            with_scratch(PIXELS * width + own.len() * c_in * width, |scratch| {
                let (packed, sums) = scratch.split_at_mut(PIXELS * width);
                let mut rows = [std::ptr::null::<f32>(); PIXELS];
                for begin in (0..pixels).step_by(PIXELS) {
                    let count = PIXELS.min(pixels - begin);
                    for (i, packed) in packed.chunks_exact_mut(width).take(count).enumerate() {
                        // SAFETY: `channels` channels of an existing pixel.
                        let dy = unsafe {
                            let row = dy_at.get().add((begin + i) * dy.stride + panel * width);
                            std::slice::from_raw_parts(row, channels)
                        };
                        packed[..channels].copy_from_slice(dy);
                        packed[channels..].fill(0.0);
                    }
                    for (place, tap) in own.clone().enumerate() {
                        for (i, row) in rows[..count].iter_mut().enumerate() {
                            let pixel = begin + i;
                            let (image, rest) = (pixel / (height * out_width), pixel % (height * out_width));
                            let source = gather.pixel(image, rest / out_width, rest % out_width, tap);
                            *row = source.map_or(zeros.get(), |pixel| x.get().wrapping_add(pixel * x_stride));
                        }
                        let sums = &mut sums[place * c_in * width..(place + 1) * c_in * width];
                        // SAFETY: rows of c_in elements, `count` packed rows, and `c_in` rows of sums of two vectors
                        // each.
                        unsafe {
                            gathered_products(
                                isa,
                                &rows[..count],
                                c_in,
                                packed.as_ptr(),
                                sums.as_mut_ptr(),
                                begin == 0,
                            );
                        }
                    }
                }
                for (place, tap) in own.clone().enumerate() {
                    for input in 0..c_in {
                        let row = &sums[(place * c_in + input) * width..][..channels];
                        for (dw, sum) in weights[panel * width..].iter().zip(row) {
                            // SAFETY: only this task accesses these weights.
                            unsafe { dw.part(input * taps + tap, 1)[0] += sum };
                        }
                    }
                }
            });
        });
    });
}

kernel! {
    /// Sets c\[i\] (dense, two vectors) to Σ_p rows\[p\]\[i\]·b\[p\] for i < `channels`, or adds it unless `replace`.
    unsafe fn gathered_products<S>(s, rows: &[*const f32], channels: usize, b: *const f32, c: *mut f32, replace: bool) {
        let width = 2 * S::LANES;
        for (first, count) in tiles::<S>(channels) {
            // SAFETY: a product reads as many rows as it is given, p < rows.len().
            let a = |i: usize, p: usize| unsafe { rows.get_unchecked(p) }.wrapping_add(first + i);
            let c = c.wrapping_add(first * width);
            // SAFETY: guaranteed by the caller, for a part of the channels.
            unsafe { with_rows!(count, sums::<S>(s, rows.len(), a, b, width, c, width, replace)) };
        }
    }
}
