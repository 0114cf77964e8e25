//! `scheduler/scheduler_config.json`: how a model was trained and how diffusers would sample it.

use std::path::Path;

use serde_json::json;

use super::config::DIFFUSERS_VERSION;
use super::diffusers::MAX_JSON;
use super::fields::{Fields, name_of};
use crate::error::{Error, Result};
use crate::io::files;
use crate::math::schedule::{BetaSchedule, FinalLevel, MAX_TRAIN_STEPS, Schedule, Time};
use crate::math::trajectory::{Spacing, Trajectory};
use crate::sampling::denoiser::{Bound, Clip, DynamicThreshold, Prediction};

/// Maximum number of training timesteps in a file.
const MAX_TIMES: usize = MAX_TRAIN_STEPS as usize;

/// Default number of steps, unless the model has fewer trained timesteps or was distilled.
const STEPS: usize = 50;

/// `variance_type` of a DDPM scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VarianceName {
    /// `fixed_small`: the posterior's variance (η = 1).
    FixedSmall,
    /// `fixed_small_log`.
    FixedSmallLog,
    /// `fixed_large`: β (σ̂).
    FixedLarge,
    /// `fixed_large_log`.
    FixedLargeLog,
    /// `learned`.
    Learned,
    /// `learned_range`.
    LearnedRange,
}

const BETAS: &[(&str, BetaSchedule)] = &[
    ("linear", BetaSchedule::Linear),
    ("scaled_linear", BetaSchedule::ScaledLinear),
    ("squaredcos_cap_v2", BetaSchedule::SquaredCosCapV2),
    ("sigmoid", BetaSchedule::Sigmoid),
];
const PREDICTIONS: &[(&str, Prediction)] =
    &[("epsilon", Prediction::Epsilon), ("sample", Prediction::Sample), ("v_prediction", Prediction::Velocity)];
const SPACINGS: &[(&str, Spacing)] =
    &[("leading", Spacing::Leading), ("trailing", Spacing::Trailing), ("linspace", Spacing::Linspace)];
const VARIANCES: &[(&str, VarianceName)] = &[
    ("fixed_small", VarianceName::FixedSmall),
    ("fixed_small_log", VarianceName::FixedSmallLog),
    ("fixed_large", VarianceName::FixedLarge),
    ("fixed_large_log", VarianceName::FixedLargeLog),
    ("learned", VarianceName::Learned),
    ("learned_range", VarianceName::LearnedRange),
];

/// Fields by which a scheduler's file is recognised, the usual ones first. Files of diffusers' other schedulers have
/// some of them, too, beside fields that are unknown here.
const OWN: [&str; 16] = [
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "clip_sample",
    "clip_sample_range",
    "set_alpha_to_one",
    "steps_offset",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "timestep_spacing",
    "rescale_betas_zero_snr",
    "variance_type",
];

/// Whether a file is a scheduler's, and not another one of the same model.
fn is_scheduler(fields: &Fields) -> Result<bool> {
    let class = fields.str("_class_name")?.unwrap_or_default();
    // A network's config may have num_train_timesteps.
    let network = class.starts_with("UNet");
    Ok(class.contains("Scheduler") || !network && OWN.iter().any(|name| fields.get(name).is_some()))
}

/// The settings of a scheduler, under diffusers' names.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// T, the number of training timesteps.
    pub num_train_timesteps: usize,
    /// First β.
    pub beta_start: f64,
    /// Last β.
    pub beta_end: f64,
    /// The progression of β from first to last.
    pub beta_schedule: BetaSchedule,
    /// All T values of β; if given, the three fields above are unused.
    pub trained_betas: Option<Vec<f64>>,
    /// Whether x̂₀ is clipped during sampling; `None` if the file does not say.
    pub clip_sample: Option<bool>,
    /// Bound of the clipping: ± this value.
    pub clip_sample_range: f64,
    /// Whether ε̂ is derived again from a clipped x̂₀. In diffusers this is an argument of `DDIMScheduler.step`, not a
    /// setting.
    pub use_clipped_model_output: bool,
    /// Whether the last step ends at a = 1 instead of a₁.
    pub set_alpha_to_one: bool,
    /// Offset added to the timesteps of the `leading` spacing.
    pub steps_offset: usize,
    /// The prediction type of the network.
    pub prediction_type: Prediction,
    /// Whether x̂₀ is clipped at a quantile of its own values (dynamic thresholding).
    pub thresholding: bool,
    /// The quantile for dynamic thresholding.
    pub dynamic_thresholding_ratio: f64,
    /// Maximum threshold for dynamic thresholding.
    pub sample_max_value: f64,
    /// The spacing of S timesteps within T; `None` if the file does not say.
    pub timestep_spacing: Option<Spacing>,
    /// The number of steps S that the network was distilled for; `None` for any other network. It is the default of a
    /// sampler's `steps`. `DDIMScheduler` has no such setting and ignores it.
    pub num_inference_steps: Option<usize>,
    /// Whether β is rescaled to a_T = 0.
    pub rescale_betas_zero_snr: bool,
    /// The variance of a DDPM sampler.
    pub variance_type: VarianceName,
}

impl Default for SchedulerConfig {
    /// The defaults of diffusers' `DDIMScheduler` and `DDPMScheduler`, which are the official linear schedule. Clipping
    /// and spacing are unspecified.
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            clip_sample: None,
            clip_sample_range: 1.0,
            use_clipped_model_output: false,
            set_alpha_to_one: true,
            steps_offset: 0,
            prediction_type: Prediction::Epsilon,
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            sample_max_value: 1.0,
            timestep_spacing: None,
            num_inference_steps: None,
            rescale_betas_zero_snr: false,
            variance_type: VarianceName::FixedSmall,
        }
    }
}

impl SchedulerConfig {
    /// Reads a `scheduler_config.json`.
    ///
    /// # Errors
    /// The file is missing or not a scheduler's, its β make no schedule, or as [`from_json`](Self::from_json).
    pub fn read(path: &Path) -> Result<Self> {
        let text = String::from_utf8(files::read(path, MAX_JSON)?);
        let text = text.map_err(|_| Error::data("expected JSON, found text that is not UTF-8").in_file(path))?;
        Self::from_file(&text, false).map_err(|e| e.in_file(path))
    }

    /// As [`from_json`](Self::from_json), for the text of a file, which may be the wrong one. `ours` says that skipstone
    /// wrote it, which always states the prediction type.
    pub(super) fn from_file(json: &str, ours: bool) -> Result<Self> {
        let fields = Fields::parse(json)?;
        if !is_scheduler(&fields)? {
            let usual = OWN[..6].join(", ");
            return Err(Error::data(format!(
                "not a scheduler's config: it has no {usual} or the like; expected a scheduler_config.json of diffusers"
            )));
        }
        let config = Self::from_fields(&fields)?;
        config.check_betas()?;
        if ours && fields.get("prediction_type").is_none() {
            let known: Vec<&str> = PREDICTIONS.iter().map(|(name, _)| *name).collect();
            return Err(Error::data(format!(
                "prediction_type: missing, although skipstone writes it with every model; add what the network was \
                 trained to predict: {}",
                known.join(", ")
            )));
        }
        Ok(config)
    }

    /// Checks that the values of β make a schedule.
    fn check_betas(&self) -> Result<()> {
        let Err(error) = self.schedule() else { return Ok(()) };
        let fields = match &self.trained_betas {
            Some(_) => "trained_betas".to_owned(),
            None => format!(
                "beta_schedule {}, beta_start {}, beta_end {}",
                self.beta_schedule, self.beta_start, self.beta_end
            ),
        };
        Err(Error::data(format!("{fields}: {}", error.message())))
    }

    /// Parses a scheduler_config.json. Absent fields have the defaults of `DDIMScheduler`, whichever discrete-time
    /// scheduler the file names, as in `DDIMScheduler.from_config`. The exceptions are `clip_sample` and
    /// `timestep_spacing`, which stay `None` and are left to the sampler.
    ///
    /// # Errors
    /// The message names the first malformed or unknown field. Schedulers of continuous σ or flow matching are refused.
    pub fn from_json(json: &str) -> Result<Self> {
        Self::from_fields(&Fields::parse(json)?)
    }

    fn from_fields(fields: &Fields) -> Result<Self> {
        if let Some(class) = fields.str("_class_name")? {
            const CONTINUOUS: [&str; 6] = ["ScoreSde", "KarrasVe", "EDM", "FlowMatch", "CMStochastic", "VQ"];
            if CONTINUOUS.iter().any(|c| class.contains(c)) {
                return Err(Error::unsupported(format!(
                    "_class_name: {class:?} is not supported; expected a discrete-time scheduler such as DDIMScheduler"
                )));
            }
        }
        let d = Self::default();
        let trained_betas = fields.f64s("trained_betas")?;
        let config = Self {
            num_train_timesteps: fields.usize("num_train_timesteps", d.num_train_timesteps)?,
            beta_start: fields.f64("beta_start", d.beta_start)?,
            beta_end: fields.f64("beta_end", d.beta_end)?,
            beta_schedule: match trained_betas {
                Some(_) => d.beta_schedule,
                None => fields.choice("beta_schedule", BETAS, d.beta_schedule)?,
            },
            trained_betas,
            clip_sample: match fields.get("clip_sample") {
                Some(_) => Some(fields.bool("clip_sample", true)?),
                None => None,
            },
            clip_sample_range: fields.f64("clip_sample_range", d.clip_sample_range)?,
            use_clipped_model_output: fields.bool("use_clipped_model_output", false)?,
            set_alpha_to_one: fields.bool("set_alpha_to_one", d.set_alpha_to_one)?,
            steps_offset: fields.usize("steps_offset", d.steps_offset)?,
            prediction_type: fields.choice("prediction_type", PREDICTIONS, d.prediction_type)?,
            thresholding: fields.bool("thresholding", d.thresholding)?,
            dynamic_thresholding_ratio: fields.f64("dynamic_thresholding_ratio", d.dynamic_thresholding_ratio)?,
            sample_max_value: fields.f64("sample_max_value", d.sample_max_value)?,
            timestep_spacing: match fields.get("timestep_spacing") {
                Some(_) => Some(fields.choice("timestep_spacing", SPACINGS, Spacing::Leading)?),
                None => None,
            },
            num_inference_steps: match fields.get("num_inference_steps") {
                Some(_) => Some(fields.usize("num_inference_steps", 0)?),
                None => None,
            },
            rescale_betas_zero_snr: fields.bool("rescale_betas_zero_snr", d.rescale_betas_zero_snr)?,
            variance_type: fields.choice("variance_type", VARIANCES, d.variance_type)?,
        };
        config.validate()?;
        Ok(config)
    }

    /// What the network predicts and its schedule, for messages.
    pub fn in_words(&self) -> String {
        let Self { prediction_type, beta_schedule, beta_start, beta_end, num_train_timesteps, .. } = self;
        format!(
            "prediction {prediction_type} and the {beta_schedule} schedule, {beta_start} to {beta_end} in \
             {num_train_timesteps} steps"
        )
    }

    /// The noise schedule that these settings describe.
    ///
    /// # Errors
    /// As [`Schedule::new`] and [`Schedule::with_zero_terminal_snr`].
    pub fn schedule(&self) -> Result<Schedule> {
        let steps = u32::try_from(self.num_train_timesteps).unwrap_or(u32::MAX);
        let family = match &self.trained_betas {
            Some(betas) => BetaSchedule::Trained(betas.clone()),
            None => self.beta_schedule.clone(),
        };
        let schedule = Schedule::new(&family, self.beta_start, self.beta_end, steps)?;
        if self.rescale_betas_zero_snr { schedule.with_zero_terminal_snr() } else { Ok(schedule) }
    }

    /// The number of steps that the network was distilled for, unless these times are exactly its own: a student has learnt its own
    /// trailing steps alone, and no longer ones between the same times.
    ///
    /// ```
    /// use skipstone::io::checkpoint::SchedulerConfig;
    /// use skipstone::math::schedule::Time;
    /// let student = SchedulerConfig { num_inference_steps: Some(2), ..SchedulerConfig::default() };
    /// assert_eq!(student.misses([1000, 500].map(Time::new)), None);
    /// assert_eq!(student.misses([1000, 750].map(Time::new)), Some(2));
    /// assert_eq!(student.misses([Time::new(1000)]), Some(2)); // a longer step than it has learnt
    /// ```
    pub fn misses(&self, times: impl IntoIterator<Item = Time>) -> Option<usize> {
        let own = self.num_inference_steps?;
        let learnt =
            Trajectory::named(Spacing::Trailing, own, u32::try_from(self.num_train_timesteps).ok()?, 0).ok()?;
        (!times.into_iter().eq(learnt.times().iter().copied())).then_some(own)
    }

    /// S if nobody asks for another: that of a distilled network, else 50, but no more than T.
    pub fn default_steps(&self) -> usize {
        self.num_inference_steps.unwrap_or(STEPS.min(self.num_train_timesteps))
    }

    /// The noise level at which the last step ends.
    pub fn final_level(&self) -> FinalLevel {
        if self.set_alpha_to_one { FinalLevel::Clean } else { FinalLevel::FirstTrained }
    }

    /// The clipping of x̂₀ during sampling as diffusers interprets these settings: it keeps the network's ε̂ unless
    /// `use_clipped_model_output` is set. `None` if the file does not say.
    pub fn clip(&self) -> Option<Clip> {
        let clip = |bound| match self.use_clipped_model_output {
            true => Clip::RederiveEps(bound),
            false => Clip::KeepEps(bound),
        };
        if self.thresholding {
            let (ratio, max) = (self.dynamic_thresholding_ratio, self.sample_max_value);
            return Some(clip(Bound::Dynamic(DynamicThreshold { ratio, max })));
        }
        self.clip_sample.map(|clips| if clips { clip(Bound::Range(self.clip_sample_range)) } else { Clip::Off })
    }

    /// Checks ranges, except that of β, which the schedule checks.
    fn validate(&self) -> Result<()> {
        let times = self.num_train_timesteps;
        if !(1..=MAX_TIMES).contains(&times) {
            return Err(Error::data(format!("num_train_timesteps: expected 1 to {MAX_TIMES}, found {times}")));
        }
        if let Some(betas) = &self.trained_betas
            && betas.len() != times
        {
            return Err(Error::data(format!(
                "trained_betas: expected {times} numbers (num_train_timesteps), found {}",
                betas.len()
            )));
        }
        if !(0.0..=1.0).contains(&self.dynamic_thresholding_ratio) {
            let ratio = self.dynamic_thresholding_ratio;
            return Err(Error::data(format!("dynamic_thresholding_ratio: expected 0 to 1, found {ratio}")));
        }
        for (name, value) in
            [("clip_sample_range", self.clip_sample_range), ("sample_max_value", self.sample_max_value)]
        {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::data(format!("{name}: expected a positive number, found {value}")));
            }
        }
        if let Some(steps) = self.num_inference_steps.filter(|steps| !(1..=times).contains(steps)) {
            return Err(Error::data(format!("num_inference_steps: expected 1 to {times}, found {steps}")));
        }
        if self.steps_offset >= times {
            return Err(Error::data(format!("steps_offset: expected less than {times}, found {}", self.steps_offset)));
        }
        Ok(())
    }

    /// A scheduler_config.json that diffusers' `DDIMScheduler` loads. The same settings give the same bytes.
    pub fn to_json(&self) -> String {
        let mut value = json!({
            "_class_name": "DDIMScheduler",
            "_diffusers_version": DIFFUSERS_VERSION,
            "beta_end": self.beta_end,
            "beta_schedule": name_of(&self.beta_schedule, BETAS),
            "beta_start": self.beta_start,
            "clip_sample_range": self.clip_sample_range,
            "dynamic_thresholding_ratio": self.dynamic_thresholding_ratio,
            "num_train_timesteps": self.num_train_timesteps,
            "prediction_type": self.prediction_type.to_string(),
            "rescale_betas_zero_snr": self.rescale_betas_zero_snr,
            "sample_max_value": self.sample_max_value,
            "set_alpha_to_one": self.set_alpha_to_one,
            "steps_offset": self.steps_offset,
            "thresholding": self.thresholding,
            "trained_betas": self.trained_betas,
        });
        // Unspecified fields are omitted, so that each reader uses its own default.
        if let Some(clip) = self.clip_sample {
            value["clip_sample"] = json!(clip);
        }
        if let Some(spacing) = self.timestep_spacing {
            value["timestep_spacing"] = json!(name_of(&spacing, SPACINGS));
        }
        if let Some(steps) = self.num_inference_steps {
            value["num_inference_steps"] = json!(steps);
        }
        if let (None, BetaSchedule::Const | BetaSchedule::Jsd, Ok(schedule)) =
            (&self.trained_betas, &self.beta_schedule, self.schedule())
        {
            // diffusers does not know these names; the list of β is equivalent.
            value["beta_schedule"] = json!("linear");
            value["trained_betas"] = json!(schedule.betas());
        }
        if self.use_clipped_model_output {
            value["use_clipped_model_output"] = json!(true);
        }
        if self.variance_type != VarianceName::FixedSmall {
            // DDIMScheduler has no such field and ignores it, so it is written only where it is not the default.
            value["variance_type"] = json!(name_of(&self.variance_type, VARIANCES));
        }
        format!("{value:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn an_empty_file_gives_the_defaults_of_diffusers() {
        let config = SchedulerConfig::from_json("{}").unwrap();
        assert_eq!((config.num_train_timesteps, config.beta_start, config.beta_end), (1000, 1e-4, 0.02));
        assert_eq!((config.clip_sample, config.set_alpha_to_one, config.steps_offset), (None, true, 0));
        assert_eq!((config.dynamic_thresholding_ratio, config.sample_max_value), (0.995, 1.0));
        assert_eq!(config.timestep_spacing, None);
        assert_eq!(config.trained_betas, None);
    }

    #[test]
    fn a_file_must_be_a_schedulers_and_make_a_schedule() {
        let read = |json: &str| SchedulerConfig::from_file(json, false);
        for (json, what) in [
            ("", "the file is empty"),
            ("{", "not JSON, truncated"),
            ("{}", "not a scheduler's config"),
            ("{\"prediction_typo\": \"v_prediction\", \"beta_strat\": 3}", "not a scheduler's config"),
            ("{\"beta_start\": null}", "not a scheduler's config"),
            (
                "{\"_class_name\": \"DDIMPipeline\", \"scheduler\": [\"diffusers\", \"DDIMScheduler\"]}",
                "not a scheduler's",
            ),
            ("{\"_class_name\": \"UNet2DModel\", \"num_train_timesteps\": 50}", "not a scheduler's config"),
            ("{\"format\": 1, \"null_class\": null, \"weights\": \"ema\"}", "not a scheduler's config"),
            ("{\"beta_end\": 2}", "beta_schedule linear, beta_start 0.0001, beta_end 2: betas["),
            ("{\"trained_betas\": [0.1, 3], \"num_train_timesteps\": 2}", "trained_betas: betas[1]"),
        ] {
            let e = read(json).unwrap_err();
            assert!(e.kind() == Kind::InvalidData && e.message().starts_with(what), "{json}: {e}");
        }
        // Old files, and those of schedulers with other fields.
        for json in [
            "{\"_class_name\": \"PNDMScheduler\"}",
            "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"solver_order\": 2, \"lower_order_final\": true}",
            "{\"_class_name\": \"DDPM\", \"beta_start\": 0.0001, \"timesteps\": 1000}",
            "{\"beta_end\": 0.02, \"use_karras_sigmas\": false}",
            "{\"num_train_timesteps\": 1000}",
        ] {
            assert_eq!(read(json).unwrap(), SchedulerConfig::default(), "{json}");
        }
        // Skipstone itself always says what a network predicts.
        let e = SchedulerConfig::from_file("{\"beta_end\": 0.02}", true).unwrap_err();
        assert!(e.message().starts_with("prediction_type: missing"), "{e}");
        assert!(SchedulerConfig::from_file(&SchedulerConfig::default().to_json(), true).is_ok());
    }

    #[test]
    fn every_field_survives_a_round_trip() {
        let config = SchedulerConfig {
            num_train_timesteps: 3,
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            trained_betas: None,
            clip_sample: Some(false),
            clip_sample_range: 1.25,
            use_clipped_model_output: true,
            set_alpha_to_one: false,
            steps_offset: 1,
            prediction_type: Prediction::Velocity,
            thresholding: true,
            dynamic_thresholding_ratio: 0.9,
            sample_max_value: 1.5,
            timestep_spacing: Some(Spacing::Trailing),
            num_inference_steps: Some(2),
            rescale_betas_zero_snr: true,
            variance_type: VarianceName::FixedLarge,
        };
        assert_eq!(SchedulerConfig::from_json(&config.to_json()).unwrap(), config);
        let listed = SchedulerConfig {
            trained_betas: Some(vec![0.1, 0.2, 1.0 / 3.0]),
            num_train_timesteps: 3,
            ..SchedulerConfig::default()
        };
        assert_eq!(SchedulerConfig::from_json(&listed.to_json()).unwrap(), listed);
    }

    #[test]
    fn every_family_of_betas_means_the_same_once_it_is_written() {
        for (name, family) in BETAS {
            for rescale_betas_zero_snr in [false, true] {
                // 0.01 is not too much for const.
                let config = SchedulerConfig {
                    beta_schedule: family.clone(),
                    beta_end: 0.01,
                    rescale_betas_zero_snr,
                    ..SchedulerConfig::default()
                };
                let read = SchedulerConfig::from_json(&config.to_json()).unwrap();
                assert_eq!(read.schedule().unwrap(), config.schedule().unwrap(), "{name} {rescale_betas_zero_snr}");
            }
        }
    }

    #[test]
    fn unknown_words_and_bad_values_are_refused_naming_the_field() {
        for (field, value) in [
            ("beta_schedule", "\"exp\""),
            ("prediction_type", "\"flow\""),
            ("timestep_spacing", "\"karras\""),
            ("variance_type", "\"fixed_medium\""),
            ("num_train_timesteps", "0"),
            ("num_inference_steps", "0"),
            ("num_inference_steps", "1001"),
            ("num_train_timesteps", "1000000000"),
            ("trained_betas", "[0.1]"),
            ("trained_betas", "0.1"),
            ("clip_sample", "\"yes\""),
            ("clip_sample_range", "-1"),
            ("sample_max_value", "0"),
            ("dynamic_thresholding_ratio", "2"),
            ("steps_offset", "-1"),
            ("steps_offset", "1000"),
            ("_class_name", "\"ScoreSdeVeScheduler\""),
            ("_class_name", "\"FlowMatchEulerDiscreteScheduler\""),
        ] {
            let e = SchedulerConfig::from_json(&format!("{{\"{field}\":{value}}}")).unwrap_err();
            assert!(e.message().starts_with(field), "{field} {value}: {e}");
        }
    }
}
