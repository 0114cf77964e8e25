//! Images out of noise: what `skipstone sample` does.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use sha2::{Digest, Sha256};
use skipstone::generate::{Generator, Inputs};
use skipstone::image::near_square;

use super::run::Course;
use super::{Answer, Plan, Show, Work};
use crate::api::{PlanEvent, Sample, SampleRequest, grid_png};
use crate::core::{Cancel, Failure, Served, Task};
use crate::limits::Limits;

/// A checked request to sample.
#[derive(Debug)]
pub struct SampleWork {
    served: Arc<Served>,
    generator: Generator,
    first: u64,
    n: usize,
    command: String,
    show: Option<Show>,
}

impl SampleWork {
    /// Checks a request to this model.
    ///
    /// # Errors
    /// What is beyond the limits, or means nothing for the model.
    pub fn new(
        served: Arc<Served>,
        request: &SampleRequest,
        limits: &Limits,
        cancel: &Cancel,
    ) -> Result<Self, Failure> {
        let (n, first) = (request.n, request.first);
        limits.check_images(n, served.shape())?;
        limits.check_steps(request.options.steps_of(served.timesteps))?;
        let generator = served.generator(&request.options, Inputs::default(), (first, n), cancel)?;
        let command = request.command(&served.words());
        Ok(Self { served, generator, first, n, command, show: None })
    }

    /// What the picture depends on, in 32 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        let mut options = self.generator.settings().to_json();
        options.insert("range".to_owned(), json!([self.first, self.n]));
        // The same weights may be given another schedule.
        options.insert("scheduler".to_owned(), json!(format!("{:?}", self.served.model.scheduler)));
        let text = serde_json::Value::Object(options).to_string() + env!("CARGO_PKG_VERSION");
        Sha256::digest(text.as_bytes())[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Work for SampleWork {
    fn kind(&self) -> &'static str {
        "sample"
    }

    fn calls(&self) -> u64 {
        (self.generator.calls() * self.generator.calls_per_step()) as u64
    }

    fn rows(&self) -> u64 {
        self.calls() * self.n as u64
    }

    fn plan(&self) -> Option<Plan> {
        Some(Plan::Sample(PlanEvent::of(&self.generator, self.n, &self.command)))
    }

    fn frame_bytes(&self) -> usize {
        4 * self.n * self.generator.shape().iter().product::<usize>()
    }

    fn watch(&mut self, show: Show) {
        self.show = Some(show);
    }

    fn run(self: Box<Self>, task: &Task) -> Result<Answer, Failure> {
        let (generator, n) = (&self.generator, self.n);
        let begun = Instant::now();
        let mut course = Course::new(task, self.served.network());
        let x0 = course.generate(generator, self.first..self.first + n as u64, |call, progress| {
            if let Some(show) = &self.show {
                show.step(call, progress.t, progress.x0, near_square(n), begun.elapsed().as_secs_f64());
            }
        })?;
        let seconds = begun.elapsed().as_secs_f64();
        let mut texts = generator.settings().to_texts();
        texts.push(("first".to_owned(), self.first.to_string()));
        texts.push(("n".to_owned(), n.to_string()));
        let (columns, calls) = (near_square(n), generator.calls() * generator.calls_per_step());
        Ok(Answer::Sample(Sample {
            id: task.id.clone(),
            png: grid_png(&x0, columns, &texts)?,
            columns,
            n,
            calls,
            seconds,
            ddpm_seconds: seconds * f64::from(self.served.timesteps) / calls.max(1) as f64,
            times: generator.settings().times.clone(),
            model: self.served.id.clone(),
            command: self.command.clone(),
        }))
    }
}
