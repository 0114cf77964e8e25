use serde::{Deserialize, Serialize};
use skipstone::generate::{Request, Variance};
use skipstone::schedule::Index;
use skipstone::sigma::NoiseScale;
use skipstone::solver::Solver;
use skipstone::{Error, Result};
use utoipa::{IntoParams, ToSchema};

use super::options::{ClipName, SigmaName};
use super::png::Png;

/// Images wanted unless the request says.
const N: usize = 16;
/// Steps unless the request says.
const STEPS: usize = 20;

/// What to sample. Every field may be left out; the same fields mean the same pixels, always.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SampleRequest {
    /// The model's id; the first of `/v1/models` unless given.
    pub model: Option<String>,
    /// Number of images; 16.
    #[schema(minimum = 1, example = 4)]
    #[param(minimum = 1)]
    pub n: Option<usize>,
    /// Steps S; 20.
    #[schema(minimum = 1, example = 10)]
    #[param(minimum = 1)]
    pub steps: Option<usize>,
    /// Noise per step, DDIM Eq. 16: 0 is DDIM, 1 is DDPM; 0, or 1 beneath `sigma` = analytic.
    #[schema(minimum = 0)]
    #[param(minimum = 0)]
    pub eta: Option<f64>,
    /// Noise by name, in place of `eta` (hat) or with it beneath (analytic).
    pub sigma: Option<SigmaName>,
    /// Which S of the model's times, by one of the names in `/v1/models`; the model's own, else linear.
    pub spacing: Option<String>,
    /// How to step without noise, by one of the names in `/v1/models`; ddim.
    pub solver: Option<String>,
    /// Seed of latents and noise; 0.
    pub seed: Option<u64>,
    /// Index of the first image; 0. Image i depends on the options, the seed and i alone.
    pub first: Option<u64>,
    /// Class of the images, for a class-conditional model.
    pub class: Option<usize>,
    /// Weight of classifier-free guidance; needs `class` and a model with a null class.
    pub guidance: Option<f64>,
    /// What becomes of predicted images outside the data's range; the model's own choice, else off.
    pub clip: Option<ClipName>,
}

impl SampleRequest {
    /// Number of images.
    pub fn n(&self) -> usize {
        self.n.unwrap_or(N)
    }

    /// Number of steps asked for.
    pub fn steps(&self) -> usize {
        self.steps.unwrap_or(STEPS)
    }

    /// Index of the first image.
    pub fn first(&self) -> u64 {
        self.first.unwrap_or(0)
    }

    /// What the library is asked for.
    ///
    /// # Errors
    /// A name that is none, or `sigma` = hat beside `eta`.
    pub fn request(&self) -> Result<Request> {
        let (scale, variance) = match (self.sigma, self.eta) {
            (Some(SigmaName::Hat), Some(_)) => {
                return Err(Error::argument("eta: means nothing beside sigma hat, which is no member of its family"));
            }
            (Some(SigmaName::Hat), None) => (NoiseScale::Hat, Variance::Chosen),
            (Some(SigmaName::Analytic), eta) => (NoiseScale::Eta(eta.unwrap_or(1.0)), Variance::Analytic),
            (None, eta) => (NoiseScale::Eta(eta.unwrap_or(0.0)), Variance::Chosen),
        };
        Ok(Request {
            steps: Some(self.steps()),
            spacing: self.spacing.as_deref().map(str::parse).transpose()?,
            scale,
            variance,
            solver: self.solver.as_deref().map_or(Ok(Solver::DDIM), str::parse)?,
            clip: self.clip.map(ClipName::mode),
            seed: self.seed.unwrap_or(0),
            class: self.class,
            guidance: self.guidance,
            ..Request::default()
        })
    }

    /// The command that makes the same picture; `model` is its flag, empty or beginning with a space.
    pub fn command(&self, model: &str) -> String {
        let mut command = format!("skipstone sample{model} -n {} --steps {}", self.n(), self.steps());
        let mut flag = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                command += &format!(" --{name} {value}");
            }
        };
        flag("eta", self.eta.map(|eta| eta.to_string()));
        flag("sigma", self.sigma.map(|sigma| sigma.name().to_owned()));
        flag("spacing", self.spacing.clone());
        flag("solver", self.solver.clone());
        flag("clip", self.clip.map(|clip| clip.name().to_owned()));
        flag("class", self.class.map(|class| class.to_string()));
        flag("guidance", self.guidance.map(|weight| weight.to_string()));
        flag("seed", Some(self.seed.unwrap_or(0).to_string()));
        flag("first", self.first.map(|first| first.to_string()));
        command
    }
}

/// Images made.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Sample {
    /// The task's name.
    pub id: String,
    /// The grid that the command line writes, pixel for pixel.
    #[schema(value_type = String, content_encoding = "base64", content_media_type = "image/png")]
    pub png: Png,
    /// Columns of the grid.
    pub columns: usize,
    /// Number of images.
    pub n: usize,
    /// Network calls for each image.
    pub calls: usize,
    /// Seconds at work, without waiting.
    pub seconds: f64,
    /// What a call for every trained time would have taken at the same pace: DDPM.
    pub ddpm_seconds: f64,
    /// The index of each network call's time.
    #[schema(value_type = Vec<f64>)]
    pub times: Vec<Index>,
    /// The model's id.
    pub model: String,
    /// The command that makes the same picture.
    pub command: String,
}
