// One gap is a list of one range here, not a range written wrongly.
#![allow(clippy::single_range_in_vec_init)]

use skipstone::engine::Precision;
use skipstone::math::schedule::FinalLevel;
use skipstone::math::sigma::NoiseScale;
use skipstone::math::trajectory::Spacing;
use skipstone::sampling::denoiser::Clip;
use skipstone::sampling::solver::Solver;

use super::*;

fn settings(seed: u64) -> Settings {
    Settings {
        model: "0123".to_owned(),
        process: "4567".to_owned(),
        steps: Some(2),
        spacing: Some(Spacing::Linear.into()),
        times: vec![999.into(), 499.into()],
        scale: NoiseScale::Eta(0.2),
        solver: Solver::DDIM,
        restart: None,
        calibration: None,
        clip: Clip::Off,
        final_level: FinalLevel::Clean,
        seed,
        classes: None,
        guidance: None,
        guidance_interval: None,
        guide: None,
        null_class: None,
        latents: None,
        noise: None,
        precision: Precision::F32,
        extra: Map::new(),
    }
}

const SHAPE: [usize; 3] = [3, 2, 4];

/// Image i is known by its values alone.
fn images(range: Range<u64>) -> Array4<u8> {
    let n = (range.end - range.start) as usize;
    Array4::from_shape_fn((n, 3, 2, 4), |(i, c, y, x)| {
        (range.start as usize + i) as u8 * 24 + (c * 8 + y * 4 + x) as u8
    })
}

fn effort(seconds: f64) -> Effort {
    Effort { seconds, machine: "2 threads, portable".to_owned() }
}

fn write(samples: &mut Samples, range: Range<u64>) {
    let seconds = (range.end - range.start) as f64;
    samples.write(range.start, images(range).view(), effort(seconds)).unwrap();
}

fn open(root: &Path) -> Samples {
    Samples::open(root, &settings(0), SHAPE).unwrap()
}

#[test]
fn images_come_back_in_order_however_they_were_written() {
    let root = tempfile::tempdir().unwrap();
    let mut samples = open(root.path());
    assert_eq!(samples.missing(0..9), [0..9]);
    // Parts of two machines that overlap, a gap between, the later one first.
    for range in [7..9, 0..3, 2..4, 1..2] {
        write(&mut samples, range);
    }
    for samples in [&samples, &open(root.path())] {
        assert_eq!(samples.missing(0..10), [4..7, 9..10]);
        assert_eq!(samples.missing(1..4), []);
        assert_eq!(samples.missing(4..4), []);
        assert_eq!(samples.all(1..4).unwrap(), images(1..4));
        assert_eq!(samples.all(8..9).unwrap(), images(8..9));
        let error = samples.all(0..10).unwrap_err();
        assert_eq!((error.kind(), error.message()), (skipstone::Kind::NotFound, "images 4 to 6 are missing"));
        // Two of three images that took 3 seconds, one of two that took 2.
        assert_eq!(samples.effort(&(1..4)), (3.0, vec!["2 threads, portable".to_owned()]));
    }
    write(&mut samples, 4..7);
    assert_eq!(samples.all(0..9).unwrap(), images(0..9));
}

#[test]
fn other_options_are_another_folder() {
    let root = tempfile::tempdir().unwrap();
    write(&mut open(root.path()), 0..2);
    let other = Samples::open(root.path(), &settings(1), SHAPE).unwrap();
    assert_eq!(other.missing(0..2), [0..2]);
    assert_ne!(other.folder(), open(root.path()).folder());
    let name = open(root.path()).folder().file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.starts_with("2-eta0.2-linear-"), "{name}");
    // A file copied from there is not accepted.
    let ours = open(root.path()).folder().join("000000-000001.png");
    files::create_dir(other.folder()).unwrap();
    std::fs::copy(&ours, other.folder().join("000000-000001.png")).unwrap();
    let other = Samples::open(root.path(), &settings(1), SHAPE).unwrap();
    assert_eq!((other.missing(0..2), other.damaged().len()), (vec![0..2], 1));
    assert!(other.damaged()[0].message().starts_with("options"), "{}", other.damaged()[0]);
}

#[test]
fn a_damaged_file_counts_as_absent_and_can_be_removed() {
    let root = tempfile::tempdir().unwrap();
    write(&mut open(root.path()), 0..2);
    write(&mut open(root.path()), 2..4);
    let path = open(root.path()).folder().join("000002-000003.png");
    let whole = std::fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();
        let samples = open(root.path());
        assert_eq!((samples.missing(0..4), samples.damaged().len()), (vec![2..4], 1), "byte {at} of {}", whole.len());
    }
    std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    let mut samples = open(root.path());
    assert_eq!(samples.damaged()[0].path(), Some(path.as_path()));
    samples.repair().unwrap();
    assert!(!path.exists() && samples.damaged().is_empty());
    // The right pixels under the name of others.
    std::fs::rename(samples.folder().join("000000-000001.png"), &path).unwrap();
    assert_eq!(open(root.path()).damaged()[0].message(), "first: not what was written under this name");
}

#[test]
fn a_file_that_changes_between_opening_and_reading_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let mut samples = open(root.path());
    write(&mut samples, 0..2);
    let path = samples.folder().join("000000-000001.png");
    write_png(&path, &Picture::new(4, 4, 3, vec![0; 48]).unwrap(), &[]).unwrap();
    let error = samples.all(0..2).unwrap_err();
    assert_eq!((error.kind(), error.path()), (skipstone::Kind::InvalidData, Some(path.as_path())));
}

#[test]
fn images_without_a_picture_are_kept_to_the_byte() {
    for shape in [[2, 3, 4], [5, 2, 2]] {
        let root = tempfile::tempdir().unwrap();
        let open = || Samples::open(root.path(), &settings(0), shape).unwrap();
        let [c, h, w] = shape;
        let wanted = Array4::from_shape_fn((3, c, h, w), |(n, c, y, x)| (n * 80 + c * 16 + y * 5 + x) as u8);
        open().write(7, wanted.view(), effort(0.0)).unwrap();
        assert_eq!(open().all(7..10).unwrap(), wanted);
        assert_eq!(open().all(8..9).unwrap(), wanted.slice_axis(Axis(0), Slice::from(1..2)));
    }
}

#[test]
fn names_that_are_not_ours_are_passed_over_and_other_shapes_refused() {
    assert_eq!(images_of("000003-000010.png"), Some(3..11));
    assert_eq!(images_of("1000000-1000000.png"), Some(1_000_000..1_000_001));
    for name in ["grid.png", "3-2.png", "+1-2.png", "1-2.jpg", "0-18446744073709551615.png", "0-99999999999.png", "-"] {
        assert_eq!(images_of(name), None, "{name}");
    }
    let root = tempfile::tempdir().unwrap();
    assert!(open(root.path()).write(0, Array4::zeros((1, 3, 2, 3)).view(), effort(0.0)).is_err());
    assert!(open(root.path()).write(0, Array4::zeros((0, 3, 2, 4)).view(), effort(0.0)).is_err());
    assert!(std::fs::read_dir(root.path()).unwrap().next().is_none());
}
