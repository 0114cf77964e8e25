//! `skipstone interpolate`: interpolates between images through their latents.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use clap::{ArgGroup, Args, ValueEnum};
use ndarray::Array4;
use serde_json::json;
use skipstone::math::latent;
use skipstone::math::noise::latents_of;
use skipstone::sampling::generate::{Generator, Inputs, batches};
use skipstone::sampling::inversion::{FixedPoint, Method};
use skipstone::sampling::options::DECODE;
use skipstone::sampling::sampler::Progress;

use crate::batch::BatchArguments;
use crate::common::{CommonArguments, ModelArguments, Work, duration, generator, say_note};
use crate::failure::{Done, Usage, emit, say};
use crate::images;
use crate::interrupt;
use crate::invert::{Report, evaluations, watch};
use crate::options::Flags;
use crate::output::{Sink, Target, apart, check, stopped};

/// Interpolate between two or four images, generated or your own
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("ends").required(true))]
#[command(after_help = "\
Two ends give a line; four give a square with the ends at its corners (top left, top right, bottom left, bottom right). \
The latents in between are spherical interpolations. Seed A stands for the image of `sample -n 1 --seed A` with the same \
steps. Images are first encoded with the same steps, so the ends of the line are their reconstructions.

Examples:
  A line                   skipstone interpolate --seeds 1,2 --steps 50 -o line.png
  A square                 skipstone interpolate --seeds 1,2,3,4 --points 6 -o square.png
  Between two image files  skipstone interpolate --images a.png,b.png --steps 100 -o between.png
  Frames of a film         skipstone interpolate --seeds 1,2 --points 240 -o frames/")]
pub struct InterpolateArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Two or four seeds
    #[arg(long, value_name = "A,B[,C,D]", value_delimiter = ',', group = "ends")]
    seeds: Option<Vec<u64>>,
    /// Two or four image files
    #[arg(long, value_name = "A.png,B.png[,…]", value_delimiter = ',', group = "ends")]
    images: Option<Vec<PathBuf>>,
    /// Points on the line, or on each side of the square, including the ends
    #[arg(long, value_name = "N", default_value_t = 11)]
    points: usize,
    /// How to encode --images
    #[arg(long, value_enum, default_value = "ddim")]
    method: Encoding,
    #[command(flatten)]
    run: Flags<DECODE>,
    #[command(flatten)]
    batch: BatchArguments,
    /// Output: NAME.png is one row or square, NAME.npy the raw tensor, NAME/ a folder with one PNG per image
    #[arg(short, long, value_name = "PATH", default_value = "interpolation.png")]
    output: PathBuf,
    #[command(flatten)]
    common: CommonArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Encoding {
    /// Plain DDIM
    Ddim,
    /// Fixed-point iteration: where it converges, the ends are closer to the images
    FixedPoint,
}

impl InterpolateArguments {
    /// The encoding method.
    fn encoding(&self) -> Method {
        match self.method {
            Encoding::Ddim => Method::Ddim,
            Encoding::FixedPoint => Method::FixedPoint(FixedPoint::default()),
        }
    }
}

/// The ends: seeds or images.
enum Ends {
    Seeds(Vec<u64>),
    Images(Array4<f32>),
}

impl Ends {
    fn len(&self) -> usize {
        match self {
            Self::Seeds(seeds) => seeds.len(),
            Self::Images(images) => images.dim().0,
        }
    }
}

/// Runs the command.
pub fn run(arguments: &InterpolateArguments) -> anyhow::Result<Done> {
    let target = Target::of(&arguments.output)?;
    let given = arguments.seeds.as_ref().map_or(arguments.images.as_ref().map_or(0, Vec::len), Vec::len);
    if !matches!(given, 2 | 4) {
        return Err(Usage(format!(
            "--seeds or --images: expected two ends (a line) or four (a square), found {given}"
        ))
        .into());
    }
    if arguments.points < 2 || arguments.points > 100_000 {
        let found = arguments.points;
        return Err(Usage(format!("--points: expected 2 to 100000, found {found}")).into());
    }
    if arguments.images.is_none() && arguments.method != Encoding::Ddim {
        return Err(Usage(
            "--method: applies to --images only, because seeds need no encoding; leave it out".to_owned(),
        )
        .into());
    }
    let n = if given == 2 { arguments.points } else { arguments.points * arguments.points };
    let engine = arguments.common.start()?;
    let mut request = arguments.run.request()?;
    let model = arguments.model.load_for(&request)?;
    let ends = match &arguments.images {
        Some(paths) => Ends::Images(images::pictures(paths, &model.config)?),
        None => Ends::Seeds(arguments.seeds.clone().unwrap_or_default()),
    };
    if let Ends::Images(_) = ends {
        request = request.unclipped();
    }
    let generator = generator(model, &engine, &request, Inputs::default(), 0, n)?;
    say_note(generator.note());
    generator.settings().one_class("--class")?;
    check(&target, n, generator.shape())?;
    apart([target.path()], arguments.images.iter().flatten().map(PathBuf::as_path))?;
    if let Ends::Images(_) = ends {
        arguments.encoding().check(generator.plan())?;
    }
    if arguments.common.dry_run {
        return dry_run(arguments, &generator, &ends, n);
    }
    let begun = Instant::now();
    let latents = match latents(arguments, &generator, &ends) {
        Err(error) => return stopped(error, &target),
        Ok(latents) => latents,
    };
    let path = latent::between(&latents, arguments.points)?;
    let inputs = Inputs { latents: Some(path), ..Inputs::default() };
    let generator = generator.with_inputs(inputs, 0, n)?;
    let batch = arguments.batch.of(&generator, n, engine.threads);
    let texts = match decode(arguments, &generator, &target, n, batch) {
        Err(error) => return stopped(error, &target),
        Ok(texts) => texts,
    };
    let (seconds, calls) = (begun.elapsed().as_secs_f64(), generator.evaluations());
    if arguments.common.json {
        emit(json!({
            "output": target.path().display().to_string(), "ends": ends.len(), "points": arguments.points, "n": n,
            "calls": calls, "seconds": seconds,
        }))?;
        return Ok(Done::Finished);
    }
    say(format_args!("{n} image(s) between {texts}: {calls} network calls each, {}", duration(seconds)));
    emit(target.path().display())?;
    Ok(Done::Finished)
}

/// The latents of the ends.
fn latents(arguments: &InterpolateArguments, generator: &Generator, ends: &Ends) -> anyhow::Result<Array4<f32>> {
    let images = match ends {
        Ends::Seeds(seeds) => {
            return Ok(latents_of(seeds, generator.shape()));
        }
        Ends::Images(images) => images,
    };
    let method = arguments.encoding();
    let bar = crate::bars::bar("encoding", 0, generator.plan().steps().len() as u64);
    let encoded = generator.encode(images, 0..ends.len() as u64, &method, &mut watch(&bar, 0))?;
    bar.finish_and_clear();
    let mut report = Report::default();
    report.add(&encoded.convergence);
    report.warn(ends.len());
    Ok(encoded.latents.into_single()?)
}

/// Samples and writes every point. Returns a description of the ends.
fn decode(
    arguments: &InterpolateArguments,
    generator: &Generator,
    target: &Target,
    n: usize,
    batch: usize,
) -> anyhow::Result<String> {
    let sink = Sink::open(target, generator.settings(), generator.shape(), 0, n)?;
    let mut sink = sink.with_columns(arguments.points);
    let missing = sink.missing(0..n as u64);
    let wanted = || missing.iter().cloned().flatten();
    let steps = generator.plan().steps().len();
    let bar = crate::bars::bar("sampling", 0, (batches(wanted(), batch).count() * steps) as u64);
    let mut see = |_: &Range<u64>, _: &Progress<'_>| {
        bar.inc(1);
        interrupt::flow()
    };
    generator.generate_all(wanted(), batch, &mut see, |images, x0| sink.take(images, x0))?;
    bar.finish_and_clear();
    let ends = match (&arguments.seeds, &arguments.images) {
        (Some(seeds), _) => ("seeds", format!("{seeds:?}")),
        (_, images) => {
            let names =
                images.iter().flatten().map(|path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy());
            ("images", names.collect::<Vec<_>>().join(", "))
        }
    };
    let mut texts = generator.settings().to_texts();
    texts.retain(|(key, _)| key != "seed");
    let words = format!("{} {}", ends.0, ends.1);
    texts.push(("ends".to_owned(), words.clone()));
    texts.push(("points".to_owned(), arguments.points.to_string()));
    sink.finish(&texts)?;
    Ok(words)
}

fn dry_run(arguments: &InterpolateArguments, generator: &Generator, ends: &Ends, n: usize) -> anyhow::Result<Done> {
    let calls = generator.evaluations();
    let steps = generator.plan().steps().len();
    let encoding = match ends {
        Ends::Seeds(_) => 0,
        Ends::Images(images) => images.dim().0 * evaluations(&arguments.encoding(), steps).0,
    };
    let flops = generator.flops_per_image() as f64 * n as f64 + generator.flops_per_call() as f64 * encoding as f64;
    let work = Work::of(flops);
    let output = arguments.output.display().to_string();
    arguments.common.finish_dry_run(
        &json!({"n": n, "calls": calls, "gflop": work.json(), "output": output}),
        &[
            format!("images      {n}"),
            format!("steps       {steps}, {calls} network calls per image"),
            format!("work        at most {work}, including the encoding"),
            format!("would write {output}"),
        ],
    )
}
