//! Encodes two images, decodes them again, and interpolates between them.
//!
//! ```text
//! cargo run -p skipstone --example invert_and_edit
//! ```

use skipstone::engine::EngineOptions;
use skipstone::io::checkpoint::{LoadOptions, load_embedded};
use skipstone::sampling::generate::Inputs;
use skipstone::sampling::inversion::{Edict, Method, squared_errors, unobserved};
use skipstone::sampling::options::ClipMode;
use skipstone::{Pipeline, Result};

fn main() -> Result<()> {
    let model = load_embedded(skipstone_model::FILES, &LoadOptions::default())?;
    // Clipping cannot be undone, so it is off.
    let pipeline = Pipeline::from_model(model, &EngineOptions::default())?.steps(10).clip(ClipMode::Off);
    let images = pipeline.sample(2)?.into_array();

    // Plain DDIM encoding: the error falls with the number of steps.
    for steps in [5, 10] {
        let by = pipeline.clone().steps(steps);
        let back = by.decode(&by.encode(&images)?)?;
        println!("{steps:>2} steps of ddim: mean squared error {:.1e}", squared_errors(&images, back.array())?[0]);
    }

    // EDICT inverts exactly, at twice the cost. The generator has the methods that the pipeline lacks.
    let generator = pipeline.generator(Inputs::default(), 2)?;
    let method = Method::Edict(Edict::default());
    let encoded = generator.encode(&images, 0..2, &method, &mut unobserved)?;
    let back = generator.decode(&encoded.latents, 0..2, &method, &mut unobserved)?.images;
    println!("10 steps of edict: mean squared error {:.1e}", squared_errors(&images, &back)?[0]);

    // The edit: from one image to the other through their latents.
    let path = std::env::temp_dir().join("skipstone-edit.png");
    pipeline.interpolate(&pipeline.encode(&images)?, 5)?.save_grid(&path)?;
    println!("from one image to the other in five: {}", path.display());
    Ok(())
}
