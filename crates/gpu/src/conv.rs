//! Two-dimensional convolution with square kernels, fused with the operations around it in a U-Net.
//!
//! The convolution is the product of a matrix of gathered pixels, `[n·pixels]` × `[taps·c_in]`, and the packed weights,
//! `[taps·c_in]` × `[c_out]`. Units gather the pixels while they fill their tiles; the matrix never exists in memory. While
//! gathering, they normalise and activate; while writing, they add bias, vector and residual and scale.
//!
//! Each output is one chain of multiply-adds over taps and input channels, whatever the tile. So an image's result does not
//! depend on the batch.

mod kernel;
mod pack;

use cubecl::prelude::BufferArg;

use crate::buffer::{Buffer, Element, View, multiplying_instance};
use crate::device::Gpu;
use crate::error::{Error, Result};
use crate::grid;
use crate::tile::Tiling;
use crate::tuning::Product;
pub(crate) use kernel::{Sizes, Variant, gather, sizes};
use kernel::{TargetLaunch, convolve};
pub use pack::{Part, pack, pack_transposed};

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
        if !gpu.stores(element) {
            return Err(Error::Unavailable(format!("it does not compute in {}; use f32", element.name())));
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
    let variant = Variant {
        upsample: shape.upsample && !transposed,
        transposed,
        bias: epilogue.bias.is_some(),
        vector: vector.is_some(),
        residual: residual.is_some(),
        accumulate: epilogue.accumulate,
        ..Variant::gathering(shape, norm)
    };
    let (tile_rows, tile_columns) = tile_of(pixels, c_out);
    let guess = Tiling {
        rows: tile_rows,
        columns: tile_columns,
        left_deep: true,
        right_deep: false,
        units: gpu.units_for(element),
    };
    let kernel = multiplying_instance!(convolve, element, guess.units);
    let launch = |tiling: Tiling, into: &Buffer| {
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
        // SAFETY: `gather` reads pixels of images below n inside the input, weights below taps·c_in·c_out and coefficients below
        // n·2·c_in; rows and columns outside the output are neither read nor written, and the row of a vector is clamped. All
        // were checked against the buffers, and the one to write into is at least as long as the output's rows.
        unsafe {
            kernel(
                &gpu.client,
                grid::groups(tiling.groups(rows, c_out)),
                grid::dim(),
                x.arg(),
                weights.arg(),
                bias.arg(),
                ab.arg(),
                vector.map_or(unread, |v| &v.view.buffer).arg(),
                vector.map_or(unread, |v| &v.row_of).arg(),
                residual.unwrap_or(x).arg(),
                into.arg_of(element),
                sizes(n, x, shape.pad_before, (c_in, input), (c_out, output)),
                target,
                variant,
                tiling,
            );
        }
    };
    let product = Product {
        kind: if transposed { "transposed convolution" } else { "convolution" },
        rows: pixels,
        columns: c_out,
        depth: shape.taps() * c_in,
        images: n,
        fused: if norm.is_some() { " of normalised pixels" } else { "" },
        element,
    };
    launch(gpu.tiling(product, guess, element.words(rows * y.stride), launch), &y.buffer);
}
