use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{ClipMode, Noise, SAMPLE, Set, SpacingChoice, kind, of};
use crate::engine::Precision;
use crate::error::{Error, Result};
use crate::sampling::denoiser::DynamicThreshold;
use crate::sampling::solver::Solver;

/// S where neither steps nor times are asked for, as far as the model was trained.
const STEPS: usize = 50;

/// What a user asks for. What is `None` the model decides, or our default.
///
/// In JSON an object of the options that are said, under the names of the manifest; noise is `eta`, `sigma` or both.
///
/// ```
/// use skipstone::sampling::options::{Noise, Request, SAMPLE};
/// let request: Request = serde_json::from_str(r#"{"steps": 10, "sigma": "analytic", "eta": 0}"#).unwrap();
/// assert_eq!((request.steps, &request.noise), (Some(10), &Noise::Analytic { eta: 0.0 }));
/// assert_eq!(request.to_flags(SAMPLE), " --steps 10 --sigma analytic --eta 0");
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// S; 50, or T where that is less.
    pub steps: Option<usize>,
    /// How S of T times are picked; as the model says, else `linear`.
    pub spacing: Option<SpacingChoice>,
    /// The network calls by index, in place of `steps` and `spacing`.
    pub times: Option<Vec<u32>>,
    /// The noise of each step; none.
    pub noise: Noise,
    /// σ₁, the scale of noise on the last step; none.
    pub final_sigma: Option<f64>,
    /// How a deterministic run steps; DDIM.
    pub solver: Solver,
    /// What becomes of x̂₀; as the model says, else nothing.
    pub clip: Option<ClipMode>,
    /// Dynamic thresholding in place of a fixed range.
    pub threshold: Option<DynamicThreshold>,
    /// The class of every image.
    pub class: Option<usize>,
    /// The weight of classifier-free guidance.
    pub guidance: Option<f64>,
    /// How exactly the network is computed; f32.
    pub precision: Precision,
    /// The seed of latents and noise.
    pub seed: u64,
}

impl Request {
    /// Takes the options of `set` out of `fields`, JSON by name; others stay there.
    ///
    /// # Errors
    /// A value that means nothing, alone or beside another; the message begins with the option's name.
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

    /// What it says of the options of `set`, by name; defaults are left out.
    pub fn fields(&self, set: Set) -> Map<String, Value> {
        let said = of(set).map(|field| (field.about.name.to_owned(), (field.write)(self)));
        said.filter(|(_, value)| !value.is_null()).collect()
    }

    /// The same as flags, for a command that is to follow; empty or beginning with a space.
    pub fn to_flags(&self, set: Set) -> String {
        let said = of(set).map(|field| (field.about.flag(), (field.write)(self)));
        said.filter(|(_, value)| !value.is_null())
            .map(|(flag, value)| format!(" --{flag} {}", kind::text(&value)))
            .collect()
    }

    /// S as it is asked of a model with T trained times: the number of explicit times where those are given.
    pub fn steps_of(&self, trained: u32) -> usize {
        match &self.times {
            Some(times) => times.len(),
            None => self.steps.unwrap_or(STEPS.min(trained as usize)),
        }
    }

    /// Whether a run has noise in it, whatever the model.
    pub fn is_stochastic(&self) -> bool {
        self.noise != Noise::default()
    }

    /// The same without clipping unless it is asked for, whatever the model's own config says: what encoding and
    /// decoding go by.
    #[must_use]
    pub fn unclipped(self) -> Self {
        Self { clip: self.clip.or(Some(ClipMode::Off)), ..self }
    }
}

/// The error of a field that is none of `known`: the nearest is told.
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
