//! Defines a solver, the Adams–Bashforth method of order 2, and compares it with DDIM.
//!
//! ```text
//! cargo run -p skipstone --example add_a_solver
//! ```

use ndarray::Array4;
use skipstone::engine::EngineOptions;
use skipstone::io::checkpoint::{LoadOptions, load_embedded};
use skipstone::sampling::inversion::squared_errors;
use skipstone::sampling::solver::{Follows, NoiseUse, Scheme, Solver, Step};
use skipstone::{Pipeline, Result};

/// The solver's description. It is static because a `Solver` is a reference to it.
static SCHEME: Scheme = Scheme {
    name: "my-ab2",
    order: 2,
    calls: 1,
    memory: 1,
    noise: NoiseUse::None,
    follows: Follows::Noise,
    step: two_step,
};

/// One step of dx̄ = ε̂ dσ in x̄ = x/√a (DDIM Eq. 14), with the line through this ε̂ and the one of the step before.
fn two_step(step: &mut Step<'_>) -> Result<Array4<f32>> {
    let (from, to) = step.sigmas();
    let mut slope = step.here.eps.mapv(f64::from);
    if let Some((level, before)) = step.past.first() {
        let ratio = (to - from) / (from - level.sigma_ve());
        slope = &slope + (&slope - before.eps.mapv(f64::from)) * (ratio / 2.0);
    }
    let x = step.x.mapv(|x| f64::from(x) / step.from.signal()) + slope * (to - from);
    Ok(x.mapv(|x| (x * step.to.signal()) as f32))
}

fn main() -> Result<()> {
    let model = load_embedded(skipstone_model::FILES, &LoadOptions::default())?;
    let pipeline = Pipeline::from_model(model, &EngineOptions::default())?;
    // Many small steps from the same latents; both solvers converge to these images.
    let exact = pipeline.clone().steps(50).sample(2)?;
    println!("mean squared error against 50 steps of ddim");
    for steps in [5, 10] {
        let error = |solver| -> Result<f64> {
            let images = pipeline.clone().steps(steps).solver(solver).sample(2)?;
            Ok(squared_errors(exact.array(), images.array())?.iter().sum::<f64>() / 2.0)
        };
        let (mine, ddim) = (error(Solver::new(&SCHEME))?, error(Solver::DDIM)?);
        println!("{steps:>2} steps: ddim {ddim:.4}, {} {mine:.4}", SCHEME.name);
    }
    Ok(())
}
