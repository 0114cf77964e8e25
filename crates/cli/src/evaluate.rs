//! `skipstone evaluate`: scores samples of any model, as in the paper's Table 1.

mod table;
mod watch;

use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::Args;
use skipstone::io::checkpoint::Model;
use skipstone::io::data::{DataSpec, Split};
use skipstone::io::files;
use skipstone::sampling::generate::{Inputs, Settings, Shard, note};
use skipstone::sampling::options::{
    CONDITION, ClipMode, GUIDE, Noise, PRECISION, RESTART, Request, SEED, SpacingChoice, THRESHOLD,
};
use skipstone::sampling::solver::Solver;
use skipstone_eval::table::{Evaluation, Judge, Lists, RealImages, Repeats, Task, Work};
use skipstone_eval::{FeatureNetwork, FeatureSpec, check_takes};

use crate::batch::BatchArguments;
use crate::common::{CommonArguments, ModelArguments, generator};
use crate::dataset::{ArrayArguments, DATA, say_notes};
use crate::failure::{Done, Usage, emit, is_stopped, say};
use crate::interrupt;
use crate::options::Flags;
use crate::output::check_results;
use crate::shard::shard;

/// Score samples against a data set for lists of steps, noise, spacings and solvers (the paper's Table 1)
#[derive(Args, Debug)]
#[command(after_help = "\
Every combination of the lists is a cell: exactly n images, drawn as `sample` draws them and scored as 8-bit images. Each \
Fréchet distance comes with its floor, the score of as many test images. It is not FID unless you supply FID's network \
with --features. Compare scores only if features, data and n are the same.

DIR keeps the images, so nothing is drawn twice: the same command continues an interrupted run, another --features scores \
the same images, and new cells are added to the existing ones. DIR contains report.html (a self-contained report), \
results.csv, results.json and samples/.

Examples:
  Table 1 of the paper (add --dry-run to see what it would cost)
    skipstone evaluate --data fashion-mnist --steps 10,20,50,100 --eta 0,0.2,0.5,1,hat \\
      --spacing linear -n 5000 -o table1
  Solvers
    skipstone evaluate --data fashion-mnist --steps 5,10 --solver ddim,heun,ab3 -n 5000 -o solvers
  Your own model and feature network
    skipstone evaluate --model runs/a/model --data photos/ --features net.onnx:pool -o mine
  Two machines: run with --shard 1/2 on one and --shard 2/2 on the other. If they do not share DIR,
  copy both samples/ folders into one. Then run the command with --merge")]
pub struct EvaluateArguments {
    #[command(flatten)]
    model: ModelArguments,
    #[arg(long, value_name = "DATASET|DIR", required_unless_present = "shard", help = DATA)]
    data: Option<String>,
    #[command(flatten)]
    arrays: ArrayArguments,
    /// Numbers of steps S, one cell each [default: the number that the model was distilled for, else 10,20,50,100]
    #[arg(long, value_name = "S,…", value_delimiter = ',')]
    steps: Vec<usize>,
    /// Noise: a number is eta of DDIM Eq. 16 (0 is DDIM, 1 is DDPM); hat is DDPM's larger variance; analytic is the variance
    /// that fits the network best (needs a calibration); learned is the variance that the network predicts, if it has
    /// learned one
    #[arg(long, value_name = "ETA,…", value_delimiter = ',', default_values_t = [Noise::Eta(0.0)], allow_negative_numbers = true)]
    eta: Vec<Noise>,
    /// How S of the model's T timesteps are chosen, as for sample [default: the model's, or else linear]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    spacing: Vec<SpacingChoice>,
    /// Solvers, as for sample; solvers other than ddim are run for eta 0 only
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_values_t = [Solver::DDIM])]
    solver: Vec<Solver>,
    /// Clip the predicted image: off, keep-eps, rederive-eps [default: the model's, or else off]
    #[arg(long, value_name = "HOW,…", value_delimiter = ',')]
    clip: Vec<ClipMode>,
    #[command(flatten)]
    run: Flags<{ RESTART | THRESHOLD | CONDITION | GUIDE | PRECISION | SEED }>,
    /// Number of images in each cell
    #[arg(short, allow_negative_numbers = true, value_name = "N", default_value_t = 10_000)]
    n: u64,
    /// Index of the first image
    #[arg(long, value_name = "I", default_value_t = 0)]
    first: u64,
    #[command(flatten)]
    batch: BatchArguments,
    /// Feature network: fashion-cnn, the built-in classifier, or an output of an ONNX network
    #[arg(long, value_name = "fashion-cnn|FILE.onnx:OUTPUT", default_value_t = FeatureSpec::FashionCnn)]
    features: FeatureSpec,
    /// Use at most N images of each part of the data set [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    reference: Option<u32>,
    /// Measure the variance of samples from one latent, with this many latents and draws of noise each; off skips it
    #[arg(long, value_name = "LATENTSxDRAWS|off", default_value = "32x5", value_parser = repeats)]
    repeats: RepeatsArgument,
    /// Draw only the K-th of N parts of the images; score nothing. auto takes K and N from a Slurm array, a Kubernetes
    /// indexed job (with SKIPSTONE_SHARDS), srun or mpirun
    #[arg(long, value_name = "K/N|auto", value_parser = shard)]
    shard: Option<Shard>,
    /// Score what shards have drawn into DIR; draw nothing
    #[arg(long, conflicts_with = "shard")]
    merge: bool,
    /// Folder of the results; an existing one is continued
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    common: CommonArguments,
}

/// `--repeats`: `None` for off.
#[derive(Clone, Copy, Debug)]
struct RepeatsArgument(Option<Repeats>);

fn repeats(text: &str) -> Result<RepeatsArgument, String> {
    match text {
        "off" => Ok(RepeatsArgument(None)),
        _ => text
            .parse()
            .map(|repeats| RepeatsArgument(Some(repeats)))
            .map_err(|e: skipstone::Error| e.message().to_owned()),
    }
}

/// What an evaluation keeps in its folder besides results.json and samples/.
const KEPT: [&str; 4] = ["pictures", "reference", "report.html", "results.csv"];

/// Refuses a folder of other things, such as that of a training.
fn check_folder(folder: &Path) -> Result<(), Usage> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    if names.iter().any(|name| ["results.json", "samples"].contains(&name.as_str())) {
        return Ok(());
    }
    // Hidden files are locks, temporary files and those of the system.
    let foreign = names.iter().filter(|name| !name.starts_with('.') && !KEPT.contains(&name.as_str())).min();
    foreign.map_or(Ok(()), |name| {
        Err(Usage(format!(
            "-o {}: the folder has {name}, but no results.json and no samples/ of an evaluation; choose another folder",
            folder.display()
        )))
    })
}

/// Runs the command.
pub fn run(arguments: &EvaluateArguments) -> anyhow::Result<Done> {
    check_folder(&arguments.output)?;
    check_results(&arguments.output, arguments.data.as_deref().unwrap_or_default())?;
    let engine = arguments.common.start()?;
    let common = arguments.run.request()?;
    let model = arguments.model.load_for(&common)?;
    let cells = lists(arguments, model.scheduler.num_inference_steps).cells()?;
    let requests: Vec<Request> = cells.iter().map(|cell| cell.request(&common)).collect();
    let runs = requests.iter().map(|request| Settings::resolve(&model, request)).collect::<Result<Vec<_>, _>>()?;
    for (cell, (_, plan)) in cells.iter().zip(&runs) {
        if let Some(note) = note(&model, plan) {
            say(format_args!("note: {cell}: {note}"));
        }
    }
    let (first, n) = (arguments.first, arguments.n);
    let evaluation = Evaluation::new(&arguments.output, &model, (first, n), common.seed, arguments.repeats.0)?;
    let images = evaluation.images();
    let part = arguments.shard.map_or(images.clone(), |shard| shard.range(images));
    // Errors in the data or the features should appear before the work starts.
    let scored = arguments.shard.is_none();
    let network = if scored { Some(arguments.features.open(skipstone_model::FASHION_CNN)?) } else { None };
    let real = if scored { Some(real_images(arguments, &model)?) } else { None };
    if let Some(network) = &network {
        check_takes(&**network, evaluation.shape())?;
    }

    let generator = generator(model, &engine, &requests[0], Inputs::default(), first, n as usize)?;
    let mut work = Work::new(evaluation, &generator, cells, runs, part)?;
    for error in work.damaged() {
        say(format_args!("warning: {error}; its images will be drawn again"));
    }
    if let Some(task) = work.tasks().iter().find(|task| arguments.merge && task.missing > 0) {
        return Err(missing_shard(arguments, &work, task)?.into());
    }
    let size = arguments.batch.of(&generator, work.most(), engine.threads);
    if arguments.common.dry_run {
        return table::dry_run(arguments, &generator, work.tasks(), size, engine.threads);
    }
    // Shards write only samples, and each of those files appears complete or not at all.
    let _lock = if scored {
        Some(work.claim()?)
    } else {
        files::create_dir(&arguments.output)?;
        None
    };
    let judge = match (network, real) {
        (Some(network), Some(real)) => match prepare(arguments, network, real) {
            Err(error) if is_stopped(&error) => return Ok(interrupted(&work)),
            judge => Some(judge?),
        },
        _ => None,
    };
    if let (Some(judge), false) = (&judge, arguments.common.json) {
        table::head(judge, n, work.evaluation().weights())?;
    }
    let mut shown = watch::Shown::new(arguments, work.calls());
    match work.run(generator, size, judge.as_ref(), &mut shown) {
        Err(error) if is_stopped(&error) => {
            drop(shown);
            return Ok(interrupted(&work));
        }
        done => done?,
    }
    drop(shown);
    match arguments.shard {
        Some(shard) => say_rest(arguments, shard, &work.part()),
        None if !arguments.common.json => emit(work.report().display())?,
        None => {}
    }
    Ok(Done::Finished)
}

/// Says where the images of a shard are and what is to be done with them.
fn say_rest(arguments: &EvaluateArguments, shard: Shard, part: &Range<u64>) {
    say(format_args!(
        "shard {shard}: images {} to {} of each cell are in {}; once all shards are there (copied into one folder, if it is not \
         shared), run the same command with --merge instead of --shard",
        part.start,
        part.end.saturating_sub(1),
        arguments.output.join("samples").display()
    ));
}

/// The error for images that no shard has drawn: which, and how to draw them.
fn missing_shard(arguments: &EvaluateArguments, work: &Work, task: &Task) -> skipstone::Result<Usage> {
    let images = work.evaluation().images();
    let gaps = work.evaluation().gaps(&task.run, &work.part())?;
    let gap = gaps.first().cloned().unwrap_or(images.clone());
    // The coarsest cut of which the gap is a part.
    let shard = (2..=1000.min(arguments.n)).find_map(|of| {
        (1..=of).filter_map(|k| Shard::new(k, of).ok()).find(|shard| shard.range(images.clone()) == gap)
    });
    let instead = shard.map_or(String::new(), |shard| format!("--shard {shard}"));
    let words = interrupt::words().into_iter().map(|word| if word == "--merge" { instead.clone() } else { word });
    let command = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    Ok(Usage(format!(
        "--merge: images {} to {} of {}, are missing in {}; draw them with: {}",
        gap.start,
        gap.end.saturating_sub(1),
        task.cell,
        arguments.output.join("samples").display(),
        command
    )))
}

fn lists(arguments: &EvaluateArguments, own: Option<usize>) -> Lists {
    let steps = if arguments.steps.is_empty() { Lists::usual_steps(own) } else { arguments.steps.clone() };
    Lists {
        steps,
        noises: arguments.eta.clone(),
        spacings: arguments.spacing.clone(),
        solvers: arguments.solver.clone(),
        clips: arguments.clip.clone(),
    }
}

/// Both parts of the data at the model's size and channels.
fn real_images(arguments: &EvaluateArguments, model: &Model) -> anyhow::Result<RealImages> {
    let options = arguments.arrays.options(model)?;
    let data: DataSpec = arguments.data.as_deref().unwrap_or_default().parse()?;
    let (train, test) = (data.load(Split::Train, &options)?, data.load(Split::Test, &options)?);
    say_notes(&train);
    if !test.same_images(&train) {
        say_notes(&test);
    }
    let real = RealImages::new(&train, &test, arguments.reference.map(|n| n as usize))?;
    if real.are_halves() {
        say(format_args!(
            "{data} has no test part: samples are scored against {} of its images; {} others give the floor",
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
    let judge = Judge::new(network, real, &arguments.output.join("reference"), arguments.n, &mut |n| {
        bar.inc(n as u64);
        interrupt::flow()
    })?;
    bar.finish_and_clear();
    judge.notes(arguments.n).iter().for_each(|note| say(format_args!("note: {note}")));
    Ok(judge)
}

fn interrupted(work: &Work) -> Done {
    let command = interrupt::command_line(None);
    say(format_args!(
        "interrupted; {} of {} cells are finished and all drawn images are kept; continue with: {command}",
        work.finished(),
        work.tasks().len()
    ));
    Done::Interrupted
}
