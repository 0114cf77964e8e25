//! Samples the built-in model: load, set options, make images, save them.
//!
//! ```text
//! cargo run -p skipstone --example sample
//! ```

use skipstone::engine::EngineOptions;
use skipstone::io::checkpoint::{LoadOptions, load_embedded};
use skipstone::sampling::solver::Solver;
use skipstone::{Pipeline, Result};

fn main() -> Result<()> {
    // For a model on disk: Pipeline::load("path/to/model")?
    let model = load_embedded(skipstone_model::FILES, &LoadOptions::default())?;
    let pipeline = Pipeline::from_model(model, &EngineOptions::default())?.steps(10).seed(7);

    // All images in one picture, and the raw values for other programs.
    let out = std::env::temp_dir();
    let images = pipeline.sample(4)?;
    images.save_grid(out.join("skipstone-ddim.png"))?;
    images.save_npy(out.join("skipstone-ddim.npy"))?;

    // Clones share the network, so nothing is loaded again. Both runs start from the same latents.
    let better = pipeline.clone().solver(Solver::DPM_PLUS_PLUS_2M).sample(4)?;
    better.save_grid(out.join("skipstone-dpm++2m.png"))?;

    let [c, h, w] = pipeline.shape();
    println!("4 images of {c}×{h}×{w} by 10 steps of ddim and of dpm++2m: {}/skipstone-*.png", out.display());
    Ok(())
}
