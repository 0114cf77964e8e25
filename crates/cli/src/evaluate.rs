//! `skipstone evaluate`: the paper's Table 1 for any model.

mod table;
mod work;

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressBar;
use skipstone::io::checkpoint::Model;
use skipstone::io::data::{DataOptions, DataSpec, Split};
use skipstone::io::files;
use skipstone::sampling::generate::{Generator, Inputs, Settings};
use skipstone::sampling::options::{CONDITION, ClipMode, Noise, PRECISION, Request, SEED, SpacingChoice, THRESHOLD};
use skipstone::sampling::solver::Solver;
use skipstone_eval::table::{
    Cell, Evaluation, Judge, Lists, RealImages, Reference, Repeats, Results, Run, Shard, are_few,
};
use skipstone_eval::{FeatureNetwork, FeatureSpec, check_takes};

use crate::batch::BatchArguments;
use crate::common::{CommonArguments, ModelArguments};
use crate::dataset::DATA;
use crate::failure::{Done, Usage, is_stopped, say};
use crate::interrupt;
use crate::options::Flags;

/// Score samples against a data set, for lists of steps, noise, times and solvers (the paper's Table 1)
#[derive(Args, Debug)]
#[command(after_help = "\
Every combination of the lists is a cell: exactly n images, drawn as `sample` draws them and scored as pictures of 8 bits. \
Beside each Fréchet distance stands its floor: what as many test images score. It is no FID, unless you bring the network \
of FID (--features), and it is comparable only between numbers of the same features, data and n.

DIR keeps the images, so that nothing is drawn twice: the same command continues where it was stopped, another --features \
scores the same images, more cells are added to those that are there. In DIR: report.html (one file, to look at), \
results.csv, results.json, samples/.

Examples:
  Table 1 of the paper (add --dry-run to see what it costs)
    skipstone evaluate --data fashion-mnist --steps 10,20,50,100 --eta 0,0.2,0.5,1,hat \\
      --spacing linear -n 5000 -o table1
  Solvers
    skipstone evaluate --data fashion-mnist --steps 5,10,20 --solver ddim,heun,ab3 -n 5000 -o solvers
  A model and a feature network of your own
    skipstone evaluate --model runs/a/model --data photos/ --features net.onnx:pool -o table1
  On two machines: --shard 1/2 on the one, --shard 2/2 on the other; then copy both folders samples/
  into one DIR, and run the command without --shard")]
pub struct EvaluateArguments {
    #[command(flatten)]
    model: ModelArguments,
    #[arg(long, value_name = "DATASET|DIR", required_unless_present = "shard", help = DATA)]
    data: Option<String>,
    /// Numbers of steps S
    #[arg(long, value_name = "S,…", value_delimiter = ',', default_values_t = [10, 20, 50, 100])]
    steps: Vec<usize>,
    /// Noise: numbers are eta of DDIM Eq. 16 (0 is DDIM, 1 DDPM); hat is DDPM's larger variance, analytic the one that fits
    /// the network best (needs a calibration)
    #[arg(long, value_name = "ETA,…", value_delimiter = ',', default_values_t = [Noise::Eta(0.0)], allow_negative_numbers = true)]
    eta: Vec<Noise>,
    /// Which S of the model's T times, as for sample [default: the model's, else linear]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    spacing: Vec<SpacingChoice>,
    /// How a run steps, as for sample; solvers other than ddim take the rows of eta 0 only
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_values_t = [Solver::DDIM])]
    solver: Vec<Solver>,
    /// Clip the predicted image: off, keep-eps, rederive-eps [default: the model's, else off]
    #[arg(long, value_name = "HOW,…", value_delimiter = ',')]
    clip: Vec<ClipMode>,
    #[command(flatten)]
    shared: Flags<{ THRESHOLD | CONDITION | PRECISION | SEED }>,
    /// Images of each cell, exactly
    #[arg(short, value_name = "N", default_value_t = 10_000)]
    n: u64,
    /// Index of the first image
    #[arg(long, value_name = "I", default_value_t = 0)]
    first: u64,
    #[command(flatten)]
    batch: BatchArguments,
    /// Features to score in: fashion-cnn, the classifier carried inside, or a value of an ONNX network
    #[arg(long, value_name = "fashion-cnn|FILE.onnx:OUTPUT", default_value_t = FeatureSpec::FashionCnn)]
    features: FeatureSpec,
    /// Use at most so many images of each part of the data [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    reference: Option<u32>,
    /// Measure the variance of samples from one latent: so many latents, so many noises each; off leaves it out
    #[arg(long, value_name = "LATENTSxDRAWS|off", default_value = "32x5", value_parser = repeats)]
    repeats: Again,
    /// Draw only the K-th of N parts of the images, and score nothing
    #[arg(long, value_name = "K/N")]
    shard: Option<Shard>,
    /// Folder of the results; continued where it exists
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    common: CommonArguments,
}

/// Whether latents are drawn from repeatedly.
#[derive(Clone, Copy, Debug)]
struct Again(Option<Repeats>);

fn repeats(text: &str) -> Result<Again, String> {
    match text {
        "off" => Ok(Again(None)),
        _ => text.parse().map(|repeats| Again(Some(repeats))).map_err(|e: skipstone::Error| e.message().to_owned()),
    }
}

/// A cell with its options decided.
struct Job {
    cell: Cell,
    run: Run,
    /// Network calls of an image.
    calls: usize,
    /// Images to be drawn, those that repeat a latent among them.
    missing: u64,
}

/// Runs the command.
pub fn run(arguments: &EvaluateArguments) -> anyhow::Result<Done> {
    let cells = lists(arguments).cells()?;
    let engine = arguments.common.start()?;
    let model = arguments.model.load()?;
    let common = arguments.shared.request()?;
    let requests: Vec<Request> = cells.iter().map(|cell| cell.request(&common)).collect();
    let runs = requests.iter().map(|request| Settings::resolve(&model, request)).collect::<Result<Vec<_>, _>>()?;
    let end = arguments.first.checked_add(arguments.n).filter(|_| arguments.n <= MOST_IMAGES);
    let end =
        end.ok_or_else(|| Usage(format!("-n {}: at most {MOST_IMAGES} images, and indices of 64 bits", arguments.n)))?;
    let images = arguments.first..end;
    let evaluation = Evaluation::new(&arguments.output, &model, images.clone(), common.seed, arguments.repeats.0)?;
    let part = arguments.shard.map_or(images.clone(), |shard| shard.range(images.clone()));
    // What is wrong with data or features is said before the work, not after it.
    let scored = arguments.shard.is_none();
    let network = if scored { Some(arguments.features.open(skipstone_model::FASHION_CNN)?) } else { None };
    let real = if scored { Some(real_images(arguments, &model)?) } else { None };
    if let Some(network) = &network {
        check_takes(&**network, evaluation.shape())?;
    }

    let generator =
        Generator::new(model, &engine, &requests[0], Inputs::default(), arguments.first, arguments.n as usize)?;
    let mut jobs = Vec::with_capacity(cells.len());
    for (cell, run) in cells.into_iter().zip(runs) {
        let calls = generator.calls_of(&run.1) * generator.calls_per_step();
        let (missing, damaged) = evaluation.missing(&run, &part)?;
        damaged.iter().for_each(|error| say(format_args!("warning: {error}; it will be drawn again")));
        jobs.push(Job { cell, run, calls, missing });
    }
    let most = jobs.iter().map(|job| job.missing).max().unwrap_or(0).clamp(1, arguments.n) as usize;
    let size = arguments.batch.of(&generator, most, engine.threads);
    if arguments.common.dry_run {
        return table::dry_run(arguments, &generator, &jobs, size, engine.threads);
    }
    files::create_dir(&arguments.output)?;
    // Shards write samples alone, of which each file is whole or not there.
    let _lock = if scored { Some(files::lock(&arguments.output)?) } else { None };
    if scored {
        files::remove_stale_temporaries(&arguments.output)?;
        files::remove_stale_temporaries(&arguments.output.join("pictures"))?;
        for kept in std::fs::read_dir(arguments.output.join("reference")).into_iter().flatten().flatten() {
            files::remove_stale_temporaries(&kept.path())?;
        }
    }
    let results = Results::read(&arguments.output)?;
    let judge = match (network, real) {
        (Some(network), Some(real)) => match prepare(arguments, network, real) {
            Err(error) if is_stopped(&error) => return Ok(interrupted(0, jobs.len())),
            judge => Some(judge?),
        },
        _ => None,
    };
    let work = work::Work { arguments, evaluation, part, size, jobs, results };
    work.run(generator, judge.as_ref())
}

/// Images of one cell.
const MOST_IMAGES: u64 = 100_000_000;

fn lists(arguments: &EvaluateArguments) -> Lists {
    Lists {
        steps: arguments.steps.clone(),
        noises: arguments.eta.clone(),
        spacings: arguments.spacing.clone(),
        solvers: arguments.solver.clone(),
        clips: arguments.clip.clone(),
    }
}

/// Both parts of the data, brought to the model's size and channels.
fn real_images(arguments: &EvaluateArguments, model: &Model) -> anyhow::Result<RealImages> {
    let options = DataOptions {
        size: Some(model.config.sample_size),
        channels: Some(model.config.in_channels),
        ..DataOptions::default()
    };
    let data: DataSpec = arguments.data.as_deref().unwrap_or_default().parse()?;
    let (train, test) = (data.load(Split::Train, &options)?, data.load(Split::Test, &options)?);
    let real = RealImages::new(&train, &test, arguments.reference.map(|n| n as usize))?;
    if real.are_halves() {
        say(format_args!(
            "{data} has no test part: {} of its images are scored against, {} others give the floor",
            real.train().dim().0,
            real.test().dim().0
        ));
    }
    Ok(real)
}

/// The reference and the floor.
fn prepare(arguments: &EvaluateArguments, network: Box<dyn FeatureNetwork>, real: RealImages) -> anyhow::Result<Judge> {
    let length = real.train().dim().0 + real.test().dim().0;
    let bar = crate::bars::bar("reference", 0, length as u64);
    let cache = arguments.output.join("reference");
    let reference = Reference::open(real, &*network, &cache, &mut |n| advance(&bar, n))?;
    bar.finish_and_clear();
    let floor = reference.floor(&*network, arguments.n as usize)?;
    let floor_n = reference.floor_n(arguments.n as usize);
    if (floor_n as u64) < arguments.n {
        say(format_args!(
            "note: the floor is of {floor_n} test images, the scores of {} samples: fewer images have a larger distance",
            arguments.n
        ));
    }
    if are_few(arguments.n, network.dimensions()) {
        say(format_args!(
            "note: {} images are few for {} features: the Fréchet distance is well above what many images would give",
            arguments.n,
            network.dimensions()
        ));
    }
    Ok(Judge { network, reference, floor })
}

fn advance(bar: &ProgressBar, n: usize) -> ControlFlow<()> {
    bar.inc(n as u64);
    interrupt::flow()
}

fn interrupted(done: usize, of: usize) -> Done {
    let command = interrupt::command_line(None);
    say(format_args!(
        "interrupted: {done} of {of} cells are finished, what was drawn is kept; continue with: {command}"
    ));
    Done::Interrupted
}
