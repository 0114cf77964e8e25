//! The weight gradient of a 1×1 convolution without stride: one product of two matrices whose inner dimension is the
//! pixels, because each output pixel reads the input pixel of the same index.
//!
//! The pixels are divided into a few parts, each with sums of its own. With a part for every thread, each thread takes
//! its part through the cache once, and normalises it on the way. Otherwise, the threads share the channels. Either
//! way, a sum is one chain over the pixels of its part, and the parts are added in order.

use std::ops::Range;

use super::{Operands, Panel, parts};
use crate::conv::stage::Pixels;
use crate::conv::{Shape, padded};
use crate::isa::Isa;
use crate::micro::columns_times_rows;
use crate::shared::SharedMut;
use crate::team::{Team, with_scratch};
use crate::view::View;

/// Elements of x and dy of a chunk: what a second-level cache holds beside the sums.
const CHUNK: usize = 96 << 10;
/// Fewest pixels of a chunk: every chunk reads and writes all sums of its part once.
const FEWEST: usize = 96;
/// Fewest input channels of a task.
const GROUP: usize = 8;

/// Adds the gradient of the weights of each output channel.
pub(super) fn add(operands: &Operands<'_>) {
    let &Operands { shape, isa, team, n, source, dy, weights } = operands;
    let x = Pixels::new(source, shape.c_in);
    let pixels = n * shape.output_pixels();
    let parts = parts(pixels, shape);
    let plane = shape.c_in * padded(shape.c_out, 2 * isa.lanes());
    with_scratch(parts * plane, |sums| {
        let sums = SharedMut::new(sums);
        let sum = Pointwise { shape, isa, x, dy, sums: &sums, plane };
        let of_part = |part: usize| pixels * part / parts..pixels * (part + 1) / parts;
        if parts >= team.threads() {
            team.run(parts, |part| sum.alone(part, of_part(part)));
        } else {
            sum.together(team, n, parts, of_part);
        }
        sum.add(team, parts, weights);
    });
}

/// Whether the gradient of this convolution is computed here.
pub(super) fn applies(shape: &Shape) -> bool {
    shape.taps() == 1 && shape.stride == 1 && !shape.upsample && shape.input_pixels() == shape.output_pixels()
}

struct Pointwise<'a> {
    shape: &'a Shape,
    isa: Isa,
    x: Pixels,
    dy: View<'a>,
    /// The sums, `[part, panel, c_in, two vectors]`.
    sums: &'a SharedMut<'a>,
    /// Sums of a part.
    plane: usize,
}

impl Pointwise<'_> {
    /// Output channels of a panel.
    fn width(&self) -> usize {
        2 * self.isa.lanes()
    }

    fn panels(&self) -> usize {
        self.shape.c_out.div_ceil(self.width())
    }

    /// Elements of a staged row.
    fn row(&self) -> usize {
        padded(self.shape.c_in, self.isa.lanes())
    }

    /// Computes the sums of a part on this thread.
    fn alone(&self, part: usize, pixels: Range<usize>) {
        let &Shape { c_in, c_out, .. } = self.shape;
        let (row, per_image) = (self.row(), self.shape.input_pixels());
        let most = (CHUNK / (c_in + c_out)).max(FEWEST);
        with_scratch(most * (row + self.width()), |scratch| {
            let (staged, packed) = scratch.split_at_mut(most * row);
            for begin in pixels.clone().step_by(most) {
                let chunk = begin..(begin + most).min(pixels.end);
                let (mut x, mut x_stride) = self.x.at(begin);
                if self.x.is_normalised() {
                    // SAFETY: the pixels exist and have rows of `staged`.
                    unsafe { self.x.stage_range(self.isa, per_image, chunk.clone(), staged.as_mut_ptr(), row) };
                    (x, x_stride) = (staged.as_ptr(), row);
                }
                for panel in 0..self.panels() {
                    // SAFETY: x has a row for each pixel of the chunk; only this task accesses the part's sums.
                    unsafe {
                        self.multiply(part, panel, 0..c_in, chunk.clone(), x, x_stride, packed, begin == pixels.start)
                    };
                }
            }
        });
    }

    /// Computes the sums of all parts on all threads together.
    fn together(&self, team: &Team, n: usize, parts: usize, of_part: impl Fn(usize) -> Range<usize> + Sync) {
        let (c_in, per_image) = (self.shape.c_in, self.shape.input_pixels());
        let row = if self.x.is_normalised() { self.row() } else { 0 };
        with_scratch(n * per_image * row, |staged| {
            let staged = SharedMut::new(staged);
            if row > 0 {
                // SAFETY: `staged` has a padded row for each pixel of the source.
                unsafe { self.x.stage_all(self.isa, team, n, per_image, &staged, row) };
            }
            let panels = self.panels();
            // Tasks share the input channels where there are few panels.
            let groups = (4 * team.threads()).div_ceil(panels * parts).min(c_in.div_ceil(GROUP));
            team.run(parts * panels * groups, |task| {
                let (part, rest) = (task / (panels * groups), task % (panels * groups));
                let (panel, group) = (rest / groups, rest % groups);
                let channels = c_in * group / groups..c_in * (group + 1) / groups;
                let pixels = of_part(part);
                with_scratch(CHUNK / self.width() * self.width(), |packed| {
                    let most = packed.len() / self.width();
                    for begin in pixels.clone().step_by(most) {
                        let chunk = begin..(begin + most).min(pixels.end);
                        let (x, x_stride) = match row {
                            0 => self.x.at(begin),
                            _ => (staged.pointer().cast_const().wrapping_add(begin * row), row),
                        };
                        let first = begin == pixels.start;
                        // SAFETY: x has a row for each pixel of the chunk; only this task accesses these channels'
                        // sums.
                        unsafe { self.multiply(part, panel, channels.clone(), chunk, x, x_stride, packed, first) };
                    }
                });
            });
        });
    }

    /// Adds the products of `channels` of the input and a panel of dy over the pixels of a chunk to the sums of `part`,
    /// or sets these if `replace`. `packed` has room for the chunk's pixels of a panel.
    ///
    /// # Safety
    /// `x` points to a row for each pixel of the chunk. Nobody else accesses these sums.
    #[allow(clippy::too_many_arguments)] // the operands of a product
    unsafe fn multiply(
        &self,
        part: usize,
        panel: usize,
        channels: Range<usize>,
        chunk: Range<usize>,
        x: *const f32,
        x_stride: usize,
        packed: &mut [f32],
        replace: bool,
    ) {
        let (width, c_in) = (self.width(), self.shape.c_in);
        let (dy, dy_row) = Panel::new(self.shape, self.isa, self.dy, panel).rows(chunk.clone(), packed);
        // SAFETY: guaranteed by the caller; the sums have a row of two vectors for each input channel of the panel.
        unsafe {
            let sums = self.sums.pointer().add(part * self.plane + (panel * c_in + channels.start) * width);
            let x = x.add(channels.start);
            columns_times_rows(self.isa, chunk.len(), channels.len(), x, x_stride, dy, dy_row, sums, width, replace);
        }
    }

    /// Adds the sums of all parts to the weights.
    fn add(&self, team: &Team, parts: usize, weights: &[SharedMut<'_>]) {
        let (width, c_in) = (self.width(), self.shape.c_in);
        team.run(self.shape.c_out, |out| {
            let (panel, lane) = (out / width, out % width);
            // SAFETY: only this task accesses the weights of its channel, and nobody writes the sums now.
            unsafe {
                let sums = self.sums.pointer().cast_const().add(panel * c_in * width + lane);
                for (input, dw) in weights[out].part(0, c_in).iter_mut().enumerate() {
                    let sum = |part: usize| *sums.add(part * self.plane + input * width);
                    *dw += (1..parts).fold(sum(0), |total, part| total + sum(part));
                }
            }
        });
    }
}
