//! The description of a served model in the API.

use skipstone::io::checkpoint::Model;
use skipstone::math::trajectory::Spacing;
use skipstone::sampling::denoiser::Clip;
use skipstone::sampling::options::ClipMode;

use super::served_model::ServedModel;
use crate::api::{Defaults, ModelInfo};

impl ServedModel {
    /// Its entry in `/v1/models`.
    pub fn info(&self) -> ModelInfo {
        let [channels, height, width] = self.shape();
        let (queued, running) = self.worker.load();
        let model = &self.model;
        let null = usize::from(model.null_class.is_some());
        ModelInfo {
            id: self.id.clone(),
            name: self.named.title(),
            channels,
            height,
            width,
            classes: model.config.num_class_embeds.map(|all| all - null.min(all)),
            guidance: model.null_class.is_some(),
            prediction: model.scheduler.prediction_type.to_string(),
            timesteps: self.timesteps,
            parameters: self.parameters,
            weights: model.weights.to_string(),
            hash: model.hash.clone(),
            device: self.device.clone(),
            precision: self.precision.to_string(),
            ms_per_call: self.ms_per_call,
            analytic: self.calibrated,
            optimal: self.calibrated,
            fitted: self.calibrated && model.calibration.as_ref().is_some_and(|found| found.local_errors.is_some()),
            defaults: defaults_of(model),
            data: data_of(model),
            queued,
            running,
        }
    }
}

fn defaults_of(model: &Model) -> Defaults {
    let scheduler = &model.scheduler;
    let (clip, _) = ClipMode::of(scheduler.clip().unwrap_or(Clip::Off));
    let spacing = scheduler.timestep_spacing.unwrap_or(Spacing::Linear);
    Defaults { spacing: spacing.to_string(), clip: clip.to_string(), steps: scheduler.num_inference_steps }
}

/// The well-known data set that a model was trained on. Other names, such as folders, are not published.
fn data_of(model: &Model) -> Option<String> {
    let name = model.provenance.get("data")?.split(' ').next()?;
    ["fashion-mnist", "mnist", "cifar10"].contains(&name).then(|| name.to_owned())
}
