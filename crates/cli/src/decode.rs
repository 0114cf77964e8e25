//! `skipstone decode`: latents of `encode` to images.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use ndarray::{Array4, Array5, Axis, Slice};
use serde_json::json;
use skipstone::sampling::generate::{Generator, Inputs, digest};
use skipstone::sampling::inversion::Latents;
use skipstone::sampling::options::DECODE;

use crate::batch::{BatchArguments, batches};
use crate::common::{CommonArguments, ModelArguments, duration};
use crate::failure::{Done, emit, say};
use crate::images;
use crate::invert::{MethodArguments, decode_batch, evaluations, pairs};
use crate::options::Flags;
use crate::output::{Sink, Target, apart, check, stopped};

/// Decode latents from encode to images
#[derive(Args, Debug)]
#[command(after_help = "\
Use the steps, spacing and method of the encoding. For ddim and fixed-point, `sample --latents` without clipping does \
the same. Only decode takes the pairs of latents of bdia and edict ([2, n, channels, height, width]).

Examples:
  Plain latents     skipstone decode --latents x_T.npy --steps 50 -o back.png
  Pairs of latents  skipstone decode --latents pairs.npy --steps 20 --method bdia -o back.npy")]
pub struct DecodeArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Latents written by encode
    #[arg(long, value_name = "X_T.npy")]
    latents: PathBuf,
    #[command(flatten)]
    method: MethodArguments,
    #[command(flatten)]
    run: Flags<DECODE>,
    #[command(flatten)]
    batch: BatchArguments,
    /// Output: NAME.png is one grid, NAME.npy the raw tensor, NAME/ a folder with one PNG per image
    #[arg(short, long, value_name = "PATH", default_value = "decoded.png")]
    output: PathBuf,
    #[command(flatten)]
    common: CommonArguments,
}

/// Runs the command.
pub fn run(arguments: &DecodeArguments) -> anyhow::Result<Done> {
    let target = Target::of(&arguments.output)?;
    let method = arguments.method.method()?;
    let engine = arguments.common.start()?;
    let model = arguments.model.load()?;
    let request = arguments.run.request()?.unclipped();
    let path = &arguments.latents;
    apart([target.path()], [path.as_path()])?;
    let (latents, sum) = if method.is_paired() {
        let all: Array5<f32> = images::tensor(path, "pairs of latents [2, n, channels, height, width]", &model.config)?;
        (pairs(&all).map_err(|e| e.in_file(path))?, digest(all.view()))
    } else {
        let all: Array4<f32> = images::tensor(path, "latents [n, channels, height, width]", &model.config)?;
        let sum = digest(all.view());
        (Latents::One(all), sum)
    };
    let n = match &latents {
        Latents::One(x_t) => x_t.dim().0,
        Latents::Pair(pair) => pair[0].dim().0,
    };
    let generator = Generator::new(model, &engine, &request, Inputs::default(), 0, n)?;
    check(&target, n, generator.shape())?;
    method.check(generator.plan())?;
    let batch = arguments.batch.of(&generator, n, engine.threads);
    let steps = generator.plan().steps().len();
    let calls = evaluations(&method, steps).1 * generator.calls_per_step();
    if arguments.common.dry_run {
        let gflop = generator.flops_per_call() as f64 * (evaluations(&method, steps).1 * n) as f64 / 1e9;
        let output = target.path().display().to_string();
        return arguments.common.finish_dry_run(
            &json!({"n": n, "steps": steps, "calls": calls, "gflop": gflop, "output": output}),
            &[
                format!("images      {n} in batches of {batch}"),
                format!("steps       {steps}, {calls} network calls per image"),
                format!("work        {gflop:.1} GFLOP"),
                format!("would write {output}"),
            ],
        );
    }

    let mut settings = generator.settings().clone();
    settings.latents = Some(sum);
    settings.extra.insert("method".to_owned(), json!(method.to_string()));
    let mut sink = Sink::open(&target, &settings, generator.shape(), 0, n)?;
    let ranges = batches(n, batch);
    let bar = crate::bars::bar("decoding", 0, (ranges.len() * steps) as u64);
    let begun = Instant::now();
    for (i, range) in ranges.iter().enumerate() {
        let indices: Vec<u64> = (range.start as u64..range.end as u64).collect();
        if indices.iter().all(|&i| sink.holds(i)) {
            continue;
        }
        let part = Slice::from(range.clone());
        let rows = match &latents {
            Latents::One(x_t) => Latents::One(x_t.slice_axis(Axis(0), part).to_owned()),
            Latents::Pair(pair) => {
                Latents::Pair(Box::new([0, 1].map(|k: usize| pair[k].slice_axis(Axis(0), part).to_owned())))
            }
        };
        let Some(images) = decode_batch(&generator, &rows, range, &method, (&bar, (i * steps) as u64))? else {
            bar.finish_and_clear();
            return Ok(stopped(&target));
        };
        sink.take(&indices, images)?;
    }
    bar.finish_and_clear();
    sink.finish(&settings.to_texts())?;
    let seconds = begun.elapsed().as_secs_f64();
    if arguments.common.json {
        emit(json!({
            "output": target.path().display().to_string(), "n": n, "method": method.name(), "steps": steps,
            "calls": calls, "seconds": seconds,
        }))?;
        return Ok(Done::Finished);
    }
    say(format_args!("{n} image(s) decoded by {method} in {steps} steps, {}", duration(seconds)));
    emit(target.path().display())?;
    Ok(Done::Finished)
}
