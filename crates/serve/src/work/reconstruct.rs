//! An image encoded and decoded: what `skipstone reconstruct` does.

use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array4, Axis};
use skipstone::sampling::generate::{Generator, Inputs};
use skipstone::sampling::inversion::{Method, squared_errors};
use skipstone::sampling::options::Request;

use super::context::Context;
use super::request::{SourceImages, WorkRequest};
use super::task_run::TaskRun;
use crate::api::{Answer, Plan, Png, ReconstructPlan, ReconstructRequest, Reconstructed, Reconstruction, image_png};
use crate::core::{EventSink, Failure, ServedModel, Task, Work};

/// Most numbers of steps of one request.
const MOST_ROWS: usize = 12;
/// Standard deviations of a latent that are drawn black and white; latents are nearly Gaussian.
const SPREAD: f32 = 3.0;

/// A checked request to reconstruct.
pub struct ReconstructWork {
    model: Arc<ServedModel>,
    /// A generator for each number of steps.
    runs: Vec<(usize, Generator)>,
    x0: Array4<f32>,
    original: Png,
    command: String,
}

impl WorkRequest for ReconstructRequest {
    type Work = ReconstructWork;

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn test_image(&self) -> Option<usize> {
        Some(self.test_image)
    }

    fn check(self, context: Context, images: Option<SourceImages>) -> Result<ReconstructWork, Failure> {
        let SourceImages { x0, files } = SourceImages::required(images)?;
        let steps = self.steps(context.model.timesteps as usize);
        if steps.is_empty() || steps.len() > MOST_ROWS {
            let found = steps.len();
            return Err(Failure::Refused(format!("steps: expected 1 to {MOST_ROWS} numbers, found {found}")));
        }
        let mut runs = Vec::with_capacity(steps.len());
        for &steps in &steps {
            context.check_steps(steps)?;
            let request = Request { steps: Some(steps), ..self.options.clone().unclipped() };
            let generator = context.generator(&request, 0, 1)?;
            Method::Ddim.check(generator.plan())?;
            runs.push((steps, generator));
        }
        let command = self.command(&context.model.model_flag(), &steps, &files[0]);
        let original = image_png(x0.index_axis(Axis(0), 0))?;
        Ok(ReconstructWork { model: context.model, runs, x0, original, command })
    }
}

impl Work for ReconstructWork {
    fn kind(&self) -> &'static str {
        "reconstruct"
    }

    fn calls(&self) -> u64 {
        let calls =
            |generator: &Generator| (generator.plan().steps().len() + generator.calls()) * generator.calls_per_step();
        self.runs.iter().map(|(_, generator)| calls(generator) as u64).sum()
    }

    fn rows(&self) -> u64 {
        self.calls()
    }

    fn plan(&self) -> Option<Plan> {
        Some(Plan::Reconstruct(ReconstructPlan {
            original: self.original.clone(),
            steps: self.runs.iter().map(|(steps, _)| *steps).collect(),
            calls: self.calls() as usize,
            command: self.command.clone(),
        }))
    }

    fn run(self: Box<Self>, task: &Task, events: Option<&EventSink>) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let calls = self.calls() as usize;
        let mut run = TaskRun::new(task, self.model.network());
        let mut rows = Vec::with_capacity(self.runs.len());
        for (steps, generator) in self.runs {
            let x_t = run.encode(&generator, &self.x0)?;
            let latent_png = image_png((&x_t / SPREAD).index_axis(Axis(0), 0))?;
            // The latents are inputs of the way back, by the same steps.
            let inputs = Inputs { latents: Some(x_t), ..Inputs::default() };
            let back = run.generate(&generator.with_inputs(inputs, 0, 1)?, 0..1, |_, _| ())?;
            let mse = squared_errors(&self.x0, &back)?[0];
            let row = Reconstructed { steps, png: image_png(back.index_axis(Axis(0), 0))?, latent_png, mse };
            if let Some(events) = events {
                events.row(row.clone());
            }
            rows.push(row);
        }
        Ok(Answer::Reconstruction(Reconstruction {
            original: self.original,
            rows,
            calls,
            seconds: begun.elapsed().as_secs_f64(),
            command: self.command,
        }))
    }
}
