//! The order in which an epoch visits the images, and which images it mirrors.
//!
//! Both are functions of (seed, epoch, image) alone, so a resumed run continues with exactly the image it would have
//! seen. The caller provides the random words; any keyed generator works.

use super::Pick;
use crate::error::{Error, Result};

/// A random permutation of 0..n by Fisher–Yates with unbiased draws.
pub fn order(n: u32, mut next_u64: impl FnMut() -> u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n).collect();
    for last in (1..order.len()).rev() {
        let chosen = below(last as u64 + 1, &mut next_u64) as usize;
        order.swap(last, chosen);
    }
    order
}

/// A uniform integer below `bound` > 0: the high half of bound·word. Redraws words whose low half falls into the range
/// that would favour some results (Lemire, arXiv 1805.10941).
fn below(bound: u64, next_u64: &mut impl FnMut() -> u64) -> u64 {
    let uneven = bound.wrapping_neg() % bound; // 2^64 mod bound
    loop {
        let product = u128::from(next_u64()) * u128::from(bound);
        if product as u64 >= uneven {
            return (product >> 64) as u64;
        }
    }
}

/// Whether a random word means to mirror: its highest bit.
pub fn flip(word: u64) -> bool {
    word >> 63 == 1
}

/// The purpose of random words. A generator must return independent words for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// The permutation of an epoch; the counter is the number of words drawn so far.
    Order,
    /// Mirroring; the counter is the index of the image.
    Flip,
}

/// The endless sequence of images in a training run, addressed by position: one permutation after the other.
///
/// `words(stream, epoch, counter)` is a pure function, keyed by the run's seed. The most recent epoch's permutation is
/// cached: walking forward costs one shuffle per epoch, and so does a jump.
///
/// ```
/// use skipstone::io::data::{Epochs, Stream};
/// let words = |_: Stream, epoch: u64, i: u64| (epoch + 1).wrapping_mul(i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
/// let mut epochs = Epochs::new(10, words).unwrap();
/// let mut seen: Vec<usize> = (0..10).map(|i| epochs.index_at(i).1).collect();
/// seen.sort();
/// assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
/// ```
#[derive(Clone, Debug)]
pub struct Epochs<F> {
    n: u32,
    words: F,
    current: Option<(u64, Vec<u32>)>,
}

impl<F: Fn(Stream, u64, u64) -> u64> Epochs<F> {
    /// Epochs over `n` images.
    ///
    /// # Errors
    /// `n` is 0 or does not fit 32 bits.
    pub fn new(n: usize, words: F) -> Result<Self> {
        match u32::try_from(n) {
            Ok(n) if n > 0 => Ok(Self { n, words, current: None }),
            _ => Err(Error::argument(format!("an epoch needs 1 to {} images, found {n}", u32::MAX))),
        }
    }

    /// Images per epoch.
    pub fn images_per_epoch(&self) -> u64 {
        u64::from(self.n)
    }

    /// The epoch and the image at `position`, counted from the start of the run.
    pub fn index_at(&mut self, position: u64) -> (u64, usize) {
        let (epoch, place) = (position / u64::from(self.n), (position % u64::from(self.n)) as usize);
        if let Some((kept, order)) = &self.current
            && *kept == epoch
        {
            return (epoch, order[place] as usize);
        }
        let mut counter = 0;
        let order = order(self.n, || {
            let word = (self.words)(Stream::Order, epoch, counter);
            counter += 1;
            word
        });
        let index = order[place] as usize;
        self.current = Some((epoch, order));
        (epoch, index)
    }

    /// The image at `position`, mirrored with probability ½.
    pub fn pick_at(&mut self, position: u64) -> Pick {
        let (epoch, index) = self.index_at(position);
        Pick { index, flip: flip((self.words)(Stream::Flip, epoch, index as u64)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// SplitMix64 of the mixed key, a generator for tests.
    fn words(seed: u64) -> impl Fn(Stream, u64, u64) -> u64 {
        move |stream, epoch, counter| {
            let mut z = seed
                .wrapping_add(epoch.wrapping_mul(0xD1B5_4A32_D192_ED03))
                .wrapping_add(counter.wrapping_mul(0x9E37_79B9_7F4A_7C15))
                .wrapping_add((stream as u64) << 57);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        }
    }

    proptest! {
        #[test]
        fn every_epoch_visits_each_image_once(n in 1usize..200, seed: u64, epoch in 0u64..1000) {
            let mut epochs = Epochs::new(n, words(seed)).unwrap();
            let mut seen = vec![0; n];
            for place in 0..n as u64 {
                let (e, index) = epochs.index_at(epoch * n as u64 + place);
                prop_assert_eq!(e, epoch);
                seen[index] += 1;
            }
            prop_assert!(seen.iter().all(|&count| count == 1));
        }

        #[test]
        fn a_position_means_the_same_image_from_wherever_it_is_reached(n in 1usize..50, seed: u64, jump in 0u64..500) {
            let mut walked = Epochs::new(n, words(seed)).unwrap();
            for position in 0..jump {
                walked.pick_at(position);
            }
            let mut jumped = Epochs::new(n, words(seed)).unwrap();
            prop_assert_eq!(walked.pick_at(jump), jumped.pick_at(jump));
        }
    }

    #[test]
    fn all_orders_of_four_are_equally_likely() {
        let word = words(3);
        let mut counter = 0;
        let mut counts = std::collections::HashMap::new();
        for _ in 0..24_000 {
            let o = order(4, || {
                counter += 1;
                word(Stream::Order, 0, counter)
            });
            *counts.entry(o).or_insert(0i64) += 1;
        }
        assert_eq!(counts.len(), 24);
        // χ² with 23 degrees of freedom; 49.7 is its 0.999 quantile.
        let chi2: f64 = counts.values().map(|&c| ((c - 1000) as f64).powi(2) / 1000.0).sum();
        assert!(chi2 < 49.7, "χ² = {chi2}");
    }

    #[test]
    fn the_order_is_known_for_known_words_and_uneven_words_are_redrawn() {
        // 2^64 mod 3 = 1: for a bound of 3, the word 0 is redrawn. 2^63 then gives ⌊3/2⌋ = 1, which swaps the last
        // element with element 1: [0, 2, 1]. For a bound of 2, the word u64::MAX gives 1: nothing moves.
        let mut script = [0, 1 << 63, u64::MAX].into_iter();
        assert_eq!(order(3, || script.next().unwrap()), [0, 2, 1]);
        assert!(script.next().is_none());
    }

    #[test]
    fn epochs_differ_and_flips_depend_on_the_image_not_its_place() {
        let mut epochs = Epochs::new(100, words(1)).unwrap();
        let first: Vec<_> = (0..100).map(|p| epochs.pick_at(p)).collect();
        let second: Vec<_> = (100..200).map(|p| epochs.pick_at(p)).collect();
        assert_ne!(
            first.iter().map(|p| p.index).collect::<Vec<_>>(),
            second.iter().map(|p| p.index).collect::<Vec<_>>()
        );
        for pick in &first {
            assert_eq!(pick.flip, flip(words(1)(Stream::Flip, 0, pick.index as u64)));
        }
        let flips = first.iter().filter(|p| p.flip).count();
        assert!((30..70).contains(&flips), "{flips} of 100 mirrored");
    }

    #[test]
    fn an_epoch_of_nothing_is_an_error() {
        assert!(Epochs::new(0, words(0)).is_err());
        assert_eq!(order(0, || unreachable!()), [0u32; 0]);
        assert_eq!(order(1, || unreachable!()), [0]);
    }
}
