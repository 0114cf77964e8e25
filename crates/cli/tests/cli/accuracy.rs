//! What Winograd's algorithms and half precision cost in accuracy, on the trained model that travels with the program.

use ndarray::Array4;
use skipstone::engine::cpu::{Algorithm, ConvShape as Shape, Options, UNet};
use skipstone::engine::{EngineOptions, Precision};
use skipstone::io::checkpoint::{LoadOptions, load_embedded};
use skipstone::math::noise::{Forbidden, initial_latent};
use skipstone::math::trajectory::{Spacing, Trajectory};
use skipstone::sampling::sampler::{Plan, sample, unobserved};

fn network(algorithm: fn(&Shape) -> Algorithm) -> UNet {
    network_with(Options { algorithm, ..Options::default() })
}

fn network_with(options: Options) -> UNet {
    let model = load_embedded(skipstone_model::FILES, &LoadOptions::default()).unwrap();
    UNet::with_options(model.config, model.parameters, model.scheduler.prediction_type, options).unwrap()
}

/// ‖a − b‖/‖b‖.
fn relative(a: &Array4<f32>, b: &Array4<f32>) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / norm(&mut b.iter().map(|b| f64::from(*b)))
}

/// Tiles of 4×4 wherever they can be had: the least exact choice.
fn largest_tiles(shape: &Shape) -> Algorithm {
    if shape.is_winograd() { Algorithm::Winograd4 } else { Algorithm::Direct }
}

#[test]
fn fifty_steps_by_winograd_end_where_fifty_steps_by_definition_end() {
    let model = load_embedded(skipstone_model::FILES, &LoadOptions::default()).unwrap();
    let schedule = model.scheduler.schedule().unwrap();
    let plan = Plan::ddim(&schedule, &Trajectory::named(Spacing::Linear, 50, 1000, 0).unwrap()).unwrap();
    let run = |network: &UNet| {
        let x_t = initial_latent(0, 0, 3, [1, 28, 28]);
        sample(network, &plan, x_t, &mut Forbidden, &[], &mut unobserved).unwrap()
    };
    let exact = run(&network(|_| Algorithm::Direct));
    for (what, algorithm) in [("default", Shape::algorithm as fn(&Shape) -> Algorithm), ("4×4", largest_tiles)] {
        let difference = relative(&run(&network(algorithm)), &exact);
        println!("{what}: {difference:.1e} after 50 steps");
        assert!(difference < 1e-3, "{what}: {difference:e}");
    }
    for (precision, bound) in [(Precision::F16, 5e-3), (Precision::Bf16, 3e-2)] {
        let options = EngineOptions { precision, ..EngineOptions::default() };
        // Where the processor lacks the precision, this is f32.
        let options = EngineOptions { precision: skipstone::engine::precision(&options).unwrap(), ..options };
        let difference = relative(&run(&network_with((&options).into())), &exact);
        println!("{precision}: {difference:.1e} after 50 steps");
        assert!(difference < bound, "{precision}: {difference:e}");
    }
}
