//! The context in which a request is checked.

use std::sync::Arc;

use skipstone::sampling::generate::{Generator, Inputs};
use skipstone::sampling::options::Request;
use skipstone::sampling::sampler::Plan;

use crate::api::{Answer, Limits, RequestKind};
use crate::core::{Cancel, EventSink, Failure, ServedModel, Task, Work};

/// The model of a request, the limits, and the flag that will cancel its work.
#[derive(Clone, Debug)]
pub struct Context {
    /// The model.
    pub model: Arc<ServedModel>,
    /// The model that guides it.
    pub guide: Option<Arc<ServedModel>>,
    /// The limits of one request.
    pub limits: Limits,
    /// Cancels the work.
    pub cancel: Cancel,
}

/// Images of a request that names no number of them.
const USUAL_IMAGES: usize = 16;

impl Context {
    /// A generator of `n` images from index `first`.
    ///
    /// # Errors
    /// The options are not valid for the model, or a restart or a spacing makes more steps than a run may have.
    pub(super) fn generator(&self, request: &Request, first: u64, n: usize) -> Result<Generator, Failure> {
        let most = self.limits.steps;
        let check = |plan: &Plan| match plan.steps().len() {
            steps if steps <= most => Ok(()),
            steps if request.restart.is_some() => Err(Failure::Refused(format!(
                "restart: with the repeated ones, the run has {steps} steps; expected at most {most}"
            ))),
            steps => Err(Failure::Refused(format!(
                "spacing: the run has {steps} steps with this spacing; expected at most {most}"
            ))),
        };
        self.model.generator(request, self.guide.as_deref(), Inputs::default(), (first, n), &self.cancel, check)
    }

    /// Work of kind `K` that nobody can watch.
    pub(super) fn work<K: RequestKind>(
        self,
        (calls, rows): (usize, usize),
        run: impl FnOnce(&Task, Option<&EventSink>) -> Result<Answer, Failure> + Send + 'static,
    ) -> Work {
        let (model, cancel, run) = (self.model, self.cancel, Box::new(run));
        Work { kind: K::NAME, model, cancel, calls, rows, plan: None, frame_bytes: 1, fingerprint: None, run }
    }

    /// Refuses 0 images, and more than a request may have.
    pub(super) fn check_images(&self, n: usize) -> Result<(), Failure> {
        if n == 0 || n > self.limits.n {
            return Err(Failure::Refused(format!("n: expected 1 to {}, found {n}", self.limits.n)));
        }
        let most = self.most_images();
        if n > most {
            let [_, h, w] = self.model.shape();
            return Err(Failure::Refused(format!("n: expected at most {most} images of {h}×{w} pixels, found {n}")));
        }
        Ok(())
    }

    /// Most images that a request may have.
    pub(super) fn most_images(&self) -> usize {
        let [_, h, w] = self.model.shape();
        let of_pixels = self.limits.pixels / (h * w).max(1) as u64;
        self.limits.n.min(usize::try_from(of_pixels).unwrap_or(usize::MAX))
    }

    /// The number of images of a request that names none. A limit does not refuse it.
    pub(super) fn usual_images(&self) -> usize {
        self.most_images().clamp(1, USUAL_IMAGES)
    }

    /// Refuses 0 steps, and more than a run may have.
    pub(super) fn check_steps(&self, steps: usize) -> Result<(), Failure> {
        if steps == 0 || steps > self.limits.steps {
            return Err(Failure::Refused(format!("steps: expected 1 to {}, found {steps}", self.limits.steps)));
        }
        Ok(())
    }

    /// Refuses a request for 0 steps, and for more than a run may have.
    pub(super) fn check_steps_of(&self, request: &Request) -> Result<(), Failure> {
        match &request.times {
            Some(times) if times.is_empty() || times.len() > self.limits.steps => Err(Failure::Refused(format!(
                "times: expected 1 to {} timesteps, found {}",
                self.limits.steps,
                times.len()
            ))),
            _ => self.check_steps(request.steps_of(self.model.model.scheduler.default_steps())),
        }
    }
}
