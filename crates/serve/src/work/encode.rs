//! An image to its latent, as `skipstone encode` does it.

use std::time::Instant;

use ndarray::Axis;
use skipstone::io::image::npy;
use skipstone::sampling::inversion::Method;

use super::context::Context;
use super::request::{SourceImages, WorkKind};
use super::task_run::TaskRun;
use crate::api::{Answer, ApiRequest, EncodeFields, Encoded, base64, image_png};
use crate::core::{Failure, Work};

impl WorkKind for EncodeFields {
    fn check(request: ApiRequest<Self>, context: Context, images: Option<SourceImages>) -> Result<Work, Failure> {
        let SourceImages { x0, files } = SourceImages::required(images)?;
        context.check_steps_of(&request.options)?;
        let generator = context.generator(&request.options.clone().unclipped(), 0, 1)?;
        Method::Ddim.check(generator.plan())?;
        let model = context.model.clone();
        let command = request.command(&model.model_flag(), &files[0]);
        let calls = generator.encoding_evaluations();
        Ok(context.work::<Self>((calls, calls), move |task, _| {
            let begun = Instant::now();
            let x_t = TaskRun::new(task, model.network()).encode(&generator, &x0)?;
            let seconds = begun.elapsed().as_secs_f64();
            let mut file = Vec::new();
            npy::encode(&mut file, x_t.view()).map_err(|e| Failure::Internal(e.to_string()))?;
            let (latent, png) = (base64(&file), image_png(x0.index_axis(Axis(0), 0))?);
            Ok(Answer::Encoded(Encoded { latent, png, calls, seconds, command }))
        }))
    }
}
