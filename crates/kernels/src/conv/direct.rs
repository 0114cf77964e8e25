//! Convolutions by definition: register tiles of output pixels that gather their input pixel by pixel.
//!
//! Supports any kernel size, stride and padding, and the transpose of a strided convolution. A tile only needs the
//! position of the input pixel for each of its pixels and each tap of the kernel. Outside the image, that position is
//! a row of zeros.

use super::stage::Pixels;
use super::{Finish, Layer, Precision, Shape, Source};
use crate::half::{Element, Packed};
use crate::isa::{Simd, kernel};
use crate::micro::{Tiles, accumulate, fetch, tiles, with_rows};
use crate::shared::SharedMut;
use crate::team::{Team, with_scratch};

/// Output pixels per task.
const BLOCK: usize = 112;

/// Packs `weight(c_out, c_in)` (k·k weights, rotated by 180° if `turn`) as \[panel\]\[tap\]\[c_in\]\[two vectors\].
pub(super) fn pack<'w>(layer: &mut Layer, team: &Team, weight: impl Fn(usize, usize) -> &'w [f32] + Sync, turn: bool) {
    let Shape { c_in, c_out, .. } = layer.shape;
    let taps = layer.shape.taps();
    let width = 2 * layer.isa.lanes();
    let panels = c_out.div_ceil(width);
    let len = taps * c_in * width;
    let (isa, precision, scale) = (layer.isa, layer.precision, layer.weight_scale());
    layer.weights.at_least(precision.words(panels * len));
    let weights = SharedMut::new(&mut layer.weights);
    let fill = |panel: usize, packed: &mut [f32]| {
        packed.fill(0.0);
        for (lane, out) in (panel * width..((panel + 1) * width).min(c_out)).enumerate() {
            for input in 0..c_in {
                for (tap, &w) in weight(out, input).iter().enumerate() {
                    let tap = if turn { taps - 1 - tap } else { tap };
                    packed[(tap * c_in + input) * width + lane] = scale * w;
                }
            }
        }
    };
    team.run(panels, |panel| match precision {
        // SAFETY: only this task accesses the panel.
        Precision::Single => fill(panel, unsafe { weights.part(panel * len, len) }),
        _ => with_scratch(len, |packed| {
            fill(panel, packed);
            // SAFETY: only this task accesses the panel, which takes half the space in half precision; `len` is whole
            // vectors.
            unsafe { narrow(isa, packed.as_ptr(), len, weights.pointer().cast::<u16>().add(panel * len)) };
        }),
    });
}

kernel! {
    /// Rounds to half precision.
    ///
    /// # Safety
    /// `len` elements are readable at `from` and writable at `to`; `len` is a multiple of the vector length.
    unsafe fn narrow<S>(s, from: *const f32, len: usize, to: *mut u16) {
        for i in (0..len).step_by(S::LANES) {
            // SAFETY: guaranteed by the caller.
            unsafe { s.store_half(to.add(i), s.load(from.add(i))) };
        }
    }
}

/// Maps an output pixel and a tap to an input pixel.
#[derive(Clone, Copy)]
pub(super) struct Gather {
    kernel: usize,
    stride: usize,
    pad: usize,
    /// Height and width of the plane the kernel slides over, of the input as stored, and of the output.
    grid: [usize; 2],
    input: [usize; 2],
    output: [usize; 2],
    upsample: bool,
    /// Gathers for the transpose: tap k of pixel p reads input pixel q where p = q·stride + k − pad.
    transposed: bool,
}

impl Gather {
    pub(super) fn new(shape: &Shape, transposed: Option<&Shape>) -> Self {
        let of = transposed.unwrap_or(shape);
        let [grid, output] = match transposed {
            None => [of.grid(), of.output()],
            Some(_) => [of.output(), of.grid()],
        };
        Self {
            kernel: of.kernel,
            stride: of.stride,
            pad: of.pad_before,
            grid,
            input: shape.input,
            output,
            upsample: shape.upsample,
            transposed: transposed.is_some(),
        }
    }

    /// The input position along one axis, if it lies inside.
    #[inline(always)]
    fn along(&self, at: usize, tap: usize, size: usize) -> Option<usize> {
        let position = if self.transposed {
            (at + self.pad).checked_sub(tap).filter(|p| p.is_multiple_of(self.stride))? / self.stride
        } else {
            (at * self.stride + tap).checked_sub(self.pad)?
        };
        (position < size).then_some(position >> usize::from(self.upsample))
    }

    /// The input pixel, counted over all images, that `tap` of output pixel (y, x) of `image` reads.
    #[inline(always)]
    pub(super) fn pixel(&self, image: usize, y: usize, x: usize, tap: usize) -> Option<usize> {
        let y = self.along(y, tap / self.kernel, self.grid[0])?;
        let x = self.along(x, tap % self.kernel, self.grid[1])?;
        Some((image * self.input[0] + y) * self.input[1] + x)
    }

    /// The number of classes along an axis. Output pixels with equal residues modulo this step form a class. In the
    /// transpose of a strided convolution, all pixels of a class read the same taps.
    fn step(&self) -> usize {
        if self.transposed { self.stride } else { 1 }
    }

    /// Height and width of the pixels of an image that belong to class `class` (of step²).
    fn class_size(&self, class: usize) -> [usize; 2] {
        let step = self.step();
        [(self.output[0] + step - 1 - class / step) / step, (self.output[1] + step - 1 - class % step) / step]
    }
}

/// One call, as its tasks see it.
struct Call<'a> {
    gather: Gather,
    x: *const f32,
    x_stride: usize,
    zeros: *const f32,
    c_in: usize,
    weights: Packed,
    finish: Finish<'a>,
}

// SAFETY: tasks read the inputs and write only their own pixels and channels; `forward` outlives them.
unsafe impl Send for Call<'_> {}
// SAFETY: as above.
unsafe impl Sync for Call<'_> {}

/// The input pixels of a block of output pixels, computed once for all panels of weights.
struct Block {
    /// Image and pixel (counted over all images) of each output pixel.
    outputs: Vec<(usize, usize)>,
    /// The input pixel of each output pixel, for each tap.
    inputs: Vec<*const f32>,
    /// The layout of the input pixels, for each tap and tile.
    steps: Vec<Step>,
}

/// How the input pixels of a tile are laid out for one tap.
#[derive(Clone, Copy)]
enum Step {
    /// All lie outside the image and contribute nothing.
    Outside,
    /// At equal distances of this many elements.
    Even(usize),
    /// Irregularly.
    Uneven,
}

impl Step {
    fn of(rows: &[*const f32], zeros: *const f32) -> Self {
        if rows.iter().all(|row| *row == zeros) {
            return Self::Outside;
        }
        let first = rows[0] as usize;
        let step = rows.get(1).map_or(0, |second| (*second as usize).wrapping_sub(first));
        let even = rows.iter().enumerate().all(|(i, row)| *row as usize == first.wrapping_add(i.wrapping_mul(step)));
        // A negative distance (such as to the zeros) would wrap around; such rows take the general path.
        if even && step as isize >= 0 { Self::Even(step / size_of::<f32>()) } else { Self::Uneven }
    }
}

impl Block {
    /// Finds the input of output pixels `first..last` of a class, counted over all images, in tiles of at most `rows`.
    fn new(call: &Call<'_>, class: usize, first: usize, last: usize, tiles: impl Fn(usize) -> Tiles) -> Self {
        let gather = &call.gather;
        let taps = gather.kernel * gather.kernel;
        let step = gather.step();
        let [height, width] = gather.class_size(class);
        let [out_height, out_width] = gather.output;
        let mut outputs = Vec::with_capacity(last - first);
        let mut places = Vec::with_capacity(last - first);
        let (mut image, rest) = (first / (height * width), first % (height * width));
        let (mut row, mut column) = (rest / width, rest % width);
        for _ in first..last {
            let (y, x) = (row * step + class / step, column * step + class % step);
            outputs.push((image, (image * out_height + y) * out_width + x));
            places.push((image, y, x));
            column += 1;
            if column == width {
                (row, column) = (row + 1, 0);
            }
            if row == height {
                (image, row) = (image + 1, 0);
            }
        }
        let mut inputs = Vec::with_capacity(taps * places.len());
        let mut steps = Vec::new();
        for tap in 0..taps {
            let begin = inputs.len();
            for &(image, y, x) in &places {
                let pixel = gather.pixel(image, y, x, tap);
                inputs.push(pixel.map_or(call.zeros, |pixel| call.x.wrapping_add(pixel * call.x_stride)));
            }
            let rows = &inputs[begin..];
            steps.extend(tiles(rows.len()).map(|(first, count)| Step::of(&rows[first..first + count], call.zeros)));
        }
        Self { outputs, inputs, steps }
    }
}

kernel! {
    /// Computes output pixels `first..last` of a class (counted over all images) for panels `panel..last_panel`.
    unsafe fn block<S>(s, call: &Call<'_>, class: usize, first: usize, last: usize, panel: usize, last_panel: usize) {
        #[inline(always)]
        #[allow(clippy::too_many_arguments)] // a tile and its place in the block
        unsafe fn tile<S: Simd, const M: usize>(
            s: S, call: &Call<'_>, block: &Block, index: usize, count: usize, begin: usize, weights: *const impl Element,
            channel: usize,
        ) {
            let width = 2 * S::LANES;
            let pixels = block.outputs.len();
            let next = block.inputs.len() / pixels * call.c_in * width;
            let mut acc = [[s.zero(); 2]; M];
            for tap in 0..block.inputs.len() / pixels {
                let rows = &block.inputs[tap * pixels + begin..][..M];
                let weights = weights.wrapping_add(tap * call.c_in * width);
                let ahead = fetch(weights.wrapping_add(next), call.c_in, width, index, count);
                // SAFETY: rows of c_in elements, and the packed weights of this panel and tap.
                unsafe {
                    match block.steps[tap * count + index] {
                        Step::Outside => {}
                        // Fourteen addresses do not fit the registers; one address and a distance do.
                        Step::Even(step) => {
                            let first = rows[0];
                            let a = |i: usize, p: usize| first.wrapping_add(i * step + p);
                            accumulate(s, call.c_in, a, weights, width, ahead, &mut acc);
                        }
                        Step::Uneven => {
                            let a = |i: usize, p: usize| rows[i].wrapping_add(p);
                            accumulate(s, call.c_in, a, weights, width, ahead, &mut acc);
                        }
                    }
                }
            }
            for (sums, &(image, pixel)) in acc.into_iter().zip(&block.outputs[begin..]) {
                // SAFETY: only this task accesses these channels of this pixel.
                unsafe { call.finish.write_panel(s, image, pixel, channel, sums) };
            }
        }
        let found = Block::new(call, class, first, last, tiles::<S>);
        let count = tiles::<S>(last - first).count();
        let len = call.gather.kernel * call.gather.kernel * call.c_in * 2 * S::LANES;
        for panel in panel..last_panel {
            let channel = panel * 2 * S::LANES;
            // SAFETY: the panel exists.
            let weights = unsafe { call.weights.add(panel * len) };
            for (index, (begin, rows)) in tiles::<S>(last - first).enumerate() {
                // SAFETY: guaranteed by the caller.
                unsafe {
                    match weights {
                        Packed::Single(w) => with_rows!(rows, tile::<S>(s, call, &found, index, count, begin, w, channel)),
                        Packed::Half(w) => with_rows!(rows, tile::<S>(s, call, &found, index, count, begin, w, channel)),
                    }
                }
            }
        }
    }
}

pub(super) fn forward(layer: &Layer, team: &Team, n: usize, source: Source<'_>, finish: Finish<'_>) {
    let pixels = Pixels::new(source, layer.shape.c_in);
    if !pixels.is_normalised() {
        return gather(layer, team, n, pixels.at(0), finish);
    }
    // Every tap reads each pixel, so normalise the pixels once up front.
    let row = super::padded(layer.shape.c_in, layer.isa.lanes());
    let per_image = layer.shape.input_pixels();
    with_scratch(n * per_image * row, |staged| {
        let staged = SharedMut::new(staged);
        // SAFETY: `staged` has a padded row for each pixel of the source.
        unsafe { pixels.stage_all(layer.isa, team, n, per_image, &staged, row) };
        gather(layer, team, n, (staged.pointer().cast_const(), row), finish);
    });
}

fn gather(layer: &Layer, team: &Team, n: usize, (x, x_stride): (*const f32, usize), finish: Finish<'_>) {
    let c_in = layer.shape.c_in;
    with_scratch(c_in, |zeros| {
        zeros.fill(0.0);
        let gather = Gather::new(&layer.shape, layer.transposed.as_ref());
        // SAFETY: the layer has weights, and this is the first of them.
        let weights = unsafe { layer.packed(0) };
        let call = Call { gather, x, x_stride, zeros: zeros.as_ptr(), c_in, weights, finish };
        let panels = layer.shape.c_out.div_ceil(2 * layer.isa.lanes());
        for class in 0..gather.step() * gather.step() {
            let [height, width] = gather.class_size(class);
            let pixels = n * height * width;
            let blocks = pixels.div_ceil(BLOCK);
            // With few pixels, the weights are most of the memory traffic, so tasks share their panels instead.
            let split = if blocks >= 4 * team.threads() { 1 } else { panels };
            team.run(blocks * split, |task| {
                let (block_index, part) = (task / split, task % split);
                let (first, last) = (pixels * block_index / blocks, pixels * (block_index + 1) / blocks);
                let (panel, last_panel) = (panels * part / split, panels * (part + 1) / split);
                // SAFETY: every pointer comes from a slice whose length `Layer::forward` checked; tasks write only
                // their own pixels and channels.
                unsafe { block(layer.isa, &call, class, first, last, panel, last_panel) };
            });
        }
    });
}
