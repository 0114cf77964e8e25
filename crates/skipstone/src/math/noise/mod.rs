//! Counter-keyed noise: a draw depends only on (seed, purpose, image, step, element).
//!
//! An image is therefore the same for any batch size, thread count, shard or resume point. Philox4x32-10 (Salmon et al.
//! 2011) generates the bits. Box–Muller in f64, with portable `ln`, `sin` and `cos`, turns them into Gaussians.

mod keyed;
mod source;

pub use keyed::{KeyedRng, Purpose};
pub use source::{Forbidden, Given, NoiseSource, Seeded};

use ndarray::{Array4, Axis};
use rayon::prelude::*;

/// Version of the noise scheme, recorded in manifests. Any change to any draw increments it.
pub const NOISE_VERSION: u32 = 1;

/// Fills each image of `out`, `[n, c, h, w]`, with standard normal noise. Image i has the key
/// (seed, purpose, `first_image` + i, step).
pub fn fill_gaussian(seed: u64, purpose: Purpose, first_image: u64, step: u32, out: &mut Array4<f32>) {
    let per_image = out.len() / out.dim().0.max(1);
    if per_image == 0 {
        return;
    }
    let fill = |(i, image): (usize, &mut [f32])| {
        KeyedRng::new(seed, purpose, first_image.wrapping_add(i as u64), step).fill_gaussian(image);
    };
    if let Some(values) = out.as_slice_mut() {
        values.par_chunks_mut(per_image).enumerate().for_each(fill);
        return;
    }
    let mut image = vec![0.0; per_image];
    for (i, mut row) in out.outer_iter_mut().enumerate() {
        fill((i, &mut image));
        row.iter_mut().zip(&image).for_each(|(to, &from)| *to = from);
    }
}

/// The initial latents x_T of `n` images starting at index `first_image`, `[n, c, h, w]`.
///
/// ```
/// use ndarray::Axis;
/// use skipstone::math::noise::initial_latent;
/// let (four, one) = (initial_latent(7, 0, 4, [3, 8, 8]), initial_latent(7, 2, 1, [3, 8, 8]));
/// assert_eq!(one.index_axis(Axis(0), 0), four.index_axis(Axis(0), 2));
/// ```
pub fn initial_latent(seed: u64, first_image: u64, n: usize, [c, h, w]: [usize; 3]) -> Array4<f32> {
    let mut x = Array4::zeros((n, c, h, w));
    fill_gaussian(seed, Purpose::Latent, first_image, 0, &mut x);
    x
}

/// The initial latents x_T of the first image of each seed, `[seeds, c, h, w]`.
pub fn latents_of(seeds: &[u64], [c, h, w]: [usize; 3]) -> Array4<f32> {
    let mut all = Array4::zeros((seeds.len(), c, h, w));
    for (mut x, &seed) in all.axis_chunks_iter_mut(Axis(0), 1).zip(seeds) {
        x.assign(&initial_latent(seed, 0, 1, [c, h, w]));
    }
    all
}

#[cfg(test)]
mod tests;
