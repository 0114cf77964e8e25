//! Tests of the classifier. The trained weights are tested in the crate that holds them.

use ndarray::{Array4, Axis};
use skipstone::io::data::Dataset;
use skipstone::math::noise::{KeyedRng, Purpose};

use super::architecture::{CLASSES, FEATURES, layout};
use super::backward::cross_entropy;
use super::train::{Recipe, Training, initial};
use super::*;

/// Images of two kinds: bright above or bright below, and noise.
fn data(n: usize) -> Dataset {
    let mut rng = KeyedRng::new(9, Purpose::Probe, 0, 0);
    let images = Array4::from_shape_fn((n, 1, 28, 28), |(i, _, y, _)| {
        let bright = (y < 14) == (i % 2 == 0);
        (rng.below(100) + if bright { 150 } else { 0 }) as u8
    });
    Dataset::new("halves", images, Some((0..n as u32).map(|i| 3 + i % 2).collect()), Vec::new()).unwrap()
}

/// Parameters none of which is special, so that each has a gradient.
fn parameters() -> Parameters {
    let mut parameters = initial(1);
    let mut rng = KeyedRng::new(2, Purpose::Probe, 0, 0);
    parameters.data_mut().iter_mut().for_each(|w| *w += 0.05 * rng.next_gaussians()[0] as f32);
    parameters
}

#[test]
fn the_gradient_is_that_of_the_differences() {
    let data = data(3);
    let images: Vec<f32> = data.batch(0..3).unwrap().into_iter().collect();
    let labels = [3, 4, 3];
    let parameters = parameters();
    let mut network = Network::new(Isa::best(), Team::new(2).unwrap());
    let mut loss = |parameters: &Parameters| {
        network.pack(parameters);
        let activations = network.forward(parameters, &images);
        cross_entropy(activations.scores(), &labels, 1.0).0.iter().sum::<f64>()
    };
    let layout = parameters.layout().clone();
    let mut gradient = vec![0.0; layout.len()];
    let mut differences = Vec::new();
    // Along a direction of its own for each tensor: ±1 by chance.
    let mut rng = KeyedRng::new(3, Purpose::Probe, 0, 0);
    let directions: Vec<f32> = (0..layout.len()).map(|_| if rng.below(2) == 1 { 1.0 } else { -1.0 }).collect();
    for spec in layout.specs() {
        // A step that changes the loss by much more than f32 rounds it, and little enough to be straight.
        let step = 4e-3 / (spec.len() as f32).sqrt();
        let mut at = |sign: f32| {
            let mut moved = parameters.clone();
            for i in spec.range() {
                moved.data_mut()[i] += sign * step * directions[i];
            }
            loss(&moved)
        };
        differences.push((at(1.0) - at(-1.0)) / f64::from(2.0 * step));
    }
    network.pack(&parameters);
    let activations = network.forward(&parameters, &images);
    let (_, dscores) = cross_entropy(activations.scores(), &labels, 1.0);
    network.add_gradient(&parameters, &activations, dscores, &mut gradient);
    for (spec, difference) in layout.specs().iter().zip(differences) {
        let along: f64 = spec.range().map(|i| f64::from(gradient[i]) * f64::from(directions[i])).sum();
        let length: f64 = spec.range().map(|i| f64::from(gradient[i]).powi(2)).sum::<f64>().sqrt();
        assert!(length > 1e-4, "{}: no gradient", spec.name);
        assert!(
            (along - difference).abs() < 2e-2 * length + 1e-3 * along.abs(),
            "{}: {along} for {difference}",
            spec.name
        );
    }
}

#[test]
fn cross_entropy_and_its_gradient_have_their_closed_forms() {
    let mut scores = vec![0.0f32; CLASSES];
    let (loss, gradient) = cross_entropy(&scores, &[2], 1.0);
    assert!((loss[0] - 10f64.ln()).abs() < 1e-12);
    assert!((gradient[2] + 0.9).abs() < 1e-6 && (gradient[0] - 0.1).abs() < 1e-6);
    // Scores that would overflow an exponential.
    scores[2] = 1000.0;
    assert_eq!(cross_entropy(&scores, &[2], 1.0).0, [0.0]);
    assert_eq!(cross_entropy(&scores, &[1], 1.0).0, [1000.0]);
}

#[test]
fn features_do_not_depend_on_batch_place_or_threads() {
    let images = data(70).batch(0..70).unwrap();
    let threads = |n: usize| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    let one = threads(1).install(|| FashionCnn::new(parameters())).unwrap();
    let three = threads(3).install(|| FashionCnn::new(parameters())).unwrap();
    let all = one.features(images.view()).unwrap();
    assert_eq!(all.dim(), (70, FEATURES));
    assert_eq!(three.features(images.view()).unwrap(), all);
    let last = images.index_axis(Axis(0), 69).insert_axis(Axis(0));
    assert_eq!(three.features(last).unwrap().row(0), all.row(69));
    assert!(one.name().starts_with("fashion-cnn-128d (") && one.dimensions() == 128, "{}", one.name());
    let error = one.features(Array4::zeros((1, 3, 32, 32)).view()).unwrap_err();
    assert!(error.message().contains("found [3, 32, 32]") && error.message().contains("--features"), "{error}");
}

#[test]
fn training_learns_and_ends_in_the_same_bits_whatever_the_threads() {
    let data = data(64);
    let recipe = Recipe { epochs: 3, batch: 16, warmup: 4, shift: 1, ema: 0.5, ..Recipe::default() };
    let run = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let mut training = Training::new(recipe, &data).unwrap();
            let mut losses = Vec::new();
            while let Some(step) = training.step().unwrap() {
                losses.push(step.loss);
            }
            (losses, training.classifier().unwrap())
        })
    };
    let (losses, classifier) = run(1);
    assert_eq!(losses.len(), 12);
    // At first a guess among ten.
    assert!((losses[0] - 10f64.ln()).abs() < 0.5, "{}", losses[0]);
    let (again, other) = run(2);
    assert_eq!(losses, again);
    assert_eq!(classifier.parameters.data(), other.parameters.data());
    let found = classifier.classes(data.batch(0..64).unwrap().view()).unwrap();
    let right = found.iter().zip(data.labels().unwrap()).filter(|(a, b)| a == b).count();
    assert!(right >= 60, "{right} of 64");

    // Through its file, which holds halves.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.safetensors");
    classifier.write(&path, &BTreeMap::from([("seed".to_owned(), "0".to_owned())])).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() < 2 * layout().len() + 4096);
    let back = FashionCnn::from_bytes(&bytes).unwrap();
    assert_eq!(back.parameters.data(), classifier.parameters.data());
}

#[test]
fn weights_that_do_not_fit_are_all_named() {
    let tensors: [(&str, &[usize], &[f32]); 3] =
        [("conv1.bias", &[2], &[0.0, 0.0]), ("classes.bias", &[10], &[f32::NAN; 10]), ("stray", &[1], &[1.0])];
    let mut bytes = Vec::new();
    write_tensors(tensors.into_iter(), &BTreeMap::new(), FloatType::F32, &mut bytes).unwrap();
    let error = FashionCnn::from_bytes(&bytes).unwrap_err();
    for part in [
        "conv1.weight: missing, expected [32, 1, 3, 3]",
        "conv1.bias: expected [32], found [2]",
        "classes.bias: not finite",
        "stray: unexpected",
    ] {
        assert!(error.message().contains(part), "{error}");
    }
    assert!(FashionCnn::from_bytes(b"").is_err());
}

#[test]
fn a_training_needs_labelled_images_of_its_size() {
    let recipe = |batch, epochs| Recipe { batch, epochs, ..Recipe::default() };
    let good = data(8);
    assert!(Training::new(recipe(9, 1), &good).unwrap_err().message().contains("batches of 9"));
    assert!(Training::new(recipe(4, 0), &good).is_err());
    let images = good.pictures(&(0..good.len()).collect::<Vec<_>>()).unwrap();
    for labels in [None, Some(vec![10; 8])] {
        let other = Dataset::new("other", images.clone(), labels, Vec::new()).unwrap();
        assert!(Training::new(recipe(4, 1), &other).unwrap_err().message().contains("up to 10 classes"));
    }
}
