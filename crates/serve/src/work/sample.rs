//! Images out of noise: what `skipstone sample` does.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use sha2::{Digest, Sha256};
use skipstone::io::image::near_square;
use skipstone::sampling::generate::Generator;

use super::context::Context;
use super::request::{SourceImages, WorkRequest};
use super::task_run::TaskRun;
use crate::api::{Answer, Plan, PlanEvent, Sample, SampleRequest, grid_png};
use crate::core::{EventSink, Failure, ServedModel, Task, Work};

/// A checked request to sample.
#[derive(Debug)]
pub struct SampleWork {
    model: Arc<ServedModel>,
    generator: Generator,
    first: u64,
    n: usize,
    command: String,
}

impl WorkRequest for SampleRequest {
    type Work = SampleWork;

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn check(self, context: Context, _: Option<SourceImages>) -> Result<SampleWork, Failure> {
        let (n, first) = (self.n, self.first);
        context.check_images(n)?;
        context.check_steps(self.options.steps_of(context.model.timesteps))?;
        let generator = context.generator(&self.options, first, n)?;
        let command = self.command(&context.model.model_flag());
        Ok(SampleWork { model: context.model, generator, first, n, command })
    }
}

impl SampleWork {
    /// A hash of everything that the picture depends on, in 32 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        let mut options = self.generator.settings().to_json();
        options.insert("range".to_owned(), json!([self.first, self.n]));
        // The same weights may be given another schedule.
        options.insert("scheduler".to_owned(), json!(format!("{:?}", self.model.model.scheduler)));
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

    fn run(self: Box<Self>, task: &Task, events: Option<&EventSink>) -> Result<Answer, Failure> {
        let (generator, n) = (&self.generator, self.n);
        let (columns, calls) = (near_square(n), self.calls() as usize);
        let begun = Instant::now();
        let mut run = TaskRun::new(task, self.model.network());
        let x0 = run.generate(generator, self.first..self.first + n as u64, |call, progress| {
            if let Some(events) = events {
                events.step(call, progress.t, progress.x0, columns, begun.elapsed().as_secs_f64());
            }
        })?;
        let seconds = begun.elapsed().as_secs_f64();
        let mut texts = generator.settings().to_texts();
        texts.push(("first".to_owned(), self.first.to_string()));
        texts.push(("n".to_owned(), n.to_string()));
        Ok(Answer::Sample(Sample {
            id: task.id.clone(),
            png: grid_png(&x0, columns, &texts)?,
            columns,
            n,
            calls,
            seconds,
            ddpm_seconds: seconds * f64::from(self.model.timesteps) / calls.max(1) as f64,
            times: generator.settings().times.clone(),
            model: self.model.id.clone(),
            command: self.command,
        }))
    }
}
