//! The same latents under several steps and η: the paper's §5.2 as a table.

use std::sync::Arc;
use std::time::Instant;

use skipstone::io::image::near_square;
use skipstone::sampling::generate::Generator;

use super::context::Context;
use super::request::{SourceImages, WorkRequest};
use super::task_run::TaskRun;
use crate::api::{Answer, Cell, ComparePlan, CompareRequest, Comparison, Plan, Tile, grid_png};
use crate::core::{EventSink, Failure, ServedModel, Task, Work};

/// Most cells of one request.
const MOST_CELLS: usize = 64;

/// A checked request to compare.
pub struct CompareWork {
    model: Arc<ServedModel>,
    cells: Vec<CheckedCell>,
    n: usize,
    plan: ComparePlan,
}

/// A cell that has been checked.
struct CheckedCell {
    steps: usize,
    eta: f64,
    generator: Generator,
    command: String,
}

impl WorkRequest for CompareRequest {
    type Work = CompareWork;

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn check(self, context: Context, _: Option<SourceImages>) -> Result<CompareWork, Failure> {
        let (n, steps, etas) = (self.n, self.steps.clone(), self.etas.clone());
        let count = steps.len().saturating_mul(etas.len());
        if count == 0 || count > MOST_CELLS {
            return Err(Failure::Refused(format!("steps: times eta make {count} cells; expected 1 to {MOST_CELLS}")));
        }
        context.check_images(n)?;
        let all = n.saturating_mul(count);
        context.check_images(all).map_err(|_| {
            let most = context.most_images();
            Failure::Refused(format!("n: {count} cells of {n} are {all} images; expected at most {most} in all"))
        })?;
        let mut cells = Vec::with_capacity(count);
        for &steps in &steps {
            context.check_steps(steps)?;
            for &eta in &etas {
                let request = self.sample(steps, eta)?;
                let generator = context.generator(&request.options, 0, n)?;
                let command = request.command(&context.model.model_flag());
                cells.push(CheckedCell { steps, eta, generator, command });
            }
        }
        let calls = cells.iter().map(|cell| cell.generator.calls() * cell.generator.calls_per_step()).sum();
        let (columns, tile) = (near_square(n), Tile::of(context.model.shape()));
        let plan = ComparePlan { steps, eta: etas, n, columns, tile, calls };
        Ok(CompareWork { model: context.model, cells, n, plan })
    }
}

impl Work for CompareWork {
    fn kind(&self) -> &'static str {
        "compare"
    }

    fn calls(&self) -> u64 {
        self.plan.calls as u64
    }

    fn rows(&self) -> u64 {
        self.calls() * self.n as u64
    }

    fn plan(&self) -> Option<Plan> {
        Some(Plan::Compare(self.plan.clone()))
    }

    fn run(self: Box<Self>, task: &Task, events: Option<&EventSink>) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let columns = near_square(self.n);
        let mut run = TaskRun::new(task, self.model.network());
        let mut cells = Vec::with_capacity(self.cells.len());
        for CheckedCell { steps, eta, generator, command } in &self.cells {
            let begun = Instant::now();
            let x0 = run.generate(generator, 0..self.n as u64, |_, _| ())?;
            let cell = Cell {
                steps: *steps,
                eta: *eta,
                png: grid_png(&x0, columns, &generator.settings().to_texts())?,
                calls: generator.calls() * generator.calls_per_step(),
                seconds: begun.elapsed().as_secs_f64(),
                command: command.clone(),
            };
            if let Some(events) = events {
                events.cell(cell);
            } else {
                cells.push(cell);
            }
        }
        Ok(Answer::Comparison(Comparison {
            cells,
            columns,
            n: self.n,
            calls: self.plan.calls,
            model: self.model.id.clone(),
            seconds: begun.elapsed().as_secs_f64(),
        }))
    }
}
