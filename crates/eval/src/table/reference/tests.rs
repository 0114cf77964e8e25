use std::cell::Cell;

use super::*;

/// The first and the last pixel of an image; counts the images it was shown.
struct Corners(Cell<usize>);

impl FeatureNetwork for Corners {
    fn name(&self) -> &str {
        "two corners"
    }

    fn dimensions(&self) -> usize {
        2
    }

    fn features(&self, images: ArrayView4<'_, f32>) -> Result<Array2<f32>> {
        let (n, _, h, w) = images.dim();
        self.0.set(self.0.get() + n);
        Ok(Array2::from_shape_fn((n, 2), |(i, j)| images[[i, 0, j * (h - 1), j * (w - 1)]]))
    }
}

fn corners() -> Corners {
    Corners(Cell::new(0))
}

/// `n` images of 2×2 pixels, known by `salt` and their index, far from 0 and 255.
fn images(n: usize, salt: usize) -> Array4<u8> {
    let value = |i: usize, y: usize, x: usize| {
        let word = ((4 * i + 2 * y + x + 10_000 * salt) as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        30 + ((word >> 40) % 150) as u8
    };
    Array4::from_shape_fn((n, 1, 2, 2), |(i, _, y, x)| value(i, y, x))
}

fn data(n: usize, salt: usize) -> Dataset {
    Dataset::new("numbers", images(n, salt), None, Vec::new()).unwrap()
}

fn go_on(_: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn sorted(images: &Array4<u8>) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = images.outer_iter().map(|image| image.iter().copied().collect()).collect();
    all.sort();
    all
}

#[test]
fn both_parts_keep_their_images_in_another_order_and_limits_choose_among_them() {
    let real = RealImages::new(&data(50, 1), &data(20, 2), None).unwrap();
    assert!(!real.are_halves());
    assert_eq!(
        (sorted(&real.train().to_owned()), sorted(real.test())),
        (sorted(&images(50, 1)), sorted(&images(20, 2)))
    );
    assert_ne!(real.train(), images(50, 1));
    let again = RealImages::new(&data(50, 1), &data(20, 2), None).unwrap();
    assert_eq!((again.train(), again.digest()), (real.train(), real.digest()));
    let few = RealImages::new(&data(50, 1), &data(20, 2), Some(30)).unwrap();
    assert_eq!((few.train().dim().0, few.test().dim().0), (30, 20));
    assert_eq!(few.train(), real.train().slice_axis(Axis(0), Slice::from(..30)));
    assert_ne!(few.digest(), real.digest());
    assert_eq!(few.seen(), real.seen());
}

#[test]
fn a_data_set_without_a_test_part_is_cut_into_halves() {
    let real = RealImages::new(&data(11, 1), &data(11, 1), None).unwrap();
    assert!(real.are_halves());
    assert_eq!((real.train().dim().0, real.test().dim().0), (6, 5));
    let mut both = sorted(&real.train().to_owned());
    both.extend(sorted(real.test()));
    both.sort();
    assert_eq!(both, sorted(&images(11, 1)));
    assert!(RealImages::new(&data(3, 1), &data(3, 1), None).is_err());
    assert!(RealImages::new(&data(9, 1), &data(9, 1), Some(1)).is_err());
    let other = Dataset::new("wide", Array4::zeros((4, 1, 2, 3)), None, Vec::new()).unwrap();
    assert!(RealImages::new(&data(9, 1), &other, None).is_err());
}

#[test]
fn features_are_computed_once_and_damaged_files_made_again() {
    let cache = tempfile::tempdir().unwrap();
    let open = |network: &Corners| {
        let real = RealImages::new(&data(300, 1), &data(40, 2), None).unwrap();
        Reference::open(real, network, cache.path(), &mut go_on).unwrap()
    };
    let network = corners();
    let first = open(&network);
    assert_eq!(network.0.get(), 340);
    let second = open(&network);
    assert_eq!(network.0.get(), 340);
    assert_eq!((&second.train, &second.train_features), (&first.train, &first.train_features));
    assert_eq!((&second.test_features, &second.test_nearest), (&first.test_features, &first.test_nearest));
    let folder = std::fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap().path();
    assert!(folder.file_name().unwrap().to_string_lossy().starts_with("two_corners-"));
    for name in ["train.npz", "train.npy", "test.npy", "reference.json"] {
        let path = folder.join(name);
        let whole = std::fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let before = network.0.get();
        assert_eq!(open(&network).train, first.train, "{name}");
        assert_eq!(network.0.get() - before, 340, "{name}");
        assert_eq!(std::fs::read(&path).unwrap(), whole, "{name}");
    }
    // Other images are another folder.
    let real = RealImages::new(&data(300, 3), &data(40, 2), None).unwrap();
    let before = network.0.get();
    Reference::open(real, &network, cache.path(), &mut go_on).unwrap();
    assert_eq!(network.0.get() - before, 340);
}

#[test]
fn work_that_is_stopped_leaves_nothing_behind() {
    let cache = tempfile::tempdir().unwrap();
    let real = RealImages::new(&data(300, 1), &data(40, 2), None).unwrap();
    let stopped = Reference::open(real, &corners(), cache.path(), &mut |_| ControlFlow::Break(()));
    assert!(stopped.unwrap_err().is_stopped());
    assert!(std::fs::read_dir(cache.path()).unwrap().next().is_none());
}

#[test]
fn scores_are_those_of_their_definitions() {
    let cache = tempfile::tempdir().unwrap();
    let network = corners();
    let real = RealImages::new(&data(60, 1), &data(40, 2), None).unwrap();
    let train = real.train().to_owned();
    let reference = Reference::open(real, &network, cache.path(), &mut go_on).unwrap();
    let score = |images: &Array4<u8>| {
        let features = features_of(&network, images.view(), &mut go_on).unwrap();
        Scores::of(&reference, &network, &features, images.view()).unwrap()
    };
    // The training images themselves: perfect, and memorised.
    let copies = score(&train);
    assert!(copies.frechet.abs() < 1e-9, "{}", copies.frechet);
    let balls = copies.precision_recall.unwrap();
    assert_eq!((balls.precision, balls.recall), (1.0, 1.0));
    assert_eq!((copies.nearest, copies.memorisation), (0.0, Some(0.0)));
    assert_eq!(copies.neighbours.indices, (0..60).collect::<Vec<_>>());
    // All of them lighter by 51: the mean of each feature moves by 0.4, the covariance not at all.
    let lighter = score(&train.mapv(|byte| byte + 51));
    assert!((lighter.frechet - 2.0 * 0.4 * 0.4).abs() < 1e-6, "{}", lighter.frechet);
    assert!(lighter.nearest > 0.0 && lighter.nearest <= 0.2 + 1e-9, "{}", lighter.nearest);
    // Real images as if they were samples: the floor, and neither nearer nor further than themselves.
    let floor = reference.floor(&network, 1000).unwrap();
    assert_eq!((reference.floor_n(1000), reference.floor_n(7)), (40, 7));
    assert_eq!(floor, score(reference.images().test()));
    assert_eq!(floor.memorisation, Some(1.0));
    // One image too few for balls, two for the kernel distance.
    let three = score(&train.slice_axis(Axis(0), Slice::from(..3)).to_owned());
    assert!(three.precision_recall.is_none() && three.kid.is_some());
    assert!(score(&train.slice_axis(Axis(0), Slice::from(..2)).to_owned()).kid.is_none());
}

#[test]
fn copies_are_found_in_training_images_that_are_not_scored_against() {
    let cache = tempfile::tempdir().unwrap();
    let network = corners();
    for (real, copied) in [
        // Beyond the limit, and in the half that gives the floor.
        (RealImages::new(&data(60, 1), &data(40, 2), Some(10)).unwrap(), 10..60),
        (RealImages::new(&data(60, 1), &data(60, 1), None).unwrap(), 30..60),
    ] {
        let copies = real.seen().slice_axis(Axis(0), Slice::from(copied)).to_owned();
        let reference = Reference::open(real, &network, cache.path(), &mut go_on).unwrap();
        let features = features_of(&network, copies.view(), &mut go_on).unwrap();
        let scores = Scores::of(&reference, &network, &features, copies.view()).unwrap();
        assert_eq!(scores.memorisation, Some(0.0));
        assert!(reference.test_nearest.iter().all(|&distance| distance > 0.0));
    }
}

#[test]
fn the_nearest_image_of_a_test_half_is_one_of_the_other_half() {
    let cache = tempfile::tempdir().unwrap();
    let network = corners();
    let real = RealImages::new(&data(40, 1), &data(40, 1), None).unwrap();
    let test = real.test().to_owned();
    let reference = Reference::open(real, &network, cache.path(), &mut go_on).unwrap();
    let features = features_of(&network, test.view(), &mut go_on).unwrap();
    let scores = Scores::of(&reference, &network, &features, test.view()).unwrap();
    // These images are among those that samples are compared with, but no test image is its own neighbour.
    assert!(scores.nearest == 0.0 && scores.nearest_test > 0.0, "{} {}", scores.nearest, scores.nearest_test);
    assert_eq!(scores.memorisation, Some(0.0));
}
