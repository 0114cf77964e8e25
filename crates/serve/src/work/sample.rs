//! Images out of noise: what `skipstone sample` does.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use sha2::{Digest, Sha256};
use skipstone::generate::{Generator, Inputs};
use skipstone::image::near_square;

use super::run::Course;
use super::{Answer, Frame, Frames, Work};
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
    frames: Option<Frames>,
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
        let (n, first) = (request.n(), request.first());
        limits.check_images(n, served.shape())?;
        limits.check_steps(request.steps())?;
        let generator = served.generator(&request.request()?, Inputs::default(), (first, n), cancel)?;
        let command = request.command(&served.words());
        Ok(Self { served, generator, first, n, command, frames: None })
    }

    /// The same, which shows what becomes of the images.
    pub fn with_frames(self, frames: Frames) -> Self {
        Self { frames: Some(frames), ..self }
    }

    /// Bytes of a frame.
    pub fn frame_bytes(&self) -> usize {
        4 * self.n * self.generator.shape().iter().product::<usize>()
    }

    /// What will be done.
    pub fn plan(&self) -> PlanEvent {
        PlanEvent::of(&self.generator, self.n, &self.command)
    }

    /// What the picture depends on, in 32 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        let mut options = self.generator.settings().to_json();
        options.insert("range".to_owned(), json!([self.first, self.n]));
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

    fn run(self: Box<Self>, task: &Task) -> Result<Answer, Failure> {
        let (generator, n) = (&self.generator, self.n);
        let begun = Instant::now();
        let mut course = Course::new(task, self.served.network());
        let x0 = course.generate(generator, self.first..self.first + n as u64, |call, progress| {
            if let Some(frames) = &self.frames {
                let seconds = begun.elapsed().as_secs_f64();
                frames.show(|| Frame { call, t: progress.t, x0: progress.x0.clone(), seconds });
            }
        })?;
        let seconds = begun.elapsed().as_secs_f64();
        let mut texts = generator.settings().to_texts();
        texts.push(("first".to_owned(), self.first.to_string()));
        texts.push(("n".to_owned(), n.to_string()));
        let columns = near_square(n);
        Ok(Answer::Sample(Sample {
            id: task.id.clone(),
            png: grid_png(&x0, columns, &texts)?,
            columns,
            n,
            calls: generator.calls() * generator.calls_per_step(),
            seconds,
            times: generator.settings().times.clone(),
            model: self.served.id.clone(),
            command: self.command.clone(),
        }))
    }
}
