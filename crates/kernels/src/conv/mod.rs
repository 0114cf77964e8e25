//! Two-dimensional convolution with square kernels, with what comes before and after it in a U-Net folded in.
//!
//! A [`Layer`] holds weights packed for one instruction set and one [`Algorithm`]. Its input may be normalised and
//! activated while it is read ([`Source`]) and doubled in size ([`Shape::upsample`]); bias, a vector per image and a
//! residual are added while the output is written ([`Epilogue`]).
//!
//! | file | what |
//! |---|---|
//! | `transform` | the matrices of Winograd's minimal filtering |
//! | `winograd` | 3×3 convolutions of stride 1 by way of them |
//! | `direct` | every other convolution: register tiles that gather their pixels |
//! | `stage` | normalising and activating rows on their way into a convolution |
//! | `gradient` | the gradients of weights and bias |
//!
//! An output element is a sum in an order that depends on the layer alone, never on the batch or the threads.

mod direct;
mod gradient;
mod stage;
mod transform;
mod winograd;

pub use gradient::{backward_data, backward_weights};

use crate::buffer::Buffer;
use crate::isa::Isa;
use crate::team::Team;
use crate::view::{View, ViewMut};

/// Shape of a convolution layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Height and width of the input, before it is doubled.
    pub input: [usize; 2],
    /// Side of the kernel.
    pub kernel: usize,
    /// Step between outputs, in input pixels.
    pub stride: usize,
    /// Zeros before the first row and column.
    pub pad_before: usize,
    /// Zeros after the last row and column.
    pub pad_after: usize,
    /// Whether every pixel of the input is first repeated to 2×2.
    pub upsample: bool,
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// By its definition.
    Direct,
    /// Winograd's F(2×2, 3×3): 4×4 products for 2×2 outputs, 2.25 times fewer than by definition.
    Winograd2,
    /// Winograd's F(4×4, 3×3): 6×6 products for 4×4 outputs, 4 times fewer.
    Winograd4,
}

/// The input of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Pixels of all images, one image after the other.
    pub x: View<'a>,
    /// What is done to them first.
    pub norm: Option<Norm<'a>>,
}

/// x ↦ act(a·x + b) with a and b for each channel of each image.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// `[n, 2, channels]`: a, then b. See [`norm::coefficients`](crate::norm::coefficients).
    pub ab: &'a [f32],
    /// Whether SiLU follows.
    pub silu: bool,
}

impl<'a> Source<'a> {
    /// The pixels as they are.
    pub fn plain(x: View<'a>) -> Self {
        Self { x, norm: None }
    }
}

/// What is done to a convolution's result y: y ↦ (y + bias + vector + residual)·scale.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// A vector for each image.
    pub vector: Option<View<'a>>,
    /// A value of the output's shape.
    pub residual: Option<View<'a>>,
    /// Adds the old content of the output instead of a residual.
    pub accumulate: bool,
    /// Multiplies the sum.
    pub scale: f32,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { vector: None, residual: None, accumulate: false, scale: 1.0 }
    }
}

impl Shape {
    /// Height and width of what the kernel slides over.
    pub fn grid(&self) -> [usize; 2] {
        self.input.map(|size| size << usize::from(self.upsample))
    }

    /// Height and width of the output.
    pub fn output(&self) -> [usize; 2] {
        self.grid().map(|size| (size + self.pad_before + self.pad_after - self.kernel) / self.stride + 1)
    }

    /// Weights per output channel, c_in·k·k.
    pub fn patch(&self) -> usize {
        self.c_in * self.taps()
    }

    pub(crate) fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// Pixels of one input image.
    pub fn input_pixels(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Pixels of one output image.
    pub fn output_pixels(&self) -> usize {
        let [height, width] = self.output();
        height * width
    }

    /// Floating-point operations for one image by the definition, a multiplication and an addition counted as two.
    pub fn flops(&self) -> u64 {
        (2 * self.patch() as u64).saturating_mul((self.c_out * self.output_pixels()) as u64)
    }

    /// Whether Winograd's algorithms apply: 3×3, stride 1.
    pub fn is_winograd(&self) -> bool {
        self.kernel == 3 && self.stride == 1
    }

    /// The algorithm for this shape when weights are packed once and used for a few images at a time.
    ///
    /// It weighs products against the packed weights, which every call streams through the caches: large kernels of
    /// small images are bound by the latter. The batch has no say, so that it cannot change a result.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm_for(4.0)
    }

    /// The algorithm for training, whose batches are larger.
    pub fn training_algorithm(&self) -> Algorithm {
        self.algorithm_for(16.0)
    }

    fn algorithm_for(&self, images: f64) -> Algorithm {
        if !self.is_winograd() {
            return Algorithm::Direct;
        }
        // Multiply-adds that take as long as streaming one packed weight.
        const STREAM: f64 = 36.0;
        // Multiply-adds that take as long as transforming one element of a tile, there or back.
        const TRANSFORM: f64 = 16.0;
        let [height, width] = self.output();
        // Whole vectors of 16 are transformed, whole panels of 32 multiplied, whatever the number of channels.
        let (c_in, c_out) = (padded(self.c_in, 16) as f64, padded(self.c_out, 32) as f64);
        let products = self.c_in as f64 * c_out;
        let cost = |side: usize, outputs: usize| {
            let elements = (side * side) as f64;
            let tiles = (height.div_ceil(outputs) * width.div_ceil(outputs)) as f64;
            let transforms = if outputs == 1 { 0.0 } else { TRANSFORM * (c_in + c_out) };
            elements * (tiles * (products + transforms) + STREAM / images * products)
        };
        let candidates =
            [(Algorithm::Direct, cost(3, 1)), (Algorithm::Winograd2, cost(4, 2)), (Algorithm::Winograd4, cost(6, 4))];
        candidates.into_iter().min_by(|a, b| a.1.total_cmp(&b.1)).expect("three").0
    }

    pub(crate) fn check(&self) {
        let padded = self.grid().map(|size| size + self.pad_before + self.pad_after);
        assert!(
            self.c_in > 0
                && self.c_out > 0
                && self.kernel > 0
                && self.stride > 0
                && padded.iter().all(|s| *s >= self.kernel),
            "{self:?} has no output"
        );
    }
}

/// The weights of a convolution as its algorithm wants them.
#[derive(Clone, Debug)]
pub struct Layer {
    shape: Shape,
    algorithm: Algorithm,
    isa: Isa,
    /// Whether the layer is a convolution or the transpose of one (its gradient by the input).
    transposed: Option<Shape>,
    weights: Buffer,
    /// As long as the padded output channels; zeros where there is no bias.
    bias: Buffer,
}

/// Elements of a vector rounded up, for `channels` of them.
pub(crate) fn padded(channels: usize, lanes: usize) -> usize {
    channels.next_multiple_of(lanes)
}

impl Layer {
    /// Packs the weights `[c_out, c_in, k, k]`, given in any number of parts that follow each other along c_out, and
    /// the bias of each part.
    ///
    /// # Panics
    /// The parts do not add up to the shape, or the algorithm does not apply to it.
    pub fn pack(team: &Team, isa: Isa, shape: Shape, algorithm: Algorithm, parts: &[(&[f32], &[f32])]) -> Self {
        let mut layer = Self::empty(isa, shape, algorithm);
        layer.repack(team, parts);
        layer
    }

    /// A layer without weights, to be [repacked](Self::repack).
    ///
    /// # Panics
    /// The algorithm does not apply to the shape.
    pub fn empty(isa: Isa, shape: Shape, algorithm: Algorithm) -> Self {
        shape.check();
        assert!(algorithm == Algorithm::Direct || shape.is_winograd(), "{algorithm:?} of {shape:?}");
        Self { shape, algorithm, isa, transposed: None, weights: Buffer::default(), bias: Buffer::default() }
    }

    /// Replaces the weights.
    ///
    /// # Panics
    /// As [`pack`](Self::pack).
    pub fn repack(&mut self, team: &Team, parts: &[(&[f32], &[f32])]) {
        let Shape { c_in, c_out, .. } = self.shape;
        let taps = self.shape.taps();
        let sizes: usize = parts.iter().map(|(w, _)| w.len()).sum();
        let biases: usize = parts.iter().map(|(_, b)| b.len()).sum();
        assert_eq!((sizes, biases), (c_out * c_in * taps, c_out), "weights of {:?}", self.shape);
        self.bias.at_least(padded(c_out, 2 * self.isa.lanes()));
        let mut begin = 0;
        for (_, b) in parts {
            self.bias[begin..begin + b.len()].copy_from_slice(b);
            begin += b.len();
        }
        self.bias[begin..].fill(0.0);
        // Where the weights of an output channel begin, part by part.
        let rows: Vec<&[f32]> = parts.iter().flat_map(|(w, _)| w.chunks_exact(c_in * taps)).collect();
        self.fill(team, |out, input| &rows[out][input * taps..(input + 1) * taps], false);
    }

    /// The transpose: from the gradient by the output of the convolution `of` to the gradient by its input (by the
    /// doubled input, if it is doubled). Without weights, to be [repacked](Self::repack_transposed).
    pub fn transpose(isa: Isa, of: Shape, algorithm: impl Fn(&Shape) -> Algorithm) -> Self {
        let flipped = |pad: usize| (of.kernel - 1).checked_sub(pad);
        let [height, width] = of.grid();
        // A stride leaves gaps between the pixels of the gradient: `direct` gathers around them.
        let shape = Shape { c_in: of.c_out, c_out: of.c_in, input: of.output(), upsample: false, ..of };
        match (flipped(of.pad_before), flipped(of.pad_after)) {
            (Some(pad_before), Some(pad_after)) if of.stride == 1 => {
                let shape = Shape { pad_before, pad_after, ..shape };
                debug_assert_eq!(shape.output(), [height, width]);
                Self::empty(isa, shape, algorithm(&shape))
            }
            _ => Self {
                shape,
                algorithm: Algorithm::Direct,
                isa,
                transposed: Some(of),
                weights: Buffer::default(),
                bias: Buffer::default(),
            },
        }
    }

    /// Replaces the weights by the transpose of `parts`, which are those of the convolution itself.
    ///
    /// # Panics
    /// The parts do not add up to the shape.
    pub fn repack_transposed(&mut self, team: &Team, parts: &[&[f32]]) {
        let Shape { c_in, c_out, .. } = self.shape;
        let taps = self.shape.taps();
        assert_eq!(parts.iter().map(|w| w.len()).sum::<usize>(), c_out * c_in * taps, "weights of {:?}", self.shape);
        self.bias.at_least(padded(c_out, 2 * self.isa.lanes()));
        self.bias.fill(0.0);
        let rows: Vec<&[f32]> = parts.iter().flat_map(|w| w.chunks_exact(c_out * taps)).collect();
        // A transposed convolution turns its kernel round; `direct` gathers backwards instead where there is a stride.
        let turn = self.transposed.is_none();
        self.fill(team, |out, input| &rows[input][out * taps..(out + 1) * taps], turn);
    }

    fn fill<'w>(&mut self, team: &Team, weight: impl Fn(usize, usize) -> &'w [f32] + Sync, turn: bool) {
        match self.algorithm {
            Algorithm::Direct => direct::pack(self, team, weight, turn),
            Algorithm::Winograd2 | Algorithm::Winograd4 => winograd::pack(self, team, weight, turn),
        }
    }

    /// Exchanges the memory of the packed weights and bias, for callers that pack many layers one after the other.
    /// The layer must be repacked before it is used.
    pub fn swap_memory(&mut self, weights: &mut Buffer, bias: &mut Buffer) {
        std::mem::swap(&mut self.weights, weights);
        std::mem::swap(&mut self.bias, bias);
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        4 * (self.weights.len() + self.bias.len())
    }

    /// Height and width of the output.
    fn output(&self) -> [usize; 2] {
        self.transposed.map_or_else(|| self.shape.output(), |of| of.grid())
    }

    /// Computes the layer for `n` images.
    ///
    /// # Panics
    /// A view is too short for the shape, or the layer is [empty](Self::empty).
    pub fn forward(&self, team: &Team, n: usize, source: Source<'_>, epilogue: Epilogue<'_>, y: &mut ViewMut<'_>) {
        let Shape { c_in, c_out, .. } = self.shape;
        // The kernels read weights and bias through pointers.
        assert!(!self.weights.is_empty() && !self.bias.is_empty(), "{:?} has no weights yet", self.shape);
        let [height, width] = self.output();
        let pixels = n * height * width;
        source.x.check(n * self.shape.input_pixels(), c_in, "input of a convolution");
        if let Some(norm) = source.norm {
            assert_eq!(norm.ab.len(), n * 2 * c_in, "normalisation of {:?}", self.shape);
        }
        if let Some(vector) = epilogue.vector {
            vector.check(n, c_out, "vector of a convolution");
        }
        if let Some(residual) = epilogue.residual {
            residual.check(pixels, c_out, "residual of a convolution");
        }
        let y = y.share(pixels, c_out, "output of a convolution");
        let residual = match (epilogue.residual, epilogue.accumulate) {
            (Some(r), _) => Some((r.pointer(), r.stride)),
            (None, true) => Some((y.pointer().cast_const(), y.stride)),
            (None, false) => None,
        };
        let finish = Finish {
            y: y.pointer(),
            y_stride: y.stride,
            c_out,
            bias: self.bias.as_ptr(),
            vector: epilogue.vector.map(|v| (v.pointer(), v.stride)),
            residual,
            scale: epilogue.scale,
        };
        if n == 0 {
            return;
        }
        match self.algorithm {
            Algorithm::Direct => direct::forward(self, team, n, source, finish),
            Algorithm::Winograd2 | Algorithm::Winograd4 => winograd::forward(self, team, n, source, finish),
        }
    }
}

/// Where results go and what is added to them, as pointers: checked against the shapes by [`Layer::forward`].
#[derive(Clone, Copy)]
struct Finish {
    y: *mut f32,
    y_stride: usize,
    c_out: usize,
    bias: *const f32,
    vector: Option<(*const f32, usize)>,
    residual: Option<(*const f32, usize)>,
    scale: f32,
}

// SAFETY: tasks read the inputs and write pixels of their own only; `Layer::forward` outlives them.
unsafe impl Send for Finish {}
// SAFETY: as above.
unsafe impl Sync for Finish {}

impl Finish {
    /// Writes channels `channel..channel + LANES` (those that exist) of pixel `pixel` of image `image`.
    ///
    /// # Safety
    /// The pixel exists, `channel` is below the padded number of channels, nobody else accesses the pixel.
    #[inline(always)]
    unsafe fn write<S: crate::isa::Simd>(&self, s: S, image: usize, pixel: usize, channel: usize, value: S::V) {
        let Some(len) = self.c_out.checked_sub(channel).filter(|len| *len > 0) else { return };
        let whole = len >= S::LANES;
        // SAFETY: the caller's promise; partial vectors touch existing channels only; the bias is padded.
        unsafe {
            let mut v = s.add(value, s.load(self.bias.add(channel)));
            if let Some((vector, stride)) = self.vector {
                let p = vector.add(image * stride + channel);
                v = s.add(v, if whole { s.load(p) } else { s.load_first(p, len) });
            }
            if let Some((residual, stride)) = self.residual {
                let p = residual.add(pixel * stride + channel);
                v = s.add(v, if whole { s.load(p) } else { s.load_first(p, len) });
            }
            if self.scale != 1.0 {
                v = s.mul(v, s.splat(self.scale));
            }
            let y = self.y.add(pixel * self.y_stride + channel);
            if whole { s.store(y, v) } else { s.store_first(y, v, len) }
        }
    }
}
