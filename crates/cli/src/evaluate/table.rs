//! Printed output: the dry run and the table.

use serde_json::json;
use skipstone::sampling::generate::Generator;
use skipstone_eval::table::{Cell, Judge, Row, Task};

use super::EvaluateArguments;
use crate::common::duration;
use crate::failure::{Done, Stdout, emit};
use crate::sample::time_of_call;

/// Prints what would be done and what it would cost.
pub fn dry_run(
    arguments: &EvaluateArguments,
    generator: &Generator,
    tasks: &[Task],
    batch: usize,
    threads: usize,
) -> anyhow::Result<Done> {
    let per_batch = time_of_call(generator, arguments.first, batch)?.as_secs_f64();
    let per_call = per_batch / batch as f64;
    let seconds = |task: &Task| per_call * task.calls as f64 * task.missing as f64;
    let total: f64 = tasks.iter().map(seconds).sum();
    let missing: u64 = tasks.iter().map(|task| task.missing).sum();
    let cell = |task: &Task| {
        json!({
            "steps": task.cell.steps, "eta": task.cell.noise, "row": task.cell.line(), "calls": task.calls,
            "images": task.missing, "seconds": seconds(task),
        })
    };
    let json = json!({
        "cells": tasks.iter().map(cell).collect::<Vec<_>>(), "images": missing, "seconds": total,
        "seconds_per_call": per_call, "batch": batch, "threads": threads,
        "output": arguments.output.display().to_string(),
    });
    let mut lines =
        vec![format!("{:<24} {:>6} {:>6} {:>15} {:>12}", "row", "steps", "calls", "images to draw", "time")];
    for task in tasks {
        let (name, time) = (task.cell.line(), duration(seconds(task)));
        lines.push(format!("{name:<24} {:>6} {:>6} {:>15} {time:>12}", task.cell.steps, task.calls, task.missing));
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

/// Prints the title of the table and its column names.
pub fn head(judge: &Judge, n: u64, weights: &str) -> anyhow::Result<()> {
    let real = judge.reference.images();
    emit(format_args!(
        "Fréchet distance in features {} to {} training images of {}: {n} samples, {weights} weights; floor: {} test images",
        judge.reference.features(),
        real.train().dim().0,
        real.name(),
        judge.reference.floor_n(n as usize)
    ))
    .map_err(Stdout::unfinished)?;
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
    ))
    .map_err(Stdout::unfinished)?;
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
        cell.line(),
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
