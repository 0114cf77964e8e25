//! The gradients of a convolution.
//!
//! The gradient of the input is the transposed layer, which is itself a convolution. The gradient of the weights sums
//! products of an input channel and an output channel over all pixels: by definition (`definition`, and `pointwise` for
//! 1×1), in Winograd's domain (`tiles`), or on matrix units (`units`). The order of a sum does not depend on the threads.

mod definition;
mod pointwise;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod units;

use std::ops::Range;

use super::{Algorithm, Epilogue, Layer, Precision, Shape, Source};
use crate::elementwise;
use crate::isa::Isa;
use crate::shared::SharedMut;
use crate::sums::column_sums;
use crate::team::{Team, with_scratch};
use crate::view::{View, ViewMut};

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
/// A slice or view has another length than the shape implies, or algorithm or precision does not apply to the shape.
#[allow(clippy::too_many_arguments)] // the operands of a convolution's gradient
pub fn backward_weights(
    shape: &Shape,
    algorithm: Algorithm,
    precision: Precision,
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
    let operands = Operands { shape, isa, team, n, source, dy, weights: &weights };
    match precision {
        Precision::Single => {}
        #[cfg(target_arch = "x86_64")]
        Precision::BFloat16 => {
            let units = super::matrix_units(isa).filter(|_| Precision::training_with_units(isa, shape) == precision);
            let units = units.unwrap_or_else(|| panic!("{precision:?} of {shape:?} on {}", isa.name()));
            return units::add(&operands, units);
        }
        _ => panic!("weight gradient in {precision:?}"),
    }
    match algorithm {
        Algorithm::Direct if pointwise::applies(shape) => pointwise::add(&operands),
        Algorithm::Direct => definition::add(&operands),
        _ => tiles::add(&operands, algorithm),
    }
}

/// What every algorithm gets: the input's pixels, the output's gradient, and the weights' gradient of each output channel.
struct Operands<'a> {
    shape: &'a Shape,
    isa: Isa,
    team: &'a Team,
    n: usize,
    source: Source<'a>,
    dy: View<'a>,
    weights: &'a [SharedMut<'a>],
}

/// A panel of dy: as many output channels as two vectors hold.
struct Panel<'a> {
    dy: View<'a>,
    first: usize,
    width: usize,
    /// Channels that exist.
    present: usize,
}

impl<'a> Panel<'a> {
    fn new(shape: &Shape, isa: Isa, dy: View<'a>, panel: usize) -> Self {
        let width = 2 * isa.lanes();
        let first = panel * width;
        Self { dy, first, width, present: width.min(shape.c_out - first) }
    }

    /// The rows of these pixels, and their distance: where they are or, if channels are missing, in `room`, filled with zeros.
    fn rows(&self, pixels: Range<usize>, room: &mut [f32]) -> (*const f32, usize) {
        let at = |pixel: usize| self.dy.pointer().wrapping_add(pixel * self.dy.stride + self.first);
        if self.present == self.width {
            return (at(pixels.start), self.dy.stride);
        }
        assert!(room.len() >= pixels.len() * self.width, "{} rows in {} elements", pixels.len(), room.len());
        for (pixel, row) in pixels.zip(room.chunks_exact_mut(self.width)) {
            // SAFETY: `present` channels of an existing pixel.
            let dy = unsafe { std::slice::from_raw_parts(at(pixel), self.present) };
            row[..self.present].copy_from_slice(dy);
            row[self.present..].fill(0.0);
        }
        (room.as_ptr(), self.width)
    }
}

/// Most parts of a sum. More would keep more threads apart, but each has sums to write and to read.
const MOST_PARTS: usize = 4;

/// Into how many parts `rows` tiles or pixels are divided, each with sums of its own. Every sum is a chain over the rows
/// of a part, so this decides the order of additions; it does not depend on the threads.
fn parts(rows: usize, shape: &Shape) -> usize {
    // Every part writes and reads its sums once. That has to cost little beside its rows.
    let fewest = 4 * shape.c_in * shape.c_out / (shape.c_in + shape.c_out);
    let parts = (rows / fewest.max(1)).clamp(1, MOST_PARTS);
    // A power of two, which common numbers of threads divide.
    1 << parts.ilog2()
}
