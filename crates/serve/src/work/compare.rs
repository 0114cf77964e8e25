//! The same latents under several steps and η: the paper's §5.2 as a table.

use std::sync::Arc;
use std::time::Instant;

use skipstone::generate::{Generator, Inputs};
use skipstone::image::near_square;

use super::run::Course;
use super::{Answer, Plan, Show, Work};
use crate::api::{Cell, ComparePlan, CompareRequest, Comparison, Tile, grid_png};
use crate::core::{Cancel, Failure, Served, Task};
use crate::limits::Limits;

/// Cells of one request.
const MOST_CELLS: usize = 64;

/// A checked request to compare.
pub struct CompareWork {
    served: Arc<Served>,
    cells: Vec<Wanted>,
    n: usize,
    plan: ComparePlan,
    show: Option<Show>,
}

struct Wanted {
    steps: usize,
    eta: f64,
    generator: Generator,
    command: String,
}

impl CompareWork {
    /// Checks a request to this model.
    ///
    /// # Errors
    /// What is beyond the limits, or means nothing for the model.
    pub fn new(
        served: Arc<Served>,
        request: &CompareRequest,
        limits: &Limits,
        cancel: &Cancel,
    ) -> Result<Self, Failure> {
        let n = request.n;
        let (steps, etas) = (request.steps.clone(), request.etas.clone());
        let count = steps.len().saturating_mul(etas.len());
        if count == 0 || count > MOST_CELLS {
            return Err(Failure::Refused(format!("steps: times eta make {count} cells; expected 1 to {MOST_CELLS}")));
        }
        limits.check_images(n, served.shape())?;
        let all = n.saturating_mul(count);
        limits.check_images(all, served.shape()).map_err(|_| {
            let most = limits.most_images(served.shape());
            Failure::Refused(format!("n: {count} cells of {n} are {all} images; expected at most {most} in all"))
        })?;
        let mut cells = Vec::with_capacity(count);
        for &steps in &steps {
            limits.check_steps(steps)?;
            for &eta in &etas {
                let request = request.sample(steps, eta)?;
                let generator = served.generator(&request.options, Inputs::default(), (0, n), cancel)?;
                cells.push(Wanted { steps, eta, generator, command: request.command(&served.words()) });
            }
        }
        let calls = cells.iter().map(|cell| cell.generator.calls() * cell.generator.calls_per_step()).sum();
        let (columns, tile) = (near_square(n), Tile::of(served.shape()));
        let plan = ComparePlan { steps, eta: etas, n, columns, tile, calls };
        Ok(Self { served, cells, n, plan, show: None })
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

    fn watch(&mut self, show: Show) {
        self.show = Some(show);
    }

    fn run(self: Box<Self>, task: &Task) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let columns = near_square(self.n);
        let mut course = Course::new(task, self.served.network());
        let mut cells = Vec::with_capacity(self.cells.len());
        for Wanted { steps, eta, generator, command } in &self.cells {
            let begun = Instant::now();
            let x0 = course.generate(generator, 0..self.n as u64, |_, _| ())?;
            let cell = Cell {
                steps: *steps,
                eta: *eta,
                png: grid_png(&x0, columns, &generator.settings().to_texts())?,
                calls: generator.calls() * generator.calls_per_step(),
                seconds: begun.elapsed().as_secs_f64(),
                command: command.clone(),
            };
            if let Some(show) = &self.show {
                show.cell(cell);
            } else {
                cells.push(cell);
            }
        }
        Ok(Answer::Comparison(Comparison {
            cells,
            columns,
            n: self.n,
            calls: self.plan.calls,
            model: self.served.id.clone(),
            seconds: begun.elapsed().as_secs_f64(),
        }))
    }
}
