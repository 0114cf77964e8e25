use serde_json::{Map, Value, json};

use crate::engine::Precision;
use crate::error::{Error, Result};
use crate::io::checkpoint::{Guide, Model, process_hash};
use crate::math::noise::NOISE_VERSION;
use crate::math::schedule::{FinalLevel, Index, Schedule};
use crate::math::sigma::NoiseScale;
use crate::math::trajectory::{Spacing, Trajectory};
use crate::objective::calibration;
use crate::sampling::denoiser::{Bound, Clip, Interval};
use crate::sampling::options::{ClipMode, GUIDE, Noise, Preset, Request, SAMPLE, SolverChoice, SpacingChoice};
use crate::sampling::sampler::{Plan, Restart};
use crate::sampling::solver::Solver;
use crate::unet::TimeEmbedding;
use crate::unet::config::MAX_CLASSES;

/// The class of each image of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClassRule {
    /// The same class for every image.
    One(usize),
    /// The image's absolute index modulo this number of classes.
    Modulo(usize),
    /// These classes in turn, by the image's absolute index.
    Cycle(Vec<usize>),
}

impl ClassRule {
    pub(super) fn class(&self, image: u64) -> usize {
        // A remainder fits usize.
        let modulo = |n: usize| (image % n as u64) as usize;
        match self {
            Self::One(class) => *class,
            Self::Modulo(classes) => modulo(*classes),
            Self::Cycle(classes) => classes[modulo(classes.len())],
        }
    }
}

/// The resolved options of a run. Each comes from the request, else from the model's scheduler config, else from our
/// default.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Hash of the model.
    pub model: String,
    /// Hash of the process it was trained on: [`process_hash()`].
    pub process: String,
    /// Requested S; `None` for explicit timesteps.
    pub steps: Option<usize>,
    /// The spacing; `None` for explicit timesteps.
    pub spacing: Option<SpacingChoice>,
    /// τ, as the network index of each call.
    pub times: Vec<Index>,
    /// The noise of each step.
    pub scale: NoiseScale,
    /// The solver.
    pub solver: Solver,
    /// Steps that are repeated.
    pub restart: Option<Restart>,
    /// SHA-256 of the calibration, if the timesteps or the variances come from one.
    pub calibration: Option<String>,
    /// Clipping of x̂₀.
    pub clip: Clip,
    /// The noise level on which the last step lands.
    pub final_level: FinalLevel,
    /// The seed.
    pub seed: u64,
    /// The class of each image; `None` for an unconditional network.
    pub classes: Option<ClassRule>,
    /// The weight of classifier-free guidance or autoguidance.
    pub guidance: Option<f64>,
    /// The noise levels at which guidance acts; `None` for all.
    pub guidance_interval: Option<Interval>,
    /// The name of the guide in the request. `extra` identifies it by its hashes.
    pub guide: Option<String>,
    /// The null class of classifier-free guidance; `None` without it.
    pub null_class: Option<usize>,
    /// SHA-256 of given latents.
    pub latents: Option<String>,
    /// SHA-256 of given noise.
    pub noise: Option<String>,
    /// The network's floating-point precision.
    pub precision: Precision,
    /// Options that only some runs have, by name: `final_sigma`, `guide` and `guide_process` (SHA-256 of each), `inpaint`,
    /// `method`.
    pub extra: Map<String, Value>,
}

impl Settings {
    /// Refuses classes that differ from image to image, for runs whose images belong together. `name` is what the caller calls the
    /// option.
    ///
    /// # Errors
    /// There are several classes, or none was chosen and the model has no null class.
    pub fn one_class(&self, name: &str) -> Result<()> {
        match &self.classes {
            Some(ClassRule::Cycle(_)) => {
                Err(Error::argument(format!("{name}: expected one class for all points, found several; choose one")))
            }
            Some(ClassRule::Modulo(classes)) => Err(Error::argument(format!(
                "{name}: the model has {classes} classes and no null class; choose one class for all points"
            ))),
            None | Some(ClassRule::One(_)) => Ok(()),
        }
    }

    /// Resolves every option of `request` for `model` and builds the plan.
    ///
    /// # Errors
    /// An option is invalid, by itself or for this model.
    pub fn resolve(model: &Model, request: &Request) -> Result<(Self, Plan)> {
        let scheduler = &model.scheduler;
        let schedule = scheduler.schedule()?;
        let t = schedule.train_steps();
        let process = process_hash(scheduler.prediction_type, &schedule);
        let calibration =
            |what: &str| calibration::required(model.calibration.as_ref(), what, &model.hash, &process, t);
        if let (Some(preset), Some(own)) = (request.preset, scheduler.num_inference_steps) {
            return Err(Error::argument(format!(
                "preset: {preset} is for models that take any number of steps, and this one was distilled for {own}; leave \
                 preset out"
            )));
        }
        let (steps, spacing, trajectory) = match &request.times {
            Some(times) => (None, None, Trajectory::explicit(times, t)?),
            None => {
                let steps = request.steps_of(scheduler.default_steps());
                let preset = request.preset.map(Preset::spacing);
                let named = preset.or(scheduler.timestep_spacing).map(SpacingChoice::Named);
                let spacing = request.spacing.clone().or(named).unwrap_or(SpacingChoice::Named(Spacing::Linear));
                let trajectory = match &spacing {
                    // The loader has checked that the offset is below T.
                    SpacingChoice::Named(named) => {
                        let tau = Trajectory::spaced(&schedule, *named, steps, scheduler.steps_offset as u32)?;
                        let learned = matches!(model.config.time_embedding, TimeEmbedding::Learned { .. });
                        let guide = model.guide.as_ref().is_some_and(Guide::needs_whole_times);
                        if learned || guide { tau.whole() } else { tau }
                    }
                    SpacingChoice::Respaced(respacing) => {
                        if let Some(asked) = request.steps.filter(|&asked| asked != steps) {
                            return Err(Error::argument(format!(
                                "steps: expected {steps}, which spacing {respacing} states, found {asked}; remove one of the two"
                            )));
                        }
                        Trajectory::respaced(respacing, t)?
                    }
                    SpacingChoice::Optimal => calibration("spacing optimal")?.optimal(&schedule, steps)?,
                    SpacingChoice::Fitted => calibration("spacing fitted")?.fitted(steps)?,
                };
                (Some(steps), Some(spacing), trajectory)
            }
        };
        let range = Bound::Range(scheduler.clip_sample_range);
        let mut clip = match request.clip {
            Some(mode) => mode.within(range),
            None => scheduler.clip().unwrap_or(Clip::Off),
        };
        if let Some(threshold) = request.threshold {
            clip = clip.with_threshold(threshold)?;
        }
        let (scale, analytic) = match &request.noise {
            Noise::Eta(eta) => (NoiseScale::Eta(*eta), false),
            Noise::Hat => (NoiseScale::Hat, false),
            Noise::Learned if model.config.learns_variance() => (NoiseScale::Learned, false),
            Noise::Learned => {
                return Err(Error::argument(format!(
                    "sigma learned: the model has not learned its variance: it has {} output channels for {} of an image; \
                     choose eta or another sigma",
                    model.config.out_channels, model.config.in_channels
                )));
            }
            Noise::Vector(sigmas) => (NoiseScale::Vector(sigmas.clone()), false),
            Noise::Analytic { eta } => (calibration("sigma analytic")?.analytic(&schedule, *eta, &trajectory)?, true),
        };
        let calibrated = analytic || matches!(spacing, Some(SpacingChoice::Optimal | SpacingChoice::Fitted));
        let final_level = scheduler.final_level();
        let mut plan = Plan::new(&schedule, &trajectory, &scale, final_level, clip)?;
        let mut extra = Map::new();
        if let Some(sigma) = request.final_sigma {
            plan = plan.with_final_sigma(sigma)?;
            extra.insert("final_sigma".to_owned(), json!(sigma));
        }
        if let Some(guide) = &model.guide {
            extra.insert("guide".to_owned(), json!(guide.hash()));
            extra.insert("guide_process".to_owned(), json!(guide.process()?));
        }
        let choice = request.solver.or(request.preset.map(|_| SolverChoice::Auto));
        let solver = choice.map_or(Solver::DDIM, |choice| choice.settle(&plan));
        let mut plan = plan.with_solver(solver)?;
        if let Some(restart) = request.restart {
            plan = plan.with_restart(restart)?;
        }
        let settings = Self {
            model: model.hash.clone(),
            process,
            steps,
            spacing,
            times: trajectory.times().iter().filter_map(|t| t.index()).collect(),
            scale,
            solver,
            restart: request.restart,
            calibration: model.calibration.as_ref().filter(|_| calibrated).map(calibration::Calibration::hash),
            clip,
            final_level,
            seed: request.seed,
            classes: classes(model, request)?,
            guidance: request.guidance,
            guidance_interval: request.guidance_interval,
            guide: request.guide.clone(),
            null_class: model.null_class.filter(|_| request.guidance.is_some() && model.guide.is_none()),
            latents: None,
            noise: None,
            precision: request.precision,
            extra,
        };
        Ok((settings, plan))
    }

    /// A request that reproduces this run with the same model and sets every option.
    pub fn request(&self) -> Request {
        let (clip, bound) = ClipMode::of(self.clip);
        Request {
            preset: None,
            steps: self.steps,
            spacing: self.spacing.clone(),
            // Explicit timesteps are whole.
            times: self.steps.is_none().then(|| self.times.iter().filter_map(|index| index.whole()).collect()),
            noise: Noise::from(&self.scale),
            final_sigma: self.extra.get("final_sigma").and_then(Value::as_f64),
            solver: (self.solver != Solver::DDIM).then_some(SolverChoice::Named(self.solver)),
            restart: self.restart,
            clip: Some(clip),
            threshold: match bound {
                Some(Bound::Dynamic(by)) => Some(by),
                _ => None,
            },
            class: match &self.classes {
                Some(ClassRule::One(class)) => vec![*class],
                Some(ClassRule::Cycle(classes)) => classes.clone(),
                Some(ClassRule::Modulo(_)) | None => Vec::new(),
            },
            guidance: self.guidance,
            guidance_interval: self.guidance_interval,
            guide: self.guide.clone(),
            precision: self.precision,
            seed: self.seed,
        }
    }

    /// The options by name, as in manifests and PNG files. Runs with equal options make equal images.
    pub fn to_json(&self) -> Map<String, Value> {
        // These appear even when unset. The others appear only when set, so manifests of runs without them never change.
        const ALWAYS: [&str; 10] =
            ["class", "clip_range", "eta", "guidance", "latents", "noise", "sigma", "spacing", "steps", "threshold"];
        let mut options: Map<String, Value> = ALWAYS.map(|name| (name.to_owned(), Value::Null)).into_iter().collect();
        let mut put = |name: &str, value: Value| drop(options.insert(name.to_owned(), value));
        if let NoiseScale::Eta(eta) = &self.scale {
            put("eta", json!(eta));
        }
        put("seed", json!(self.seed));
        // The guide's name may be a path.
        self.request().fields(SAMPLE & !GUIDE).into_iter().for_each(|(name, value)| put(&name, value));
        if let (_, Some(Bound::Range(range))) = ClipMode::of(self.clip) {
            put("clip_range", json!(range));
        }
        if let Some(ClassRule::Modulo(classes)) = self.classes {
            put("class", json!(format!("index modulo {classes}")));
        }
        put("final_level", json!(if self.final_level == FinalLevel::Clean { "clean" } else { "first-trained" }));
        put("latents", json!(self.latents));
        put("model", json!(self.model));
        put("noise", json!(self.noise));
        put("noise_version", json!(NOISE_VERSION));
        put("process", json!(self.process));
        put("times", json!(self.times));
        if let Some(hash) = &self.calibration {
            put("calibration", json!(hash));
        }
        if let Some(class) = self.null_class {
            put("null_class", json!(class));
        }
        self.extra.iter().for_each(|(name, value)| put(name, value.clone()));
        options
    }

    /// The trajectory τ of the run in a schedule, the model's own.
    ///
    /// # Errors
    /// As [`Trajectory::from_times`].
    pub fn trajectory(&self, schedule: &Schedule) -> Result<Trajectory> {
        Trajectory::from_times(self.times.iter().map(|index| index.time()).collect(), schedule.train_steps())
    }

    /// [`to_texts`](Self::to_texts) for a file of the `n` images from index `first`.
    pub fn to_texts_of(&self, first: u64, n: usize) -> Vec<(String, String)> {
        let mut texts = self.to_texts();
        texts.extend([("first".to_owned(), first.to_string()), ("n".to_owned(), n.to_string())]);
        texts
    }

    /// The options that are set, as (keyword, text) pairs for a PNG file.
    pub fn to_texts(&self) -> Vec<(String, String)> {
        texts(&self.to_json())
    }
}

/// The options of [`Settings::to_json`] that are set, as (keyword, text) pairs for a PNG file.
pub fn texts(options: &Map<String, Value>) -> Vec<(String, String)> {
    let mut texts = vec![("Software".to_owned(), format!("skipstone {}", env!("CARGO_PKG_VERSION")))];
    texts.extend(options.keys().filter_map(|name| Some((name.clone(), stated(options, name)?))));
    texts
}

/// The text of one option of [`Settings::to_json`]; `None` if it is unset.
pub fn stated(options: &Map<String, Value>, name: &str) -> Option<String> {
    match options.get(name)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn classes(model: &Model, request: &Request) -> Result<Option<ClassRule>> {
    let needing = [("guidance_interval", request.guidance_interval.is_some()), ("guide", model.guide.is_some())];
    if let Some((name, _)) = needing.into_iter().find(|&(_, is_set)| is_set && request.guidance.is_none()) {
        return Err(Error::argument(format!("{name}: needs guidance; set guidance")));
    }
    if let Some(guide) = request.guide.as_ref().filter(|_| model.guide.is_none()) {
        return Err(Error::argument(format!("guide: {guide} is not loaded; pass it to Model::guided_by")));
    }
    // The weight of guidance without a guide.
    let classifier_free = request.guidance.filter(|_| model.guide.is_none());
    let Some(known) = model.config.num_class_embeds else {
        return match (request.class.is_empty(), classifier_free) {
            (false, _) => Err(Error::argument("class: the model is unconditional and has no classes; remove it")),
            (true, Some(_)) => {
                Err(Error::argument("guidance: the model is unconditional and has no classes; remove it, or set guide"))
            }
            (true, None) => Ok(None),
        };
    };
    if let Some(class) = request.class.iter().find(|&&class| class >= known) {
        return Err(Error::argument(format!("class: expected 0 to {}, found {class}", known - 1)));
    }
    if classifier_free.is_some() {
        if model.null_class.is_none() {
            return Err(Error::argument(
                "guidance: the model has no null class (it was not trained with dropped classes); sample without guidance",
            ));
        }
        if request.class.is_empty() {
            return Err(Error::argument("guidance: needs a class to guide towards; set class"));
        }
    }
    if known == MAX_CLASSES && request.class.is_empty() && model.null_class.is_none() {
        return Err(Error::argument(
            "class: the network takes any class number and does not say how many it knows; set class",
        ));
    }
    Ok(Some(match (&request.class[..], model.null_class) {
        (&[class], _) | (&[], Some(class)) => ClassRule::One(class),
        (&[], None) => ClassRule::Modulo(known),
        (classes, _) => ClassRule::Cycle(classes.to_vec()),
    }))
}
