use std::f64::consts::TAU;

use rand_philox::{Philox, splitmix64};

/// The purpose of a draw. The same seed gives unrelated numbers for different purposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
#[non_exhaustive]
pub enum Purpose {
    /// Initial latent x_T, per image.
    Latent = 1,
    /// Noise z of a sampling step, per image and step.
    Step = 2,
    /// Training timesteps t.
    TrainTime = 3,
    /// Training noise ε.
    TrainNoise = 4,
    /// Dropout masks.
    Dropout = 5,
    /// Order of the data within an epoch.
    DataOrder = 6,
    /// Random flips and crops.
    Augment = 7,
    /// Initial weights.
    Weights = 8,
    /// Classes dropped for classifier-free guidance.
    ClassDrop = 9,
    /// Noise of x_t in likelihood estimates.
    Likelihood = 10,
    /// Uniform dequantisation noise.
    Dequantise = 11,
    /// Probe vectors of the trace estimator.
    Probe = 12,
    /// Noisy states x_t of an image inverted together with its noise.
    Encode = 13,
    /// Inpainting: noise of the known region, and of the moves back up.
    Inpaint = 14,
    /// Feature vectors drawn for a subset of a score.
    Subset = 15,
}

/// A stream of random numbers keyed by (seed, purpose, a, b). For images, a is the image index and b the step.
///
/// ```
/// use skipstone::math::noise::{KeyedRng, Purpose};
/// let mut rng = KeyedRng::new(0, Purpose::TrainTime, 12, 0);
/// assert!(rng.below(1000) < 1000);
/// ```
#[derive(Clone, Debug)]
pub struct KeyedRng(Philox);

impl KeyedRng {
    /// Starts the stream of this key.
    pub fn new(seed: u64, purpose: Purpose, a: u64, b: u32) -> Self {
        // The purpose-th output of SplitMix64 seeded with `seed` keys the generator. Its 128-bit counter is
        // a · 2⁶⁴ + b · 2³² + block, so streams of up to 2³⁴ words never overlap.
        let key = splitmix64(seed.wrapping_add((purpose as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let counter = u128::from(a) << 64 | u128::from(b) << 32;
        Self(Philox::new([key as u32, (key >> 32) as u32], counter))
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A uniform number in [0, 1), a multiple of 2⁻⁵³.
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// An unbiased uniform integer in 0..n; 0 for n = 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 {
            return 0;
        }
        // Lemire's multiplication. Low halves below 2⁶⁴ mod n are rejected: they would favour some results.
        let reject = n.wrapping_neg() % n;
        loop {
            let wide = u128::from(self.next_u64()) * u128::from(n);
            if wide as u64 >= reject {
                return (wide >> 64) as u64;
            }
        }
    }

    /// Two independent standard normal numbers (Box–Muller). Uses exactly one block of the generator.
    pub fn next_gaussians(&mut self) -> [f64; 2] {
        let u = 1.0 - self.next_f64(); // in (0, 1], so the logarithm is finite
        let angle = TAU * self.next_f64();
        let radius = (-2.0 * libm::log(u)).sqrt();
        [radius * libm::cos(angle), radius * libm::sin(angle)]
    }

    /// Fills `out` with standard normal numbers. Element i depends only on the key and i.
    pub fn fill_gaussian(&mut self, out: &mut [f32]) {
        for pair in out.chunks_mut(2) {
            let draws = self.next_gaussians();
            pair.iter_mut().zip(draws).for_each(|(to, from)| *to = from as f32);
        }
    }

    /// Shuffles `items` uniformly (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}
