//! Dropout whose mask is a function of a key, so that the backward pass recomputes it instead of storing it.

use crate::isa::{Isa, kernel};

/// Whether element `index` survives under `key`: compares a 32-bit hash of both with a threshold.
#[inline(always)]
fn survives(key: u64, index: u32, threshold: u32) -> bool {
    // Two rounds of xor-shift-multiply (lowbias32 constants) over the index and both halves of the key.
    let mut h = index.wrapping_mul(0x9E37_79B9) ^ (key as u32);
    h = (h ^ (h >> 16)).wrapping_mul(0x7FEB_352D);
    h = (h ^ (h >> 15)).wrapping_mul(0x846C_A68B) ^ ((key >> 32) as u32);
    h = (h ^ (h >> 16)).wrapping_mul(0x7FEB_352D);
    h = (h ^ (h >> 15)).wrapping_mul(0x846C_A68B);
    h ^ (h >> 16) >= threshold
}

/// y = x/(1−p) where an element survives, else 0. Each image of `x.len() / keys.len()` elements has its own key.
///
/// # Panics
/// `x` and `y` differ in length, or the length is no multiple of the number of keys.
pub fn forward(isa: Isa, p: f64, keys: &[u64], x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    y.fill(0.0);
    add_masked(isa, p, keys, x, y);
}

/// dx += dy/(1−p) where the element survived.
///
/// # Panics
/// `dy` and `dx` differ in length, or the length is no multiple of the number of keys.
pub fn backward(isa: Isa, p: f64, keys: &[u64], dy: &[f32], dx: &mut [f32]) {
    assert_eq!(dy.len(), dx.len());
    add_masked(isa, p, keys, dy, dx);
}

fn add_masked(isa: Isa, p: f64, keys: &[u64], from: &[f32], to: &mut [f32]) {
    if from.is_empty() {
        return;
    }
    let image = from.len() / keys.len().max(1);
    assert_eq!(image * keys.len(), from.len(), "images of equal length");
    let threshold = (p * f64::from(u32::MAX)) as u32;
    let scale = (1.0 / (1.0 - p)) as f32;
    for ((from, to), &key) in from.chunks_exact(image).zip(to.chunks_exact_mut(image)).zip(keys) {
        // SAFETY: the kernel stays within its slices.
        unsafe { add_where(isa, key, threshold, scale, from, to) }
    }
}

kernel! {
    unsafe fn add_where<S>(_s, key: u64, threshold: u32, scale: f32, from: &[f32], to: &mut [f32]) {
        for (i, (to, from)) in to.iter_mut().zip(from).enumerate() {
            let factor = if survives(key, i as u32, threshold) { scale } else { 0.0 };
            *to += factor * from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survivors_have_the_right_share_and_are_scaled() {
        let x = vec![1.0f32; 100_000];
        let mut y = vec![0.0; x.len()];
        for (p, key) in [(0.1, 7u64), (0.5, 1 << 40), (0.9, u64::MAX)] {
            forward(Isa::best(), p, &[key], &x, &mut y);
            let share = y.iter().filter(|y| **y != 0.0).count() as f64 / y.len() as f64;
            assert!((share - (1.0 - p)).abs() < 0.006, "p {p}: {share} survive");
            assert!(y.iter().all(|y| *y == 0.0 || (f64::from(*y) - 1.0 / (1.0 - p)).abs() < 1e-6 / (1.0 - p)));
        }
    }

    #[test]
    fn the_mask_depends_on_the_key_only_and_backward_repeats_it() {
        let x: Vec<f32> = (0..512).map(|i| 1.0 + i as f32).collect();
        let (mut both, mut one, mut dx) = (vec![0.0; 1024], vec![0.0; 512], vec![0.0; 512]);
        forward(Isa::best(), 0.3, &[11, 12], &[x.clone(), x.clone()].concat(), &mut both);
        forward(Isa::best(), 0.3, &[12], &x, &mut one);
        assert_eq!(both[512..], one[..]);
        assert_ne!(both[..512], one[..]);
        backward(Isa::best(), 0.3, &[12], &x, &mut dx);
        assert_eq!(dx, one);
    }
}
