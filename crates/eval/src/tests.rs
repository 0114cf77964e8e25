//! Scores against closed forms and against their definitions.

use ndarray::{Array1, Array2, Array4, ArrayView2, Axis, array};
use proptest::prelude::*;
use skipstone::error::Kind;
use skipstone::math::noise::{KeyedRng, Purpose};

use super::*;

fn gaussian(mean: Array1<f64>, covariance: Array2<f64>) -> Gaussian {
    Gaussian { network: "closed form".to_owned(), mean, covariance }
}

/// Standard normal vectors.
fn normal(seed: u64, n: usize, d: usize) -> Array2<f32> {
    let mut values = vec![0.0; n * d];
    KeyedRng::new(seed, Purpose::Probe, 0, 0).fill_gaussian(&mut values);
    Array2::from_shape_vec((n, d), values).unwrap()
}

/// A rotation of three dimensions about two axes.
fn rotation(a: f64, b: f64) -> Array2<f64> {
    let first = array![[a.cos(), -a.sin(), 0.0], [a.sin(), a.cos(), 0.0], [0.0, 0.0, 1.0]];
    first.dot(&array![[1.0, 0.0, 0.0], [0.0, b.cos(), -b.sin()], [0.0, b.sin(), b.cos()]])
}

fn close(found: f64, expected: f64, relative: f64) {
    assert!((found - expected).abs() <= relative * expected.abs().max(1e-300), "{found} instead of {expected}");
}

#[test]
fn frechet_of_diagonal_gaussians_is_the_sum_over_their_axes() {
    // Each axis: (m₁ − m₂)² + (s₁ − s₂)².
    let a = gaussian(array![1.0, 0.0, -2.0], Array2::from_diag(&array![4.0, 0.25, 9.0]));
    let b = gaussian(array![0.0, 0.5, -2.0], Array2::from_diag(&array![1.0, 0.25, 0.0]));
    close(a.frechet(&b).unwrap(), 1.0 + 1.0 + 0.25 + 0.0 + 9.0, 1e-14);
    // Covariances that commute: the same, in a turned frame.
    let r = rotation(0.7, -1.9);
    let turned = |g: &Gaussian| gaussian(r.dot(&g.mean), r.dot(&g.covariance).dot(&r.t()));
    close(turned(&a).frechet(&turned(&b)).unwrap(), 11.25, 1e-13);
}

#[test]
fn frechet_of_two_dimensions_has_a_closed_form_without_commuting() {
    // tr √M of a 2×2 matrix of determinant δ and trace τ is √(τ + 2√δ).
    let (s1, s2) = (array![[2.0, 0.9], [0.9, 1.0]], array![[1.0, -0.4], [-0.4, 3.0]]);
    let product = s1.dot(&s2);
    let det = |m: &Array2<f64>| m[[0, 0]] * m[[1, 1]] - m[[0, 1]] * m[[1, 0]];
    let root = (product.diag().sum() + 2.0 * (det(&s1) * det(&s2)).sqrt()).sqrt();
    let found = gaussian(array![0.0, 0.0], s1).frechet(&gaussian(array![3.0, 4.0], s2)).unwrap();
    close(found, 25.0 + 3.0 + 4.0 - 2.0 * root, 1e-14);
}

#[test]
fn frechet_of_flat_gaussians_is_exact() {
    // Σ = u·uᵀ: of rank one, tr (Σ₁^½ Σ₂ Σ₁^½)^½ = |u·v|.
    let outer = |u: &Array1<f64>| u.view().insert_axis(Axis(1)).dot(&u.view().insert_axis(Axis(0)));
    let (u, v) =
        (Array1::from_shape_fn(40, |i| (i as f64).sin()), Array1::from_shape_fn(40, |i| (0.3 * i as f64).cos()));
    let zero = Array1::zeros(40);
    let found = gaussian(zero.clone(), outer(&u)).frechet(&gaussian(zero.clone(), outer(&v))).unwrap();
    close(found, u.dot(&u) + v.dot(&v) - 2.0 * u.dot(&v).abs(), 1e-12);
    // A point against a Gaussian.
    let point = gaussian(zero.clone(), Array2::zeros((40, 40)));
    close(point.frechet(&gaussian(zero, outer(&u))).unwrap(), u.dot(&u), 1e-13);
}

#[test]
fn frechet_of_a_set_with_itself_is_zero_and_moving_or_turning_both_changes_nothing() {
    let of = |x: ArrayView2<'_, f32>| {
        let mut s = Statistics::new("three numbers", 3);
        s.add(x).unwrap();
        s
    };
    let x = normal(1, 50, 3).dot(&array![[1.0f32, 0.4, 0.0], [0.0, 0.7, -0.2], [0.3, 0.0, 0.5]]);
    let y = normal(2, 60, 3) + array![0.5f32, 0.0, -1.0];
    let plain = frechet(&of(x.view()), &of(y.view())).unwrap();
    assert!(plain > 1.0);
    close(frechet(&of(y.view()), &of(x.view())).unwrap(), plain, 1e-12);
    assert!(frechet(&of(x.view()), &of(x.view())).unwrap() < 1e-13);
    // More dimensions than images.
    let wide = normal(3, 20, 64);
    let mut s = Statistics::new("64 numbers", 64);
    s.add(wide.view()).unwrap();
    assert!(frechet(&s, &s).unwrap() < 1e-10 * s.gaussian().unwrap().covariance.diag().sum());
    let r = rotation(1.1, 0.4).mapv(|v| v as f32);
    let moved = |v: &Array2<f32>| v.dot(&r) + 7.0;
    close(frechet(&of(moved(&x).view()), &of(moved(&y).view())).unwrap(), plain, 1e-5);
}

#[test]
fn what_is_no_gaussian_is_refused_with_its_reason() {
    let refused = |a: &Gaussian, reason: &str| {
        let good = gaussian(Array1::zeros(2), Array2::eye(2));
        let error = a.frechet(&good).unwrap_err();
        assert!(error.message().contains(reason), "{error}");
        assert!(good.frechet(a).is_err());
    };
    refused(&gaussian(Array1::zeros(2), array![[1.0, 0.5], [0.1, 1.0]]), "not symmetric: elements differ by 4.000e-1");
    refused(&gaussian(Array1::zeros(2), array![[1.0, 2.0], [2.0, 1.0]]), "least eigenvalue is -1.000e0");
    refused(&gaussian(array![0.0, f64::NAN], Array2::eye(2)), "not finite");
    refused(&gaussian(Array1::zeros(2), Array2::eye(3)), "a covariance of (3, 3)");
    refused(&gaussian(Array1::zeros(3), Array2::eye(3)), "different feature networks");
    let other = Gaussian { network: "another".to_owned(), ..gaussian(Array1::zeros(2), Array2::eye(2)) };
    refused(&other, "another");

    let mut one = Statistics::new("a", 2);
    one.add(array![[1.0f32, 2.0]].view()).unwrap();
    assert!(one.gaussian().unwrap_err().message().contains("at least 2 images, found 1"));
    let mut two = Statistics::new("b", 2);
    two.add(array![[1.0f32, 2.0], [2.0, 2.0]].view()).unwrap();
    for error in [frechet(&two, &one).unwrap_err(), one.clone().merge(&two).unwrap_err()] {
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.message().contains("a (2 numbers)") && error.message().contains("b (2 numbers)"), "{error}");
    }
    let before = two.clone();
    assert_eq!(two.add(array![[0.0f32, f32::NAN]].view()).unwrap_err().kind(), Kind::NonFinite);
    assert!(two.add(array![[0.0f32]].view()).unwrap_err().message().contains("expected 2 numbers each, found 1"));
    assert_eq!(two, before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn shards_give_what_the_whole_gives(n in 2usize..60, cuts in prop::collection::vec(0usize..60, 0..5), far in -1e6f32..1e6) {
        let x = normal(n as u64, n, 4) + far;
        let mut whole = Statistics::new("four numbers", 4);
        whole.add(x.view()).unwrap();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(n)).chain([0, n]).collect();
        cuts.sort();
        let mut merged = Statistics::new("four numbers", 4);
        for pair in cuts.windows(2) {
            let mut shard = Statistics::new("four numbers", 4);
            for row in x.axis_iter(Axis(0)).skip(pair[0]).take(pair[1] - pair[0]) {
                shard.add(row.insert_axis(Axis(0))).unwrap();
            }
            merged.merge(&shard).unwrap();
        }
        prop_assert_eq!(merged.count(), n as u64);
        // Far from the origin a sum of squares would have lost every digit: far² is 1e12 times the variance.
        let scale = whole.scatter().diag().sum();
        let off = (&merged.scatter() - &whole.scatter()).iter().fold(0.0f64, |m, v| m.max(v.abs()));
        prop_assert!(off <= 1e-9 * scale, "off by {off:e} of {scale}");
        let off = (&merged.mean() - &whole.mean()).iter().fold(0.0f64, |m, v| m.max(v.abs()));
        prop_assert!(off <= 1e-12 * f64::from(far.abs() + 1.0));
    }

    #[test]
    fn neighbours_are_those_of_the_definition(n in 1usize..40, m in 4usize..300, d in 1usize..20, far in prop::sample::select(vec![0.0f32, 30.0, 3000.0])) {
        // Far from the origin the products say nothing about distances: their rounding is larger.
        let (x, y) = (normal(7, n, d) + far, normal(8, m, d) + far);
        let found = nearest(x.view(), y.view()).unwrap();
        for (i, x) in x.outer_iter().enumerate() {
            let square = |y: ndarray::ArrayView1<'_, f32>| -> f64 {
                x.iter().zip(y).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
            };
            let best = (0..m).min_by(|&a, &b| square(y.row(a)).total_cmp(&square(y.row(b)))).unwrap();
            prop_assert_eq!(found.indices[i], best);
            prop_assert!((found.distances[i] - square(y.row(best)).sqrt()).abs() <= 1e-12 * found.distances[i]);
        }
    }
}

#[test]
fn the_kernel_distance_of_gaussians_is_that_of_the_closed_form() {
    // With x, x' ~ N(0, I) and y, y' ~ N(μ, I), q = |μ|²: E[(x·x')²] = d; x·y given y has variance |y|², so
    // E[(x·y)²] = d + q; s = y·y' has mean q, variance d + 2q and third central moment 6q. Odd moments of x·x', x·y vanish.
    let (d, q) = (8.0, 2.0);
    let cube = |mean: f64, variance: f64, third: f64| {
        let (m2, m3) = (variance + mean * mean, third + 3.0 * mean * variance + mean.powi(3));
        1.0 + 3.0 * mean / d + 3.0 * m2 / (d * d) + m3 / (d * d * d)
    };
    let expected = cube(0.0, d, 0.0) + cube(q, d + 2.0 * q, 6.0 * q) - 2.0 * cube(0.0, d + q, 0.0);
    let x = normal(10, 3000, 8);
    let y = normal(11, 2500, 8) + (q / d).sqrt() as f32;
    let full = kid_full(x.view(), y.view()).unwrap();
    assert!((full.value - expected).abs() < 4.0 * full.standard_error, "{full:?} instead of {expected}");
    assert!(full.standard_error < 0.1 * expected);
    let subsets = kid(x.view(), y.view(), Subsets { count: 40, size: 500, seed: 3 }).unwrap();
    // The subsets' mean estimates the same; what it adds to the error of the vectors is its own.
    let error = subsets.standard_error.hypot(full.standard_error);
    assert!((subsets.value - expected).abs() < 4.0 * error, "{subsets:?} instead of {expected}");
}

#[test]
fn the_kernel_distance_of_one_distribution_is_zero_on_average_and_its_error_is_known() {
    let mut scores = Vec::new();
    for seed in 0..30 {
        let found = kid_full(normal(100 + seed, 150, 4).view(), normal(200 + seed, 120, 4).view()).unwrap();
        scores.push((found.value, found.standard_error));
    }
    let n = scores.len() as f64;
    let mean = scores.iter().map(|s| s.0).sum::<f64>() / n;
    let deviation = (scores.iter().map(|s| (s.0 - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    // Unbiased: below 0 as well as above. A biased estimator would be off by some of these deviations.
    assert!(mean.abs() < 3.0 * deviation / n.sqrt(), "{mean} ± {deviation}");
    assert!(scores.iter().any(|s| s.0 < 0.0) && scores.iter().any(|s| s.0 > 0.0));
    // The jackknife's error is of the right size, too large rather than too small where the distance is 0.
    let typical = scores.iter().map(|s| s.1).sum::<f64>() / n;
    assert!((0.8..2.5).contains(&(typical / deviation)), "{typical} for {deviation}");
}

#[test]
fn subsets_are_a_function_of_the_seed_and_must_fit() {
    let (x, y) = (normal(1, 40, 3), normal(2, 30, 3) * 1.5);
    let with = |count, size, seed| kid(x.view(), y.view(), Subsets { count, size, seed });
    assert_eq!(with(8, 20, 5).unwrap(), with(8, 20, 5).unwrap());
    assert_ne!(with(8, 20, 5).unwrap(), with(8, 20, 6).unwrap());
    // A subset that is a whole set is that set.
    let all = kid(x.view(), x.view(), Subsets { count: 3, size: 40, seed: 0 }).unwrap();
    close(all.value, kid_full(x.view(), x.view()).unwrap().value, 1e-9);
    assert!(all.standard_error < 1e-12);
    for (count, size) in [(1, 10), (3, 1), (3, 31)] {
        let error = with(count, size, 0).unwrap_err();
        assert!(error.message().contains("2 to 30 vectors"), "{error}");
    }
    assert!(kid_full(x.view(), normal(2, 30, 4).view()).is_err());
    assert!(kid_full(x.view(), normal(2, 2, 3).view()).unwrap_err().message().contains("found 40 and 2"));
    assert_eq!(kid_full(x.view(), (&y * f32::NAN).view()).unwrap_err().kind(), Kind::NonFinite);
}

#[test]
fn precision_and_recall_of_sets_made_by_hand() {
    let line = |places: &[f32]| Array2::from_shape_vec((places.len(), 1), places.to_vec()).unwrap();
    // Balls to the nearest neighbour: 0±1, 1±1, 2±1 and 10±8: what is real covers −1..3 and 2..18.
    let real = line(&[0.0, 1.0, 2.0, 10.0]);
    // Inside, on the edge (which counts), outside, outside.
    let generated = line(&[0.5, 18.0, 19.0, -1.5]);
    // Balls of the generated: 0.5±2, 18±1, 19±1, −1.5±2: of the real 0, 1, 2 are covered, 10 is not.
    let found = precision_recall(real.view(), generated.view(), 1).unwrap();
    assert_eq!(found, PrecisionRecall { precision: 0.5, recall: 0.75 });
    let same = precision_recall(real.view(), real.view(), 1).unwrap();
    assert_eq!(same, PrecisionRecall { precision: 1.0, recall: 1.0 });
    let far = precision_recall(real.view(), (&real + 1000.0).view(), DEFAULT_NEIGHBOURS).unwrap();
    assert_eq!(far, PrecisionRecall { precision: 0.0, recall: 0.0 });
    // A model that makes one image only: all of it is real, nothing of the real is covered by its balls of radius 0.
    let one = line(&[0.3, 0.3, 0.3, 0.3]);
    assert_eq!(precision_recall(real.view(), one.view(), 3).unwrap(), PrecisionRecall { precision: 1.0, recall: 0.0 });

    assert!(precision_recall(real.view(), one.view(), 0).unwrap_err().message().contains("at least 1 neighbour"));
    let error = precision_recall(real.view(), one.view(), 4).unwrap_err();
    assert!(error.message().contains("at least 5 vectors, found 4"), "{error}");
    assert!(precision_recall(real.view(), array![[0.0f32, 1.0]].view(), 1).is_err());
    assert_eq!(precision_recall((&real / 0.0).view(), one.view(), 1).unwrap_err().kind(), Kind::NonFinite);
}

#[test]
fn of_equally_near_neighbours_the_first_is_taken_and_copies_are_found_far_from_the_origin() {
    let references = array![[1.0f32], [3.0], [1.0], [3.0]];
    let found = nearest(array![[2.0f32], [1.0], [9.0]].view(), references.view()).unwrap();
    assert_eq!((found.indices.clone(), found.distances.clone()), (vec![0, 0, 1], vec![1.0, 0.0, 6.0]));
    assert_eq!((found.quantile(0.0), found.quantile(0.5), found.quantile(0.75)), (Some(0.0), Some(1.0), Some(3.5)));
    assert_eq!((found.share_below(1.0), found.share_below(1.5), found.order()), (1.0 / 3.0, 2.0 / 3.0, vec![1, 0, 2]));
    assert_eq!(Nearest { indices: vec![], distances: vec![] }.quantile(0.5), None);
    // 2000 vectors of 784 numbers near 100, a copy of the last among them: more than one block of references.
    let far = normal(4, 2000, 784) + 100.0;
    let copy = far.row(1999).insert_axis(Axis(0));
    let found = nearest(copy, far.view()).unwrap();
    assert_eq!((found.indices, found.distances), (vec![1999], vec![0.0]));
    // Too large for products in f32.
    let huge = array![[1e30f32, 0.0], [2e30, 0.0]];
    assert_eq!(nearest(array![[1.9e30f32, 0.0]].view(), huge.view()).unwrap().indices, [1]);
    let none = Array2::zeros((0, 2));
    assert!(nearest(huge.view(), none.view()).unwrap_err().message().contains("found 0"));
}

#[test]
fn pictures_have_the_levels_of_bytes_and_data_stay_as_they_are() {
    let mut images = array![[[[-7.0f32, -0.9999, 0.001, 1.2]]]];
    as_pictures(&mut images).unwrap();
    // 0.001 lies between 127/127.5 − 1 and 128/127.5 − 1, nearer to the latter.
    assert_eq!(images, array![[[[-1.0f32, -1.0, (128.0 / 127.5 - 1.0) as f32, 1.0]]]]);
    let bytes = Array4::from_shape_fn((1, 1, 16, 16), |(_, _, y, x)| (16 * y + x) as u8);
    let data = skipstone::io::data::Dataset::new("all bytes", bytes, None, Vec::new()).unwrap().batch(0..1).unwrap();
    let mut same = data.clone();
    as_pictures(&mut same).unwrap();
    assert_eq!(same, data);
    let mut broken = array![[[[0.0f32]]], [[[f32::INFINITY]]]];
    assert!(as_pictures(&mut broken).unwrap_err().message().contains("image 1"));
    assert_eq!(pixels(data.view()).dim(), (1, 256));
}

#[test]
fn features_are_named_by_what_they_are() {
    for text in ["fashion-cnn", "a:b/net.onnx:pool:3"] {
        let parsed = text.parse::<FeatureSpec>();
        assert_eq!(parsed.is_ok(), text == "fashion-cnn", "{text}");
    }
    assert_eq!("x/net.onnx:p".parse::<FeatureSpec>().unwrap().to_string(), "x/net.onnx:p");
    for wrong in ["", "inception", "net.onnx", "net.onnx:", "net.pt:pool"] {
        assert!(wrong.parse::<FeatureSpec>().unwrap_err().message().contains("FILE.onnx:OUTPUT"), "{wrong}");
    }
}

#[test]
fn statistics_come_back_from_their_file_and_a_damaged_one_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.npz");
    let mut statistics = Statistics::new("three numbers", 3);
    statistics.add((normal(5, 40, 3) + 2.0).view()).unwrap();
    statistics.note("data", "standard normal");
    statistics.write(&path).unwrap();
    let back = Statistics::read(&path).unwrap();
    assert_eq!((back.network(), back.count(), back.about()), ("three numbers", 40, statistics.about()));
    assert_eq!(back.mean(), statistics.mean());
    let off = (&back.scatter() - &statistics.scatter()).iter().fold(0.0f64, |m, v| m.max(v.abs()));
    assert!(off < 1e-13, "{off:e}");
    assert_eq!(Gaussian::read(&path, "three numbers").unwrap(), back.gaussian().unwrap());
    let error = Gaussian::read(&path, "inception").unwrap_err();
    assert!(error.message().contains("statistics of three numbers; expected those of inception"), "{error}");
    for few in 0..2 {
        let mut small = Statistics::new("one number", 1);
        small.add(Array2::from_elem((few, 1), 3.0).view()).unwrap();
        small.write(&path).unwrap();
        assert_eq!(Statistics::read(&path).unwrap(), small);
    }

    statistics.write(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for end in 0..bytes.len() {
        std::fs::write(&path, &bytes[..end]).unwrap();
        assert_eq!(Statistics::read(&path).unwrap_err().path(), Some(path.as_path()), "cut at {end}");
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        std::fs::write(&path, &damaged).unwrap();
        // What the checksums do not cover says nothing of the numbers: times, flags, names of nothing.
        if let Ok(found) = Statistics::read(&path) {
            assert_eq!(found, back, "byte {at}");
        }
    }
    assert_eq!(Statistics::read(&folder.path().join("absent.npz")).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_file_that_says_something_else_is_refused_by_field() {
    use skipstone::io::checkpoint::zip::archive;
    use skipstone::io::image::npy;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.npz");
    let array = |shape: (usize, usize), value: f64| {
        let mut bytes = Vec::new();
        npy::encode(&mut bytes, Array2::from_elem(shape, value).view()).unwrap();
        bytes
    };
    let vector = |n: usize| {
        let mut bytes = Vec::new();
        npy::encode(&mut bytes, Array1::<f64>::zeros(n).view()).unwrap();
        bytes
    };
    let about = r#"{"format": 1, "network": "n", "count": 5, "about": {}}"#;
    let refused = |about: &str, mu: &[u8], sigma: &[u8], reason: &str| {
        let files: [(&str, &[u8]); 3] = [("mu.npy", mu), ("sigma.npy", sigma), ("skipstone.json", about.as_bytes())];
        std::fs::write(&path, archive(&files).unwrap()).unwrap();
        let error = Statistics::read(&path).unwrap_err();
        assert!(error.to_string().contains("s.npz: ") && error.message().contains(reason), "{error}");
    };
    refused(&about.replace("1,", "2,"), &vector(2), &array((2, 2), 0.0), "format 2; 1 is read");
    refused(&about.replace("\"n\"", "7"), &vector(2), &array((2, 2), 0.0), "network: expected a text");
    refused(&about.replace("5", "-5"), &vector(2), &array((2, 2), 0.0), "count: expected a number");
    refused(&about.replace("{}", "{\"data\": 1}"), &vector(2), &array((2, 2), 0.0), "about.data");
    refused("{", &vector(2), &array((2, 2), 0.0), "skipstone.json: EOF");
    refused(about, &vector(2), &array((3, 3), 0.0), "expected [2, 2] as mu.npy has 2 numbers, found [3, 3]");
    refused(about, &vector(0), &array((0, 0), 0.0), "sigma.npy");
    refused(about, &array((2, 2), 0.0), &array((2, 2), 0.0), "mu.npy: expected 1 dimensions");
    refused(about, &vector(2), &array((2, 2), f64::NAN), "sigma.npy: value 0 of 4");
    refused(about, &vector(2), b"text", "sigma.npy: truncated");
    std::fs::write(&path, archive(&[("a.npy", b"")]).unwrap()).unwrap();
    assert!(Statistics::read(&path).unwrap_err().message().contains("among its entries (a.npy)"));
}
