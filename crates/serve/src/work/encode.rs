//! An image to the latent it comes from: what `skipstone encode` does.

use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array4, Axis};
use skipstone::generate::{Generator, Inputs};
use skipstone::image::npy;
use skipstone::inversion::{Latents, Method};

use super::run::Course;
use super::{Answer, Work};
use crate::api::{EncodeRequest, Encoded, base64, image_png};
use crate::core::{Cancel, Failure, Served, Task};
use crate::limits::Limits;

/// A checked request to encode.
#[derive(Debug)]
pub struct EncodeWork {
    served: Arc<Served>,
    generator: Generator,
    x0: Array4<f32>,
    command: String,
}

impl EncodeWork {
    /// Checks a request about the image `x0`, `[1, c, h, w]`, to this model; `file` is what the command calls it.
    ///
    /// # Errors
    /// What is beyond the limits, or means nothing for the model.
    pub fn new(
        served: Arc<Served>,
        request: &EncodeRequest,
        (x0, file): (Array4<f32>, &str),
        limits: &Limits,
        cancel: &Cancel,
    ) -> Result<Self, Failure> {
        limits.check_steps(request.options.steps_of(served.timesteps))?;
        let generator = served.generator(&request.options.clone().unclipped(), Inputs::default(), (0, 1), cancel)?;
        Method::Ddim.check(generator.plan())?;
        let command = request.command(&served.words(), file);
        Ok(Self { served, generator, x0, command })
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

    fn run(self: Box<Self>, task: &Task) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let encoded = Course::new(task, self.served.network()).encode(&self.generator, &self.x0)?;
        let seconds = begun.elapsed().as_secs_f64();
        let Latents::One(x_t) = encoded.latents else {
            return Err(Failure::Internal("plain encoding gave pairs of latents".to_owned()));
        };
        let mut file = Vec::new();
        npy::encode(&mut file, x_t.view()).map_err(|e| Failure::Internal(e.to_string()))?;
        Ok(Answer::Encoded(Encoded {
            latent: base64(&file),
            png: image_png(self.x0.index_axis(Axis(0), 0))?,
            calls: self.calls() as usize,
            seconds,
            command: self.command.clone(),
        }))
    }
}
