use serde::Serialize;
use skipstone::sampling::options::{FIELDS, find};
use utoipa::ToSchema;

use super::limits::Limits;

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
    /// Every option of sampling, as forms show it.
    pub options: Vec<OptionInfo>,
    /// What one request may ask for.
    pub limits: Limits,
}

/// One option.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OptionInfo {
    /// The field of requests.
    pub name: String,
    /// What it is for.
    pub help: String,
    /// What holds where a request says nothing; empty where nothing does.
    pub default: String,
    /// The names it may have, where it is one.
    pub choices: Vec<String>,
}

impl OptionInfo {
    fn all() -> Vec<Self> {
        let of = |field: &skipstone::sampling::options::Field| Self {
            name: field.about.name.to_owned(),
            help: field.about.help.to_owned(),
            default: field.about.default.to_owned(),
            choices: field.about.kind.choices(),
        };
        FIELDS.iter().map(of).collect()
    }
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
        let choices = |name: &str| find(name).map_or_else(Vec::new, |field| field.about.kind.choices());
        Self {
            models,
            spacings: choices("spacing"),
            solvers: choices("solver"),
            clips: choices("clip"),
            options: OptionInfo::all(),
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
