//! 3×3 convolutions of stride 1 by Winograd's algorithms.
//!
//! The output is split into tiles; a *strip* is one row of tiles of an image. There are three phases. First, strips
//! are staged and transformed into `side²` matrices \[tile, c_in\]. Second, each matrix is multiplied by its packed
//! weights \[c_in, c_out\]. Third, the products are transformed back and finished. With enough tiles for every thread,
//! each thread takes a block of strips through all three phases in its own cache. With fewer, the threads share each
//! phase, and the second phase is split over the weights so that they are read only once.
//!
//! Each element of a product is one chain of multiply-adds over c_in, so the blocks do not affect results.

use std::sync::atomic::{AtomicBool, Ordering};

use super::stage::Pixels;
use super::transform::{F2, F4, Transform, both_axes};
use super::{Algorithm, Finish, Layer, Precision, Shape, Source, padded};
use crate::half::{Element, Half};
#[cfg(target_arch = "x86_64")]
use crate::half::{Packed, pairs_times_panel};
use crate::isa::{Isa, Simd, kernel};
use crate::micro::rows_times_panel;
use crate::shared::SharedMut;
use crate::team::{Team, with_scratch};

/// Minimum number of tiles for which a thread works on a block of its own. Smaller blocks leave registers idle and
/// read the weights too often.
const FEWEST: usize = 24;
/// Elements of the transformed input and the products of a block, which fit a second-level cache of 1 to 2 MiB.
const BLOCK: usize = 288 * 1024;
/// Output channels multiplied before they are transformed back.
const CHANNELS: usize = 128;
/// Exponent of the smallest power of two that scales a transformed input.
const SMALLEST: i32 = -16;
/// Gap between matrices, so that they do not map to the same cache sets.
const GAP: usize = 16;

impl Algorithm {
    /// Side lengths of a transformed tile and of its output.
    pub(super) fn tile(self) -> (usize, usize) {
        match self {
            Self::Winograd4 => (6, 4),
            _ => (4, 2),
        }
    }
}

/// Packs `weight(c_out, c_in)` (nine weights, rotated by 180° if `turn`) as \[side²\]\[panel\]\[c_in\]\[two vectors\].
/// For half-precision products the layout is \[side²\]\[panel\]\[c_in / 2\]\[two vectors\]\[2\].
pub(super) fn pack<'w>(layer: &mut Layer, team: &Team, weight: impl Fn(usize, usize) -> &'w [f32] + Sync, turn: bool) {
    let Shape { c_in, c_out, .. } = layer.shape;
    let (isa, algorithm, precision, scale) = (layer.isa, layer.algorithm, layer.precision, layer.weight_scale());
    let width = 2 * isa.lanes();
    let panels = c_out.div_ceil(width);
    let (side, _) = algorithm.tile();
    let rows = precision.rows(c_in);
    let plane = panels * rows * width;
    layer.weights.at_least(precision.words(side * side * plane));
    let weights = SharedMut::new(&mut layer.weights);
    // Even, so that a pair of channels stays in one group.
    let group = 16.min(rows);
    let groups = rows.div_ceil(group);
    team.run(panels * groups, |task| {
        let (panel, group_index) = (task / groups, task % groups);
        let mut g = [0.0f32; 2 * 9 * 32];
        let step = if precision == Precision::HalfProducts { 2 } else { 1 };
        for input in (group_index * group..((group_index + 1) * group).min(rows)).step_by(step) {
            for (which, g) in g.chunks_exact_mut(9 * width).enumerate().take(step) {
                let outputs = panel * width..((panel + 1) * width).min(c_out);
                // The nine weights of each output channel, which lie together, then one tap after the other.
                let mut kernels = [[0.0f32; 9]; 32];
                if input + which < c_in {
                    for (kernel, out) in kernels.iter_mut().zip(outputs) {
                        *kernel = weight(out, input + which).try_into().expect("nine weights");
                    }
                }
                for (tap, g) in g.chunks_exact_mut(width).enumerate() {
                    let tap = if turn { 8 - tap } else { tap };
                    for (g, kernel) in g.iter_mut().zip(&kernels) {
                        *g = scale * kernel[tap];
                    }
                }
            }
            let at = (panel * rows + input) * width;
            // SAFETY: in every plane, the panel's rows of these input channels belong to this task alone and lie in the
            // buffer, which is as long as all planes; `g` holds nine rows of a panel's width ≤ 32, or twice that.
            unsafe { transform_weights(isa, algorithm, precision, g.as_ptr(), weights.pointer(), at, plane) };
        }
    });
}

kernel! {
    /// G·g·Gᵀ for two vectors of output channels. `g` is \[9\]\[two vectors\], or two of these for two input channels.
    /// Point (i, j) goes to element `at + (i·side + j)·plane` of `u`.
    unsafe fn transform_weights<S>(
        s, algorithm: Algorithm, precision: Precision, g: *const f32, u: *mut f32, at: usize, plane: usize,
    ) {
        #[inline(always)]
        unsafe fn points<S: Simd, T: Transform<SIDE, OUT>, const SIDE: usize, const OUT: usize>(
            s: S, g: *const f32, half: usize,
        ) -> [[S::V; SIDE]; SIDE] {
            let mut rows = [[s.zero(); 3]; SIDE];
            for x in 0..3 {
                let mut column = [s.zero(); 3];
                for (y, v) in column.iter_mut().enumerate() {
                    // SAFETY: guaranteed by the caller.
                    *v = unsafe { s.load(g.add((y * 3 + x) * 2 * S::LANES + half * S::LANES)) };
                }
                for (row, k) in rows.iter_mut().zip(&T::G) {
                    row[x] = dot3(s, k, column);
                }
            }
            let mut points = [[s.zero(); SIDE]; SIDE];
            for (points, row) in points.iter_mut().zip(rows) {
                for (point, k) in points.iter_mut().zip(&T::G) {
                    *point = dot3(s, k, row);
                }
            }
            points
        }
        #[inline(always)]
        unsafe fn run<S: Simd, T: Transform<SIDE, OUT>, const SIDE: usize, const OUT: usize>(
            s: S, precision: Precision, g: *const f32, u: *mut f32, at: usize, plane: usize,
        ) {
            for half in 0..2 {
                // SAFETY: guaranteed by the caller.
                let even = unsafe { points::<S, T, SIDE, OUT>(s, g, half) };
                let odd = if precision == Precision::HalfProducts {
                    // SAFETY: guaranteed by the caller, who passes two input channels.
                    unsafe { points::<S, T, SIDE, OUT>(s, g.add(9 * 2 * S::LANES), half) }
                } else {
                    even
                };
                for i in 0..SIDE {
                    for j in 0..SIDE {
                        let at = at + (i * SIDE + j) * plane;
                        // SAFETY: guaranteed by the caller.
                        unsafe {
                            match precision {
                                Precision::Single => s.store(u.add(at + half * S::LANES), even[i][j]),
                                Precision::HalfWeights => {
                                    s.store_half(u.cast::<u16>().add(at + half * S::LANES), even[i][j]);
                                }
                                Precision::BFloat16 => unreachable!("layers in bf16 are computed by definition"),
                                Precision::HalfProducts => {
                                    let u = u.cast::<u16>().add(at + 2 * half * S::LANES);
                                    s.store_half_pairs(u, even[i][j], odd[i][j]);
                                }
                            }
                        }
                    }
                }
            }
        }
        // SAFETY: guaranteed by the caller.
        unsafe {
            match algorithm {
                Algorithm::Winograd4 => run::<S, F4, 6, 4>(s, precision, g, u, at, plane),
                _ => run::<S, F2, 4, 2>(s, precision, g, u, at, plane),
            }
        }
    }
}

#[inline(always)]
fn dot3<S: Simd>(s: S, k: &[f64; 3], v: [S::V; 3]) -> S::V {
    let mut sum = s.mul(s.splat(k[0] as f32), v[0]);
    sum = s.fma(s.splat(k[1] as f32), v[1], sum);
    s.fma(s.splat(k[2] as f32), v[2], sum)
}

/// The layout of tiles in images.
#[derive(Clone, Copy)]
pub(super) struct Tiling {
    pub algorithm: Algorithm,
    /// Side lengths of a transformed tile and of its output.
    pub side: usize,
    pub out: usize,
    /// Tiles down and across an image.
    pub down: usize,
    pub across: usize,
    /// Height and width of the plane the kernel slides over, and of the output.
    grid: [usize; 2],
    output: [usize; 2],
    pad: usize,
    upsample: bool,
}

impl Tiling {
    pub(super) fn new(shape: &Shape, algorithm: Algorithm) -> Self {
        let (side, out) = algorithm.tile();
        let output = shape.output();
        Self {
            algorithm,
            side,
            out,
            down: output[0].div_ceil(out),
            across: output[1].div_ceil(out),
            grid: shape.grid(),
            output,
            pad: shape.pad_before,
            upsample: shape.upsample,
        }
    }

    pub(super) fn points(&self) -> usize {
        self.side * self.side
    }

    fn source_width(&self) -> usize {
        self.grid[1] >> usize::from(self.upsample)
    }

    fn source_height(&self) -> usize {
        self.grid[0] >> usize::from(self.upsample)
    }
}

/// The most recently staged rows: those of the strip being transformed and of the one above it.
pub(super) struct Ring {
    rows: *mut f32,
    /// Elements per row.
    row: usize,
    /// The (image, row) that each slot holds.
    held: [Option<(usize, usize)>; 6],
}

impl Ring {
    /// Elements that a ring takes.
    pub(super) fn len(tiling: &Tiling, c_in: usize) -> usize {
        tiling.side * tiling.source_width() * c_in
    }

    /// # Safety
    /// While the ring is used, `rows` has room for [`len`](Self::len) elements, with c_in padded.
    pub(super) unsafe fn new(tiling: &Tiling, c_in: usize, rows: *mut f32) -> Self {
        Self { rows, row: tiling.source_width() * c_in, held: [None; 6] }
    }
}

/// The memory of transformed tiles.
#[derive(Clone, Copy)]
pub(super) enum Matrices {
    /// f32.
    Single(*mut f32),
    /// Half precision, scaled by this power of two.
    Half(*mut Half, f32),
}

impl Matrices {
    /// The matrices `elements` further on.
    ///
    /// # Safety
    /// As `pointer::add`.
    unsafe fn add(self, elements: usize) -> Self {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match self {
                Self::Single(p) => Self::Single(p.add(elements)),
                Self::Half(p, scale) => Self::Half(p.add(elements), scale),
            }
        }
    }
}

// SAFETY: tasks write only their own rows, as with `SharedMut`.
unsafe impl Send for Matrices {}
// SAFETY: as above.
unsafe impl Sync for Matrices {}

/// Transforms the strips of a layer's input into tiles.
#[derive(Clone, Copy)]
pub(super) struct Reader {
    isa: Isa,
    pub tiling: Tiling,
    pixels: Pixels,
    /// Input channels padded to whole vectors: the row length of a transformed matrix.
    pub c_in: usize,
    staged: bool,
    /// c_in zeros, read for pixels outside the image.
    zeros: *const f32,
}

// SAFETY: only reads, from slices borrowed for as long as the tasks run.
unsafe impl Send for Reader {}
// SAFETY: as above.
unsafe impl Sync for Reader {}

impl Reader {
    /// `zeros` has as many zeros as there are padded input channels and must outlive the reader.
    pub(super) fn new(isa: Isa, shape: &Shape, algorithm: Algorithm, source: Source<'_>, zeros: &[f32]) -> Self {
        let c_in = padded(shape.c_in, isa.lanes());
        assert!(zeros.len() >= c_in);
        let pixels = Pixels::new(source, shape.c_in);
        let staged = pixels.need_staging(isa.lanes());
        Self { isa, tiling: Tiling::new(shape, algorithm), pixels, c_in, staged, zeros: zeros.as_ptr() }
    }

    /// Transforms strip `strip` (counted over all images). Point p of tile t goes to row t of matrix p, at element
    /// `p·plane + t·row` of `v`.
    ///
    /// # Safety
    /// The strip exists, `v` has room for it, and the ring belongs to this thread.
    pub(super) unsafe fn transform(&self, strip: usize, ring: &mut Ring, v: Matrices, plane: usize, row: usize) {
        let t = &self.tiling;
        let (image, strip_row) = (strip / t.down, strip % t.down);
        let (height, width) = (t.source_height(), t.source_width());
        let shift = usize::from(t.upsample);
        let mut rows = [std::ptr::null(); 6];
        let mut stride = 0;
        for (i, row) in rows[..t.side].iter_mut().enumerate() {
            let y = (strip_row * t.out + i).checked_sub(t.pad).filter(|y| *y < t.grid[0]);
            let Some(y) = y.map(|y| y >> shift) else { continue };
            let pixel = (image * height + y) * width;
            if self.staged {
                let place = y % t.side;
                let staged = ring.rows.wrapping_add(place * ring.row);
                if ring.held[place] != Some((image, y)) {
                    // SAFETY: row y of the image exists; the ring has room for `side` rows of padded pixels.
                    unsafe { self.pixels.stage(self.isa, image, pixel, width, staged, self.c_in) };
                    ring.held[place] = Some((image, y));
                }
                (*row, stride) = (staged.cast_const(), self.c_in);
            } else {
                (*row, stride) = self.pixels.at(pixel);
            }
        }
        // SAFETY: the pointers are rows that exist, of `width` pixels `stride` apart; the caller guarantees `v`.
        unsafe {
            transform_strip(self.isa, t, &rows, stride, self.zeros, self.c_in, v, plane, row);
        }
    }
}

kernel! {
    /// Bᵀ·d·B of the tiles of a strip, for all channels.
    unsafe fn transform_strip<S>(
        s, tiling: &Tiling, rows: &[*const f32; 6], stride: usize, zeros: *const f32, channels: usize,
        v: Matrices, plane: usize, row: usize,
    ) {
        #[inline(always)]
        #[allow(clippy::too_many_arguments, clippy::needless_range_loop)] // (i, j) is a point of a tile
        unsafe fn run<S: Simd, T: Transform<SIDE, OUT>, const SIDE: usize, const OUT: usize>(
            s: S, tiling: &Tiling, rows: &[*const f32; 6], stride: usize, zeros: *const f32, channels: usize,
            v: *mut impl Element, scale: f32, plane: usize, row: usize,
        ) {
            let scale = s.splat(scale);
            let shift = usize::from(tiling.upsample);
            for tile in 0..tiling.across {
                let mut at = [[zeros; SIDE]; SIDE];
                for j in 0..SIDE {
                    if let Some(x) = (tile * OUT + j).checked_sub(tiling.pad).filter(|x| *x < tiling.grid[1]) {
                        for i in 0..SIDE {
                            if !rows[i].is_null() {
                                at[i][j] = rows[i].wrapping_add((x >> shift) * stride);
                            }
                        }
                    }
                }
                let v = v.wrapping_add(tile * row);
                for c in (0..channels).step_by(S::LANES) {
                    let mut d = [[s.zero(); SIDE]; SIDE];
                    for i in 0..SIDE {
                        for j in 0..SIDE {
                            // SAFETY: pixels of the image or zeros, each with all channels.
                            d[i][j] = unsafe { s.load(at[i][j].add(c)) };
                        }
                    }
                    let d = both_axes!(s, d, T::input, SIDE, SIDE);
                    for i in 0..SIDE {
                        for j in 0..SIDE {
                            // SAFETY: guaranteed by the caller.
                            unsafe { Element::store(s, v.add((i * SIDE + j) * plane + c), d[i][j], scale) };
                        }
                    }
                }
            }
        }
        // SAFETY: guaranteed by the caller.
        unsafe {
            macro_rules! run {
                ($v:expr, $scale:expr) => {
                    match tiling.algorithm {
                        Algorithm::Winograd4 => {
                            run::<S, F4, 6, 4>(s, tiling, rows, stride, zeros, channels, $v, $scale, plane, row);
                        }
                        _ => run::<S, F2, 4, 2>(s, tiling, rows, stride, zeros, channels, $v, $scale, plane, row),
                    }
                };
            }
            match v {
                Matrices::Single(v) => run!(v, 1.0),
                Matrices::Half(v, scale) => run!(v, scale),
            }
        }
    }
}

kernel! {
    /// Aᵀ·m·A of the tiles of a strip for channels `first..last`, finished and written. Row t of matrix p begins at
    /// `m + p·plane + t·row`, with channel `first`.
    unsafe fn transform_back<S>(
        s, tiling: &Tiling, strip: usize, m: *const f32, plane: usize, row: usize, first: usize, last: usize,
        finish: &Finish<'_>,
    ) {
        #[inline(always)]
        #[allow(clippy::too_many_arguments, clippy::needless_range_loop)] // (i, j) is a point of a tile
        unsafe fn run<S: Simd, T: Transform<SIDE, OUT>, const SIDE: usize, const OUT: usize>(
            s: S, tiling: &Tiling, strip: usize, m: *const f32, plane: usize, row: usize, first: usize, last: usize,
            finish: &Finish<'_>,
        ) {
            let [height, width] = tiling.output;
            let (image, top) = (strip / tiling.down, strip % tiling.down * OUT);
            // Becomes NaN at the first result that is not finite.
            let mut sane = s.zero();
            for tile in 0..tiling.across {
                let m = m.wrapping_add(tile * row);
                let left = tile * OUT;
                for c in (first..last).step_by(S::LANES) {
                    let mut d = [[s.zero(); SIDE]; SIDE];
                    for i in 0..SIDE {
                        for j in 0..SIDE {
                            // SAFETY: guaranteed by the caller.
                            d[i][j] = unsafe { s.load(m.add((i * SIDE + j) * plane + c - first)) };
                        }
                    }
                    let y = both_axes!(s, d, T::output, SIDE, OUT);
                    if finish.checked() {
                        for y in y.as_flattened() {
                            sane = s.fma(*y, s.zero(), sane);
                        }
                    }
                    for (i, y) in y.iter().enumerate().take(height - top) {
                        for (j, &y) in y.iter().enumerate().take(width - left) {
                            let pixel = (image * height + top + i) * width + left + j;
                            // SAFETY: only this tile writes this output pixel.
                            unsafe { finish.write(s, image, pixel, c, y) };
                        }
                    }
                }
            }
            let mut lanes = [0.0f32; 16];
            // SAFETY: `lanes` has room for any vector.
            unsafe { s.store(lanes.as_mut_ptr(), sane) };
            if lanes != [0.0; 16] {
                finish.report_overflow();
            }
        }
        // SAFETY: guaranteed by the caller.
        unsafe {
            match tiling.algorithm {
                Algorithm::Winograd4 => run::<S, F4, 6, 4>(s, tiling, strip, m, plane, row, first, last, finish),
                _ => run::<S, F2, 4, 2>(s, tiling, strip, m, plane, row, first, last, finish),
            }
        }
    }
}

pub(super) fn forward(layer: &Layer, team: &Team, n: usize, source: Source<'_>, finish: Finish<'_>) {
    if layer.precision != Precision::HalfProducts {
        return attempt(layer, team, n, source, 1.0, finish);
    }
    // Half precision ends at 65504. If a sum overflows, repeat everything with smaller inputs: scaling by a power of
    // two only changes values that are too small to matter. A result that never becomes finite was not finite to begin
    // with.
    let overflow = AtomicBool::new(false);
    let begin = layer.exponent.get();
    for exponent in (SMALLEST..=begin).rev().step_by(4) {
        let scale = f32::from_bits(((127 + exponent) as u32) << 23);
        overflow.store(false, Ordering::Relaxed);
        let finish = Finish { unscale: finish.unscale / scale, overflow: Some(&overflow), ..finish };
        attempt(layer, team, n, source, scale, finish);
        if !overflow.load(Ordering::Relaxed) {
            layer.exponent.set(exponent);
            return;
        }
    }
}

fn attempt(layer: &Layer, team: &Team, n: usize, source: Source<'_>, scale: f32, finish: Finish<'_>) {
    let zeros_len = padded(layer.shape.c_in, layer.isa.lanes());
    with_scratch(zeros_len, |zeros| {
        zeros.fill(0.0);
        let reader = Reader::new(layer.isa, &layer.shape, layer.algorithm, source, zeros);
        let call = Call { layer, reader, finish, panel: 2 * layer.isa.lanes(), scale };
        let t = &call.reader.tiling;
        let strips = n * t.down;
        let tiles = strips * t.across;
        // The maximum number of tiles of a block.
        let most = (BLOCK / (t.points() * (call.words(call.reader.c_in) + call.at_once() * call.panel))).max(FEWEST);
        let threads = team.threads();
        if tiles >= threads * FEWEST {
            // A multiple of the number of threads, so that all finish together.
            let blocks = tiles.div_ceil(most).next_multiple_of(threads).min(strips);
            team.run(blocks, |block| call.block(strips * block / blocks..strips * (block + 1) / blocks));
        } else {
            let blocks = tiles.div_ceil(most * threads).min(strips);
            for block in 0..blocks {
                call.together(team, strips * block / blocks..strips * (block + 1) / blocks);
            }
        }
    });
}

/// One call of a layer.
struct Call<'a> {
    layer: &'a Layer,
    reader: Reader,
    finish: Finish<'a>,
    /// Output channels per panel of weights.
    panel: usize,
    /// The scale of the transformed input.
    scale: f32,
}

impl Call<'_> {
    fn panels(&self) -> usize {
        self.layer.shape.c_out.div_ceil(self.panel)
    }

    /// Panels multiplied before they are transformed back.
    fn at_once(&self) -> usize {
        (CHANNELS / self.panel).clamp(1, self.panels())
    }

    /// The number of f32 that `elements` elements of a transformed input take.
    fn words(&self, elements: usize) -> usize {
        if self.layer.precision == Precision::HalfProducts { elements.div_ceil(2) } else { elements }
    }

    /// Interprets scratch memory as the matrices of a transformed input.
    fn matrices(&self, scratch: &mut [f32]) -> Matrices {
        match self.layer.precision {
            Precision::HalfProducts => Matrices::Half(scratch.as_mut_ptr().cast(), self.scale),
            _ => Matrices::Single(scratch.as_mut_ptr()),
        }
    }

    /// Multiplies `tiles` rows of `v` by a panel of weights of one point; writes as many rows of `m`, `m_row` apart.
    ///
    /// # Safety
    /// `v` and `m` belong to the point and have `tiles` rows; each row of `m` has room for the panel.
    #[allow(clippy::too_many_arguments)] // the operands of a product
    unsafe fn multiply(
        &self,
        point: usize,
        panel: usize,
        next: usize,
        tiles: usize,
        v: Matrices,
        m: *mut f32,
        m_row: usize,
    ) {
        let (isa, c_in, v_row) = (self.layer.isa, self.layer.shape.c_in, self.reader.c_in);
        let rows = self.layer.precision.rows(c_in);
        let len = rows * self.panel;
        // SAFETY: the packed weights have every point and panel; the caller guarantees the rest.
        unsafe {
            let weights = self.layer.packed((point * self.panels() + panel) * len);
            match (v, weights) {
                (Matrices::Single(v), _) => rows_times_panel(isa, tiles, c_in, v, v_row, weights, next * len, m, m_row),
                #[cfg(target_arch = "x86_64")]
                (Matrices::Half(v, _), Packed::Half(weights)) => {
                    let proof = self.layer.fp16.expect("a layer with products in half precision has the proof");
                    pairs_times_panel(proof, tiles, rows / 2, v.cast(), v_row, weights.cast(), next * len, m, m_row);
                }
                (Matrices::Half(..), _) => unreachable!("half precision times f32"),
            }
        }
    }

    /// Takes strips through all phases on this thread.
    fn block(&self, strips: std::ops::Range<usize>) {
        let t = &self.reader.tiling;
        let (isa, c_in) = (self.layer.isa, self.reader.c_in);
        let tiles = strips.len() * t.across;
        let at_once = self.at_once();
        let m_row = at_once * self.panel;
        let (v_plane, m_plane) = (tiles * c_in + GAP, tiles * m_row + GAP);
        let (v_len, m_len, ring_len) = (self.words(t.points() * v_plane), t.points() * m_plane, Ring::len(t, c_in));
        with_scratch(v_len + m_len + ring_len, |scratch| {
            let (v, rest) = scratch.split_at_mut(v_len);
            let (m, ring) = rest.split_at_mut(m_len);
            let (v, m) = (self.matrices(v), m.as_mut_ptr());
            // SAFETY: `ring` has the required length; each strip goes to its own rows of the `points` matrices of
            // `v`; products of `tiles` rows and at most `at_once` panels fit the matrices of `m`; only this task
            // accesses the strips' pixels.
            unsafe {
                let mut ring = Ring::new(t, c_in, ring.as_mut_ptr());
                for (i, strip) in strips.clone().enumerate() {
                    self.reader.transform(strip, &mut ring, v.add(i * t.across * c_in), v_plane, c_in);
                }
                for first in (0..self.panels()).step_by(at_once) {
                    let last = (first + at_once).min(self.panels());
                    for point in 0..t.points() {
                        for panel in first..last {
                            let m = m.add(point * m_plane + (panel - first) * self.panel);
                            self.multiply(point, panel, 1, tiles, v.add(point * v_plane), m, m_row);
                        }
                    }
                    for (i, strip) in strips.clone().enumerate() {
                        let m = m.add(i * t.across * m_row);
                        let (c0, c1) = (first * self.panel, last * self.panel);
                        transform_back(isa, t, strip, m, m_plane, m_row, c0, c1, &self.finish);
                    }
                }
            }
        });
    }

    /// Takes strips through each phase on all threads together.
    fn together(&self, team: &Team, strips: std::ops::Range<usize>) {
        let t = &self.reader.tiling;
        let (isa, c_in, panels) = (self.layer.isa, self.reader.c_in, self.panels());
        let tiles = strips.len() * t.across;
        let m_row = panels * self.panel;
        let (v_plane, m_plane) = (tiles * c_in + GAP, tiles * m_row + GAP);
        let v_len = self.words(t.points() * v_plane);
        with_scratch(v_len + t.points() * m_plane, |scratch| {
            let (v, m) = scratch.split_at_mut(v_len);
            let (v, m) = (self.matrices(v), SharedMut::new(m));
            team.run(strips.len(), |i| {
                with_scratch(Ring::len(t, c_in), |ring| {
                    // SAFETY: only this task accesses the strip's rows of the matrices of `v`.
                    unsafe {
                        let mut ring = Ring::new(t, c_in, ring.as_mut_ptr());
                        self.reader.transform(strips.start + i, &mut ring, v.add(i * t.across * c_in), v_plane, c_in);
                    }
                });
            });
            team.run(t.points() * panels, |task| {
                let (point, panel) = (task / panels, task % panels);
                // SAFETY: only this task accesses the panel's columns of the point's matrix; nobody writes `v` now.
                unsafe {
                    let m = m.pointer().add(point * m_plane + panel * self.panel);
                    self.multiply(point, panel, team.threads(), tiles, v.add(point * v_plane), m, m_row);
                }
            });
            let parts = m_row.div_ceil(CHANNELS);
            team.run(strips.len() * parts, |task| {
                let (i, part) = (task / parts, task % parts);
                let (c0, c1) = (part * CHANNELS, ((part + 1) * CHANNELS).min(m_row));
                // SAFETY: only this task accesses these channels of the strip's pixels; nobody writes `m` now.
                unsafe {
                    let m = m.pointer().add(i * t.across * m_row + c0);
                    transform_back(isa, t, strips.start + i, m, m_plane, m_row, c0, c1, &self.finish);
                }
            });
        });
    }
}
