//! Scores images: the Fréchet distance between samples in few and in many steps, in the features of the built-in
//! Fashion-MNIST classifier.
//!
//! A real evaluation compares thousands of images with a data set: `skipstone evaluate`.
//!
//! ```text
//! cargo run -p skipstone-eval --example score
//! ```

use ndarray::Array4;
use skipstone::engine::EngineOptions;
use skipstone::io::checkpoint::{LoadOptions, load_embedded};
use skipstone::{Pipeline, Result};
use skipstone_eval::{FeatureNetwork, FeatureSpec, Statistics, features, frechet};

const N: usize = 32;

/// Mean and covariance of the images' features.
fn statistics(network: &dyn FeatureNetwork, images: &Array4<f32>) -> Result<Statistics> {
    let mut statistics = Statistics::of(network);
    statistics.add(features(network, images.view())?.view())?;
    Ok(statistics)
}

fn main() -> Result<()> {
    let model = load_embedded(skipstone_model::FILES, &LoadOptions::default())?;
    let pipeline = Pipeline::from_model(model, &EngineOptions::default())?;
    let network = FeatureSpec::FashionCnn.open(skipstone_model::FASHION_CNN)?;

    // Another seed, so that no image is compared with itself.
    let many = statistics(&*network, pipeline.clone().seed(1).steps(10).sample(N)?.array())?;
    println!("Fréchet distance of {N} images to {N} made in 10 steps ({} features)", network.dimensions());
    for steps in [2, 10] {
        let few = statistics(&*network, pipeline.clone().steps(steps).sample(N)?.array())?;
        println!("{steps:>2} steps: {:.1}", frechet(&few, &many)?);
    }
    Ok(())
}
