//! The work of an evaluation: all cells are drawn and scored, one after another, and their rows kept.

use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

use skipstone::error::{Error, Result};
use skipstone::io::files::{self, Lock};
use skipstone::sampling::generate::Generator;

use super::cell::Cell;
use super::evaluation::{Evaluation, Run};
use super::report::report;
use super::results::Results;
use super::row::Row;
use super::score::Judge;

/// A cell with its options resolved.
#[derive(Debug)]
pub struct Task {
    /// The options.
    pub cell: Cell,
    /// What they resolve to.
    pub run: Run,
    /// Network calls per image, those of guidance included.
    pub calls: usize,
    /// Images still to be drawn, including those that repeat a latent.
    pub missing: u64,
}

/// What follows an evaluation.
pub trait Watcher {
    /// What the caller's own failures are.
    type Error: From<Error>;

    /// A cell begins.
    fn begins(&mut self, task: &Task);

    /// `calls` further network calls on one image are done.
    fn drawn(&mut self, calls: usize) -> ControlFlow<()>;

    /// Of the cell's images, which are all drawn, `images` further have features; 0 when this begins.
    fn scored(&mut self, images: usize) -> ControlFlow<()>;

    /// A cell is done, and its row in the folder.
    ///
    /// # Errors
    /// The caller's own, which end the work.
    fn row(&mut self, task: &Task, row: &Row) -> Result<(), Self::Error>;
}

/// An evaluation's cells and its results so far.
#[derive(Debug)]
pub struct Work {
    evaluation: Evaluation,
    /// The images of each cell that are drawn.
    part: Range<u64>,
    tasks: Vec<Task>,
    damaged: Vec<Error>,
    results: Results,
    /// Of the rows of this work.
    places: Vec<String>,
    finished: usize,
}

impl Work {
    /// The work on `cells`, whose options resolve to `runs`: of the images of each, those in `part` are drawn. What is in the
    /// folder is counted, and nothing is written.
    ///
    /// # Errors
    /// A folder of samples has something else in it.
    pub fn new(
        evaluation: Evaluation,
        generator: &Generator,
        cells: Vec<Cell>,
        runs: Vec<Run>,
        part: Range<u64>,
    ) -> Result<Self> {
        let (mut tasks, mut damaged) = (Vec::with_capacity(cells.len()), Vec::new());
        for (cell, run) in cells.into_iter().zip(runs) {
            let calls = generator.evaluations_of(&run.1)?;
            let (missing, broken) = evaluation.missing(&run, &part)?;
            damaged.extend(broken);
            tasks.push(Task { cell, run, calls, missing });
        }
        Ok(Self { evaluation, part, tasks, damaged, results: Results::default(), places: Vec::new(), finished: 0 })
    }

    /// The settings that the cells share.
    pub fn evaluation(&self) -> &Evaluation {
        &self.evaluation
    }

    /// The images of each cell that are drawn.
    pub fn part(&self) -> Range<u64> {
        self.part.clone()
    }

    /// The cells.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// The files of samples that cannot be read; their images are drawn again.
    pub fn damaged(&self) -> &[Error] {
        &self.damaged
    }

    /// Network calls on one image that are to be made.
    pub fn calls(&self) -> u64 {
        self.tasks.iter().map(|task| task.missing * task.calls as u64).sum()
    }

    /// Images that are to be drawn for the cell that lacks most, at least 1.
    pub fn most(&self) -> usize {
        let n = self.evaluation.images();
        self.tasks.iter().map(|task| task.missing).max().unwrap_or(0).clamp(1, n.end - n.start) as usize
    }

    /// How many cells are done.
    pub fn finished(&self) -> usize {
        self.finished
    }

    /// Makes the folder this process's own, as long as the lock lives: removes what a killed process left half-written, and reads
    /// the results of earlier runs. Needed for scores; images alone may be drawn by several processes.
    ///
    /// # Errors
    /// Another process has the folder, it cannot be written, or its results are broken.
    pub fn claim(&mut self) -> Result<Lock> {
        let root = self.evaluation.root();
        files::create_dir(root)?;
        let lock = files::lock(root)?;
        files::remove_stale_temporaries(root)?;
        files::remove_stale_temporaries(&root.join("pictures"))?;
        for kept in std::fs::read_dir(root.join("reference")).into_iter().flatten().flatten() {
            files::remove_stale_temporaries(&kept.path())?;
        }
        self.results = Results::read(root)?;
        Ok(lock)
    }

    /// Draws every cell, at most `batch` images at a time. With a judge, scores it as well, adds its row to the folder, compares
    /// the cells of each line of the table and writes the report. If a cell fails or the watcher stops the work, the rows before
    /// it are in the report.
    ///
    /// # Errors
    /// As [`Evaluation::draw`], [`Evaluation::score`] and the watcher.
    pub fn run<W: Watcher>(
        &mut self,
        generator: Generator,
        batch: usize,
        judge: Option<&Judge>,
        watcher: &mut W,
    ) -> Result<(), W::Error> {
        let done = self.cells(generator, batch, judge, watcher);
        if judge.is_none() {
            // Others may have changed the results since.
            return done;
        }
        if done.is_err() {
            // The first error is the one to report.
            drop(self.write_report());
            return done;
        }
        self.compare()?;
        self.results.write(self.evaluation.root())?;
        Ok(self.write_report()?)
    }

    fn cells<W: Watcher>(
        &mut self,
        mut generator: Generator,
        batch: usize,
        judge: Option<&Judge>,
        watcher: &mut W,
    ) -> Result<(), W::Error> {
        for task in &self.tasks {
            watcher.begins(task);
            let of_cell = |error: Error| {
                if error.is_stopped() { error } else { error.within(format_args!("cell {}", task.cell)) }
            };
            let drawn = &mut |drawn: super::Drawn| watcher.drawn(drawn.batch * drawn.evaluations);
            generator = self.evaluation.draw(generator, &task.run, &self.part, batch, drawn).map_err(of_cell)?;
            if let Some(judge) = judge {
                if watcher.scored(0).is_break() {
                    return Err(Error::stopped().into());
                }
                let seen = &mut |images| watcher.scored(images);
                let row = self.evaluation.score(&task.cell, &task.run, task.calls, judge, &self.results, seen);
                let row = row.map_err(of_cell)?;
                // Kept before it is told: the caller may fail to print it.
                self.places.push(row.place());
                self.results.put(row.clone());
                self.results.write(self.evaluation.root())?;
                watcher.row(task, &row)?;
            }
            self.finished += 1;
        }
        Ok(())
    }

    /// Measures the distance of every cell to the cell of its line with most steps.
    fn compare(&mut self) -> Result<()> {
        let of = |line: &Cell, other: &Cell| Cell { steps: line.steps, ..other.clone() } == *line;
        for task in &self.tasks {
            let line = self.tasks.iter().filter(|other| of(&task.cell, &other.cell));
            let most = line.max_by_key(|other| other.cell.steps).filter(|most| most.cell.steps > task.cell.steps);
            let Some(most) = most else { continue };
            let found = self.evaluation.distance(&task.run, &most.run)?;
            self.results.set_distance(&task.run.0, &self.evaluation.images(), found, most.cell.steps);
        }
        Ok(())
    }

    /// The rows of the cells that are done, in their order; after [`run`](Self::run) with the distances between them.
    pub fn rows(&self) -> Vec<&Row> {
        let all = self.results.rows();
        self.places.iter().filter_map(|place| all.iter().find(|row| row.place() == *place)).collect()
    }

    /// The file of the report.
    pub fn report(&self) -> PathBuf {
        self.evaluation.root().join("report.html")
    }

    fn write_report(&self) -> Result<()> {
        if self.results.rows().is_empty() {
            return Ok(());
        }
        files::write_bytes(&self.report(), report(&self.results, self.evaluation.root())?.as_bytes())
    }
}
