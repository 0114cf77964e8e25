//! The shapes of the layers that cost something.

/// A two-dimensional convolution of square kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Convolution {
    pub c_in: usize,
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

impl Convolution {
    /// Height and width of the output.
    pub fn output(&self) -> [usize; 2] {
        let factor = if self.upsample { 2 } else { 1 };
        self.input.map(|side| (factor * side + self.pad_before + self.pad_after - self.kernel) / self.stride + 1)
    }

    /// Floating-point operations for one image by the definition, a multiplication and an addition counted as two.
    pub fn flops(&self) -> u64 {
        let [height, width] = self.output();
        let patch = self.c_in * self.kernel * self.kernel;
        // A config may ask for more than can be counted.
        (2 * patch as u64).saturating_mul((self.c_out * height * width) as u64)
    }
}

/// A group normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Normalisation {
    pub channels: usize,
    pub pixels: usize,
    /// Groups; divides the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// Attention of the pixels of an image to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attention {
    /// Channels of queries, keys and values, over all heads.
    pub channels: usize,
    /// Heads; divides the channels.
    pub heads: usize,
    pub pixels: usize,
}

impl Attention {
    /// Floating-point operations for one image, a multiplication and an addition counted as two.
    pub fn flops(&self) -> u64 {
        let (channels, pixels) = (self.channels as u64, self.pixels as u64);
        pixels.saturating_mul(pixels).saturating_mul(4 * channels)
    }
}
