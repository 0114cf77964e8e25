//! The weight gradient by definition: for each tap of the kernel, a product of two matrices whose inner dimension is the
//! pixels.

use std::ops::Range;

use super::{Operands, Panel};
use crate::conv::direct::Gather;
use crate::conv::stage::Pixels;
use crate::conv::{Shape, padded};
use crate::isa::{Isa, kernel};
use crate::micro::{columns_times_rows, sums, tiles, with_rows};
use crate::shared::SharedMut;
use crate::team::{Team, with_scratch};
use crate::view::View;

/// Output pixels of a chunk.
const PIXELS: usize = 512;
/// Fewest input channels of a task.
const GROUP: usize = 8;
/// Input channels up to which whole patches are gathered.
const FEW: usize = 4;

/// Adds the gradient of the weights of each output channel.
pub(super) fn add(operands: &Operands<'_>) {
    let &Operands { shape, isa, team, n, source, dy, weights } = operands;
    let pixels = Pixels::new(source, shape.c_in);
    let run = |x: *const f32, x_stride: usize| {
        with_scratch(shape.c_in, |zeros| {
            zeros.fill(0.0);
            let places = Places::new(shape);
            let sum = ByDefinition { shape, isa, n, x, x_stride, zeros: zeros.as_ptr(), places: &places, dy, weights };
            sum.run(team);
        });
    };
    if !pixels.is_normalised() {
        let (x, x_stride) = pixels.at(0);
        return run(x, x_stride);
    }
    let row = padded(shape.c_in, isa.lanes());
    with_scratch(n * shape.input_pixels() * row, |staged| {
        let staged = SharedMut::new(staged);
        // SAFETY: `staged` has a padded row for each pixel of the source.
        unsafe { pixels.stage_all(isa, team, n, shape.input_pixels(), &staged, row) };
        run(staged.pointer().cast_const(), row);
    });
}

/// The input pixel that each tap of each output pixel of an image reads, `[tap, output pixel]`;
/// [`OUTSIDE`](Self::OUTSIDE) if it lies outside the image.
struct Places(Vec<u32>);

impl Places {
    const OUTSIDE: u32 = u32::MAX;

    fn new(shape: &Shape) -> Self {
        let gather = Gather::new(shape, None);
        let [height, width] = shape.output();
        let mut pixels = Vec::with_capacity(shape.taps() * height * width);
        for tap in 0..shape.taps() {
            for y in 0..height {
                let read = |x| gather.pixel(0, y, x, tap).map_or(Self::OUTSIDE, |pixel| pixel as u32);
                pixels.extend((0..width).map(read));
            }
        }
        Self(pixels)
    }
}

/// The weight gradient by definition: for each tap, products of the pixels it reads and the pixels of dy.
struct ByDefinition<'a> {
    shape: &'a Shape,
    isa: Isa,
    n: usize,
    x: *const f32,
    x_stride: usize,
    /// c_in zeros, read for pixels outside the image.
    zeros: *const f32,
    places: &'a Places,
    dy: View<'a>,
    weights: &'a [SharedMut<'a>],
}

// SAFETY: tasks read the pixels and write only their own weights; `add` outlives them.
unsafe impl Send for ByDefinition<'_> {}
// SAFETY: as above.
unsafe impl Sync for ByDefinition<'_> {}

impl ByDefinition<'_> {
    fn run(&self, team: &Team) {
        let &Shape { c_in, c_out, .. } = self.shape;
        let (taps, panels) = (self.shape.taps(), c_out.div_ceil(2 * self.isa.lanes()));
        if taps > 1 && c_in <= FEW {
            team.run(panels, |panel| self.patches(panel));
            return;
        }
        // Tasks share the input channels where there are few panels and taps. Each product is one chain over the
        // pixels, so this does not affect results.
        let groups = (4 * team.threads()).div_ceil(panels * taps).min(c_in.div_ceil(GROUP));
        team.run(panels * taps * groups, |task| {
            let (panel, rest) = (task / (taps * groups), task % (taps * groups));
            let (tap, group) = (rest / groups, rest % groups);
            self.tap(panel, tap, c_in * group / groups..c_in * (group + 1) / groups);
        });
    }

    /// Calls `each` for every chunk of pixels with its first pixel, its pixels of dy (two vectors each) and their
    /// distance.
    fn chunks(&self, panel: usize, mut each: impl FnMut(Range<usize>, *const f32, usize)) {
        let pixels = self.n * self.shape.output_pixels();
        let panel = Panel::new(self.shape, self.isa, self.dy, panel);
        with_scratch(PIXELS * panel.width, |room| {
            for begin in (0..pixels).step_by(PIXELS) {
                let chunk = begin..(begin + PIXELS).min(pixels);
                let (dy, dy_row) = panel.rows(chunk.clone(), room);
                each(chunk, dy, dy_row);
            }
        });
    }

    /// The rows of x that `tap` reads for a chunk of output pixels.
    fn rows(&self, tap: usize, chunk: Range<usize>, mut put: impl FnMut(usize, *const f32)) {
        let (inputs, outputs) = (self.shape.input_pixels(), self.shape.output_pixels());
        let places = &self.places.0[tap * outputs..(tap + 1) * outputs];
        let (mut image, mut at) = (chunk.start / outputs, chunk.start % outputs);
        for i in 0..chunk.len() {
            let row = match places[at] {
                Places::OUTSIDE => self.zeros,
                pixel => self.x.wrapping_add((image * inputs + pixel as usize) * self.x_stride),
            };
            put(i, row);
            at += 1;
            if at == outputs {
                (image, at) = (image + 1, 0);
            }
        }
    }

    /// Adds the gradient of one tap's weights, of a range of input channels and a panel of output channels.
    fn tap(&self, panel: usize, tap: usize, inputs: Range<usize>) {
        let (isa, width, first) = (self.isa, 2 * self.isa.lanes(), inputs.start);
        with_scratch(inputs.len() * width, |sums| {
            let mut rows = [std::ptr::null::<f32>(); PIXELS];
            self.chunks(panel, |chunk, dy, dy_row| {
                let (count, replace) = (chunk.len(), chunk.start == 0);
                let c = sums.as_mut_ptr();
                // SAFETY: rows of c_in elements, `count` pixels of dy, and a row of sums for each input channel.
                unsafe {
                    self.rows(tap, chunk, |i, row| rows[i] = row.wrapping_add(first));
                    gathered_products(isa, &rows[..count], inputs.len(), dy, dy_row, c, replace);
                }
            });
            let taps = self.shape.taps();
            self.add(panel, sums, |row| (first + row) * taps + tap);
        });
    }

    /// Adds the gradient of all weights of a panel of output channels. Gathers whole patches, because a few channels
    /// alone would leave most registers idle.
    fn patches(&self, panel: usize) {
        let (width, c_in, taps) = (2 * self.isa.lanes(), self.shape.c_in, self.shape.taps());
        let patch = taps * c_in;
        with_scratch(patch * (PIXELS + width), |scratch| {
            let (patches, sums) = scratch.split_at_mut(patch * PIXELS);
            self.chunks(panel, |chunk, dy, dy_row| {
                let (count, replace) = (chunk.len(), chunk.start == 0);
                for tap in 0..taps {
                    self.rows(tap, chunk.clone(), |i, row| {
                        // SAFETY: each row has c_in elements.
                        let row = unsafe { std::slice::from_raw_parts(row, c_in) };
                        for (channel, x) in row.iter().enumerate() {
                            patches[i * patch + channel * taps + tap] = *x;
                        }
                    });
                }
                let (a, c) = (patches.as_ptr(), sums.as_mut_ptr());
                // SAFETY: `count` patches, as many pixels of dy, and a row of sums for each element of a patch.
                unsafe { columns_times_rows(self.isa, count, patch, a, patch, dy, dy_row, c, width, replace) };
            });
            self.add(panel, sums, |row| row);
        });
    }

    /// Adds rows of sums to the weights of a panel's output channels; row i belongs to weight `weight(i)` of each.
    fn add(&self, panel: usize, sums: &[f32], weight: impl Fn(usize) -> usize) {
        let width = 2 * self.isa.lanes();
        for (row, sums) in sums.chunks_exact(width).enumerate() {
            for (dw, sum) in self.weights[panel * width..].iter().zip(sums) {
                // SAFETY: only this task accesses these weights.
                unsafe { dw.part(weight(row), 1)[0] += sum };
            }
        }
    }
}

kernel! {
    /// Sets c\[i\] (dense, two vectors) to Σ_p rows\[p\]\[i\]·b\[p\] for i < `channels`, or adds it unless `replace`.
    /// The rows of b are two vectors, `b_row` apart.
    unsafe fn gathered_products<S>(
        s, rows: &[*const f32], channels: usize, b: *const f32, b_row: usize, c: *mut f32, replace: bool,
    ) {
        let width = 2 * S::LANES;
        for (first, count) in tiles::<S>(channels) {
            // SAFETY: a product reads as many rows as it is given, p < rows.len().
            let a = |i: usize, p: usize| unsafe { rows.get_unchecked(p) }.wrapping_add(first + i);
            let c = c.wrapping_add(first * width);
            // SAFETY: guaranteed by the caller, for a part of the channels.
            unsafe { with_rows!(count, sums::<S>(s, rows.len(), a, b, b_row, |_| {}, c, width, replace)) };
        }
    }
}
