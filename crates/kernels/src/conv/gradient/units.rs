//! The weight gradient on matrix units, in bf16: for each tap of the kernel, a product whose inner dimension is the pixels.
//!
//! Pixels lie in the [`Line`] of the convolution itself, where a tap reads at a fixed distance. dy is zero at positions that are
//! no output pixels. x is transposed, so that the distance may be any number of pixels.
//!
//! The line is divided into a few parts, each with sums of its own; a task takes a part, for all input channels or some, through
//! the cache in chunks. Every sum is a chain over the chunks of its part, and the parts are added in order, so threads do not
//! matter.

use std::ops::Range;

use super::{Operands, parts};
use crate::conv::stage::Pixels;
use crate::conv::units::Line;
use crate::conv::{Shape, padded};
use crate::isa::Isa;
use crate::shared::SharedMut;
use crate::team::{Team, with_scratch};
use crate::units::{self, DEPTH, PANEL_STEP, SIDE, Units};
use crate::view::View;

/// Numbers of x and dy of a chunk: half of what a second-level cache holds.
const CHUNK: usize = 512 << 10;
/// Fewest positions of a chunk: every chunk reads and writes all sums of its part once.
const FEWEST: usize = 512;

/// Adds the gradient of the weights of each output channel.
pub(super) fn add(operands: &Operands<'_>, units: Units) {
    let &Operands { shape, isa, team, n, source, dy, weights } = operands;
    let line = Line::new(shape, 0..n);
    let [blocks, panels] = [shape.c_in, shape.c_out].map(|channels| channels.div_ceil(SIDE));
    let steps = line.len().div_ceil(DEPTH);
    let parts = parts(line.len(), shape).min(steps);
    let plane = blocks * panels * shape.taps() * SIDE * SIDE;
    let groups = team.threads().div_ceil(parts).min(blocks);
    let pixels = Pixels::new(source, shape.c_in);
    with_scratch(parts * plane, |sums| {
        let sums = SharedMut::new(sums);
        let sum = Sum { shape, units, isa, line: &line, x: pixels, dy, sums: &sums, plane, panels };
        team.run(parts * groups, |task| {
            let (part, group) = (task / groups, task % groups);
            let positions = DEPTH * (steps * part / parts)..DEPTH * (steps * (part + 1) / parts);
            sum.part(part, positions, blocks * group / groups..blocks * (group + 1) / groups);
        });
        sum.add(team, parts, weights);
    });
}

struct Sum<'a> {
    shape: &'a Shape,
    units: Units,
    isa: Isa,
    line: &'a Line,
    x: Pixels,
    dy: View<'a>,
    /// The sums, `[part, block of c_in, panel of c_out, tap, 32 inputs, 32 outputs]`.
    sums: &'a SharedMut<'a>,
    /// Sums of a part.
    plane: usize,
    panels: usize,
}

impl Sum<'_> {
    /// Computes the sums of a part for some blocks of input channels. `positions` are whole steps.
    fn part(&self, part: usize, positions: Range<usize>, blocks: Range<usize>) {
        let &Shape { c_in, c_out, .. } = self.shape;
        let most = (CHUNK / (c_in + c_out)).max(FEWEST).next_multiple_of(DEPTH);
        let halo = self.line.reach();
        // Whole cache lines, and not a multiple of many.
        let row = (most + halo).next_multiple_of(2 * DEPTH) + DEPTH;
        let (inputs, outputs) = (blocks.len() * SIDE, self.panels * SIDE);
        with_scratch((inputs * row + most * outputs) / 2, |scratch| {
            let x = scratch.as_mut_ptr().cast::<u16>();
            let dy = x.wrapping_add(inputs * row);
            for begin in positions.clone().step_by(most) {
                let end = (begin + most).min(positions.end);
                // SAFETY: the scratch has a row for each input channel and room for every step of every panel. Only this task
                // accesses the sums of this part and these blocks.
                unsafe {
                    self.stage_x(begin, end + halo, blocks.clone(), x, row);
                    self.stage_dy(begin, end, dy);
                    self.multiply(part, (end - begin) / DEPTH, blocks.clone(), x, row, dy, begin == positions.start);
                }
            }
        });
    }

    /// Stages the transpose of positions `begin..end`, from the first channel of the first block on.
    ///
    /// # Safety
    /// `x` has a row of `row` numbers, a multiple of 32 and at least as many as positions, for each channel of the blocks.
    unsafe fn stage_x(&self, begin: usize, end: usize, blocks: Range<usize>, x: *mut u16, row: usize) {
        let channels = padded(self.shape.c_in, SIDE);
        with_scratch(DEPTH * channels, |rows| {
            for first in (begin..end).step_by(DEPTH) {
                let mut position = first;
                while position < first + DEPTH {
                    let out = &mut rows[(position - first) * channels..];
                    position += match self.line.input(position, end) {
                        Some((image, pixel, run)) => {
                            let count = run.min(first + DEPTH - position);
                            // SAFETY: these pixels exist, and `out` has a row for each.
                            unsafe { self.x.stage(self.isa, image, pixel, count, out.as_mut_ptr(), channels) };
                            count
                        }
                        None => {
                            out[..channels].fill(0.0);
                            1
                        }
                    };
                }
                for channel in (blocks.start * SIDE..blocks.end * SIDE).step_by(16) {
                    let to = (channel - blocks.start * SIDE) * row + first - begin;
                    // SAFETY: guaranteed by the caller.
                    unsafe {
                        units::narrow_transposed(self.units, rows.as_ptr().add(channel), channels, x.add(to), row);
                    }
                }
            }
        });
    }

    /// Stages dy at positions `begin..end`, whole steps, as `[panel, step, two tiles]`.
    ///
    /// # Safety
    /// `to` has room for it.
    unsafe fn stage_dy(&self, begin: usize, end: usize, to: *mut u16) {
        let (c_out, steps) = (self.shape.c_out, (end - begin) / DEPTH);
        let zeros = [0.0; 16];
        for position in (begin..end).step_by(2) {
            let at = |position| {
                self.line.output(position).map(|(_, pixel)| self.dy.pointer().wrapping_add(pixel * self.dy.stride))
            };
            let (even, odd) = (at(position), at(position + 1));
            let (step, pair) = ((position - begin) / DEPTH, (position - begin) % DEPTH / 2);
            for tile in 0..2 * self.panels {
                let channel = tile * 16;
                let len = c_out.saturating_sub(channel).min(16);
                let of = |row: Option<*const f32>| row.map_or(zeros.as_ptr(), |row| row.wrapping_add(channel));
                // SAFETY: rows have `len` channels from here on, unless it is 0; the caller guarantees the rest.
                unsafe {
                    let to = to.add((tile / 2 * steps + step) * PANEL_STEP + tile % 2 * PANEL_STEP / 2 + pair * 32);
                    units::narrow_pair(self.units, of(even), of(odd), len, to);
                }
            }
        }
    }

    /// Adds the products of the staged chunk to the sums of a part, or sets these if `replace`.
    ///
    /// # Safety
    /// `x` and `dy` are staged; nobody else accesses these sums.
    #[allow(clippy::too_many_arguments)] // the operands of a product
    unsafe fn multiply(
        &self,
        part: usize,
        steps: usize,
        blocks: Range<usize>,
        x: *const u16,
        row: usize,
        dy: *const u16,
        replace: bool,
    ) {
        #[repr(C, align(64))]
        struct Tile([f32; SIDE * SIDE]);
        let mut tile = Tile([0.0; SIDE * SIDE]);
        let offsets: Vec<usize> = (0..steps).map(|step| 2 * step * DEPTH).collect();
        let tiles = self.units.configure();
        for block in blocks.clone() {
            for panel in 0..self.panels {
                for tap in 0..self.shape.taps() {
                    let at = ((block * self.panels + panel) * self.shape.taps() + tap) * SIDE * SIDE;
                    // SAFETY: guaranteed by the caller; a tap reaches no further than the staged positions.
                    unsafe {
                        let x = x.add((block - blocks.start) * SIDE * row + self.line.tap(self.shape, tap).1);
                        let dy = dy.add(panel * steps * PANEL_STEP);
                        let sums = self.sums.pointer().add(part * self.plane + at);
                        if replace {
                            tiles.product(x, 2 * row, &offsets, dy, sums, 4 * SIDE);
                        } else {
                            tiles.product(x, 2 * row, &offsets, dy, tile.0.as_mut_ptr(), 4 * SIDE);
                            units::add_sums(self.units, tile.0.as_ptr(), sums);
                        }
                    }
                }
            }
        }
    }

    /// Adds the sums of all parts to the weights.
    fn add(&self, team: &Team, parts: usize, weights: &[SharedMut<'_>]) {
        let &Shape { c_in, c_out, .. } = self.shape;
        let taps = self.shape.taps();
        team.run(self.panels * c_in.div_ceil(SIDE), |task| {
            let (panel, block) = (task % self.panels, task / self.panels);
            let inputs = block * SIDE..((block + 1) * SIDE).min(c_in);
            let outputs = panel * SIDE..((panel + 1) * SIDE).min(c_out);
            with_scratch(SIDE * taps * SIDE, |totals| {
                for tap in 0..taps {
                    let at = ((block * self.panels + panel) * taps + tap) * SIDE * SIDE;
                    for input in 0..inputs.len() {
                        let total = &mut totals[(input * taps + tap) * SIDE..][..SIDE];
                        // SAFETY: nobody writes the sums now.
                        let of = |part: usize| unsafe { self.sums.part(part * self.plane + at + input * SIDE, SIDE) };
                        total.copy_from_slice(of(0));
                        for part in 1..parts {
                            total.iter_mut().zip(of(part)).for_each(|(total, sum)| *total += *sum);
                        }
                    }
                }
                for (column, out) in outputs.enumerate() {
                    // SAFETY: only this task accesses the weights of these inputs.
                    let dw = unsafe { weights[out].part(inputs.start * taps, inputs.len() * taps) };
                    dw.iter_mut().zip(totals[column..].iter().step_by(SIDE)).for_each(|(dw, total)| *dw += total);
                }
            });
        });
    }
}
