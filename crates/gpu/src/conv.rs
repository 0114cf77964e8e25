//! Two-dimensional convolution with square kernels, fused with the operations around it in a U-Net.
//!
//! The convolution is the product of a matrix of gathered pixels, `[n·pixels]` × `[taps·c_in]`, and the packed weights,
//! `[taps·c_in]` × `[c_out]`. Units gather the pixels while they fill their tiles; the matrix never exists in memory. While
//! gathering, they normalise and activate; while writing, they add bias, vector and residual and scale.
//!
//! The tile follows from the layer's shape alone ([`Shape`]), and each output is one chain of multiply-adds over taps and
//! input channels. So an image's result does not depend on the batch.

pub(crate) mod units;

use cubecl::prelude::*;

use crate::buffer::{Buffer, Element, View, instance};
use crate::device::Gpu;
use crate::error::{Error, Result};
use crate::grid;
use crate::math::silu;
use crate::tile::{self, DEPTH, SIDE};

/// Shape of a convolution layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Height and width of the input, before upsampling.
    pub input: [usize; 2],
    /// Side length of the kernel.
    pub kernel: usize,
    /// Stride in input pixels.
    pub stride: usize,
    /// Zero padding before the first row and column.
    pub pad_before: usize,
    /// Zero padding after the last row and column.
    pub pad_after: usize,
    /// Whether the input is first upsampled by 2 (every pixel repeated to 2×2).
    pub upsample: bool,
}

impl Shape {
    /// Height and width of the plane the kernel slides over.
    pub fn grid(&self) -> [usize; 2] {
        self.input.map(|size| size << usize::from(self.upsample))
    }

    /// Height and width of the output.
    pub fn output(&self) -> [usize; 2] {
        self.grid().map(|size| (size + self.pad_before + self.pad_after - self.kernel) / self.stride + 1)
    }

    /// Pixels of one input image.
    pub fn input_pixels(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Pixels of one output image.
    pub fn output_pixels(&self) -> usize {
        self.output()[0] * self.output()[1]
    }

    /// Pixels of one image of the plane the kernel slides over.
    pub fn grid_pixels(&self) -> usize {
        self.grid()[0] * self.grid()[1]
    }

    /// Positions of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// Number of weights.
    pub fn weights(&self) -> usize {
        self.taps() * self.c_in * self.c_out
    }

    fn check(&self) {
        let padded = self.grid().map(|size| size + self.pad_before + self.pad_after);
        let whole = self.c_in > 0 && self.c_out > 0 && self.kernel > 0 && self.stride > 0;
        assert!(whole && padded.iter().all(|size| *size >= self.kernel), "{self:?} has no output");
    }
}

/// The normalisation that a convolution applies to its input while reading it: x ↦ act(a·x + b).
#[derive(Clone, Debug)]
pub struct Norm {
    /// a and b, `[n, 2, channels]`.
    pub ab: Buffer,
    /// Whether the activation is SiLU (otherwise the identity).
    pub silu: bool,
}

/// A convolution's weights in the order of its kernels, stored as the pixels that it reads.
#[derive(Clone, Debug)]
pub struct Weights {
    buffer: Buffer,
    element: Element,
}

impl Weights {
    /// Room for the weights of layers of this shape.
    ///
    /// # Errors
    /// The device has too little memory, or does not compute in half precision.
    pub fn reserve(gpu: &Gpu, shape: &Shape, element: Element) -> Result<Self> {
        if element == Element::F16 && !gpu.properties().half {
            return Err(Error::Unavailable("it does not compute in 16-bit floating point; use f32".into()));
        }
        Ok(Self { buffer: gpu.reserve(element.words(shape.weights()))?, element })
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        4 * self.buffer.len()
    }

    fn check(&self, shape: &Shape) {
        assert!(self.element.per_word() * self.buffer.len() >= shape.weights(), "weights of {shape:?}");
    }

    fn arg(&self) -> BufferArg {
        self.buffer.arg_of(self.element)
    }
}

/// Vectors of conditions and the row that each image uses.
#[derive(Clone, Debug)]
pub struct Vectors {
    /// One vector per row.
    pub view: View,
    /// Number of rows.
    pub rows: usize,
    /// The row of each image. A number that is too large means the last row.
    pub row_of: Buffer,
}

impl Vectors {
    /// Panics unless there are vectors of `len` elements, in single precision, and rows of `n` images.
    pub(crate) fn check(&self, len: usize, n: usize) {
        assert!(self.rows > 0 && self.view.element == Element::F32, "vectors in single precision");
        assert!(self.row_of.len() >= n, "vectors of {n} images");
        self.view.check(self.rows, len, "vectors of conditions");
    }
}

/// Post-processing of a convolution's result y: y ↦ (y + bias + vector + residual)·scale.
#[derive(Clone, Debug)]
pub struct Epilogue {
    /// One number per output channel: the buffer and the first one's place in it.
    pub bias: Option<(Buffer, usize)>,
    /// A vector per image.
    pub vector: Option<Vectors>,
    /// A tensor of the output's shape.
    pub residual: Option<View>,
    /// Adds the previous content of the output instead of a residual.
    pub accumulate: bool,
    /// The factor of the sum.
    pub scale: f32,
}

impl Default for Epilogue {
    fn default() -> Self {
        Self { bias: None, vector: None, residual: None, accumulate: false, scale: 1.0 }
    }
}

/// The part of a kernel that is compiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    pub kernel: usize,
    pub stride: usize,
    pub upsample: bool,
    /// Gathers the pixels that *wrote* to a pixel: the convolution's transpose.
    pub transposed: bool,
    pub norm: bool,
    pub silu: bool,
    bias: bool,
    vector: bool,
    residual: bool,
    accumulate: bool,
    /// Sums per unit: pixels and output channels.
    pub rows: usize,
    pub columns: usize,
}

impl Variant {
    /// Reads the pixels that the layer's kernel covers, normalised.
    pub(crate) fn gathering(shape: &Shape, norm: Option<&Norm>, rows: usize, columns: usize) -> Self {
        Self {
            kernel: shape.kernel,
            stride: shape.stride,
            upsample: shape.upsample,
            transposed: false,
            norm: norm.is_some(),
            silu: norm.is_some_and(|norm| norm.silu),
            bias: false,
            vector: false,
            residual: false,
            accumulate: false,
            rows,
            columns,
        }
    }
}

/// Sums per unit for so many pixels of an image and so many channels.
pub(crate) fn tile_of(pixels: usize, channels: usize) -> (usize, usize) {
    let rows = match pixels {
        0..=31 => 1,
        32..=255 => 2,
        _ => 4,
    };
    let columns = match channels {
        0..=16 => 1,
        17..=32 => 2,
        _ => 4,
    };
    (rows, columns)
}

/// Sizes that a kernel reads at run time.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(crate) struct Sizes {
    /// Output pixels of all images.
    pub rows: usize,
    pub out_height: usize,
    pub out_width: usize,
    pub in_height: usize,
    pub in_width: usize,
    pub c_in: usize,
    pub c_out: usize,
    pub pad: usize,
    pub x_stride: usize,
    pub x_offset: usize,
}

/// The value that tap (`ky`, `kx`) of channel `ci` reads for output pixel (`oy`, `ox`) of an image, normalised; 0 outside.
#[cube]
#[allow(clippy::too_many_arguments)]
pub(crate) fn gather<A: Float>(
    x: &[A],
    ab: &[f32],
    s: &Sizes,
    image: usize,
    oy: usize,
    ox: usize,
    ky: usize,
    kx: usize,
    ci: usize,
    #[comptime] v: Variant,
) -> f32 {
    let up = comptime!(v.upsample as usize);
    let mut value = 0.0f32;
    let mut inside = false;
    let mut iy = 0usize;
    let mut ix = 0usize;
    if comptime!(v.transposed) {
        let (y, x) = (oy + s.pad, ox + s.pad);
        if y >= ky && x >= kx {
            iy = (y - ky) / v.stride;
            ix = (x - kx) / v.stride;
            inside = iy * v.stride + ky == y && ix * v.stride + kx == x && iy < s.in_height && ix < s.in_width;
        }
    } else {
        let (y, x) = (oy * v.stride + ky, ox * v.stride + kx);
        if y >= s.pad && x >= s.pad {
            iy = (y - s.pad) >> up;
            ix = (x - s.pad) >> up;
            inside = iy < s.in_height && ix < s.in_width;
        }
    }
    if inside {
        let pixel = (image * s.in_height + iy) * s.in_width + ix;
        value = f32::cast_from(x[pixel * s.x_stride + s.x_offset + ci]);
        if comptime!(v.norm) {
            let at = image * 2 * s.c_in + ci;
            value = fma(ab[at], value, ab[at + s.c_in]);
            if comptime!(v.silu) {
                value = silu(value);
            }
        }
    }
    value
}

/// The images and positions of the output pixels `row`, `row` + [`SIDE`], …, as many as the unit has rows.
#[cube]
fn locate(
    row: usize,
    s: &Sizes,
    image: &mut Array<usize>,
    oy: &mut Array<usize>,
    ox: &mut Array<usize>,
    #[comptime] rows: usize,
) {
    let out_pixels = s.out_height * s.out_width;
    #[unroll]
    for i in 0..rows {
        let at = row + SIDE * i;
        let pixel = at % out_pixels;
        image[i] = at / out_pixels;
        oy[i] = pixel / s.out_width;
        ox[i] = pixel % s.out_width;
    }
}

/// Where a kernel writes, and what it adds.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Target {
    bias_offset: usize,
    vector_rows: usize,
    vector_stride: usize,
    vector_offset: usize,
    residual_stride: usize,
    residual_offset: usize,
    y_stride: usize,
    y_offset: usize,
    scale: f32,
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn convolve<A: Float>(
    x: &[A],
    w: &[A],
    bias: &[f32],
    ab: &[f32],
    vectors: &[f32],
    row_of: &[u32],
    residual: &[A],
    y: &mut [A],
    s: Sizes,
    t: Target,
    #[comptime] v: Variant,
) {
    let (height, width) = comptime!((SIDE * v.rows, SIDE * v.columns));
    let column_tiles = s.c_out.div_ceil(width);
    let first_row = CUBE_POS / column_tiles * height;
    let first_column = CUBE_POS % column_tiles * width;
    if first_row < s.rows {
        let unit = UNIT_POS as usize;
        let mut pixels = Shared::<[f32]>::new_slice(comptime!(tile::len(SIDE * v.rows)));
        let mut weights = Shared::<[f32]>::new_slice(comptime!(tile::len(SIDE * v.columns)));
        let mut sums = Array::<f32>::new(comptime!(v.rows * v.columns));
        tile::clear(&mut sums, comptime!(v.rows * v.columns));
        // The pixels that this unit gathers, and the depth at which it does: neighbours read neighbouring channels.
        let depth = unit % DEPTH;
        let out_pixels = s.out_height * s.out_width;
        let mut image = Array::<usize>::new(comptime!(v.rows));
        let mut oy = Array::<usize>::new(comptime!(v.rows));
        let mut ox = Array::<usize>::new(comptime!(v.rows));
        locate(first_row + unit / DEPTH, &s, &mut image, &mut oy, &mut ox, v.rows);
        let length = comptime!(v.kernel * v.kernel) * s.c_in;
        let mut begin = 0usize;
        while begin < length {
            let k = begin + depth;
            let (tap, ci) = (k / s.c_in, k % s.c_in);
            let (ky, kx) = (tap / v.kernel, tap % v.kernel);
            #[unroll]
            for i in 0..v.rows {
                let place = unit / DEPTH + SIDE * i;
                let mut value = 0.0f32;
                if k < length && first_row + place < s.rows {
                    value = gather(x, ab, &s, image[i], oy[i], ox[i], ky, kx, ci, v);
                }
                pixels[depth * (height + 1) + place] = value;
            }
            #[unroll]
            for j in 0..v.columns {
                let element = unit + comptime!(SIDE * SIDE) * j;
                let (row, column) = (element / width, element % width);
                let mut value = 0.0f32;
                if begin + row < length && first_column + column < s.c_out {
                    value = f32::cast_from(w[(begin + row) * s.c_out + first_column + column]);
                }
                weights[row * (width + 1) + column] = value;
            }
            sync_cube();
            tile::multiply(&pixels, &weights, &mut sums, v.rows, v.columns);
            sync_cube();
            begin += DEPTH;
        }
        #[unroll]
        for i in 0..v.rows {
            let row = first_row + unit / SIDE + SIDE * i;
            if row < s.rows {
                let image = row / out_pixels;
                #[unroll]
                for j in 0..v.columns {
                    let column = first_column + unit % SIDE + SIDE * j;
                    if column < s.c_out {
                        let sum = sums[i * v.columns + j];
                        finish(sum, row, image, column, bias, vectors, row_of, residual, y, &t, v);
                    }
                }
            }
        }
    }
}

/// Adds what the epilogue adds to a sum of products and writes the result.
#[cube]
#[allow(clippy::too_many_arguments)]
fn finish<A: Float>(
    sum: f32,
    row: usize,
    image: usize,
    column: usize,
    bias: &[f32],
    vectors: &[f32],
    row_of: &[u32],
    residual: &[A],
    y: &mut [A],
    t: &Target,
    #[comptime] v: Variant,
) {
    let mut sum = sum;
    if comptime!(v.bias) {
        sum += bias[t.bias_offset + column];
    }
    if comptime!(v.vector) {
        let vector = min(row_of[image] as usize, t.vector_rows - 1);
        sum += vectors[vector * t.vector_stride + t.vector_offset + column];
    }
    if comptime!(v.residual) {
        sum += f32::cast_from(residual[row * t.residual_stride + t.residual_offset + column]);
    }
    let at = row * t.y_stride + t.y_offset + column;
    if comptime!(v.accumulate) {
        sum += f32::cast_from(y[at]);
    }
    y[at] = A::cast_from(sum * t.scale);
}

/// y = (w ∗ norm(x) + bias + vector + residual)·scale for `n` images. `weights` are packed ([`pack`]).
///
/// # Panics
/// A buffer or view is too short for the shape, or pixels and weights are stored in different ways.
#[allow(clippy::too_many_arguments)] // operands and result
pub fn forward(
    gpu: &Gpu,
    shape: &Shape,
    n: usize,
    x: &View,
    norm: Option<&Norm>,
    weights: &Weights,
    epilogue: &Epilogue,
    y: &View,
) {
    shape.check();
    let (input, output) = (shape.input, shape.output());
    run(gpu, shape, n, (shape.c_in, input), (shape.c_out, output), false, x, norm, weights, epilogue, y);
}

/// The gradient of the input, or of the upsampled input where the layer upsamples, given that of the output. `weights` are
/// packed by [`pack_transposed`]. Adds to `dx` if `accumulate`.
///
/// # Panics
/// A buffer or view is too short for the shape.
pub fn backward_data(gpu: &Gpu, shape: &Shape, n: usize, dy: &View, weights: &Weights, dx: &View, accumulate: bool) {
    shape.check();
    let epilogue = Epilogue { accumulate, ..Epilogue::default() };
    let (input, output) = (shape.output(), shape.grid());
    run(gpu, shape, n, (shape.c_out, input), (shape.c_in, output), true, dy, None, weights, &epilogue, dx);
}

#[allow(clippy::too_many_arguments)] // the two directions of a convolution
fn run(
    gpu: &Gpu,
    shape: &Shape,
    n: usize,
    (c_in, input): (usize, [usize; 2]),
    (c_out, output): (usize, [usize; 2]),
    transposed: bool,
    x: &View,
    norm: Option<&Norm>,
    weights: &Weights,
    epilogue: &Epilogue,
    y: &View,
) {
    let pixels = output[0] * output[1];
    let rows = n * pixels;
    x.check(n * input[0] * input[1], c_in, "input of a convolution");
    y.check(rows, c_out, "output of a convolution");
    weights.check(shape);
    let element = weights.element;
    let pixels_like_weights = [Some(x), Some(y), epilogue.residual.as_ref()].into_iter().flatten();
    pixels_like_weights.for_each(|view| assert_eq!(view.element, element, "pixels of {shape:?}"));
    if n == 0 {
        return;
    }
    // Stands in for what the variant does not read.
    let unread = &x.buffer;
    let ab = norm.map_or(unread, |norm| {
        assert!(norm.ab.len() >= n * 2 * c_in, "normalisation of {shape:?}");
        &norm.ab
    });
    let (bias, bias_offset) = epilogue.bias.as_ref().map_or((unread, 0), |(bias, offset)| {
        assert!(offset + c_out <= bias.len(), "bias of {shape:?}");
        (bias, *offset)
    });
    let vector = epilogue.vector.as_ref().inspect(|vector| {
        vector.check(c_out, n);
    });
    let residual = epilogue.residual.as_ref().inspect(|r| r.check(rows, c_out, "residual of a convolution"));
    let (tile_rows, columns) = tile_of(pixels, c_out);
    let variant = Variant {
        upsample: shape.upsample && !transposed,
        transposed,
        bias: epilogue.bias.is_some(),
        vector: vector.is_some(),
        residual: residual.is_some(),
        accumulate: epilogue.accumulate,
        ..Variant::gathering(shape, norm, tile_rows, columns)
    };
    let sizes = sizes(n, x, shape.pad_before, (c_in, input), (c_out, output));
    let target = TargetLaunch::new(
        bias_offset,
        vector.map_or(1, |v| v.rows),
        vector.map_or(0, |v| v.view.stride),
        vector.map_or(0, |v| v.view.offset),
        residual.map_or(0, |r| r.stride),
        residual.map_or(0, |r| r.offset),
        y.stride,
        y.offset,
        epilogue.scale,
    );
    let groups = rows.div_ceil(SIDE * tile_rows) * c_out.div_ceil(SIDE * columns);
    macro_rules! launch {
        ($kernel:expr $(, $more:expr)?) => {
            // SAFETY: `gather` reads pixels of images below n inside the input, weights below taps·c_in·c_out and coefficients
            // below n·2·c_in; rows and columns outside the output are neither read nor written, and the row of a vector is
            // clamped. All were checked against the buffers.
            unsafe {
                $kernel(
                    &gpu.client,
                    grid::groups(groups),
                    grid::dim(),
                    x.arg(),
                    weights.arg(),
                    bias.arg(),
                    ab.arg(),
                    vector.map_or(unread, |v| &v.view.buffer).arg(),
                    vector.map_or(unread, |v| &v.row_of).arg(),
                    residual.unwrap_or(x).arg(),
                    y.arg(),
                    sizes,
                    target,
                    variant,
                    $($more)?
                )
            }
        };
    }
    match (element, gpu.units) {
        (Element::F16, Some(units)) => launch!(units::convolve_in_units::launch_unchecked, units),
        _ => launch!(instance!(convolve, element)),
    }
}

pub(crate) fn sizes(
    n: usize,
    x: &View,
    pad: usize,
    (c_in, input): (usize, [usize; 2]),
    (c_out, output): (usize, [usize; 2]),
) -> SizesLaunch {
    let [out_height, out_width] = output;
    let rows = n * out_height * out_width;
    SizesLaunch::new(rows, out_height, out_width, input[0], input[1], c_in, c_out, pad, x.stride, x.offset)
}

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

/// Brings a part of a layer's weights into the order of [`forward`], `[tap][c_in][c_out]`.
///
/// # Panics
/// A buffer is too short for the shape, or the part has channels that the layer lacks.
pub fn pack(gpu: &Gpu, shape: &Shape, parameters: &Buffer, part: Part, packed: &Weights) {
    repack(gpu, shape, parameters, part, packed, false);
}

/// Brings a part of a layer's weights into the order of [`backward_data`], `[tap][c_out][c_in]`.
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
