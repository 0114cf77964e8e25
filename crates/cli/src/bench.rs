//! `skipstone bench`: the time of a network call or a training step on this machine.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use skipstone::engine::bench::{calls, profile, reading_weights, training_steps};
use skipstone::engine::{self, Device, EngineOptions, Network, Precision};
use skipstone::sampling::options::PRECISION;
use skipstone::unet::{Config, Parameters};

use crate::common::{EngineArguments, ModelArguments, bytes, precision};
use crate::failure::{Done, Usage, emit};
use crate::options::Flags;

/// Measure the time of a network call or a training step, and the peak memory
#[derive(Args, Debug)]
#[command(after_help = "\
Times are medians over the calls. GFLOP/s counts the operations in the definition of a convolution; Winograd's \
algorithms need fewer, so the figure can exceed the processor's peak. Memory is the peak of the process so far.

The environment variable SKIPSTONE_ISA (avx512, avx2 or portable) forces an instruction set.

Examples:
  The built-in model              skipstone bench
  Another model, three batches    skipstone bench --model runs/a/model --batch 1,4,16
  A training step                 skipstone bench --train --batch 32
  Time of each layer              skipstone bench --batch 16 --profile")]
pub struct BenchArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Images per call; a list measures each size
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 4, 16], value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Vec<u32>,
    /// Measure training steps: forward, backward, Adam
    #[arg(long, conflicts_with = "profile")]
    train: bool,
    /// Calls or steps to measure per batch size [default: as many as fit into two seconds, at least 5]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    calls: Option<u32>,
    /// Show the time of each layer of a call
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    run: Flags<PRECISION>,
    #[command(flatten)]
    engine: EngineArguments,
    /// Print one JSON object per batch size
    #[arg(long, conflicts_with = "profile")]
    json: bool,
}

/// Time of a measurement if the number of calls is not given.
const BUDGET: Duration = Duration::from_secs(2);

/// What is measured.
enum Subject {
    Network(Box<dyn Network>),
    Training(Box<(Config, Parameters)>),
}

/// A measurement.
struct Measured {
    batch: usize,
    /// Number of calls or steps.
    calls: usize,
    /// Seconds of the median one.
    median: f64,
}

impl Subject {
    /// Measures as many calls or steps as are asked for, else as many as fit into [`BUDGET`].
    fn measure(&self, engine: &EngineOptions, batch: usize, asked: Option<u32>) -> skipstone::Result<Measured> {
        let measure = |n: usize| match self {
            Self::Network(network) => calls(&**network, batch, n),
            Self::Training(model) => training_steps(&model.1, &model.0, engine, batch, n),
        };
        let calls = match asked {
            Some(n) => n as usize,
            None => {
                let one = measure(1)?[0];
                ((BUDGET.as_secs_f64() / one.as_secs_f64().max(1e-6)) as usize).clamp(5, 1000)
            }
        };
        let mut times = measure(calls)?;
        times.sort_unstable();
        Ok(Measured { batch, calls, median: times[times.len() / 2].as_secs_f64() })
    }
}

/// Runs the command.
pub fn run(arguments: &BenchArguments) -> anyhow::Result<Done> {
    let engine = arguments.engine.start()?;
    let mut model = arguments.model.load()?;
    if arguments.train {
        model.check_gradient()?;
    }
    if model.parameter_count() == 0 {
        return Err(Usage("--model: the model has no parameters; nothing to measure".into()).into());
    }
    let flops = model.flops()? as f64;
    let asked = arguments.run.request()?.precision;
    if arguments.train && asked == Precision::F16 && engine.device == Device::Cpu {
        let message = "--precision f16: on the processor, training is in f32 or bf16; leave --precision out".to_owned();
        return Err(Usage(message).into());
    }
    let engine = EngineOptions { precision: asked, ..engine };
    let (threads, isa, precision) = (engine.threads, engine::hardware(&engine)?, precision(&engine)?);
    if !arguments.json {
        let peak = engine::peak_flops(&engine)?.map_or_else(String::new, |peak| {
            format!(", peak {:.0} GFLOP/s (f32 multiply-adds in registers)", peak / 1e9)
        });
        emit(format_args!("{threads} thread(s), {isa}, {precision}{peak}"))?;
    }
    let subject = if arguments.train {
        Subject::Training(Box::new((model.config, model.parameters)))
    } else {
        Subject::Network(model.open(&engine)?)
    };
    if !arguments.json && !arguments.profile {
        emit("batch   ms per call    images/s     GFLOP/s   peak memory")?;
    }
    for &batch in &arguments.batch {
        let batch = batch as usize;
        if let (Subject::Network(network), true) = (&subject, arguments.profile) {
            print_profile(&**network, batch, arguments.calls)?;
            continue;
        }
        let Measured { batch, calls, median } = subject.measure(&engine, batch, arguments.calls)?;
        let images_per_second = batch as f64 / median;
        let work = if arguments.train { 3.0 * flops } else { flops };
        let speed = (work > 0.0).then_some(images_per_second * work / 1e9);
        let peak = peak_memory();
        if arguments.json {
            emit(json!({
                "batch": batch,
                "ms_per_call": 1e3 * median,
                "images_per_s": images_per_second,
                "gflop_per_s": speed,
                "threads": threads,
                "isa": isa,
                "device": engine.device.to_string(),
                "precision": precision.to_string(),
                "train": arguments.train,
                "calls": calls,
                "peak_rss_mb": peak.map(|peak| peak as f64 / 1e6),
            }))?;
        } else {
            let peak = peak.map_or("unknown".to_owned(), bytes);
            let speed = speed.map_or("unknown".to_owned(), |speed| format!("{speed:.1}"));
            emit(format_args!("{batch:>5} {:>13.2} {images_per_second:>11.2} {speed:>11} {peak:>13}", 1e3 * median))?;
        }
    }
    if let (Subject::Network(network), false) = (&subject, arguments.json) {
        // Last, because it allocates memory of its own.
        let weights = bytes(network.cost().weight_bytes);
        let time = reading_weights(&**network, &engine)?
            .map_or_else(String::new, |time| format!(", read once per call in {:.1} ms", 1e3 * time.as_secs_f64()));
        emit(format_args!("packed weights: {weights}{time}"))?;
    }
    Ok(Done::Finished)
}

fn print_profile(network: &dyn Network, batch: usize, n: Option<u32>) -> anyhow::Result<()> {
    let parts = profile(network, batch, n.map_or(10, |n| n as usize))?;
    let total: f64 = parts.iter().map(|part| part.time.as_secs_f64()).sum();
    emit(format_args!("batch {batch}: {:.2} ms", 1e3 * total))?;
    emit("     ms  share  times   GFLOP/s  layer")?;
    for part in parts {
        let seconds = part.time.as_secs_f64();
        emit(format_args!(
            "{:>7.2} {:>5.1}% {:>6} {:>9}  {}",
            1e3 * seconds,
            100.0 * seconds / total,
            part.count,
            if part.flops > 0 { format!("{:.0}", part.flops as f64 / seconds / 1e9) } else { "-".into() },
            part.what
        ))?;
    }
    Ok(())
}

/// The process's peak memory in bytes, if the system reports it.
fn peak_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}
