//! Weights in the order in which the kernels of convolutions read them.

use cubecl::prelude::*;

use super::{Shape, Weights};
use crate::buffer::{Buffer, instance};
use crate::device::Gpu;
use crate::grid;

/// Part of a layer's weights among other parameters: `[channels, c_in, k, k]` at `offset`, the layer's output channels from
/// `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Place in the buffer of parameters.
    pub offset: usize,
    /// First output channel.
    pub first: usize,
    /// Number of output channels.
    pub channels: usize,
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn pack_kernel<W: Float>(
    parameters: &[f32],
    packed: &mut [W],
    offset: usize,
    first: usize,
    channels: usize,
    c_in: usize,
    c_out: usize,
    taps: usize,
    #[comptime] transposed: bool,
) {
    let i = ABSOLUTE_POS;
    if i < channels * c_in * taps {
        if comptime!(transposed) {
            // [tap][output channel][input channel]
            let ci = i % c_in;
            let co = i / c_in % channels;
            let tap = i / (c_in * channels);
            packed[(tap * c_out + first + co) * c_in + ci] =
                W::cast_from(parameters[offset + (co * c_in + ci) * taps + tap]);
        } else {
            // [tap][input channel][output channel]
            let co = i % channels;
            let ci = i / channels % c_in;
            let tap = i / (channels * c_in);
            packed[(tap * c_in + ci) * c_out + first + co] =
                W::cast_from(parameters[offset + (co * c_in + ci) * taps + tap]);
        }
    }
}

/// Brings a part of a layer's weights into the order of [`forward`](super::forward), `[tap][c_in][c_out]`.
///
/// # Panics
/// A buffer is too short for the shape, or the part has channels that the layer lacks.
pub fn pack(gpu: &Gpu, shape: &Shape, parameters: &Buffer, part: Part, packed: &Weights) {
    repack(gpu, shape, parameters, part, packed, false);
}

/// Brings a part of a layer's weights into the order of [`backward_data`](super::backward_data), `[tap][c_out][c_in]`.
///
/// # Panics
/// As [`pack`].
pub fn pack_transposed(gpu: &Gpu, shape: &Shape, parameters: &Buffer, part: Part, packed: &Weights) {
    repack(gpu, shape, parameters, part, packed, true);
}

fn repack(gpu: &Gpu, shape: &Shape, parameters: &Buffer, part: Part, packed: &Weights, transposed: bool) {
    let Part { offset, first, channels } = part;
    let len = channels * shape.c_in * shape.taps();
    assert!(first + channels <= shape.c_out, "{part:?} of {shape:?}");
    packed.check(shape);
    assert!(offset + len <= parameters.len(), "{part:?} of {} parameters", parameters.len());
    let launch = instance!(pack_kernel, packed.element);
    // SAFETY: the part's weights were checked against both buffers.
    unsafe {
        launch(
            &gpu.client,
            grid::units(len),
            grid::dim(),
            parameters.arg(),
            packed.arg(),
            offset,
            first,
            channels,
            shape.c_in,
            shape.c_out,
            shape.taps(),
            transposed,
        );
    }
}
