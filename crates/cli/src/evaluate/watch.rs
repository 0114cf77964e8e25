//! The bars and lines of a running evaluation.

use std::ops::ControlFlow;

use indicatif::ProgressBar;
use serde_json::json;
use skipstone_eval::table::{Row, Task, Watcher};

use super::EvaluateArguments;
use super::table::line;
use crate::failure::{Stdout, emit};
use crate::interrupt;

/// What is shown: a bar for all network calls, one for the images that are scored, and the lines of the table.
pub struct Shown<'a> {
    arguments: &'a EvaluateArguments,
    drawing: ProgressBar,
    scoring: Option<ProgressBar>,
}

impl<'a> Shown<'a> {
    /// Begins with `calls` network calls to make.
    pub fn new(arguments: &'a EvaluateArguments, calls: u64) -> Self {
        Self { arguments, drawing: crate::bars::bar("drawing", 0, calls), scoring: None }
    }

    fn end_scoring(&mut self) {
        if let Some(bar) = self.scoring.take() {
            bar.finish_and_clear();
        }
    }
}

impl Watcher for Shown<'_> {
    type Error = anyhow::Error;

    fn begins(&mut self, task: &Task) {
        self.drawing.set_message(task.cell.to_string());
    }

    fn drawn(&mut self, calls: usize) -> ControlFlow<()> {
        self.drawing.inc(calls as u64);
        interrupt::flow()
    }

    fn scored(&mut self, images: usize) -> ControlFlow<()> {
        let n = self.arguments.n;
        self.scoring.get_or_insert_with(|| crate::bars::bar("scoring", 0, n)).inc(images as u64);
        interrupt::flow()
    }

    fn row(&mut self, task: &Task, row: &Row) -> anyhow::Result<()> {
        self.end_scoring();
        let text = if self.arguments.common.json { json!(row).to_string() } else { line(&task.cell, row) };
        crate::bars::above(|| emit(text)).map_err(Stdout::unfinished)?;
        Ok(())
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.end_scoring();
        self.drawing.finish_and_clear();
    }
}
