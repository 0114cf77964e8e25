use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{ClipMode, Noise, Preset, SAMPLE, Set, SolverChoice, SpacingChoice, kind, of};
use crate::engine::Precision;
use crate::error::{Error, Result};
#[cfg(doc)]
use crate::io::checkpoint::SchedulerConfig;
use crate::sampling::denoiser::{DynamicThreshold, Interval};
use crate::sampling::sampler::Restart;

/// The options a user sets. For each `None` the model's config decides, else our default.
///
/// The JSON form is an object with only the options that are set, named as in manifests. Noise is `eta`, `sigma` or both.
///
/// ```
/// use skipstone::sampling::options::{Noise, Request, SAMPLE};
/// let request: Request = serde_json::from_str(r#"{"steps": 10, "sigma": "analytic", "eta": 0}"#).unwrap();
/// assert_eq!((request.steps, &request.noise), (Some(10), &Noise::Analytic { eta: 0.0 }));
/// assert_eq!(request.to_flags(SAMPLE), " --steps 10 --sigma analytic --eta 0");
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Steps, spacing and solver, where the request sets none of its own. Default: none.
    pub preset: Option<Preset>,
    /// S. Default: that of `preset`, else the model's ([`SchedulerConfig::default_steps`]).
    pub steps: Option<usize>,
    /// How S of T timesteps are picked. Default: that of `preset`, else the model's, else `linear`.
    pub spacing: Option<SpacingChoice>,
    /// Network indices of the calls, instead of `steps` and `spacing`.
    pub times: Option<Vec<u32>>,
    /// The noise of each step. Default: none.
    pub noise: Noise,
    /// σ₁, the noise scale of the last step. Default: no noise.
    pub final_sigma: Option<f64>,
    /// The solver. Default: the automatic one with a `preset`, else DDIM.
    pub solver: Option<SolverChoice>,
    /// Steps that are repeated after fresh noise. Default: none.
    pub restart: Option<Restart>,
    /// Clipping of x̂₀. Default: the model's, else off.
    pub clip: Option<ClipMode>,
    /// Dynamic thresholding instead of a fixed range.
    pub threshold: Option<DynamicThreshold>,
    /// The classes of the images: image i has class i modulo their number. Empty for the model's choice.
    pub class: Vec<usize>,
    /// The weight of classifier-free guidance or, with a guide, of autoguidance.
    pub guidance: Option<f64>,
    /// The noise levels at which guidance acts. Default: all.
    pub guidance_interval: Option<Interval>,
    /// The model that guides, by the name under which the caller finds it. The caller passes it to
    /// [`Model::guided_by`](crate::io::checkpoint::Model::guided_by). Default: none.
    pub guide: Option<String>,
    /// The network's floating-point precision. Default: f32.
    pub precision: Precision,
    /// The seed of latents and noise.
    pub seed: u64,
}

impl Request {
    /// Removes the options of `set` from `fields`, JSON values by name, and parses them. Other fields stay.
    ///
    /// # Errors
    /// A value is invalid by itself or in combination with another. The message starts with the option's name.
    pub fn take(fields: &mut Map<String, Value>, set: Set) -> Result<Self> {
        let mut request = Self::default();
        let given = |fields: &Map<String, Value>, name: &str| fields.get(name).is_some_and(|value| !value.is_null());
        for field in of(set) {
            if let Some(other) = field.excludes.iter().find(|other| given(fields, other)) {
                let name = field.about.name;
                if given(fields, name) {
                    return Err(Error::argument(format!("{name}: cannot be used with {other}")));
                }
            }
        }
        for field in of(set) {
            match fields.remove(field.about.name) {
                None | Some(Value::Null) => {}
                Some(value) => field.set(&mut request, field.about.kind.check(field.about.name, value)?)?,
            }
        }
        Ok(request)
    }

    /// The options of `set` that differ from their defaults, as JSON values by name.
    pub fn fields(&self, set: Set) -> Map<String, Value> {
        let fields = of(set).map(|field| (field.about.name.to_owned(), (field.write)(self)));
        fields.filter(|(_, value)| !value.is_null()).collect()
    }

    /// The same options as command-line flags, each preceded by a space.
    pub fn to_flags(&self, set: Set) -> String {
        let flags = of(set).map(|field| (field.about.flag(), (field.write)(self)));
        flags
            .filter(|(_, value)| !value.is_null())
            .map(|(flag, value)| format!(" --{flag} {}", kind::text(&value)))
            .collect()
    }

    /// S of a run: the number of explicit `times`, else that of a respacing, else `steps`, else the preset's, but at most
    /// `default`, else `default`, that of the model ([`SchedulerConfig::default_steps`]).
    pub fn steps_of(&self, default: usize) -> usize {
        match (&self.times, &self.spacing) {
            (Some(times), _) => times.len(),
            (None, Some(SpacingChoice::Respaced(respacing))) => respacing.steps(),
            (None, _) => {
                self.steps.unwrap_or_else(|| self.preset.map_or(default, |preset| preset.steps().min(default)))
            }
        }
    }

    /// Whether the steps of the run inject noise.
    pub fn is_stochastic(&self) -> bool {
        self.noise != Noise::default()
    }

    /// Turns clipping off unless the request sets it, whatever the model's config says. Encoding and decoding use this.
    #[must_use]
    pub fn unclipped(self) -> Self {
        Self { clip: self.clip.or(Some(ClipMode::Off)), ..self }
    }
}

/// The error for a field that is not in `known`. It suggests the nearest name.
pub fn unknown<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Error {
    let nearest = known.into_iter().min_by_key(|known| strsim::damerau_levenshtein(known, name)).unwrap_or_default();
    Error::argument(format!("unknown field \"{name}\"; did you mean \"{nearest}\"?"))
}

impl Serialize for Request {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.fields(SAMPLE).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Request {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Map::deserialize(deserializer)?;
        let request = Self::take(&mut fields, SAMPLE).and_then(|request| match fields.keys().next() {
            None => Ok(request),
            Some(name) => Err(unknown(name, of(SAMPLE).map(|field| field.about.name))),
        });
        request.map_err(|error| serde::de::Error::custom(error.message()))
    }
}
