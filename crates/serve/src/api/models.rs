use serde::Serialize;
use skipstone::checkpoint::Model;
use skipstone::denoiser::Clip;
use skipstone::generate::SpacingChoice;
use skipstone::solver::Solver;
use skipstone::trajectory::Spacing;
use utoipa::ToSchema;

use super::ClipName;
use crate::core::Served;
use crate::limits::Limits;

/// What can be asked for here.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Models {
    /// The models; the first is meant where a request names none.
    pub models: Vec<ModelInfo>,
    /// Names for `spacing`.
    pub spacings: Vec<String>,
    /// Names for `solver`.
    pub solvers: Vec<String>,
    /// Names for `clip`.
    pub clips: Vec<String>,
    /// What one request may ask for.
    pub limits: Limits,
}

/// One model.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ModelInfo {
    /// What requests call it.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Channels of an image: 1 is gray, 3 colour.
    pub channels: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Classes it knows, the null class not among them; null for an unconditional model.
    pub classes: Option<usize>,
    /// Whether `guidance` means something.
    pub guidance: bool,
    /// What the network predicts: epsilon, sample or v_prediction.
    pub prediction: String,
    /// Trained times T.
    pub timesteps: u32,
    /// Number of parameters.
    pub parameters: usize,
    /// Which weights: ema, raw or unspecified.
    pub weights: String,
    /// SHA-256 of the network.
    pub hash: String,
    /// Milliseconds of one network call for one image, measured at the start.
    pub ms_per_call: f64,
    /// Whether `sigma` = analytic can be asked for.
    pub analytic: bool,
    /// Whether `spacing` = optimal can be asked for.
    pub optimal: bool,
    /// What holds where a request says nothing.
    pub defaults: Defaults,
    /// The data set it was trained on, where that is known and has a name.
    pub data: Option<String>,
    /// Requests that wait for it.
    pub queued: usize,
    /// Requests it works on.
    pub running: usize,
}

/// A model's own choices.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Defaults {
    /// Name for `spacing`.
    pub spacing: String,
    /// Name for `clip`.
    pub clip: String,
}

impl Defaults {
    fn of(model: &Model) -> Self {
        let scheduler = &model.scheduler;
        let clip = match scheduler.clip() {
            None | Some(Clip::Off) => ClipName::Off,
            Some(Clip::KeepEps(_)) => ClipName::KeepEps,
            Some(Clip::RederiveEps(_)) => ClipName::RederiveEps,
        };
        let spacing = scheduler.timestep_spacing.unwrap_or(Spacing::Linear);
        Self { spacing: spacing.to_string(), clip: clip.name().to_owned() }
    }
}

/// The known data set a model says it was trained on; never a folder, whose name may tell more than it should.
fn data_of(model: &Model) -> Option<String> {
    let name = model.provenance.get("data")?.split(' ').next()?;
    ["fashion-mnist", "mnist", "cifar10"].contains(&name).then(|| name.to_owned())
}

impl ModelInfo {
    /// About this model.
    pub fn of(served: &Served) -> Self {
        let [channels, height, width] = served.shape();
        let (queued, running) = served.worker.load();
        let model = &served.model;
        let name = if served.id == crate::CARRIED { "Fashion-MNIST, carried inside" } else { &served.id };
        let null = usize::from(model.null_class.is_some());
        Self {
            id: served.id.clone(),
            name: name.to_owned(),
            channels,
            height,
            width,
            classes: model.config.num_class_embeds.map(|all| all - null.min(all)),
            guidance: model.null_class.is_some(),
            prediction: model.scheduler.prediction_type.to_string(),
            timesteps: served.timesteps,
            parameters: served.parameters,
            weights: model.weights.to_string(),
            hash: model.hash.clone(),
            ms_per_call: served.ms_per_call,
            analytic: served.calibrated,
            optimal: served.calibrated,
            defaults: Defaults::of(model),
            data: data_of(model),
            queued,
            running,
        }
    }
}

impl Models {
    /// What these models and limits allow.
    pub fn of<'a>(models: impl Iterator<Item = &'a Served>, limits: Limits) -> Self {
        let spacings = Spacing::ALL.iter().map(|&s| SpacingChoice::Named(s)).chain([SpacingChoice::Optimal]);
        Self {
            models: models.map(ModelInfo::of).collect(),
            spacings: spacings.map(|spacing| spacing.to_string()).collect(),
            solvers: Solver::ALL.iter().map(Solver::to_string).collect(),
            clips: ClipName::ALL.iter().map(|clip| clip.name().to_owned()).collect(),
            limits,
        }
    }
}

/// Whether there are test images to choose from.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct TestImages {
    /// Whether the data set is installed where the service runs.
    pub available: bool,
    /// How many images there are.
    pub count: usize,
}
