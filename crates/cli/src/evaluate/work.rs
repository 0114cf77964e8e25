//! Draws and scores the cells one after another.

use std::ops::Range;
use std::path::PathBuf;

use anyhow::Context;
use indicatif::ProgressBar;
use serde_json::json;
use skipstone::io::files;
use skipstone::sampling::generate::Generator;
use skipstone_eval::table::{Cell, Evaluation, Judge, Results, Row, report};

use super::table::{head, line, name_of};
use super::{EvaluateArguments, Job, advance, interrupted};
use crate::failure::{Done, emit, is_stopped, say};
use crate::interrupt;

/// The resolved evaluation and its results so far.
pub struct Work<'a> {
    pub arguments: &'a EvaluateArguments,
    pub evaluation: Evaluation,
    /// The images of each cell that this run draws.
    pub part: Range<u64>,
    /// Batch size.
    pub size: usize,
    pub jobs: Vec<Job>,
    pub results: Results,
}

impl Work<'_> {
    /// Draws and scores every cell. If one fails, the report of the cells before it is still written.
    pub fn run(mut self, generator: Generator, judge: Option<&Judge>) -> anyhow::Result<Done> {
        let done = self.cells(generator, judge);
        if done.is_err() {
            // The first error is the one to report.
            drop(self.write_report());
        }
        done
    }

    fn cells(&mut self, mut generator: Generator, judge: Option<&Judge>) -> anyhow::Result<Done> {
        let length: u64 = self.jobs.iter().map(|job| job.missing * job.calls as u64).sum();
        let bar = crate::bars::bar("drawing", 0, length);
        if let (Some(judge), false) = (judge, self.arguments.common.json) {
            head(judge, self.arguments.n, self.evaluation.weights())?;
        }
        for i in 0..self.jobs.len() {
            let job = &self.jobs[i];
            let name = format!("{}, S = {}", name_of(&job.cell), job.cell.steps);
            bar.set_message(name.clone());
            let (back, row) = match self.cell(generator, job, judge, &bar) {
                Err(error) if is_stopped(&error) => {
                    bar.finish_and_clear();
                    self.write_report()?;
                    return Ok(interrupted(i, self.jobs.len()));
                }
                done => done.with_context(|| format!("cell {name}"))?,
            };
            generator = back;
            let Some(row) = row else { continue };
            // Written before it is printed: stdout may be closed.
            let text = if self.arguments.common.json { json!(row).to_string() } else { line(&job.cell, &row) };
            self.results.put(row);
            self.results.write(&self.arguments.output)?;
            crate::bars::above(|| emit(text))?;
        }
        bar.finish_and_clear();
        self.conclude()
    }

    /// Draws a cell, and scores it where there is a judge.
    fn cell(
        &self,
        generator: Generator,
        job: &Job,
        judge: Option<&Judge>,
        bar: &ProgressBar,
    ) -> anyhow::Result<(Generator, Option<Row>)> {
        let guided = generator.calls_per_step() as u64;
        let generator = self.evaluation.draw(generator, &job.run, &self.part, self.size, &mut |drawn| {
            bar.inc((drawn.batch * drawn.calls) as u64 * guided);
            interrupt::flow()
        })?;
        Ok((generator, judge.map(|judge| self.score(job, judge)).transpose()?))
    }

    fn score(&self, job: &Job, judge: &Judge) -> anyhow::Result<Row> {
        let bar = crate::bars::bar("scoring", 0, self.arguments.n);
        let seen = &mut |n| advance(&bar, n);
        let row = self.evaluation.score(&job.cell, &job.run, job.calls, judge, &self.results, seen)?;
        bar.finish_and_clear();
        Ok(row)
    }

    fn write_report(&self) -> anyhow::Result<Option<PathBuf>> {
        // A shard scores nothing and may have read what another process has changed since.
        if self.arguments.shard.is_some() || self.results.rows().is_empty() {
            return Ok(None);
        }
        let path = self.arguments.output.join("report.html");
        files::write_bytes(&path, report(&self.results, &self.arguments.output)?.as_bytes())?;
        Ok(Some(path))
    }

    /// Measures the distance of every cell to the cell of its row with most steps.
    fn compare(&mut self) -> anyhow::Result<()> {
        let of = |row: &Cell, other: &Cell| Cell { steps: row.steps, ..other.clone() } == *row;
        for job in &self.jobs {
            let row = self.jobs.iter().filter(|other| of(&job.cell, &other.cell));
            let Some(most) = row.max_by_key(|other| other.cell.steps).filter(|most| most.cell.steps > job.cell.steps)
            else {
                continue;
            };
            let found = self.evaluation.distance(&job.run, &most.run)?;
            self.results.set_distance(&job.run.0, &self.evaluation.images(), found, most.cell.steps);
        }
        Ok(())
    }

    fn conclude(&mut self) -> anyhow::Result<Done> {
        if let Some(shard) = self.arguments.shard {
            let samples = self.arguments.output.join("samples");
            say(format_args!(
                "shard {shard}: images {} to {} of each cell are in {}; once all shards are there (copied into one folder, if \
                 it is not shared), run the same command with --merge instead of --shard",
                self.part.start,
                self.part.end.saturating_sub(1),
                samples.display()
            ));
            return Ok(Done::Finished);
        }
        self.compare()?;
        self.results.write(&self.arguments.output)?;
        let path = self.write_report()?;
        if let (Some(path), false) = (path, self.arguments.common.json) {
            emit(path.display())?;
        }
        Ok(Done::Finished)
    }
}
