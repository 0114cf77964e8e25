//! Trains a small network on images in memory, then samples it.
//!
//! The images are discs of different sizes and positions. After 150 steps most samples are blurred discs.
//!
//! ```text
//! cargo run -p skipstone --example train_arrays
//! ```

use std::ops::ControlFlow;

use ndarray::Array4;
use skipstone::engine::EngineOptions;
use skipstone::io::data::Dataset;
use skipstone::train::{Event, Recipe, Run};
use skipstone::{Pipeline, Result};

const RECIPE: &str = "
    [model]
    sample_size = [8, 8]
    block_out_channels = [16, 32]
    attention = [false, false]
    mid_attention = false

    [diffusion]
    prediction = \"v_prediction\"

    [train]
    steps = 150
    batch = 16
    log_every = 30
    preview_every = 0

    [optimizer]
    lr = 4e-3
    warmup = 20
    decay = \"cosine\"
";

/// `n` discs, white on black, as bytes `[n, channels, height, width]`.
fn discs(n: usize) -> Array4<u8> {
    Array4::from_shape_fn((n, 1, 8, 8), |(i, _, row, column)| {
        // Multiples of irrational numbers spread evenly.
        let between = |low: f64, high: f64, step: f64| low + (high - low) * (i as f64 * step).fract();
        let (x, y, r) = (between(2.0, 5.0, 0.8192), between(2.0, 5.0, 0.6710), between(1.5, 3.0, 0.5497));
        if (row as f64 - y).hypot(column as f64 - x) < r { 255 } else { 0 }
    })
}

fn main() -> Result<()> {
    let data = Dataset::new("discs", discs(500), None, Vec::new())?;
    let recipe = Recipe::parse(RECIPE, &[])?;
    let folder = std::env::temp_dir().join("skipstone-discs");
    // A new run refuses a folder that already holds one.
    drop(std::fs::remove_dir_all(&folder));
    let mut run = Run::open(&folder, recipe, data, None, EngineOptions::default(), false)?;
    run.train(&mut |event| {
        if let Event::Logged { step, loss, images_per_s, .. } = event {
            println!("step {step:>3}: loss {loss:.3}, {images_per_s:.0} images/s");
        }
        ControlFlow::Continue(())
    })?;

    // The command and diffusers open the model in the run's folder as well.
    let grid = folder.join("samples.png");
    Pipeline::load(run.model())?.steps(20).sample(16)?.save_grid(&grid)?;
    println!("16 discs: {}", grid.display());
    Ok(())
}
