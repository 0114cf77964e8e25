//! Convolutions by definition on the processor's matrix units, in bf16.
//!
//! The pixels of all images are staged in one line, with a column of zeros before every row of pixels and a row of zeros before,
//! between and after the images. In that line, each tap of the kernel reads at a fixed distance from an output pixel, so 32
//! neighbours are the rows of a matrix product for every tap. Some of them are no pixels of the output (one in every row, one
//! row in every image): their results are dropped.
//!
//! With stride 2, there are four lines, of pixels with even and odd rows and columns. Each tap reads one of them.

use std::ops::Range;

use super::stage::Pixels;
use super::{Finish, Layer, Shape, Source};
use crate::isa::kernel;
use crate::shared::SharedMut;
use crate::team::{Team, with_scratch};
use crate::units::{self, DEPTH, PANEL_STEP, SIDE, Units};

/// Output pixels per task, a multiple of [`SIDE`].
const BLOCK: usize = 256;
/// Fewest positions that a task computes alone.
const FEWEST: usize = 512;
/// Marks a position that is no output pixel.
const NONE: usize = usize::MAX;

/// The elements of a staged pixel: channels padded to whole steps. Rows a multiple of 1 KiB apart would share too few places of
/// the first-level cache.
fn row(channels: usize) -> usize {
    let row = channels.next_multiple_of(DEPTH);
    if row.is_multiple_of(512) { row + DEPTH } else { row }
}

/// How the pixels lie in a line.
pub(super) struct Line {
    images: Range<usize>,
    /// Height and width of an image, and of an image with its zeros.
    image: [usize; 2],
    whole: [usize; 2],
    pad: usize,
    stride: usize,
    /// The padding of the convolution before the first row and column.
    before: usize,
    /// Whether the grid is the input with every pixel doubled.
    upsample: bool,
}

impl Line {
    pub(super) fn new(shape: &Shape, images: Range<usize>) -> Self {
        let (image, pad) = (shape.output(), shape.kernel / 2);
        let &Shape { stride, pad_before: before, upsample, .. } = shape;
        Self { images, image, whole: image.map(|size| size + pad), pad, stride, before, upsample }
    }

    /// Positions from the first output pixel to the last.
    pub(super) fn len(&self) -> usize {
        ((self.images.len() - 1) * self.whole[0] + self.image[0]) * self.whole[1]
    }

    /// Positions to be readable: every tap of whole products that begin before the last output pixel.
    fn staged(&self) -> usize {
        self.len().next_multiple_of(SIDE) + self.reach()
    }

    /// The farthest distance at which a tap reads.
    pub(super) fn reach(&self) -> usize {
        2 * self.pad * (self.whole[1] + 1)
    }

    /// The line that a tap reads, and at which distance.
    pub(super) fn tap(&self, shape: &Shape, tap: usize) -> (usize, usize) {
        // Counted from two pixels before the image, so that nothing is negative: one pixel of a line with stride 2.
        let which = |k: usize| (k + 2 - self.before) % self.stride;
        let at = |k: usize| if self.stride == 1 { k } else { (k + 2 - self.before) / 2 };
        let (y, x) = (tap / shape.kernel, tap % shape.kernel);
        (which(y) * self.stride + which(x), at(y) * self.whole[1] + at(x))
    }

    /// Rows of output pixels.
    fn rows(&self) -> usize {
        self.images.len() * self.image[0]
    }

    /// Lines of staged pixels.
    fn lines(&self) -> usize {
        self.stride * self.stride
    }

    /// Image and input pixel (counted over all images) at a staged position below `end`, and how many positions from there on
    /// hold the pixels that follow it. `None` for zeros.
    pub(super) fn input(&self, position: usize, end: usize) -> Option<(usize, usize, usize)> {
        let [rows, columns] = self.whole;
        let [height, width] = self.image;
        let (row, x) = (position / columns, (position % columns).checked_sub(self.pad)?);
        let (image, y) = (self.images.start + row / rows, (row % rows).checked_sub(self.pad)?);
        if position >= end || image >= self.images.end {
            return None;
        }
        let doubled = usize::from(self.upsample);
        let pixel = (image * (height >> doubled) + (y >> doubled)) * (width >> doubled) + (x >> doubled);
        let run = if self.upsample { 1 } else { (width - x).min(end - position) };
        Some((image, pixel, run))
    }

    /// Image and pixel (counted over all images) of an output position.
    pub(super) fn output(&self, position: usize) -> Option<(usize, usize)> {
        let [rows, columns] = self.whole;
        let (row, x) = (position / columns, position % columns);
        let (image, y) = (self.images.start + row / rows, row % rows);
        let inside = image < self.images.end && y < self.image[0] && x < self.image[1];
        inside.then(|| (image, (image * self.image[0] + y) * self.image[1] + x))
    }
}

/// Packs `weight(c_out, c_in)` as \[panel\]\[tap\]\[step\]\[two tiles\], as [`units::Configured::product`] reads them.
pub(super) fn pack<'w>(layer: &mut Layer, team: &Team, weight: impl Fn(usize, usize) -> &'w [f32] + Sync, turn: bool) {
    let Shape { c_in, c_out, .. } = layer.shape;
    let (taps, steps) = (layer.shape.taps(), c_in.div_ceil(DEPTH));
    let len = taps * steps * PANEL_STEP;
    let panels = c_out.div_ceil(SIDE);
    layer.weights.at_least(panels * len / 2);
    let units = layer.units.expect("in_precision has found them");
    let weights = SharedMut::new(&mut layer.weights);
    team.run(panels * steps, |task| {
        let (panel, step) = (task / steps, task % steps);
        let inputs = step * DEPTH..((step + 1) * DEPTH).min(c_in);
        let columns = panel * SIDE..((panel + 1) * SIDE).min(c_out);
        // The inputs of each tap side by side, for each column.
        let row = taps * DEPTH;
        with_scratch(SIDE * row, |rows| {
            rows.fill(0.0);
            for (out, row) in columns.zip(rows.chunks_exact_mut(row)) {
                for (k, input) in inputs.clone().enumerate() {
                    for (tap, &w) in weight(out, input).iter().enumerate() {
                        let tap = if turn { taps - 1 - tap } else { tap };
                        row[tap * DEPTH + k] = w;
                    }
                }
            }
            for tap in 0..taps {
                // SAFETY: there are 32 rows of 32 numbers for the tap; only this task accesses this step of the panel.
                unsafe {
                    let to = weights.pointer().cast::<u16>().add(panel * len + (tap * steps + step) * PANEL_STEP);
                    units::narrow_columns(units, rows.as_ptr().add(tap * DEPTH), row, to);
                }
            }
        });
    });
}

/// One call, as its tasks see it.
struct Call<'a> {
    units: Units,
    line: &'a Line,
    x: *const u16,
    /// Bytes from a staged pixel to the next.
    row: usize,
    /// Bytes from an output position to what each step reads.
    offsets: &'a [usize],
    weights: *const u16,
    finish: Finish<'a>,
}

// SAFETY: tasks read the inputs and write only their own pixels and channels; `forward` outlives them.
unsafe impl Send for Call<'_> {}
// SAFETY: as above.
unsafe impl Sync for Call<'_> {}

kernel! {
    /// Computes the output at positions `first..last` for panels `panel..last_panel`.
    unsafe fn block<S>(s, call: &Call<'_>, first: usize, last: usize, panel: usize, last_panel: usize) {
        #[repr(C, align(64))]
        struct Sums([f32; SIDE * SIDE]);
        let mut outputs = [(0, NONE); BLOCK];
        for position in first..last {
            outputs[position - first] = call.line.output(position).unwrap_or((0, NONE));
        }
        let mut sums = Sums([0.0; SIDE * SIDE]);
        let tiles = call.units.configure();
        for panel in panel..last_panel {
            // SAFETY: the panel exists, every tap of the positions is staged, and only this task writes these channels of
            // these pixels. A panel is two vectors wide.
            unsafe {
                let weights = call.weights.add(panel * call.offsets.len() * PANEL_STEP);
                let mut begin = first;
                while begin < last {
                    let x = call.x.byte_add(begin * call.row);
                    tiles.product(x, call.row, call.offsets, weights, sums.0.as_mut_ptr(), 4 * SIDE);
                    let mut i = 0;
                    while i < SIDE.min(last - begin) {
                        let (image, pixel) = outputs[begin - first + i];
                        if pixel != NONE {
                            let sums = sums.0.as_ptr().add(i * SIDE);
                            let sums = [s.load(sums), s.load(sums.add(S::LANES))];
                            call.finish.write_panel(s, image, pixel, panel * SIDE, sums);
                        }
                        i += 1;
                    }
                    begin += SIDE;
                }
            }
        }
    }
}

pub(super) fn forward(layer: &Layer, units: Units, team: &Team, n: usize, source: Source<'_>, finish: Finish<'_>) {
    let pixels = Pixels::new(source, layer.shape.c_in);
    let images = |images: Range<usize>, alone: bool| {
        let line = Line::new(&layer.shape, images);
        let row = row(layer.shape.c_in);
        with_scratch((line.lines() * line.staged() * row).div_ceil(2), |staged| {
            forward_line(layer, units, team, &pixels, line, finish, staged, row, alone);
        });
    };
    // Where there are enough, a task takes some images through its cache alone. It reads all weights for them.
    let each = FEWEST.div_ceil(Line::new(&layer.shape, 0..1).len());
    let tasks = n / each;
    if tasks >= 4 * team.threads() {
        team.run(tasks, |task| images(n * task / tasks..n * (task + 1) / tasks, true));
    } else {
        images(0..n, false);
    }
}

/// Computes the images of a line, `alone` on this thread or together.
#[allow(clippy::too_many_arguments)] // a layer, its operands and where they are staged
fn forward_line(
    layer: &Layer,
    units: Units,
    team: &Team,
    pixels: &Pixels,
    line: Line,
    finish: Finish<'_>,
    staged: &mut [f32],
    row: usize,
    alone: bool,
) {
    let shape = &layer.shape;
    let steps = shape.c_in.div_ceil(DEPTH);
    let offset = |step: usize| {
        let (which, distance) = line.tap(shape, step / steps);
        2 * ((which * line.staged() + distance) * row + step % steps * DEPTH)
    };
    let offsets: Vec<usize> = (0..shape.taps() * steps).map(offset).collect();
    let staged = SharedMut::new(staged);
    team.run(line.lines() * line.rows(), |task| {
        let (which, index) = (task % line.lines(), task / line.lines());
        // SAFETY: `staged` has room for the lines; this task alone writes this row of pixels and the zeros before it.
        unsafe { stage(layer, units, pixels, &line, which, index, &staged, row) };
    });
    let (x, weights) = (staged.pointer().cast::<u16>(), layer.weights.as_ptr().cast());
    let call = Call { units, line: &line, x, row: 2 * row, offsets: &offsets, weights, finish };
    let panels = shape.c_out.div_ceil(SIDE);
    let tiles = line.len().div_ceil(SIDE);
    let blocks = line.len().div_ceil(BLOCK);
    // With few pixels, the weights are most of the memory traffic, so tasks share their panels instead.
    let split = if alone || blocks >= 4 * team.threads() { 1 } else { panels };
    team.run(blocks * split, |task| {
        let (index, part) = (task / split, task % split);
        let [first, last] = [index, index + 1].map(|index| (tiles * index / blocks * SIDE).min(line.len()));
        let (panel, last_panel) = (panels * part / split, panels * (part + 1) / split);
        // SAFETY: every pointer comes from a slice whose length `Layer::forward` or this function checked; tasks write
        // only their own pixels and channels.
        unsafe { block(layer.isa, &call, first, last, panel, last_panel) };
    });
}

/// Stages a row (counted over its images) of a line, and the zeros before it. The last one also stages the zeros after it.
///
/// # Safety
/// The row exists; nobody else accesses this part of the line.
#[allow(clippy::too_many_arguments)] // a row, and where it comes from and goes to
unsafe fn stage(
    layer: &Layer,
    units: Units,
    pixels: &Pixels,
    line: &Line,
    which: usize,
    index: usize,
    staged: &SharedMut<'_>,
    row: usize,
) {
    let Shape { c_in, input, upsample, .. } = layer.shape;
    let [height, width] = line.image;
    let (image, y) = (index / height, index % height);
    let at = |position: usize| staged.pointer().cast::<u16>().wrapping_add((which * line.staged() + position) * row);
    let zero = |from: usize, to: usize| {
        // SAFETY: guaranteed by the caller.
        unsafe { at(from).write_bytes(0, (to - from) * row) };
    };
    let first = (image * line.whole[0] + y + line.pad) * line.whole[1];
    if line.pad > 0 {
        zero(if y == 0 { first - line.whole[1] } else { first }, first + 1);
        if index + 1 == line.rows() {
            zero(first + line.whole[1], first + 2 * line.whole[1] + 1);
        }
    }
    // The row of the input, its first pixel in this line and the distance to the next.
    let (y, x, every) = match line.stride {
        1 if upsample => (y / 2, 0, 1),
        1 => (y, 0, 1),
        stride => (stride * y + which / stride, which % stride, stride),
    };
    let image = line.images.start + image;
    let pixel = (image * input[0] + y) * input[1];
    let channels = super::padded(c_in, 16);
    let narrow = |(from, stride): (*const f32, usize)| {
        let to = first + line.pad;
        // SAFETY: guaranteed by the caller; every pixel has whole vectors of channels.
        unsafe {
            if upsample {
                for i in 0..width {
                    units::narrow_rows(units, 1, channels, from.add(i / 2 * stride), 0, at(to + i), row);
                }
            } else {
                units::narrow_rows(units, width, channels, from.add(x * stride), every * stride, at(to), row);
            }
        }
    };
    if pixels.need_staging(16) {
        with_scratch(input[1] * channels, |normalised| {
            // SAFETY: guaranteed by the caller; the scratch has room for these rows.
            unsafe { pixels.stage(layer.isa, image, pixel, input[1], normalised.as_mut_ptr(), channels) };
            narrow((normalised.as_ptr(), channels));
        });
    } else {
        narrow(pixels.at(pixel));
    }
}
