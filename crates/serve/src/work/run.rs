//! Running a generator for a task: its progress, its end.

use std::ops::{ControlFlow, Range};

use ndarray::Array4;
use skipstone::generate::Generator;
use skipstone::inversion::{Encoded, Method, encode};
use skipstone::sampler::{Outcome, Progress};

use crate::core::{Failure, SharedNetwork, Task};

/// A task's network calls over several runs.
pub struct Course<'a> {
    task: &'a Task,
    network: &'a SharedNetwork,
    /// Calls of the runs behind.
    before: u64,
}

impl<'a> Course<'a> {
    /// At its start.
    pub fn new(task: &'a Task, network: &'a SharedNetwork) -> Self {
        Self { task, network, before: 0 }
    }

    /// Makes images; `show` sees every step, and the task's calls until then.
    pub fn generate(
        &mut self,
        generator: &Generator,
        images: Range<u64>,
        mut show: impl FnMut(usize, &Progress<'_>),
    ) -> Result<Array4<f32>, Failure> {
        let _inside = self.network.enter();
        let outcome = generator.generate(images, &mut |progress| {
            let calls = generator.calls_after(progress.step) * generator.calls_per_step();
            let calls = self.before + calls as u64;
            self.task.set_done_calls(calls);
            show(calls as usize, progress);
            self.flow()
        })?;
        self.before += (generator.calls() * generator.calls_per_step()) as u64;
        match outcome {
            Outcome::Finished(images) => Ok(images),
            Outcome::Stopped(_) => Err(stopped()),
        }
    }

    /// Takes images to latents by plain encoding.
    pub fn encode(&mut self, generator: &Generator, x0: &Array4<f32>) -> Result<Encoded, Failure> {
        let _inside = self.network.enter();
        let conditions = generator.conditions(0..x0.dim().0 as u64);
        let each = generator.calls_per_step() as u64;
        let encoded = encode(generator.network(), generator.plan(), x0, &Method::Ddim, &conditions, &mut |progress| {
            self.task.set_done_calls(self.before + progress.calls as u64 * each);
            self.flow()
        })?;
        self.before += generator.plan().steps().len() as u64 * each;
        encoded.ok_or_else(stopped)
    }

    fn flow(&self) -> ControlFlow<()> {
        if self.task.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// The runner sees that the task was cancelled; nobody reads this.
fn stopped() -> Failure {
    Failure::Refused("cancelled".to_owned())
}
