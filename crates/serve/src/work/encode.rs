//! An image to the latent it comes from: what `skipstone encode` does.

use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array4, Axis};
use skipstone::io::image::npy;
use skipstone::sampling::generate::Generator;
use skipstone::sampling::inversion::Method;

use super::context::Context;
use super::request::{SourceImages, WorkRequest};
use super::task_run::TaskRun;
use crate::api::{Answer, EncodeRequest, Encoded, base64, image_png};
use crate::core::{EventSink, Failure, ServedModel, Task, Work};

/// A checked request to encode.
#[derive(Debug)]
pub struct EncodeWork {
    model: Arc<ServedModel>,
    generator: Generator,
    x0: Array4<f32>,
    command: String,
}

impl WorkRequest for EncodeRequest {
    type Work = EncodeWork;

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn test_image(&self) -> Option<usize> {
        Some(self.test_image)
    }

    fn check(self, context: Context, images: Option<SourceImages>) -> Result<EncodeWork, Failure> {
        let SourceImages { x0, files } = SourceImages::required(images)?;
        context.check_steps(self.options.steps_of(context.model.timesteps))?;
        let generator = context.generator(&self.options.clone().unclipped(), 0, 1)?;
        Method::Ddim.check(generator.plan())?;
        let command = self.command(&context.model.model_flag(), &files[0]);
        Ok(EncodeWork { model: context.model, generator, x0, command })
    }
}

impl Work for EncodeWork {
    fn kind(&self) -> &'static str {
        "encode"
    }

    fn calls(&self) -> u64 {
        (self.generator.plan().steps().len() * self.generator.calls_per_step()) as u64
    }

    fn rows(&self) -> u64 {
        self.calls()
    }

    fn run(self: Box<Self>, task: &Task, _: Option<&EventSink>) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let x_t = TaskRun::new(task, self.model.network()).encode(&self.generator, &self.x0)?;
        let seconds = begun.elapsed().as_secs_f64();
        let mut file = Vec::new();
        npy::encode(&mut file, x_t.view()).map_err(|e| Failure::Internal(e.to_string()))?;
        Ok(Answer::Encoded(Encoded {
            latent: base64(&file),
            png: image_png(self.x0.index_axis(Axis(0), 0))?,
            calls: self.calls() as usize,
            seconds,
            command: self.command,
        }))
    }
}
