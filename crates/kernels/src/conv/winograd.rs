//! 3×3 convolutions of stride 1 by Winograd's algorithms.
//!
//! The output is cut into tiles; a *strip* is the tiles side by side in one image. Three phases: strips are staged and
//! transformed into `side²` matrices \[tile, c_in\]; each is multiplied by its packed weights \[c_in, c_out\]; the products
//! are transformed back and finished. With enough tiles for every thread, a thread takes a block of strips through all
//! three phases in its own cache. With fewer, the threads share each phase, and the second is split over weights, so
//! that these are read once.
//!
//! A product's element is one chain of multiply-adds over c_in, so blocks do not change results.

use super::stage::Pixels;
use super::transform::{F2, F4, Transform, both_axes};
use super::{Algorithm, Finish, Layer, Shape, Source, padded};
use crate::isa::{Isa, Simd, kernel};
use crate::micro::rows_times_panel;
use crate::shared::SharedMut;
use crate::team::{Team, with_scratch};

/// Fewest tiles for which a thread works on a block of its own: fewer leave the registers idle and read the weights
/// too often.
const FEWEST: usize = 24;
/// Elements of the transformed input of a block: what stays in a second-level cache of 1 to 2 MiB.
const BLOCK: usize = 288 * 1024;
/// Output channels multiplied before they are transformed back.
const CHANNELS: usize = 128;
/// Between matrices, so that they do not fall on the same cache sets.
const GAP: usize = 16;

impl Algorithm {
    /// Side of a transformed tile and of its output.
    pub(super) fn tile(self) -> (usize, usize) {
        match self {
            Self::Winograd4 => (6, 4),
            _ => (4, 2),
        }
    }
}

/// Packs `weight(c_out, c_in)` (nine weights, turned by 180° on request) as \[side²\]\[panel\]\[c_in\]\[two vectors\].
pub(super) fn pack<'w>(layer: &mut Layer, team: &Team, weight: impl Fn(usize, usize) -> &'w [f32] + Sync, turn: bool) {
    let Shape { c_in, c_out, .. } = layer.shape;
    let (isa, algorithm) = (layer.isa, layer.algorithm);
    let width = 2 * isa.lanes();
    let panels = c_out.div_ceil(width);
    let (side, _) = algorithm.tile();
    let plane = panels * c_in * width;
    layer.weights.at_least(side * side * plane);
    let weights = SharedMut::new(&mut layer.weights);
    let group = 16.min(c_in);
    let groups = c_in.div_ceil(group);
    team.run(panels * groups, |task| {
        let (panel, group_index) = (task / groups, task % groups);
        let mut g = [0.0f32; 9 * 32];
        for input in group_index * group..((group_index + 1) * group).min(c_in) {
            for (lane, out) in (panel * width..(panel + 1) * width).enumerate() {
                let w = (out < c_out).then(|| weight(out, input));
                for tap in 0..9 {
                    g[tap * width + lane] = w.map_or(0.0, |w| w[if turn { 8 - tap } else { tap }]);
                }
            }
            // SAFETY: the panel's rows of this input channel, in every plane, belong to this task alone and lie in
            // the buffer, which is as long as all planes; `g` holds nine rows of a panel's width ≤ 32.
            unsafe {
                let out = weights.pointer().add((panel * c_in + input) * width);
                transform_weights(isa, algorithm, g.as_ptr(), out, plane);
            }
        }
    });
}

kernel! {
    /// G·g·Gᵀ for two vectors of output channels: `g` is \[9\]\[two vectors\], point (i, j) goes to `u + (i·side + j)·plane`.
    unsafe fn transform_weights<S>(s, algorithm: Algorithm, g: *const f32, u: *mut f32, plane: usize) {
        #[inline(always)]
        unsafe fn run<S: Simd, T: Transform<SIDE, OUT>, const SIDE: usize, const OUT: usize>(
            s: S, g: *const f32, u: *mut f32, plane: usize,
        ) {
            for half in 0..2 {
                let mut rows = [[s.zero(); 3]; SIDE];
                for x in 0..3 {
                    let mut column = [s.zero(); 3];
                    for (y, v) in column.iter_mut().enumerate() {
                        // SAFETY: the caller's promise.
                        *v = unsafe { s.load(g.add((y * 3 + x) * 2 * S::LANES + half * S::LANES)) };
                    }
                    for (row, k) in rows.iter_mut().zip(&T::G) {
                        row[x] = dot3(s, k, column);
                    }
                }
                for (i, row) in rows.into_iter().enumerate() {
                    for (j, k) in T::G.iter().enumerate() {
                        // SAFETY: the caller's promise.
                        unsafe { s.store(u.add((i * SIDE + j) * plane + half * S::LANES), dot3(s, k, row)) };
                    }
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe {
            match algorithm {
                Algorithm::Winograd4 => run::<S, F4, 6, 4>(s, g, u, plane),
                _ => run::<S, F2, 4, 2>(s, g, u, plane),
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

/// Where tiles lie in images.
#[derive(Clone, Copy)]
pub(super) struct Tiling {
    pub algorithm: Algorithm,
    /// Side of a transformed tile, and of the output it stands for.
    pub side: usize,
    pub out: usize,
    /// Tiles down and across an image.
    pub down: usize,
    pub across: usize,
    /// Height and width of what the kernel slides over, and of the output.
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

/// The rows staged last, of the strip being transformed and the one above it.
pub(super) struct Ring {
    rows: *mut f32,
    /// Elements of a row.
    row: usize,
    /// Which (image, row) each place holds.
    held: [Option<(usize, usize)>; 6],
}

impl Ring {
    /// Elements that a ring needs.
    pub(super) fn len(tiling: &Tiling, c_in: usize) -> usize {
        tiling.side * tiling.source_width() * c_in
    }

    /// # Safety
    /// `rows` has room for [`len`](Self::len) elements with c_in padded, for as long as the ring is used.
    pub(super) unsafe fn new(tiling: &Tiling, c_in: usize, rows: *mut f32) -> Self {
        Self { rows, row: tiling.source_width() * c_in, held: [None; 6] }
    }
}

/// Reads the strips of a layer's input into transformed tiles.
#[derive(Clone, Copy)]
pub(super) struct Reader {
    isa: Isa,
    pub tiling: Tiling,
    pixels: Pixels,
    /// Input channels padded to whole vectors: the length of a row of a transformed matrix.
    pub c_in: usize,
    staged: bool,
    /// c_in zeros: the pixels outside an image.
    zeros: *const f32,
}

// SAFETY: reads only, of slices borrowed for as long as the tasks run.
unsafe impl Send for Reader {}
// SAFETY: as above.
unsafe impl Sync for Reader {}

impl Reader {
    /// `zeros` holds as many zeros as the padded input channels, while the reader lives.
    pub(super) fn new(isa: Isa, shape: &Shape, algorithm: Algorithm, source: Source<'_>, zeros: &[f32]) -> Self {
        let c_in = padded(shape.c_in, isa.lanes());
        assert!(zeros.len() >= c_in);
        let pixels = Pixels::new(source, shape.c_in);
        let staged = pixels.need_staging(isa.lanes());
        Self { isa, tiling: Tiling::new(shape, algorithm), pixels, c_in, staged, zeros: zeros.as_ptr() }
    }

    /// Transforms strip `strip` (counted over all images): tile t, point p goes to row t of matrix p at
    /// `v + p·plane + t·row`.
    ///
    /// # Safety
    /// The strip exists; there is room at `v`; the ring is this thread's.
    pub(super) unsafe fn transform(&self, strip: usize, ring: &mut Ring, v: *mut f32, plane: usize, row: usize) {
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
        // SAFETY: pointers of rows that exist, of `width` pixels `stride` apart; the caller's promise for `v`.
        unsafe {
            transform_strip(self.isa, t, &rows, stride, self.zeros, self.c_in, v, plane, row);
        }
    }
}

kernel! {
    /// Bᵀ·d·B of the tiles of a strip, for all channels.
    unsafe fn transform_strip<S>(
        s, tiling: &Tiling, rows: &[*const f32; 6], stride: usize, zeros: *const f32, channels: usize,
        v: *mut f32, plane: usize, row: usize,
    ) {
        #[inline(always)]
        #[allow(clippy::too_many_arguments, clippy::needless_range_loop)] // (i, j) is a point of a tile
        unsafe fn run<S: Simd, T: Transform<SIDE, OUT>, const SIDE: usize, const OUT: usize>(
            s: S, tiling: &Tiling, rows: &[*const f32; 6], stride: usize, zeros: *const f32, channels: usize,
            v: *mut f32, plane: usize, row: usize,
        ) {
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
                            // SAFETY: pixels of the image or zeros, both with all channels.
                            d[i][j] = unsafe { s.load(at[i][j].add(c)) };
                        }
                    }
                    let d = both_axes!(s, d, T::input, SIDE, SIDE);
                    for i in 0..SIDE {
                        for j in 0..SIDE {
                            // SAFETY: the caller's promise.
                            unsafe { s.store(v.add((i * SIDE + j) * plane + c), d[i][j]) };
                        }
                    }
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe {
            match tiling.algorithm {
                Algorithm::Winograd4 => run::<S, F4, 6, 4>(s, tiling, rows, stride, zeros, channels, v, plane, row),
                _ => run::<S, F2, 4, 2>(s, tiling, rows, stride, zeros, channels, v, plane, row),
            }
        }
    }
}

kernel! {
    /// Aᵀ·m·A of the tiles of a strip for channels `first..last`, finished and written. Row t of matrix p begins at
    /// `m + p·plane + t·row` with channel `first`.
    unsafe fn transform_back<S>(
        s, tiling: &Tiling, strip: usize, m: *const f32, plane: usize, row: usize, first: usize, last: usize, finish: &Finish,
    ) {
        #[inline(always)]
        #[allow(clippy::too_many_arguments, clippy::needless_range_loop)] // (i, j) is a point of a tile
        unsafe fn run<S: Simd, T: Transform<SIDE, OUT>, const SIDE: usize, const OUT: usize>(
            s: S, tiling: &Tiling, strip: usize, m: *const f32, plane: usize, row: usize, first: usize, last: usize,
            finish: &Finish,
        ) {
            let [height, width] = tiling.output;
            let (image, top) = (strip / tiling.down, strip % tiling.down * OUT);
            for tile in 0..tiling.across {
                let m = m.wrapping_add(tile * row);
                let left = tile * OUT;
                for c in (first..last).step_by(S::LANES) {
                    let mut d = [[s.zero(); SIDE]; SIDE];
                    for i in 0..SIDE {
                        for j in 0..SIDE {
                            // SAFETY: the caller's promise.
                            d[i][j] = unsafe { s.load(m.add((i * SIDE + j) * plane + c - first)) };
                        }
                    }
                    let y = both_axes!(s, d, T::output, SIDE, OUT);
                    for (i, y) in y.into_iter().enumerate().take(height - top) {
                        for (j, y) in y.into_iter().enumerate().take(width - left) {
                            let pixel = (image * height + top + i) * width + left + j;
                            // SAFETY: a pixel of the output that belongs to this tile alone.
                            unsafe { finish.write(s, image, pixel, c, y) };
                        }
                    }
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe {
            match tiling.algorithm {
                Algorithm::Winograd4 => run::<S, F4, 6, 4>(s, tiling, strip, m, plane, row, first, last, finish),
                _ => run::<S, F2, 4, 2>(s, tiling, strip, m, plane, row, first, last, finish),
            }
        }
    }
}

pub(super) fn forward(layer: &Layer, team: &Team, n: usize, source: Source<'_>, finish: Finish) {
    let zeros_len = padded(layer.shape.c_in, layer.isa.lanes());
    with_scratch(zeros_len, |zeros| {
        zeros.fill(0.0);
        let reader = Reader::new(layer.isa, &layer.shape, layer.algorithm, source, zeros);
        let call = Call { layer, reader, finish, panel: 2 * layer.isa.lanes() };
        let t = &call.reader.tiling;
        let strips = n * t.down;
        let tiles = strips * t.across;
        // Tiles of a block, at most.
        let most = (BLOCK / (t.points() * call.reader.c_in)).max(FEWEST);
        let threads = team.threads();
        if tiles >= threads * FEWEST {
            // A multiple of the threads, so that all finish together.
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
    finish: Finish,
    /// Output channels of a panel of weights.
    panel: usize,
}

impl Call<'_> {
    fn panels(&self) -> usize {
        self.layer.shape.c_out.div_ceil(self.panel)
    }

    /// The packed weights of a point and a panel.
    fn weights(&self, point: usize, panel: usize) -> *const f32 {
        let len = self.layer.shape.c_in * self.panel;
        self.layer.weights[(point * self.panels() + panel) * len..][..len].as_ptr()
    }

    /// Takes strips through all phases on this thread.
    fn block(&self, strips: std::ops::Range<usize>) {
        let t = &self.reader.tiling;
        let (isa, c_in) = (self.layer.isa, self.reader.c_in);
        let tiles = strips.len() * t.across;
        let at_once = (CHANNELS / self.panel).clamp(1, self.panels());
        let m_row = at_once * self.panel;
        let (v_plane, m_plane) = (tiles * c_in + GAP, tiles * m_row + GAP);
        let (v_len, m_len, ring_len) = (t.points() * v_plane, t.points() * m_plane, Ring::len(t, c_in));
        with_scratch(v_len + m_len + ring_len, |scratch| {
            let (v, rest) = scratch.split_at_mut(v_len);
            let (m, ring) = rest.split_at_mut(m_len);
            let (v, m) = (v.as_mut_ptr(), m.as_mut_ptr());
            // SAFETY: `ring` has the length asked for; each strip goes to its own rows of the `points` matrices of
            // `v`; products of `tiles` rows and at most `at_once` panels fit the matrices of `m`; the strips' pixels
            // are this task's alone.
            unsafe {
                let mut ring = Ring::new(t, c_in, ring.as_mut_ptr());
                for (i, strip) in strips.clone().enumerate() {
                    self.reader.transform(strip, &mut ring, v.add(i * t.across * c_in), v_plane, c_in);
                }
                for first in (0..self.panels()).step_by(at_once) {
                    let last = (first + at_once).min(self.panels());
                    for point in 0..t.points() {
                        let v = v.add(point * v_plane);
                        for panel in first..last {
                            let m = m.add(point * m_plane + (panel - first) * self.panel);
                            rows_times_panel(
                                isa,
                                tiles,
                                self.layer.shape.c_in,
                                v,
                                c_in,
                                self.weights(point, panel),
                                m,
                                m_row,
                            );
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
        let v_len = t.points() * v_plane;
        with_scratch(v_len + t.points() * m_plane, |scratch| {
            let (v, m) = scratch.split_at_mut(v_len);
            let (v, m) = (SharedMut::new(v), SharedMut::new(m));
            team.run(strips.len(), |i| {
                with_scratch(Ring::len(t, c_in), |ring| {
                    // SAFETY: this strip's rows of the matrices of `v` are this task's alone.
                    unsafe {
                        let mut ring = Ring::new(t, c_in, ring.as_mut_ptr());
                        let v = v.pointer().add(i * t.across * c_in);
                        self.reader.transform(strips.start + i, &mut ring, v, v_plane, c_in);
                    }
                });
            });
            team.run(t.points() * panels, |task| {
                let (point, panel) = (task / panels, task % panels);
                // SAFETY: this panel's columns of this point's matrix are this task's alone; nobody writes `v` now.
                unsafe {
                    let m = m.pointer().add(point * m_plane + panel * self.panel);
                    let v = v.pointer().add(point * v_plane);
                    rows_times_panel(isa, tiles, self.layer.shape.c_in, v, c_in, self.weights(point, panel), m, m_row);
                }
            });
            let parts = m_row.div_ceil(CHANNELS);
            team.run(strips.len() * parts, |task| {
                let (i, part) = (task / parts, task % parts);
                let (c0, c1) = (part * CHANNELS, ((part + 1) * CHANNELS).min(m_row));
                // SAFETY: these channels of the strip's pixels are this task's alone; nobody writes `m` now.
                unsafe {
                    let m = m.pointer().add(i * t.across * m_row + c0);
                    transform_back(isa, t, strips.start + i, m, m_plane, m_row, c0, c1, &self.finish);
                }
            });
        });
    }
}
