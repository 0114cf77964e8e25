//! Measures a network on this machine: the time of a call or a training step, and its breakdown.

use std::time::{Duration, Instant};

use ndarray::Array4;

use crate::engine::{self, Batch, EngineOptions, Network, Sharding, Targets, Update};
use crate::error::{Error, Result};
use crate::math::noise::initial_latent;
use crate::math::schedule::Time;
use crate::sampling::denoiser::Condition;
use crate::unet::{Config, Parameters, TimeEmbedding};

/// The time that measured calls use, in the middle of a schedule of a thousand steps.
fn time(config: &Config) -> Time {
    let index = match config.time_embedding {
        TimeEmbedding::Learned { num_train_timesteps } => num_train_timesteps / 2,
        TimeEmbedding::Positional => 500,
    };
    Time::from_index(index as u32)
}

fn inputs(config: &Config, batch: usize) -> (Array4<f32>, Vec<Time>, Vec<Condition>) {
    let [height, width] = config.sample_size;
    let x = initial_latent(0, 0, batch, [config.in_channels, height, width]);
    let condition = |i: usize| config.num_class_embeds.map_or(Condition::Null, |k| Condition::Class(i % k));
    (x, vec![time(config); batch], (0..batch).map(condition).collect())
}

/// The duration of each of `calls` network calls with `batch` images, after two warm-up calls.
///
/// # Errors
/// `batch` is 0, or the network refuses the call.
pub fn calls(network: &dyn Network, batch: usize, calls: usize) -> Result<Vec<Duration>> {
    if batch == 0 {
        return Err(Error::argument("batch: expected at least 1 image, found 0"));
    }
    let (x, times, conditions) = inputs(network.config(), batch);
    let mut measured = Vec::with_capacity(calls);
    for i in 0..calls + 2 {
        let begun = Instant::now();
        network.predict(&x, &times, &conditions)?;
        if i >= 2 {
            measured.push(begun.elapsed());
        }
    }
    Ok(measured)
}

/// The duration of each part of a call, longest first: description, count, total time and floating-point operations by
/// definition.
///
/// # Errors
/// As [`calls`].
pub fn profile(network: &dyn Network, batch: usize, calls: usize) -> Result<Vec<Part>> {
    let (x, times, conditions) = inputs(network.config(), batch);
    let mut sums: Vec<Part> = Vec::new();
    for i in 0..calls + 2 {
        network.profile(&x, &times, &conditions, &mut |what, took, flops| {
            if i < 2 {
                return;
            }
            match sums.iter_mut().find(|part| part.what == what) {
                Some(part) => {
                    part.count += 1;
                    part.time += took;
                    part.flops += flops;
                }
                None => sums.push(Part { what, count: 1, time: took, flops }),
            }
        })?;
    }
    for part in &mut sums {
        part.count /= calls.max(1);
        part.time /= calls.max(1) as u32;
        part.flops /= calls.max(1) as u64;
    }
    sums.sort_by_key(|part| std::cmp::Reverse(part.time));
    Ok(sums)
}

/// A kind of layer within a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The layer's kind, shape and algorithm.
    pub what: String,
    /// Number of such layers.
    pub count: usize,
    /// Their total time.
    pub time: Duration,
    /// Their total floating-point operations for the whole batch.
    pub flops: u64,
}

/// The duration of each of `steps` training steps (forward, mean squared error, backward, Adam, moving average) with
/// `batch` images, after one warm-up step.
///
/// # Errors
/// `batch` is 0, or the engine refuses the training.
pub fn training_steps(
    parameters: &Parameters,
    config: &Config,
    engine: &EngineOptions,
    batch: usize,
    steps: usize,
) -> Result<Vec<Duration>> {
    let (x, times, conditions) = inputs(config, batch);
    let sharding = Sharding { images: batch, recompute: false };
    let mut learner = engine::open_learner(config.clone(), parameters.clone(), sharding, engine)?;
    let [height, width] = config.sample_size;
    let target = initial_latent(1, 0, batch, [config.out_channels, height, width]);
    let batch = Batch { x_t: &x, times: &times, conditions: &conditions, dropout: None };
    let targets = Targets { target: &target, weights: &vec![1.0; times.len()], scale: 1.0 / times.len() as f64 };
    let mut measured = Vec::with_capacity(steps);
    for step in 0..steps + 1 {
        let begun = Instant::now();
        learner.zero_gradient();
        learner.add_gradient(batch, targets)?;
        learner.update(&Update {
            step: step as u64 + 1,
            shrink: None,
            learning_rate: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            decoupled: false,
            ema_decay: 0.999,
        })?;
        if step >= 1 {
            measured.push(begun.elapsed());
        }
    }
    Ok(measured)
}

/// The minimum time to read all weights of a network once, which no call can beat; `None` where nobody measures it.
///
/// # Errors
/// The device is not there.
pub fn reading_weights(network: &dyn Network, engine: &EngineOptions) -> Result<Option<Duration>> {
    let bytes = network.cost().weight_bytes;
    Ok(engine::bandwidth(engine, bytes)?.map(|speed| Duration::from_secs_f64(bytes as f64 / speed)))
}
