//! The distance between two images of each latent, in features.

use ndarray::{Array2, Axis};
use skipstone::error::{Error, Kind, Result};

/// The root mean square distance between row i of `a` and row i of `b`, both `[n, d]`, divided by the distance between two
/// different rows of `b`. 0 means that pairs are equal, 1 that they have no more in common than any two images.
///
/// It measures consistency (DDIM §5.2) in features: `a` holds the images of n latents in few steps, `b` in many.
///
/// ```
/// use ndarray::array;
/// // Different rows of b are √2 apart, and each row of a is 1 away from its own.
/// let (a, b) = (array![[1.0f32, 1.0], [0.0, 0.0]], array![[1.0f32, 0.0], [0.0, 1.0]]);
/// let d = skipstone_eval::feature_distance(&a, &b)?;
/// assert!((d - 0.5f64.sqrt()).abs() < 1e-12);
/// # Ok::<(), skipstone::Error>(())
/// ```
///
/// # Errors
/// The shapes differ, there are fewer than two rows, a value is not finite, or all rows of `b` are equal.
pub fn feature_distance(a: &Array2<f32>, b: &Array2<f32>) -> Result<f64> {
    if a.dim() != b.dim() || b.nrows() < 2 {
        let (a, b) = (a.shape(), b.shape());
        return Err(Error::argument(format!(
            "feature distance: expected two sets of equal shape with at least 2 vectors, found {a:?} and {b:?}"
        )));
    }
    let (a, b) = (a.mapv(f64::from), b.mapv(f64::from));
    let n = b.nrows() as f64;
    let own = (&a - &b).mapv(|d| d * d).sum() / n;
    // The mean of ‖bᵢ − bⱼ‖² over i ≠ j is twice the trace of the unbiased covariance.
    let centre = b.mean_axis(Axis(0)).expect("at least two rows");
    let others = 2.0 * (&b - &centre).mapv(|d| d * d).sum() / (n - 1.0);
    if !(own.is_finite() && others.is_finite()) {
        return Err(Error::new(Kind::NonFinite, "feature distance: a feature is not finite"));
    }
    if others == 0.0 {
        return Err(Error::argument("feature distance: all vectors to compare with are equal"));
    }
    Ok((own / others).sqrt())
}

#[cfg(test)]
mod tests {
    use skipstone::math::noise::{KeyedRng, Purpose};

    use super::*;

    fn vectors(seed: u64, n: usize) -> Array2<f32> {
        let mut rng = KeyedRng::new(seed, Purpose::Subset, 0, 0);
        Array2::from_shape_fn((n, 5), |_| rng.next_f64() as f32)
    }

    #[test]
    fn the_distance_is_that_of_the_definition_over_all_pairs() {
        let (a, b) = (vectors(1, 7), vectors(2, 7));
        let square = |x: usize, y: usize, a: &Array2<f32>| -> f64 {
            (0..5).map(|k| (f64::from(a[[x, k]]) - f64::from(b[[y, k]])).powi(2)).sum()
        };
        let own = (0..7).map(|i| square(i, i, &a)).sum::<f64>() / 7.0;
        let pairs: Vec<(usize, usize)> =
            (0..7).flat_map(|i| (0..7).map(move |j| (i, j))).filter(|(i, j)| i != j).collect();
        let others = pairs.iter().map(|&(i, j)| square(i, j, &b)).sum::<f64>() / pairs.len() as f64;
        let expected = (own / others).sqrt();
        assert!((feature_distance(&a, &b).unwrap() - expected).abs() < 1e-12 * expected);
    }

    #[test]
    fn images_that_have_nothing_to_do_with_each_other_are_about_one_apart_and_the_same_not_at_all() {
        let (a, b) = (vectors(3, 4000), vectors(4, 4000));
        assert!((feature_distance(&a, &b).unwrap() - 1.0).abs() < 0.02);
        assert_eq!(feature_distance(&b, &b).unwrap(), 0.0);
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let b = vectors(0, 3);
        for (a, b) in [(vectors(1, 2), b.clone()), (vectors(1, 1), vectors(2, 1)), (b.clone(), Array2::ones((3, 5)))] {
            assert!(feature_distance(&a, &b).is_err());
        }
        assert_eq!(feature_distance(&(&b * f32::NAN), &b).unwrap_err().kind(), Kind::NonFinite);
    }
}
