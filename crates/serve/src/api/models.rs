use serde::Serialize;
use skipstone::sampling::options::{FIELDS, find};
use utoipa::ToSchema;

use super::limits::Limits;

/// What this service offers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Models {
    /// The models. Requests that name none use the first.
    pub models: Vec<ModelInfo>,
    /// Choices of `spacing`.
    pub spacings: Vec<String>,
    /// Choices of `solver`.
    pub solvers: Vec<String>,
    /// Choices of `clip`.
    pub clips: Vec<String>,
    /// Every sampling option.
    pub options: Vec<OptionInfo>,
    /// The limits of one request.
    pub limits: Limits,
}

/// A sampling option.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OptionInfo {
    /// The name of its field.
    pub name: String,
    /// What it does.
    pub help: String,
    /// The default, in words; empty if there is none.
    pub default: String,
    /// The names to choose from, if its value is a name.
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

/// A model.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ModelInfo {
    /// Its id in requests.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// Channels of an image: 1 is gray, 3 colour.
    pub channels: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Number of classes without the null class; null for an unconditional model.
    pub classes: Option<usize>,
    /// Whether it takes `guidance` without a `guide`.
    pub guidance: bool,
    /// What the network predicts: epsilon, sample or v_prediction.
    pub prediction: String,
    /// Number of training timesteps T.
    pub timesteps: u32,
    /// Number of parameters.
    pub parameters: usize,
    /// Kind of weights: ema, raw or unspecified.
    pub weights: String,
    /// SHA-256 of the network.
    pub hash: String,
    /// The device that computes the network, as `serve --device` names it.
    pub device: String,
    /// The precision in which the network computes: f32, f16 or bf16.
    pub precision: String,
    /// Milliseconds of a network call for one image, measured at the start.
    pub ms_per_call: f64,
    /// Whether `sigma` may be analytic.
    pub analytic: bool,
    /// Whether `spacing` may be optimal.
    pub optimal: bool,
    /// Whether `spacing` may be fitted.
    pub fitted: bool,
    /// Its own defaults.
    pub defaults: Defaults,
    /// The data set it was trained on, if that is a well-known one.
    pub data: Option<String>,
    /// Requests waiting for it.
    pub queued: usize,
    /// Requests in progress.
    pub running: usize,
}

/// The defaults of a model.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Defaults {
    /// Default of `spacing`.
    pub spacing: String,
    /// Default of `clip`.
    pub clip: String,
    /// The number of steps that it was distilled for; null for a model that takes any.
    pub steps: Option<usize>,
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

/// The test images.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct TestImages {
    /// Whether the data set is installed on this machine.
    pub available: bool,
    /// Number of images.
    pub count: usize,
}
