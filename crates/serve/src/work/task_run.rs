//! Running generators for a task: its progress, its cancellation.

use std::ops::{ControlFlow, Range};

use ndarray::Array4;
use skipstone::sampling::generate::Generator;
use skipstone::sampling::inversion::Method;
use skipstone::sampling::sampler::Progress;

use crate::core::{Failure, SharedNetwork, Task};

/// The runs of one task, one after the other.
pub struct TaskRun<'a> {
    task: &'a Task,
    network: &'a SharedNetwork,
    /// Network calls of the runs that have ended.
    before: u64,
}

impl<'a> TaskRun<'a> {
    /// Before the first run.
    pub fn new(task: &'a Task, network: &'a SharedNetwork) -> Self {
        Self { task, network, before: 0 }
    }

    /// Makes images, `[n, c, h, w]`. After every step calls `observe` with the task's network calls so far.
    pub fn generate(
        &mut self,
        generator: &Generator,
        images: Range<u64>,
        mut observe: impl FnMut(usize, &Progress<'_>),
    ) -> Result<Array4<f32>, Failure> {
        let _active = self.network.begin_request();
        let x0 = generator.generate(images, &mut |progress| {
            let calls = self.before + generator.evaluations_after(progress.step) as u64;
            self.task.set_done_calls(calls);
            observe(calls as usize, progress);
            self.flow()
        })?;
        self.before += generator.evaluations() as u64;
        Ok(x0)
    }

    /// Encodes images by the plain method; returns their latents, `[n, c, h, w]`.
    pub fn encode(&mut self, generator: &Generator, x0: &Array4<f32>) -> Result<Array4<f32>, Failure> {
        let _active = self.network.begin_request();
        let encoded = generator.encode(x0, 0..x0.dim().0 as u64, &Method::Ddim, &mut |done| {
            self.task.set_done_calls(self.before + generator.encoding_evaluations_after(done.calls) as u64);
            self.flow()
        })?;
        self.before += generator.encoding_evaluations() as u64;
        Ok(encoded.latents.into_single()?)
    }

    fn flow(&self) -> ControlFlow<()> {
        if self.task.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
