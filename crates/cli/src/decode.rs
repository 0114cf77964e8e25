//! `skipstone decode`: latents of `encode` to images.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use ndarray::{Array4, Array5, IxDyn};
use serde_json::json;
use skipstone::io::image::npy;
use skipstone::sampling::generate::{Inputs, batches, digest};
use skipstone::sampling::inversion::Latents;
use skipstone::sampling::options::DECODE;

use crate::batch::BatchArguments;
use crate::common::{CommonArguments, ModelArguments, Work, duration, generator, say_note};
use crate::failure::{Done, Usage, emit, say};
use crate::images;
use crate::invert::{MethodArguments, evaluations, watch};
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
    let request = arguments.run.request()?.unclipped();
    let model = arguments.model.load_for(&request)?;
    let path = &arguments.latents;
    apart([target.path()], [path.as_path()])?;
    let (latents, sum) = if method.is_paired() {
        let all: Array5<f32> = images::tensor(path, "pairs of latents [2, n, channels, height, width]", &model.config)?;
        (Latents::from_pairs(&all).map_err(|e| e.in_file(path))?, digest(all.view()))
    } else {
        let read = images::tensor(path, "latents [n, channels, height, width]", &model.config);
        let all: Array4<f32> = read.map_err(|error| match npy::read::<IxDyn>(path) {
            Ok(all) if all.ndim() == 5 && all.shape()[0] == 2 => Usage(format!(
                "--latents {}: pairs of latents, which bdia and edict make; add the --method that encoded them",
                path.display()
            ))
            .into(),
            _ => error,
        })?;
        let sum = digest(all.view());
        (Latents::One(all), sum)
    };
    let n = latents.images();
    let generator = generator(model, &engine, &request, Inputs::default(), 0, n)?;
    say_note(generator.note());
    check(&target, n, generator.shape())?;
    method.check(generator.plan())?;
    let batch = arguments.batch.of(&generator, n, engine.threads);
    let steps = generator.plan().steps().len();
    let calls = evaluations(&method, steps).1 * generator.calls_per_step();
    if arguments.common.dry_run {
        let work = Work::of(generator.flops_per_call() as f64 * (evaluations(&method, steps).1 * n) as f64);
        let output = target.path().display().to_string();
        return arguments.common.finish_dry_run(
            &json!({"n": n, "steps": steps, "calls": calls, "gflop": work.json(), "output": output}),
            &[
                format!("images      {n} in batches of {batch}"),
                format!("steps       {steps}, {calls} network calls per image"),
                format!("work        {work}"),
                format!("would write {output}"),
            ],
        );
    }

    let mut settings = generator.settings().clone();
    settings.latents = Some(sum);
    settings.extra.insert("method".to_owned(), json!(method.to_string()));
    let mut sink = Sink::open(&target, &settings, generator.shape(), 0, n)?;
    let missing = sink.missing(0..n as u64);
    let runs = || batches(missing.iter().cloned().flatten(), batch);
    let bar = crate::bars::bar("decoding", 0, (runs().count() * steps) as u64);
    let begun = Instant::now();
    let ended = runs().enumerate().try_for_each(|(i, range)| {
        let rows = latents.rows(range.start as usize..range.end as usize);
        let decoded = generator.decode(&rows, range.clone(), &method, &mut watch(&bar, (i * steps) as u64))?;
        sink.take(range, decoded.images)
    });
    if let Err(error) = ended {
        bar.finish_and_clear();
        return stopped(error, &target);
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
