use serde::Serialize;
use skipstone::generate::SpacingChoice;
use skipstone::solver::Solver;
use skipstone::trajectory::Spacing;
use utoipa::ToSchema;

use super::limits::Limits;
use super::options::ClipName;

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

impl Models {
    /// The answer for these models and limits.
    pub fn of(models: Vec<ModelInfo>, limits: Limits) -> Self {
        let spacings = Spacing::ALL.iter().map(|&s| SpacingChoice::Named(s)).chain([SpacingChoice::Optimal]);
        Self {
            models,
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
