//! Two-dimensional convolution with square kernels, fused with the operations around it in a U-Net.
//!
//! A [`Layer`] holds weights packed for one instruction set and one [`Algorithm`]. It can normalise, activate
//! ([`Source`]) and upsample ([`Shape::upsample`]) its input while reading it. It can add a bias, a vector per image
//! and a residual while writing its output ([`Epilogue`]).
//!
//! | file | contents |
//! |---|---|
//! | `transform` | the matrices of Winograd's minimal filtering |
//! | `winograd` | 3×3 convolutions of stride 1 by Winograd's algorithms |
//! | `direct` | all other convolutions, by register tiles that gather their pixels |
//! | `units` | convolutions in bf16 on matrix units |
//! | `stage` | normalisation and activation of the rows a convolution reads |
//! | `gradient` | the gradients of weights and bias |
//!
//! Each output element is a sum in an order that depends on the layer alone, not on the batch or the threads.

mod direct;
mod gradient;
mod stage;
mod transform;
#[cfg(target_arch = "x86_64")]
mod units;
mod winograd;

pub use gradient::{backward_data, backward_weights};

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use crate::buffer::Buffer;
use crate::half::Packed;
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

/// The algorithm of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// By definition.
    Direct,
    /// Winograd's F(2×2, 3×3): 4×4 products for 2×2 outputs, 2.25 times fewer than by definition.
    Winograd2,
    /// Winograd's F(4×4, 3×3): 6×6 products for 4×4 outputs, 4 times fewer than by definition.
    Winograd4,
}

/// How a convolution stores and multiplies its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32 throughout.
    Single,
    /// Weights stored in half precision and multiplied in f32.
    HalfWeights,
    /// Winograd's algorithms with weights, transformed input and products in half precision. Sums of at most 64 input
    /// channels are in half precision, longer ones continue in f32. Needs a processor with AVX512-FP16.
    HalfProducts,
    /// Weights, input and products in bf16, sums in f32, on the matrix units of a processor with AMX. By definition only,
    /// and for [some shapes](Shape::is_for_units).
    BFloat16,
}

impl Precision {
    /// The precision of a layer of this shape where bf16 is asked for: f32 where matrix units do not compute it.
    pub fn with_units(isa: Isa, shape: &Shape) -> Self {
        if has_units(isa) && shape.is_for_units() { Self::BFloat16 } else { Self::Single }
    }

    /// As [`with_units`](Self::with_units) for a layer with gradients, which matrix units do not compute with a stride.
    pub fn training_with_units(isa: Isa, shape: &Shape) -> Self {
        if shape.stride == 1 { Self::with_units(isa, shape) } else { Self::Single }
    }

    /// The algorithm of a layer in this precision: `otherwise`, unless matrix units compute it, by definition.
    pub fn algorithm(self, otherwise: Algorithm) -> Algorithm {
        if self == Self::BFloat16 { Algorithm::Direct } else { otherwise }
    }

    /// The lowest precision that is not slower than f32 with this instruction set and algorithm.
    ///
    /// AVX-512 without half-precision products gains nothing: converting weights on the way into the registers costs
    /// up to 15 % of a call, which half the memory traffic does not make up for.
    pub fn least(isa: Isa, algorithm: Algorithm) -> Self {
        match half_products(isa) {
            Some(_) if algorithm != Algorithm::Direct => Self::HalfProducts,
            None if isa.name() == "avx512" => Self::Single,
            _ => Self::HalfWeights,
        }
    }

    /// The choice of algorithms at the [lowest precision](Self::least).
    pub fn algorithms(isa: Isa) -> fn(&Shape) -> Algorithm {
        match Self::least(isa, Algorithm::Direct) {
            Self::Single => Shape::algorithm,
            _ => Shape::half_algorithm,
        }
    }

    /// Rows of a packed panel of weights for `c_in` input channels. Even where rows are stored in pairs.
    fn rows(self, c_in: usize) -> usize {
        if self == Self::HalfProducts { c_in.next_multiple_of(2) } else { c_in }
    }

    /// The number of f32 that `weights` packed weights take.
    fn words(self, weights: usize) -> usize {
        if self == Self::Single { weights } else { weights.div_ceil(2) }
    }
}

#[cfg(target_arch = "x86_64")]
type Fp16 = crate::half::Fp16;
#[cfg(not(target_arch = "x86_64"))]
type Fp16 = std::convert::Infallible;

#[cfg(target_arch = "x86_64")]
type Units = crate::units::Units;
#[cfg(not(target_arch = "x86_64"))]
type Units = std::convert::Infallible;

/// Whether matrix units multiply in bf16 with this instruction set.
pub fn has_units(isa: Isa) -> bool {
    matrix_units(isa).is_some()
}

/// Proof that matrix units are available with this instruction set.
pub(crate) fn matrix_units(isa: Isa) -> Option<Units> {
    #[cfg(target_arch = "x86_64")]
    if isa.name() == "avx512" {
        return Units::detect();
    }
    let _ = isa;
    None
}

/// Proof that half-precision products are available with this instruction set.
fn half_products(isa: Isa) -> Option<Fp16> {
    #[cfg(target_arch = "x86_64")]
    if isa.name() == "avx512" {
        return Fp16::detect();
    }
    let _ = isa;
    None
}

/// The power of two that scales a layer's input for half-precision products, chosen from the values seen so far.
#[derive(Debug, Default)]
struct Exponent(AtomicI32);

impl Exponent {
    fn get(&self) -> i32 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, exponent: i32) {
        self.0.store(exponent, Ordering::Relaxed);
    }
}

impl Clone for Exponent {
    fn clone(&self) -> Self {
        Self(self.get().into())
    }
}

/// The input of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Pixels of all images, one image after the other.
    pub x: View<'a>,
    /// The normalisation applied while reading, if any.
    pub norm: Option<Norm<'a>>,
}

/// x ↦ act(a·x + b), with a and b per channel and image.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// `[n, 2, channels]`: a, then b. See [`norm::coefficients`](crate::norm::coefficients).
    pub ab: &'a [f32],
    /// Whether the activation is SiLU (otherwise the identity).
    pub silu: bool,
}

impl<'a> Source<'a> {
    /// The pixels without normalisation.
    pub fn plain(x: View<'a>) -> Self {
        Self { x, norm: None }
    }
}

/// Post-processing of a convolution's result y: y ↦ (y + bias + vector + residual)·scale.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// A vector per image.
    pub vector: Option<View<'a>>,
    /// A tensor of the output's shape.
    pub residual: Option<View<'a>>,
    /// Adds the previous content of the output instead of a residual.
    pub accumulate: bool,
    /// The factor of the sum.
    pub scale: f32,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { vector: None, residual: None, accumulate: false, scale: 1.0 }
    }
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

    /// Floating-point operations for one image by definition; a multiply-add counts as two.
    pub fn flops(&self) -> u64 {
        (2 * self.patch() as u64).saturating_mul((self.c_out * self.output_pixels()) as u64)
    }

    /// Whether Winograd's algorithms apply: 3×3 kernel, stride 1.
    pub fn is_winograd(&self) -> bool {
        self.kernel == 3 && self.stride == 1
    }

    /// Whether matrix units compute this shape: 1×1 kernels, or padded 3×3 ones of stride 1 or 2, and enough channels to fill
    /// tiles.
    pub fn is_for_units(&self) -> bool {
        let pads = [self.pad_before, self.pad_after];
        let halved = self.input.iter().all(|size| size.is_multiple_of(2)) && !self.upsample;
        let known = match (self.kernel, self.stride) {
            (1, 1) => pads == [0, 0],
            (3, 1) => pads == [1, 1],
            (3, 2) => halved && (pads == [0, 1] || pads == [1, 1]),
            _ => false,
        };
        known && self.c_in >= 16
    }

    /// The algorithm for this shape when weights are packed once and used for a few images at a time.
    ///
    /// The choice weighs products against the packed weights, which every call streams through the caches. Large
    /// kernels on small images are bound by the weights. The batch size is not considered, so it cannot change a
    /// result.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm_for(4.0)
    }

    /// The algorithm at the [lowest precision](Precision::least).
    ///
    /// Half precision halves the cost of products and weights alike, so the choice is the same except for the smallest
    /// images. There, the three phases of Winograd's algorithms and their larger weights cost more than they save
    /// (measured on 4×4 pixels of 256 channels: a tenth of a whole call at batch 1).
    pub fn half_algorithm(&self) -> Algorithm {
        if self.output_pixels() <= 16 { Algorithm::Direct } else { self.algorithm() }
    }

    /// The algorithm for training, where batches are larger.
    pub fn training_algorithm(&self) -> Algorithm {
        self.algorithm_for(16.0)
    }

    fn algorithm_for(&self, images: f64) -> Algorithm {
        if !self.is_winograd() {
            return Algorithm::Direct;
        }
        // Multiply-adds that take as long as streaming one packed weight.
        const STREAM: f64 = 36.0;
        // Multiply-adds that take as long as transforming one element of a tile, in either direction.
        const TRANSFORM: f64 = 16.0;
        let [height, width] = self.output();
        // Transforms process whole vectors of 16 and products whole panels of 32, whatever the number of channels.
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

/// The weights of a convolution, packed for its algorithm.
#[derive(Clone, Debug)]
pub struct Layer {
    shape: Shape,
    algorithm: Algorithm,
    isa: Isa,
    precision: Precision,
    fp16: Option<Fp16>,
    units: Option<Units>,
    exponent: Exponent,
    /// The factor of weights stored in half precision, which makes them all normal numbers.
    weight_scale: f32,
    /// For the transpose of a strided convolution (the gradient of its input): the shape of that convolution.
    transposed: Option<Shape>,
    weights: Buffer,
    /// Whether `weights` and `bias` hold this layer's.
    packed: bool,
    /// As long as the padded output channels; zeros where there is no bias.
    bias: Buffer,
}

/// The largest magnitude.
fn largest(values: &[f32]) -> f32 {
    // As integers: non-negative floats order like their bits, and integer maxima vectorise.
    f32::from_bits(values.iter().map(|v| v.to_bits() & 0x7fff_ffff).max().unwrap_or(0))
}

/// The largest power of two whose product with `x` is below 2, within the range of f32; 1 outside 2^±126.
fn power_of_two_below_inverse(x: f32) -> f32 {
    let exponent = (x.to_bits() >> 23) as i32 - 127;
    if (-126..=126).contains(&exponent) { f32::from_bits(((127 - exponent) as u32) << 23) } else { 1.0 }
}

/// `channels` rounded up to whole vectors.
pub(crate) fn padded(channels: usize, lanes: usize) -> usize {
    channels.next_multiple_of(lanes)
}

impl Layer {
    /// Packs the weights `[c_out, c_in, k, k]` and the bias. They are given in any number of parts that follow each
    /// other along c_out.
    ///
    /// # Panics
    /// The parts do not add up to the shape, or the algorithm does not apply to it.
    pub fn pack(team: &Team, isa: Isa, shape: Shape, algorithm: Algorithm, parts: &[(&[f32], &[f32])]) -> Self {
        let mut layer = Self::empty(isa, shape, algorithm);
        layer.repack(team, parts);
        layer
    }

    /// A layer without weights; [`repack`](Self::repack) sets them.
    ///
    /// # Panics
    /// The algorithm does not apply to the shape.
    pub fn empty(isa: Isa, shape: Shape, algorithm: Algorithm) -> Self {
        shape.check();
        assert!(algorithm == Algorithm::Direct || shape.is_winograd(), "{algorithm:?} of {shape:?}");
        Self::unchecked(isa, shape, algorithm)
    }

    fn unchecked(isa: Isa, shape: Shape, algorithm: Algorithm) -> Self {
        Self {
            shape,
            algorithm,
            isa,
            precision: Precision::Single,
            fp16: None,
            units: None,
            exponent: Exponent::default(),
            weight_scale: 1.0,
            transposed: None,
            weights: Buffer::default(),
            packed: false,
            bias: Buffer::default(),
        }
    }

    /// The same layer in another precision, without weights.
    ///
    /// # Panics
    /// The instruction set or the algorithm does not allow the precision.
    pub fn in_precision(self, precision: Precision) -> Self {
        let fp16 = half_products(self.isa);
        // The operating system is asked for them, so only where they are used.
        let units = if precision == Precision::BFloat16 { matrix_units(self.isa) } else { None };
        let direct = self.algorithm == Algorithm::Direct;
        let allowed = match precision {
            Precision::Single | Precision::HalfWeights => true,
            Precision::HalfProducts => fp16.is_some() && !direct,
            Precision::BFloat16 => units.is_some() && direct && self.transposed.is_none() && self.shape.is_for_units(),
        };
        assert!(allowed, "{precision:?} of {:?} on {}", self.algorithm, self.isa.name());
        Self { precision, fp16, units, packed: false, ..self }
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
        self.weight_scale = match self.precision {
            Precision::Single | Precision::BFloat16 => 1.0,
            _ => power_of_two_below_inverse(parts.iter().map(|(w, _)| largest(w)).fold(0.0, f32::max)),
        };
        // The weights of each output channel, across the parts.
        let rows: Vec<&[f32]> = parts.iter().flat_map(|(w, _)| w.chunks_exact(c_in * taps)).collect();
        self.fill(team, |out, input| &rows[out][input * taps..(input + 1) * taps], false);
    }

    /// The transpose of the convolution `of`: maps the gradient of its output to the gradient of its input (of the
    /// upsampled input, if it upsamples). Has no weights; [`repack_transposed`](Self::repack_transposed) sets them.
    pub fn transpose(isa: Isa, of: Shape, algorithm: impl Fn(&Shape) -> Algorithm) -> Self {
        let flipped = |pad: usize| (of.kernel - 1).checked_sub(pad);
        let [height, width] = of.grid();
        // A stride leaves gaps between the gradient's pixels; `direct` gathers around them.
        let shape = Shape { c_in: of.c_out, c_out: of.c_in, input: of.output(), upsample: false, ..of };
        match (flipped(of.pad_before), flipped(of.pad_after)) {
            (Some(pad_before), Some(pad_after)) if of.stride == 1 => {
                let shape = Shape { pad_before, pad_after, ..shape };
                debug_assert_eq!(shape.output(), [height, width]);
                Self::empty(isa, shape, algorithm(&shape))
            }
            _ => {
                // Not the shape of a convolution: the output may be larger than the input.
                Self { transposed: Some(of), ..Self::unchecked(isa, shape, Algorithm::Direct) }
            }
        }
    }

    /// Replaces the weights by the transpose of `parts`, the weights of the convolution itself.
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
        // A transposed convolution rotates its kernel. With a stride, `direct` gathers backwards instead.
        let turn = self.transposed.is_none();
        self.fill(team, |out, input| &rows[input][out * taps..(out + 1) * taps], turn);
    }

    fn fill<'w>(&mut self, team: &Team, weight: impl Fn(usize, usize) -> &'w [f32] + Sync, turn: bool) {
        match self.algorithm {
            #[cfg(target_arch = "x86_64")]
            Algorithm::Direct if self.precision == Precision::BFloat16 => units::pack(self, team, weight, turn),
            Algorithm::Direct => direct::pack(self, team, weight, turn),
            Algorithm::Winograd2 | Algorithm::Winograd4 => winograd::pack(self, team, weight, turn),
        }
        self.packed = true;
    }

    /// Swaps in other memory for the packed weights and bias, for callers that pack many layers in turn. Repack the
    /// layer before using it.
    pub fn swap_memory(&mut self, weights: &mut Buffer, bias: &mut Buffer) {
        self.packed = false;
        std::mem::swap(&mut self.weights, weights);
        std::mem::swap(&mut self.bias, bias);
    }

    /// The shape of the layer.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The algorithm of the layer.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Size of the packed weights in bytes.
    pub fn bytes(&self) -> usize {
        4 * (self.weights.len() + self.bias.len())
    }

    /// The precision of the layer.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The factor applied to weights before packing.
    fn weight_scale(&self) -> f32 {
        self.weight_scale
    }

    /// Pointer to packed weight `element`.
    ///
    /// # Safety
    /// `element` exists if the pointer is read.
    unsafe fn packed(&self, element: usize) -> Packed {
        let begin = self.weights.as_ptr();
        let begin = match self.precision {
            Precision::Single => Packed::Single(begin),
            _ => Packed::Half(begin.cast()),
        };
        // SAFETY: guaranteed by the caller.
        unsafe { begin.add(element) }
    }

    /// Height and width of the output.
    fn output(&self) -> [usize; 2] {
        self.transposed.map_or_else(|| self.shape.output(), |of| of.grid())
    }

    /// Computes the layer for `n` images.
    ///
    /// # Panics
    /// A view is too short for the shape, the layer is [empty](Self::empty), or `epilogue` accumulates while products
    /// are in half precision.
    pub fn forward(&self, team: &Team, n: usize, source: Source<'_>, epilogue: Epilogue<'_>, y: &mut ViewMut<'_>) {
        // An overflow restarts the computation, which is impossible once results were accumulated.
        assert!(!epilogue.accumulate || self.precision != Precision::HalfProducts, "{:?} accumulates", self.precision);
        let Shape { c_in, c_out, .. } = self.shape;
        // The kernels read weights and bias through raw pointers.
        assert!(self.packed, "{:?} has no weights yet", self.shape);
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
            unscale: 1.0 / self.weight_scale,
            overflow: None,
        };
        if n == 0 {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if let (Precision::BFloat16, Some(units)) = (self.precision, self.units) {
            return units::forward(self, units, team, n, source, finish);
        }
        match self.algorithm {
            Algorithm::Direct => direct::forward(self, team, n, source, finish),
            Algorithm::Winograd2 | Algorithm::Winograd4 => winograd::forward(self, team, n, source, finish),
        }
    }
}

/// Where results go and what is added to them, as pointers that [`Layer::forward`] checked against the shapes.
#[derive(Clone, Copy)]
struct Finish<'a> {
    y: *mut f32,
    y_stride: usize,
    c_out: usize,
    bias: *const f32,
    vector: Option<(*const f32, usize)>,
    residual: Option<(*const f32, usize)>,
    scale: f32,
    /// The factor of a sum of products, a power of two: the inverse of the scales of its factors.
    unscale: f32,
    /// Set when a sum of products is not finite; `None` if the caller does not check.
    overflow: Option<&'a AtomicBool>,
}

// SAFETY: tasks read the inputs and write only their own pixels; `Layer::forward` outlives them.
unsafe impl Send for Finish<'_> {}
// SAFETY: as above.
unsafe impl Sync for Finish<'_> {}

impl Finish<'_> {
    /// Whether to check sums of products for overflow.
    #[inline(always)]
    fn checked(&self) -> bool {
        self.overflow.is_some()
    }

    #[cold]
    fn report_overflow(&self) {
        if let Some(overflow) = self.overflow {
            overflow.store(true, Ordering::Relaxed);
        }
    }

    /// Writes the channels of a panel (two vectors from `channel` on, as far as they exist) of pixel `pixel` of image
    /// `image`.
    ///
    /// # Safety
    /// As [`write`](Self::write).
    #[inline(always)]
    unsafe fn write_panel<S: crate::isa::Simd>(&self, s: S, image: usize, pixel: usize, channel: usize, v: [S::V; 2]) {
        for (half, v) in v.into_iter().enumerate() {
            // SAFETY: guaranteed by the caller.
            unsafe { self.write(s, image, pixel, channel + half * S::LANES, v) };
        }
    }

    /// Writes channels `channel..channel + LANES` (as far as they exist) of pixel `pixel` of image `image`.
    ///
    /// # Safety
    /// The pixel exists, `channel` is below the padded number of channels, and nobody else accesses the pixel.
    #[inline(always)]
    unsafe fn write<S: crate::isa::Simd>(&self, s: S, image: usize, pixel: usize, channel: usize, value: S::V) {
        let Some(len) = self.c_out.checked_sub(channel).filter(|len| *len > 0) else { return };
        let len = len.min(S::LANES);
        // SAFETY: guaranteed by the caller; partial vectors touch existing channels only; the bias is padded.
        unsafe {
            // A factor of 1, as in f32, makes this the same as an addition.
            let mut v = s.fma(value, s.splat(self.unscale), s.load(self.bias.add(channel)));
            if let Some((vector, stride)) = self.vector {
                v = s.add(v, s.load_up_to(vector.add(image * stride + channel), len));
            }
            if let Some((residual, stride)) = self.residual {
                v = s.add(v, s.load_up_to(residual.add(pixel * stride + channel), len));
            }
            if self.scale != 1.0 {
                v = s.mul(v, s.splat(self.scale));
            }
            s.store_up_to(self.y.add(pixel * self.y_stride + channel), v, len);
        }
    }
}
