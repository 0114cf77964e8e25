//! The same latents with several numbers of steps and several η: the paper's §5.2 as a table.

use std::time::Instant;

use skipstone::io::image::near_square;

use super::context::Context;
use super::request::{SourceImages, WorkKind};
use super::task_run::TaskRun;
use crate::api::{Answer, ApiRequest, CompareFields, ComparePlan, Comparison, ComparisonCell, Plan, Tile, grid_png};
use crate::core::{Failure, Work};

/// Most cells of one request.
const MOST_CELLS: usize = 64;

impl WorkKind for CompareFields {
    fn check(request: ApiRequest<Self>, context: Context, _: Option<SourceImages>) -> Result<Work, Failure> {
        let CompareFields { steps, etas, n } = request.own.clone();
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
                let sample = request.sample(steps, eta)?;
                let generator = context.generator(&sample.options, 0, n)?;
                cells.push((steps, eta, generator, sample.command(&context.model.model_flag(), n)));
            }
        }
        let calls = cells.iter().map(|(.., generator, _)| generator.evaluations()).sum();
        let (model, columns) = (context.model.clone(), near_square(n));
        let plan = ComparePlan { steps, eta: etas, n, columns, tile: Tile::of(model.shape()), calls };
        let work = context.work::<Self>((calls, calls * n), move |task, events| {
            let begun = Instant::now();
            let mut run = TaskRun::new(task, model.network());
            let mut kept = Vec::with_capacity(cells.len());
            for (steps, eta, generator, command) in cells {
                let begun = Instant::now();
                let x0 = run.generate(&generator, 0..n as u64, |_, _| ())?;
                let cell = ComparisonCell {
                    steps,
                    eta,
                    png: grid_png(&x0, columns, &generator.settings().to_texts())?,
                    calls: generator.evaluations(),
                    seconds: begun.elapsed().as_secs_f64(),
                    command,
                };
                match events {
                    Some(events) => events.cell(cell),
                    None => kept.push(cell),
                }
            }
            let (model, seconds) = (model.id.clone(), begun.elapsed().as_secs_f64());
            Ok(Answer::Comparison(Comparison { cells: kept, columns, n, calls, model, seconds }))
        });
        Ok(Work { plan: Some(Plan::Compare(plan)), ..work })
    }
}
