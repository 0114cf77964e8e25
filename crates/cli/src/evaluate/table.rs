//! Printed output: the dry run and the table.

use serde_json::json;
use skipstone::sampling::generate::Generator;
use skipstone::sampling::options::ClipMode;
use skipstone::sampling::solver::Solver;
use skipstone_eval::table::{Cell, Judge, Row};

use super::{EvaluateArguments, Job};
use crate::common::duration;
use crate::failure::{Done, emit};
use crate::sample::time_of_call;

/// Prints what would be done and what it would cost.
pub fn dry_run(
    arguments: &EvaluateArguments,
    generator: &Generator,
    jobs: &[Job],
    batch: usize,
    threads: usize,
) -> anyhow::Result<Done> {
    let per_batch = time_of_call(generator, arguments.first, batch)?.as_secs_f64();
    let per_call = per_batch / (generator.calls_per_step() * batch) as f64;
    let seconds = |job: &Job| per_call * job.calls as f64 * job.missing as f64;
    let total: f64 = jobs.iter().map(seconds).sum();
    let missing: u64 = jobs.iter().map(|job| job.missing).sum();
    let cell = |job: &Job| {
        json!({
            "steps": job.cell.steps, "eta": job.cell.noise, "row": name_of(&job.cell), "calls": job.calls,
            "images": job.missing, "seconds": seconds(job),
        })
    };
    let json = json!({
        "cells": jobs.iter().map(cell).collect::<Vec<_>>(), "images": missing, "seconds": total,
        "seconds_per_call": per_call, "batch": batch, "threads": threads,
        "output": arguments.output.display().to_string(),
    });
    let mut lines =
        vec![format!("{:<24} {:>6} {:>6} {:>15} {:>12}", "row", "steps", "calls", "images to draw", "time")];
    for job in jobs {
        let (name, time) = (name_of(&job.cell), duration(seconds(job)));
        lines.push(format!("{name:<24} {:>6} {:>6} {:>15} {time:>12}", job.cell.steps, job.calls, job.missing));
    }
    lines.push(format!(
        "about {} in total for {missing} images, plus the scoring: a network call takes {:.2} ms per image at batch {batch} \
         with {threads} thread(s)",
        duration(total),
        1e3 * per_call
    ));
    lines.push(format!("would write {}", arguments.output.display()));
    arguments.common.finish_dry_run(&json, &lines)
}

/// Name of a cell's row: its noise, spacing, solver and clipping as given.
pub fn name_of(cell: &Cell) -> String {
    let mut words = vec![cell.noise.to_string()];
    words.extend(cell.spacing.as_ref().map(ToString::to_string));
    words.extend((cell.solver != Solver::DDIM).then(|| cell.solver.to_string()));
    words.extend(cell.clip.map(|clip| match clip {
        ClipMode::Off => "clip off".to_owned(),
        named => named.to_string(),
    }));
    words.join(" ")
}

/// Prints the title of the table and its column names.
pub fn head(judge: &Judge, n: u64, weights: &str) -> anyhow::Result<()> {
    let real = judge.reference.images();
    emit(format_args!(
        "Fréchet distance in features {} to {} training images of {}: {n} samples, {weights} weights; floor: {} test images",
        judge.reference.features(),
        real.train().dim().0,
        real.name(),
        judge.reference.floor_n(n as usize)
    ))?;
    emit(format_args!(
        "{:<24} {:>6} {:>6} {:>9} {:>9} {:>17} {:>9} {:>7} {:>12} {:>8} {:>9}",
        "eta",
        "steps",
        "calls",
        "Fréchet",
        "floor",
        "KID x 1000",
        "precision",
        "recall",
        "memorisation",
        "latent",
        "seconds"
    ))?;
    Ok(())
}

/// The line of a cell in the table.
pub fn line(cell: &Cell, row: &Row) -> String {
    let or_dash = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
    let kid = match (row.kid, row.kid_error) {
        (Some(kid), Some(error)) => format!("{:.3} ± {:.3}", 1e3 * kid, 1e3 * error),
        _ => "-".to_owned(),
    };
    format!(
        "{:<24} {:>6} {:>6} {:>9.3} {:>9.3} {kid:>17} {:>9} {:>7} {:>12} {:>8} {:>9.1}",
        name_of(cell),
        row.steps,
        row.calls,
        row.frechet,
        row.frechet_floor,
        or_dash(row.precision),
        or_dash(row.recall),
        or_dash(row.memorisation),
        or_dash(row.latent_variance),
        row.seconds
    )
}
