//! An image encoded and decoded, as `skipstone reconstruct` does it.

use std::time::Instant;

use ndarray::Axis;
use skipstone::sampling::generate::{Generator, Inputs};
use skipstone::sampling::inversion::{Method, squared_errors};
use skipstone::sampling::options::Request;

use super::context::Context;
use super::request::{SourceImages, WorkKind};
use super::task_run::TaskRun;
use crate::api::{
    Answer, ApiRequest, Plan, ReconstructFields, ReconstructPlan, Reconstructed, Reconstruction, image_png,
};
use crate::core::{Failure, Work};

/// Most numbers of steps of one request.
const MOST_ROWS: usize = 12;
/// A latent's picture is black at minus this many standard deviations and white at plus; latents are nearly Gaussian.
const SPREAD: f32 = 3.0;

impl WorkKind for ReconstructFields {
    fn check(request: ApiRequest<Self>, context: Context, images: Option<SourceImages>) -> Result<Work, Failure> {
        let SourceImages { x0, files } = SourceImages::required(images)?;
        let all_steps = request.steps(context.model.timesteps as usize);
        if all_steps.is_empty() || all_steps.len() > MOST_ROWS {
            let found = all_steps.len();
            return Err(Failure::Refused(format!("steps: expected 1 to {MOST_ROWS} numbers, found {found}")));
        }
        let mut generators = Vec::with_capacity(all_steps.len());
        for &steps in &all_steps {
            context.check_steps(steps)?;
            let options = Request { steps: Some(steps), ..request.options.clone().unclipped() };
            let generator = context.generator(&options, 0, 1)?;
            Method::Ddim.check(generator.plan())?;
            generators.push(generator);
        }
        let calls_of = |generator: &Generator| generator.encoding_evaluations() + generator.evaluations();
        let calls = generators.iter().map(calls_of).sum();
        let model = context.model.clone();
        let command = request.command(&model.model_flag(), &all_steps, &files[0]);
        let original = image_png(x0.index_axis(Axis(0), 0))?;
        let plan =
            ReconstructPlan { original: original.clone(), steps: all_steps.clone(), calls, command: command.clone() };
        let work = context.work::<Self>((calls, calls), move |task, events| {
            let begun = Instant::now();
            let mut run = TaskRun::new(task, model.network());
            let mut rows = Vec::with_capacity(generators.len());
            for (steps, generator) in all_steps.into_iter().zip(generators) {
                let x_t = run.encode(&generator, &x0)?;
                let latent_png = image_png((&x_t / SPREAD).index_axis(Axis(0), 0))?;
                // Decoding starts from the latents and takes the same steps.
                let inputs = Inputs { latents: Some(x_t), ..Inputs::default() };
                let decoded = run.generate(&generator.with_inputs(inputs, 0, 1)?, 0..1, |_, _| ())?;
                let (png, mse) = (image_png(decoded.index_axis(Axis(0), 0))?, squared_errors(&x0, &decoded)?[0]);
                let row = Reconstructed { steps, png, latent_png, mse };
                if let Some(events) = events {
                    events.row(row.clone());
                }
                rows.push(row);
            }
            let seconds = begun.elapsed().as_secs_f64();
            Ok(Answer::Reconstruction(Reconstruction { original, rows, calls, seconds, command }))
        });
        Ok(Work { plan: Some(Plan::Reconstruct(plan)), ..work })
    }
}
