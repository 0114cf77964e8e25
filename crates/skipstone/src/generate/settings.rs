use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use crate::calibration;
use crate::checkpoint::{Model, process_hash};
use crate::denoiser::{Bound, Clip, DynamicThreshold};
use crate::engine::Precision;
use crate::error::{Error, Result};
use crate::noise::NOISE_VERSION;
use crate::sampler::Plan;
use crate::schedule::{FinalLevel, Index};
use crate::sigma::NoiseScale;
use crate::solver::Solver;
use crate::trajectory::{Spacing, Trajectory};
use crate::unet::TimeEmbedding;

/// What to do with x̂₀ outside the data's range; the range itself is the model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipMode {
    /// Nothing.
    Off,
    /// Clip x̂₀, keep ε̂.
    KeepEps,
    /// Clip x̂₀, derive ε̂ from it again.
    RederiveEps,
}

/// How S of the model's T times are picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpacingChoice {
    /// By a rule.
    Named(Spacing),
    /// The times under which the evidence lower bound is least, from the model's calibration.
    Optimal,
}

impl From<Spacing> for SpacingChoice {
    fn from(spacing: Spacing) -> Self {
        Self::Named(spacing)
    }
}

impl fmt::Display for SpacingChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(spacing) => spacing.fmt(f),
            Self::Optimal => f.write_str("optimal"),
        }
    }
}

impl FromStr for SpacingChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "optimal" => Ok(Self::Optimal),
            _ => name.parse().map(Self::Named).map_err(|e: Error| Error::argument(format!("{}, optimal", e.message()))),
        }
    }
}

/// Which variance the noise of a step has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Variance {
    /// That of the request's scale.
    #[default]
    Chosen,
    /// The optimal one for the network, from the model's calibration; the request's scale, which must be an η, gives λ.
    Analytic,
}

/// What a user asks for; what is `None` the model decides, or our default.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// S; 50, or T where that is less.
    pub steps: Option<usize>,
    /// How S of T times are picked; as the model says, else `linear`.
    pub spacing: Option<SpacingChoice>,
    /// The network calls by index, in place of `steps` and `spacing`.
    pub times: Option<Vec<u32>>,
    /// The noise of each step.
    pub scale: NoiseScale,
    /// The variance of that noise.
    pub variance: Variance,
    /// How a deterministic run steps; DDIM.
    pub solver: Solver,
    /// What becomes of x̂₀; as the model says, else nothing.
    pub clip: Option<ClipMode>,
    /// Dynamic thresholding in place of a fixed range.
    pub threshold: Option<DynamicThreshold>,
    /// The seed of latents and noise.
    pub seed: u64,
    /// The class of every image.
    pub class: Option<usize>,
    /// The weight of classifier-free guidance.
    pub guidance: Option<f64>,
    /// σ₁, the scale of noise on the last step; none.
    pub final_sigma: Option<f64>,
    /// How exactly the network is computed; f32.
    pub precision: Precision,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            steps: None,
            spacing: None,
            times: None,
            scale: NoiseScale::Eta(0.0),
            variance: Variance::Chosen,
            solver: Solver::DDIM,
            clip: None,
            threshold: None,
            seed: 0,
            class: None,
            guidance: None,
            final_sigma: None,
            precision: Precision::F32,
        }
    }
}

/// Which class an image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassRule {
    /// This one.
    One(usize),
    /// Its absolute index modulo the number of classes.
    Modulo(usize),
}

impl ClassRule {
    pub(super) fn class(self, image: u64) -> usize {
        match self {
            Self::One(class) => class,
            // Less than the number of classes, which is a usize.
            Self::Modulo(classes) => (image % classes as u64) as usize,
        }
    }
}

/// The options of a run, all decided: flag, then the model's scheduler config, then ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The model's hash.
    pub model: String,
    /// That of the process it was trained on: [`process_hash()`].
    pub process: String,
    /// S as asked; `None` for explicit times.
    pub steps: Option<usize>,
    /// The spacing; `None` for explicit times.
    pub spacing: Option<SpacingChoice>,
    /// τ: the index of each network call.
    pub times: Vec<Index>,
    /// The noise of each step.
    pub scale: NoiseScale,
    /// How the run steps.
    pub solver: Solver,
    /// SHA-256 of the calibration that the times or the variances come from.
    pub calibration: Option<String>,
    /// What becomes of x̂₀.
    pub clip: Clip,
    /// Where the last step lands.
    pub final_level: FinalLevel,
    /// The seed.
    pub seed: u64,
    /// Which class images have; `None` for an unconditional network.
    pub classes: Option<ClassRule>,
    /// The weight of guidance.
    pub guidance: Option<f64>,
    /// The class that guidance leads away from; absent without guidance.
    pub null_class: Option<usize>,
    /// SHA-256 of given latents.
    pub latents: Option<String>,
    /// SHA-256 of given noise.
    pub noise: Option<String>,
    /// How exactly the network is computed.
    pub precision: Precision,
    /// Options that few runs have, by name: `final_sigma`, `inpaint`, `method`.
    pub extra: Map<String, Value>,
}

impl Settings {
    /// Decides every option, and lays out the steps.
    ///
    /// # Errors
    /// Options that mean nothing, alone or for this model.
    pub fn resolve(model: &Model, request: &Request) -> Result<(Self, Plan)> {
        let scheduler = &model.scheduler;
        let schedule = scheduler.schedule()?;
        let t = schedule.train_steps();
        let process = process_hash(scheduler.prediction_type, &schedule);
        let calibration =
            |what: &str| calibration::required(model.calibration.as_ref(), what, &model.hash, &process, t);
        let (steps, spacing, trajectory) = match &request.times {
            Some(times) => (None, None, Trajectory::explicit(times, t)?),
            None => {
                let steps = request.steps.unwrap_or(50.min(t as usize));
                let theirs = scheduler.timestep_spacing.map(SpacingChoice::Named);
                let spacing = request.spacing.or(theirs).unwrap_or(SpacingChoice::Named(Spacing::Linear));
                let trajectory = match spacing {
                    // The file's offset is below T.
                    SpacingChoice::Named(named) => {
                        let tau = Trajectory::spaced(&schedule, named, steps, scheduler.steps_offset as u32)?;
                        match model.config.time_embedding {
                            TimeEmbedding::Learned { .. } => tau.whole(),
                            TimeEmbedding::Positional => tau,
                        }
                    }
                    SpacingChoice::Optimal => calibration("spacing optimal")?.optimal(&schedule, steps)?,
                };
                (Some(steps), Some(spacing), trajectory)
            }
        };
        let range = Bound::Range(scheduler.clip_sample_range);
        let mut clip = match request.clip {
            Some(ClipMode::Off) => Clip::Off,
            Some(ClipMode::KeepEps) => Clip::KeepEps(range),
            Some(ClipMode::RederiveEps) => Clip::RederiveEps(range),
            None => scheduler.clip().unwrap_or(Clip::Off),
        };
        if let Some(threshold) = request.threshold {
            clip = clip.with_threshold(threshold)?;
        }
        let scale = match (request.variance, &request.scale) {
            (Variance::Chosen, scale) => scale.clone(),
            (Variance::Analytic, NoiseScale::Eta(eta)) => {
                calibration("sigma analytic")?.analytic(&schedule, *eta, &trajectory)?
            }
            (Variance::Analytic, other) => {
                return Err(Error::argument(format!("sigma analytic: needs an eta beneath it, found {other}")));
            }
        };
        let calibrated = request.variance == Variance::Analytic || spacing == Some(SpacingChoice::Optimal);
        let final_level = scheduler.final_level();
        let mut plan = Plan::new(&schedule, &trajectory, &scale, final_level, clip)?;
        let mut extra = Map::new();
        if let Some(sigma) = request.final_sigma {
            plan = plan.with_final_sigma(sigma)?;
            extra.insert("final_sigma".to_owned(), json!(sigma));
        }
        let plan = plan.with_solver(request.solver)?;
        let settings = Self {
            model: model.hash.clone(),
            process,
            steps,
            spacing,
            times: trajectory.times().iter().filter_map(|t| t.index()).collect(),
            scale,
            solver: request.solver,
            calibration: model.calibration.as_ref().filter(|_| calibrated).map(calibration::Calibration::hash),
            clip,
            final_level,
            seed: request.seed,
            classes: classes(model, request)?,
            guidance: request.guidance,
            null_class: model.null_class.filter(|_| request.guidance.is_some()),
            latents: None,
            noise: None,
            precision: request.precision,
            extra,
        };
        Ok((settings, plan))
    }

    /// The options by name, as manifests and PNG files carry them; images with the same are the same.
    pub fn to_json(&self) -> Map<String, Value> {
        let (eta, sigma) = match &self.scale {
            NoiseScale::Eta(eta) => (json!(eta), Value::Null),
            NoiseScale::Hat => (Value::Null, json!("hat")),
            NoiseScale::Vector(sigmas) => (Value::Null, json!(sigmas)),
            NoiseScale::Analytic(analytic) => (json!(analytic.eta), json!("analytic")),
        };
        let (clip, bound) = match self.clip {
            Clip::Off => ("off", None),
            Clip::KeepEps(bound) => ("keep-eps", Some(bound)),
            Clip::RederiveEps(bound) => ("rederive-eps", Some(bound)),
        };
        let (range, threshold) = match bound {
            None => (Value::Null, Value::Null),
            Some(Bound::Range(range)) => (json!(range), Value::Null),
            Some(Bound::Dynamic(by)) => (Value::Null, json!([by.ratio, by.max])),
        };
        let class = match self.classes {
            None => Value::Null,
            Some(ClassRule::One(class)) => json!(class),
            Some(ClassRule::Modulo(classes)) => json!(format!("index modulo {classes}")),
        };
        let fields = [
            ("class", class),
            ("clip", json!(clip)),
            ("clip_range", range),
            ("eta", eta),
            ("final_level", json!(if self.final_level == FinalLevel::Clean { "clean" } else { "first-trained" })),
            ("guidance", json!(self.guidance)),
            ("latents", json!(self.latents)),
            ("model", json!(self.model)),
            ("noise", json!(self.noise)),
            ("noise_version", json!(NOISE_VERSION)),
            ("process", json!(self.process)),
            ("seed", json!(self.seed)),
            ("sigma", sigma),
            ("spacing", json!(self.spacing.map(|spacing| spacing.to_string()))),
            ("steps", json!(self.steps)),
            ("threshold", threshold),
            ("times", json!(self.times)),
        ];
        // Named only where they hold, so that runs without them keep the manifests they had.
        let solver = (self.solver != Solver::DDIM).then(|| ("solver", json!(self.solver.to_string())));
        let calibration = self.calibration.as_ref().map(|hash| ("calibration", json!(hash)));
        let precision = (self.precision != Precision::F32).then(|| ("precision", json!(self.precision.to_string())));
        let null_class = self.null_class.map(|class| ("null_class", json!(class)));
        let fields = fields.into_iter().chain(null_class).chain(solver).chain(calibration).chain(precision);
        let extra = self.extra.iter().map(|(name, value)| (name.clone(), value.clone()));
        fields.map(|(name, value)| (name.to_owned(), value)).chain(extra).collect()
    }

    /// The options that say something, as (keyword, text) for a PNG file.
    pub fn to_texts(&self) -> Vec<(String, String)> {
        let options = self.to_json();
        let mut texts = vec![("Software".to_owned(), format!("skipstone {}", env!("CARGO_PKG_VERSION")))];
        texts.extend(options.keys().filter_map(|name| Some((name.clone(), stated(&options, name)?))));
        texts
    }
}

/// What an option of [`Settings::to_json`] says, as text; `None` where it says nothing.
pub fn stated(options: &Map<String, Value>, name: &str) -> Option<String> {
    match options.get(name)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn classes(model: &Model, request: &Request) -> Result<Option<ClassRule>> {
    let Some(known) = model.config.num_class_embeds else {
        return match (request.class, request.guidance) {
            (Some(_), _) => Err(Error::argument("class: the model is unconditional, it knows no classes")),
            (_, Some(_)) => Err(Error::argument("guidance: the model is unconditional, it knows no classes")),
            (None, None) => Ok(None),
        };
    };
    if let Some(class) = request.class.filter(|&class| class >= known) {
        return Err(Error::argument(format!("class: {class}, the model knows 0 to {}", known - 1)));
    }
    if request.guidance.is_some() {
        if model.null_class.is_none() {
            return Err(Error::argument(
                "guidance: the model has no null class (it was not trained with dropped classes); sample without it",
            ));
        }
        if request.class.is_none() {
            return Err(Error::argument("guidance: needs a class to guide towards"));
        }
    }
    Ok(Some(match (request.class, model.null_class) {
        (Some(class), _) | (None, Some(class)) => ClassRule::One(class),
        (None, None) => ClassRule::Modulo(known),
    }))
}
