//! Sampling, as `skipstone sample` does it.

use std::time::Instant;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use skipstone::io::hex::hex;
use skipstone::io::image::near_square;
use skipstone::sampling::generate::Generator;

use super::context::Context;
use super::request::{SourceImages, WorkKind};
use super::task_run::TaskRun;
use crate::api::{Answer, ApiRequest, Plan, PlanEvent, Sample, SampleFields, grid_png};
use crate::core::{Failure, ServedModel, Work};

/// A hash of everything that the images depend on, in 32 hexadecimal digits.
fn fingerprint(model: &ServedModel, generator: &Generator, (first, n): (u64, usize)) -> String {
    let mut options = generator.settings().to_json();
    options.insert("range".to_owned(), json!([first, n]));
    // The same weights may have another schedule.
    options.insert("scheduler".to_owned(), json!(format!("{:?}", model.model.scheduler)));
    let text = Value::Object(options).to_string() + env!("CARGO_PKG_VERSION");
    hex(&Sha256::digest(text.as_bytes())[..16])
}

impl WorkKind for SampleFields {
    fn check(request: ApiRequest<Self>, context: Context, _: Option<SourceImages>) -> Result<Work, Failure> {
        let SampleFields { n, first } = request.own;
        let n = n.unwrap_or_else(|| context.usual_images());
        context.check_images(n)?;
        context.check_steps_of(&request.options)?;
        let (model, generator) = (context.model.clone(), context.generator(&request.options, first, n)?);
        let command = request.command(&model.model_flag(), n);
        let plan = Plan::Sample(PlanEvent::of(&generator, n, &command));
        let frame_bytes = 4 * n * generator.shape().iter().product::<usize>();
        let fingerprint = Some(fingerprint(&model, &generator, (first, n)));
        let calls = generator.evaluations();
        let work = context.work::<Self>((calls, calls * n), move |task, events| {
            let columns = near_square(n);
            let begun = Instant::now();
            let x0 = TaskRun::new(task, model.network()).generate(
                &generator,
                first..first + n as u64,
                |call, progress| {
                    if let Some(events) = events {
                        events.step(call, progress.t, progress.x0, columns, begun.elapsed().as_secs_f64());
                    }
                },
            )?;
            let seconds = begun.elapsed().as_secs_f64();
            let texts = generator.settings().to_texts_of(first, n);
            Ok(Answer::Sample(Sample {
                id: task.id.clone(),
                png: grid_png(&x0, columns, &texts)?,
                columns,
                n,
                calls,
                seconds,
                ddpm_seconds: seconds * f64::from(model.timesteps) / calls.max(1) as f64,
                times: generator.settings().times.clone(),
                model: model.id.clone(),
                command,
                note: generator.note().map(str::to_owned),
            }))
        });
        Ok(Work { plan: Some(plan), frame_bytes, fingerprint, ..work })
    }
}
