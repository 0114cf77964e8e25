//! Shapes of the expensive layers.

/// A two-dimensional convolution with square kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Convolution {
    pub c_in: usize,
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

impl Convolution {
    /// Height and width of the output.
    pub fn output(&self) -> [usize; 2] {
        let factor = if self.upsample { 2 } else { 1 };
        self.input.map(|side| (factor * side + self.pad_before + self.pad_after - self.kernel) / self.stride + 1)
    }

    /// Floating-point operations for one image by definition; a multiply-add counts as two.
    pub fn flops(&self) -> u64 {
        let [height, width] = self.output();
        let patch = self.c_in * self.kernel * self.kernel;
        // Saturates: a config may ask for more than a u64 can count.
        (2 * patch as u64).saturating_mul((self.c_out * height * width) as u64)
    }
}

/// A group normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Normalisation {
    pub channels: usize,
    pub pixels: usize,
    /// Number of groups; must divide `channels`.
    pub groups: usize,
    /// ε, added to the variance.
    pub eps: f32,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// Self-attention over the pixels of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attention {
    /// Channels of the queries (also of the keys and of the values), over all heads.
    pub channels: usize,
    /// Number of heads; must divide `channels`.
    pub heads: usize,
    pub pixels: usize,
}

impl Attention {
    /// Floating-point operations for one image; a multiply-add counts as two.
    pub fn flops(&self) -> u64 {
        let (channels, pixels) = (self.channels as u64, self.pixels as u64);
        pixels.saturating_mul(pixels).saturating_mul(4 * channels)
    }
}
