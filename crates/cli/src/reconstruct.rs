//! `skipstone reconstruct`: the paper's Table 2 for any model, images and inversion method.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use ndarray::{Array4, Axis, Slice, concatenate};
use serde_json::json;
use skipstone::io::files;
use skipstone::io::image::plot::{AxisStyle, Chart, Curve, Scale};
use skipstone::io::image::{Layout, grid, is_picture, text_chunks, write_png};
use skipstone::sampling::generate::{Generator, Inputs, Settings, batches, note};
use skipstone::sampling::inversion::{Method, squared_errors};
use skipstone::sampling::options::DECODE;
use skipstone::sampling::sampler::Plan;

use crate::batch::BatchArguments;
use crate::common::{CommonArguments, ModelArguments, Work, duration, generator};
use crate::dataset::ArrayArguments;
use crate::failure::{Done, Stdout, emit, is_stopped, say};
use crate::images;
use crate::invert::{MethodArguments, Report, evaluations, rows, watch};
use crate::options::Flags;
use crate::output::check_results;

/// The steps of the paper's Table 2.
const TABLE: [usize; 7] = [10, 20, 50, 100, 200, 500, 1000];
/// In images.png: the number of images, the factor of the differences, and the most numbers of steps shown.
const SHOWN: usize = 8;
const ENLARGED: f32 = 5.0;
const ROWS: usize = 4;

/// Encode images, decode them again and measure the error (the paper's Table 2)
#[derive(Args, Debug)]
#[command(mut_arg("steps", |steps| steps.help("Numbers of steps S, one row each [default: 10,20,50,100,200,500,1000, up to the model's T]")))]
#[command(after_help = "\
The error is the mean squared difference per value, with values scaled to [0, 1] and not clamped. The default steps are \
those of the paper. The folder of -o contains error.png (error against steps, both logarithmic), images.png (the \
originals, then for up to 4 numbers of steps a row of reconstructions and a row of differences, 5 times amplified around \
gray) and table.csv.

Examples:
  The first 64 test images   skipstone reconstruct --images fashion-mnist -o table2/
  Your own images            skipstone reconstruct --images photos/ --steps 10,20,50
  Exact inversion            skipstone reconstruct --images photos/ --steps 10 --method edict")]
pub struct ReconstructArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Images: a folder, an image file, a .npy file of raw network values, or a data set (its test part)
    #[arg(long, value_name = "DIR|FILE|DATASET")]
    images: String,
    #[command(flatten)]
    arrays: ArrayArguments,
    /// Number of images, from the first; all if there are fewer
    #[arg(short, allow_negative_numbers = true, value_name = "N", default_value_t = 64)]
    n: usize,
    #[command(flatten)]
    method: MethodArguments,
    #[command(flatten)]
    run: Flags<DECODE>,
    #[command(flatten)]
    batch: BatchArguments,
    /// Folder for error.png, images.png and table.csv
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArguments,
}

/// One line of the table.
struct Row {
    steps: usize,
    evaluations: f64,
    mse: f64,
    report: Report,
    /// The first reconstructions, for images.png.
    shown: Array4<f32>,
}

/// Runs the command.
pub fn run(arguments: &ReconstructArguments) -> anyhow::Result<Done> {
    if let Some(folder) = &arguments.output {
        check_results(folder, &arguments.images)?;
    }
    let method = arguments.method.method()?;
    let engine = arguments.common.start()?;
    let model = arguments.model.load_for(&arguments.run.requests(&[])?[0])?;
    let trained = model.scheduler.schedule()?.train_steps() as usize;
    let table: Vec<usize> = TABLE.into_iter().filter(|&steps| steps <= trained).collect();
    let requests = arguments.run.requests(&table)?;
    let mut runs = Vec::with_capacity(requests.len());
    for request in requests {
        let request = request.unclipped();
        let run = Settings::resolve(&model, &request)?;
        // Checks every run before the first one starts.
        method.check(&run.1)?;
        if let Some(note) = note(&model, &run.1) {
            say(format_args!("note: --steps {}: {note}", run.1.steps().len()));
        }
        runs.push((run, request));
    }
    let x0 = images::read(&arguments.images, &model, Some(arguments.n), &arguments.arrays)?;
    let n = x0.dim().0;
    let mut generator = generator(model, &engine, &runs[0].1, Inputs::default(), 0, n)?;
    let batch = arguments.batch.of(&generator, n, engine.threads);
    let runs: Vec<(Settings, Plan)> = runs.into_iter().map(|(run, _)| run).collect();
    if arguments.common.dry_run {
        return dry_run(arguments, &generator, &runs, &method, n);
    }
    if let Some(folder) = &arguments.output {
        files::create_dir(folder)?;
    }

    let calls: usize = runs.iter().map(|(_, plan)| 2 * plan.steps().len() * n.div_ceil(batch)).sum();
    let bar = crate::bars::bar("reconstructing", 0, calls as u64);
    let begun = Instant::now();
    let (mut table, mut done, mut stopped) = (Vec::new(), 0, false);
    if !arguments.common.json {
        emit("  steps   calls       mse").map_err(Stdout::unfinished)?;
    }
    for run in runs {
        let texts = run.0.to_texts();
        generator = generator.with_run(run, n)?;
        let row = match round_trips(&generator, &x0, batch, &method, (&bar, &mut done)) {
            Err(error) if is_stopped(&error) => {
                stopped = true;
                break;
            }
            row => row?,
        };
        row.report.warn(n);
        let (steps, calls, mse) = (row.steps, row.evaluations, row.mse);
        if arguments.common.json {
            emit(json!({
                "steps": steps, "mse": mse, "method": method.name(), "calls": calls, "n": n,
                "unconverged": row.report.unconverged(), "residual": row.report.residual(),
            }))
            .map_err(Stdout::unfinished)?;
        } else {
            crate::bars::above(|| emit(format_args!("{steps:>7} {calls:>7.1} {mse:>9.2e}")))
                .map_err(Stdout::unfinished)?;
        }
        table.push((row, texts));
    }
    bar.finish_and_clear();
    if stopped {
        say("interrupted; the lines above are complete");
    } else {
        say(format_args!("{n} image(s), {method}, {}", duration(begun.elapsed().as_secs_f64())));
    }
    if let Some(folder) = arguments.output.as_ref().filter(|_| !table.is_empty()) {
        write(folder, &table, &x0, &method)?;
        if !arguments.common.json {
            emit(folder.display())?;
        }
    }
    Ok(if stopped { Done::Interrupted } else { Done::Finished })
}

/// Encodes and decodes all images with one number of steps.
fn round_trips(
    generator: &Generator,
    x0: &Array4<f32>,
    batch: usize,
    method: &Method,
    (bar, done): (&indicatif::ProgressBar, &mut u64),
) -> anyhow::Result<Row> {
    let steps = generator.plan().steps().len();
    let (mut errors, mut report, mut shown, mut asked) = (Vec::new(), Report::default(), Vec::new(), 0);
    for range in batches(0..x0.dim().0 as u64, batch) {
        let x0 = rows(x0, &range);
        let encoded = generator.encode(&x0, range.clone(), method, &mut watch(bar, *done))?;
        *done += steps as u64;
        let decoded = generator.decode(&encoded.latents, range.clone(), method, &mut watch(bar, *done))?;
        let back = decoded.images;
        *done += steps as u64;
        report.add(&encoded.convergence);
        let n = x0.dim().0;
        asked += encoded.evaluations + decoded.evaluations;
        errors.extend(squared_errors(&x0, &back)?);
        let missing = SHOWN.saturating_sub(range.start as usize).min(n);
        if missing > 0 {
            shown.push(back.slice_axis(Axis(0), Slice::from(..missing)).to_owned());
        }
    }
    let views: Vec<_> = shown.iter().map(|images| images.view()).collect();
    Ok(Row {
        steps,
        evaluations: asked as f64 / errors.len() as f64,
        mse: errors.iter().sum::<f64>() / errors.len() as f64,
        report,
        shown: concatenate(Axis(0), &views)?,
    })
}

fn dry_run(
    arguments: &ReconstructArguments,
    generator: &Generator,
    runs: &[(Settings, Plan)],
    method: &Method,
    n: usize,
) -> anyhow::Result<Done> {
    let most: usize = runs
        .iter()
        .map(|(_, plan)| {
            let (up, down) = evaluations(method, plan.steps().len());
            up + down
        })
        .sum();
    let work = Work::of(generator.flops_per_call() as f64 * (most * n) as f64);
    let most = most * generator.calls_per_step();
    let steps: Vec<usize> = runs.iter().map(|(_, plan)| plan.steps().len()).collect();
    arguments.common.finish_dry_run(
        &json!({"n": n, "steps": steps, "evaluations": most * n, "gflop": work.json()}),
        &[
            format!("images      {n}"),
            format!("steps       {steps:?}, at most {most} network calls per image"),
            format!("work        at most {work}"),
        ],
    )
}

/// Writes the plot, the images and the table.
fn write(
    folder: &Path,
    table: &[(Row, Vec<(String, String)>)],
    x0: &Array4<f32>,
    method: &Method,
) -> anyhow::Result<()> {
    let mut lines = "method,steps,calls,mse,unconverged,residual,n\n".to_owned();
    for (row, _) in table {
        let (unconverged, residual) = (row.report.unconverged(), row.report.residual());
        let (steps, calls, mse, n) = (row.steps, row.evaluations, row.mse, x0.dim().0);
        lines += &format!("{},{steps},{calls},{mse:e},{unconverged},{residual:e},{n}\n", method.name());
    }
    files::write_bytes(&folder.join("table.csv"), lines.as_bytes())?;

    let Some((first, texts)) = table.first() else { return Ok(()) };
    let points: Vec<[f64; 2]> = table.iter().map(|(row, _)| [row.steps as f64, row.mse]).collect();
    let curve = Curve { points, color: [20, 90, 170], width: 3.0, dots: true };
    let axis = |label| AxisStyle { label, scale: Scale::Log, margin: 0.06 };
    let title = format!("reconstruction by {}", method.name());
    let chart = Chart { title: &title, x: axis("steps"), y: axis("mse"), curves: &[curve] };
    match chart.draw() {
        Ok(picture) => write_png(&folder.join("error.png"), &picture, &[])?,
        // A logarithmic axis cannot show an error of exactly 0.
        Err(error) => say(format_args!("error.png was not written: {error}")),
    }

    let [_, c, h, w] = [0, 1, 2, 3].map(|axis| x0.len_of(Axis(axis)));
    if !is_picture(c) {
        say(format_args!("images.png was not written: images of {c} channels cannot be written as PNG"));
        return Ok(());
    }
    let shown = first.shown.dim().0;
    let originals = x0.slice_axis(Axis(0), Slice::from(..shown)).to_owned();
    let mut parts = vec![originals.clone()];
    let mut steps = Vec::new();
    for i in spread(table.len(), ROWS) {
        let row = &table[i].0;
        parts.push(row.shown.clone());
        parts.push((&row.shown - &originals) * ENLARGED);
        steps.push(row.steps);
    }
    let all = concatenate(Axis(0), &parts.iter().map(|part| part.view()).collect::<Vec<_>>())?;
    let mut texts = texts.clone();
    texts.retain(|(key, _)| !matches!(key.as_str(), "steps" | "times"));
    texts.push(("method".to_owned(), method.to_string()));
    texts.push((
        "rows".to_owned(),
        format!("originals; then reconstruction and difference × {ENLARGED} for steps {steps:?}"),
    ));
    write_png(&folder.join("images.png"), &grid(&all, shown, &Layout::magnified(h, w))?, &text_chunks(&texts))?;
    say(format_args!("images.png: originals; then reconstructions and differences x {ENLARGED} for steps {steps:?}"));
    Ok(())
}

/// At most `most` of `n` indices, evenly spaced and including the first and the last.
fn spread(n: usize, most: usize) -> Vec<usize> {
    let k = n.min(most);
    (0..k).map(|i| if k < 2 { 0 } else { (i * (n - 1) + (k - 1) / 2) / (k - 1) }).collect()
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn rows_of_the_picture_are_spread_over_the_table() {
        assert_eq!(spread(7, 4), [0, 2, 4, 6]);
        assert_eq!(spread(3, 4), [0, 1, 2]);
        assert_eq!(spread(1, 4), [0]);
        assert_eq!(spread(0, 4), [0; 0]);
    }
}
