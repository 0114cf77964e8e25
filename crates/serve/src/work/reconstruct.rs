//! An image encoded and decoded: what `skipstone reconstruct` does.

use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array4, Axis};
use skipstone::generate::{Generator, Inputs};
use skipstone::inversion::{Latents, Method, squared_errors};
use skipstone::options::Request;

use super::run::Course;
use super::{Answer, Plan, Show, Work};
use crate::api::{Png, ReconstructPlan, ReconstructRequest, Reconstructed, Reconstruction, image_png};
use crate::core::{Cancel, Failure, Served, Task};
use crate::limits::Limits;

/// Numbers of steps of one request.
const MOST_ROWS: usize = 12;
/// Latents are nearly Gaussian: so many standard deviations are black and white.
const SPREAD: f32 = 3.0;

/// A checked request to reconstruct.
pub struct ReconstructWork {
    served: Arc<Served>,
    /// One for each number of steps.
    runs: Vec<(usize, Generator)>,
    x0: Array4<f32>,
    original: Png,
    command: String,
    show: Option<Show>,
}

impl ReconstructWork {
    /// Checks a request about the image `x0`, `[1, c, h, w]`, to this model; `file` is what the command calls it.
    ///
    /// # Errors
    /// What is beyond the limits, or means nothing for the model.
    pub fn new(
        served: Arc<Served>,
        request: &ReconstructRequest,
        (x0, file): (Array4<f32>, &str),
        limits: &Limits,
        cancel: &Cancel,
    ) -> Result<Self, Failure> {
        let steps = request.steps(served.timesteps as usize);
        if steps.is_empty() || steps.len() > MOST_ROWS {
            let found = steps.len();
            return Err(Failure::Refused(format!("steps: expected 1 to {MOST_ROWS} numbers, found {found}")));
        }
        let mut runs = Vec::with_capacity(steps.len());
        for &steps in &steps {
            limits.check_steps(steps)?;
            let request = Request { steps: Some(steps), ..request.options.clone().unclipped() };
            let generator = served.generator(&request, Inputs::default(), (0, 1), cancel)?;
            Method::Ddim.check(generator.plan())?;
            runs.push((steps, generator));
        }
        let command = request.command(&served.words(), &steps, file);
        let original = image_png(x0.index_axis(Axis(0), 0))?;
        Ok(Self { served, runs, x0, original, command, show: None })
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

    fn watch(&mut self, show: Show) {
        self.show = Some(show);
    }

    fn run(self: Box<Self>, task: &Task) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let calls = self.calls() as usize;
        let mut course = Course::new(task, self.served.network());
        let mut rows = Vec::with_capacity(self.runs.len());
        for (steps, generator) in self.runs {
            let Latents::One(x_t) = course.encode(&generator, &self.x0)?.latents else {
                return Err(Failure::Internal("plain encoding gave pairs of latents".to_owned()));
            };
            let latent_png = image_png((&x_t / SPREAD).index_axis(Axis(0), 0))?;
            // The latents are inputs of the way back, by the same steps.
            let inputs = Inputs { latents: Some(x_t), ..Inputs::default() };
            let back = course.generate(&generator.with_inputs(inputs, 0, 1)?, 0..1, |_, _| ())?;
            let mse = squared_errors(&self.x0, &back)?[0];
            let row = Reconstructed { steps, png: image_png(back.index_axis(Axis(0), 0))?, latent_png, mse };
            if let Some(show) = &self.show {
                show.row(row.clone());
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
