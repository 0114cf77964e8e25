//! The options one by one.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::noise::checked;
use super::{ClipMode, Kind, Noise, Preset, Request, SolverChoice, SpacingChoice};
use crate::engine::Precision;
use crate::error::{Error, Result};

/// What people are told about a field.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Its name in JSON; the flag has `-` for `_`.
    pub name: &'static str,
    /// What help texts call its value.
    pub value: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// What it is for, in one sentence without a full stop.
    pub help: &'static str,
    /// What holds where it is not said, for people; empty where nothing does.
    pub default: &'static str,
    /// A value as JSON; may be empty.
    pub example: &'static str,
}

impl Description {
    /// A field of which nothing is told yet.
    pub const fn new(name: &'static str, value: &'static str, kind: Kind) -> Self {
        Self { name, value, kind, help: "", default: "", example: "" }
    }

    /// The same with this sentence.
    #[must_use]
    pub const fn help(self, help: &'static str) -> Self {
        Self { help, ..self }
    }

    /// The same with this default.
    #[must_use]
    pub const fn or(self, default: &'static str) -> Self {
        Self { default, ..self }
    }

    /// The same with this example.
    #[must_use]
    pub const fn such_as(self, example: &'static str) -> Self {
        Self { example, ..self }
    }

    /// The sentence, and what holds where nothing is said.
    pub fn sentence(&self) -> String {
        if self.default.is_empty() {
            self.help.to_owned()
        } else {
            format!("{} [default: {}]", self.help, self.default)
        }
    }

    /// Its flag.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }
}

/// One option of a [`Request`].
#[derive(Debug)]
pub struct Field {
    /// Its place in a [`Set`].
    pub bit: Set,
    /// What people are told.
    pub about: Description,
    /// Options that mean nothing beside this one.
    pub excludes: &'static [&'static str],
    read: Read,
    /// What a request says of it; null where that is nothing, or the default.
    pub(super) write: Write,
}

type Read = fn(&mut Request, Value) -> Result<(), String>;
type Write = fn(&Request) -> Value;

impl Field {
    const fn new(bit: Set, about: Description, read: Read, write: Write) -> Self {
        Self { bit, about, excludes: &[], read, write }
    }

    const fn excluding(self, excludes: &'static [&'static str]) -> Self {
        Self { excludes, ..self }
    }

    /// The value of a text.
    ///
    /// # Errors
    /// It means nothing to this option.
    pub fn parse(&self, text: &str) -> Result<Value> {
        let value = self.about.kind.parse(self.about.name, text)?;
        self.set(&mut Request::default(), value.clone())?;
        Ok(value)
    }

    pub(super) fn set(&self, request: &mut Request, value: Value) -> Result<()> {
        let (name, found) = (self.about.name, value.clone());
        (self.read)(request, value).map_err(|message| {
            // serde's own words name types of Rust.
            let message = match self.about.kind.expected() {
                Some(expected) if message.starts_with("invalid ") => format!("expected {expected}, found {found}"),
                _ => message,
            };
            // Some errors name the option themselves.
            Error::argument(if message.starts_with(name) { message } else { format!("{name}: {message}") })
        })
    }
}

/// Some of the options, a bit for each or for those that belong together.
pub type Set = u16;

/// Number of steps.
pub const STEPS: Set = 1;
/// Which times.
pub const SPACING: Set = 1 << 1;
/// Explicit times.
pub const TIMES: Set = 1 << 2;
/// Everything about noise.
pub const NOISE: Set = 1 << 3;
/// The solver.
pub const SOLVER: Set = 1 << 4;
/// The mode of clipping.
pub const CLIP: Set = 1 << 5;
/// Dynamic thresholding.
pub const THRESHOLD: Set = 1 << 6;
/// Class and guidance.
pub const CONDITION: Set = 1 << 7;
/// The precision.
pub const PRECISION: Set = 1 << 8;
/// The seed.
pub const SEED: Set = 1 << 9;
/// Steps that are repeated.
pub const RESTART: Set = 1 << 10;
/// The model that guides another one.
pub const GUIDE: Set = 1 << 11;
/// Steps, spacing and solver for a purpose.
pub const PRESET: Set = 1 << 12;
/// What lays out the steps of a run.
pub const LAYOUT: Set = STEPS | SPACING | TIMES | NOISE | CLIP | THRESHOLD;
/// What decoding, reconstructing and interpolating take.
pub const DECODE: Set = LAYOUT | CONDITION | GUIDE | PRECISION;
/// Every option: what sampling takes.
pub const SAMPLE: Set = Set::MAX;

/// The options of a set, in their order.
pub fn of(set: Set) -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(move |field| field.bit & set != 0)
}

/// The option of this name.
pub fn find(name: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.about.name == name)
}

/// Every option, in the order of help texts and command lines. An option is a field of [`Request`] and an entry here.
pub static FIELDS: [Field; 17] = [
    Field::new(
        PRESET,
        Description::new("preset", "NAME", Kind::Name(|| names(&Preset::ALL)))
            .help("Steps, spacing and solver for a purpose: 10, 20 or 50 steps with the automatic solver; options given beside it stand")
            .or("none"),
        |request, value| set(&mut request.preset, value),
        |request| json!(request.preset),
    ),
    Field::new(
        STEPS,
        Description::new("steps", "S", Kind::Whole(1)).help("Number of steps S")
            .or("the number that the model was distilled for, else 50, or its T if that is less")
            .such_as("10"),
        |request, value| set(&mut request.steps, value),
        |request| json!(request.steps),
    ),
    // Before eta, which means something else beside it.
    Field::new(
        NOISE,
        Description::new("sigma", "NAME", Kind::NameOrNumbers(|| names(&Noise::NAMED))).help("Noise by name, or one sigma per network call in step order: hat is DDPM's larger variance; analytic \
                   is the variance that fits the network best (needs a calibration; eta 1, its default, is \
                   Analytic-DDPM and eta 0 Analytic-DDIM); learned is the variance that the network predicts, if it \
                   has learned one"),
        |request, value| match serde_json::from_value(value.clone()) {
            Ok(noise @ (Noise::Hat | Noise::Analytic { .. } | Noise::Learned | Noise::Vector(_))) => {
                request.noise = noise;
                Ok(())
            }
            _ => Err(format!(
                "expected {}, or one number per network call, found {value}",
                names(&Noise::NAMED).join(", ")
            )),
        },
        |request| match &request.noise {
            Noise::Eta(_) => Value::Null,
            Noise::Analytic { .. } => json!(Noise::NAMED[1]),
            noise => json!(noise),
        },
    ),
    Field::new(
        NOISE,
        Description::new("eta", "ETA", Kind::Number(0.0)).help("Noise per step (DDIM Eq. 16): 0 is DDIM (the same latent gives the same image), 1 is DDPM")
        .or("0"),
        |request, value| {
            let eta = checked(from(value)?).map_err(|error| error.message().to_owned())?;
            request.noise = match &request.noise {
                Noise::Eta(_) => Noise::Eta(eta),
                Noise::Analytic { .. } => Noise::Analytic { eta },
                Noise::Hat => return Err("cannot be combined with sigma hat, which has no eta".to_owned()),
                Noise::Learned => return Err("cannot be combined with sigma learned, which has no eta".to_owned()),
                Noise::Vector(_) => return Err("cannot be combined with a list of sigmas".to_owned()),
            };
            Ok(())
        },
        |request| match &request.noise {
            Noise::Eta(eta) if *eta != 0.0 => json!(eta),
            Noise::Analytic { eta } => json!(eta),
            _ => Value::Null,
        },
    ),
    Field::new(
        NOISE,
        Description::new("final_sigma", "SIGMA", Kind::Number(0.0)).help("Noise on the last step, needed to reproduce an image that was encoded with its noise")
        .or("none"),
        |request, value| set(&mut request.final_sigma, value),
        |request| json!(request.final_sigma),
    ),
    Field::new(
        SPACING,
        Description::new("spacing", "NAME", Kind::NameOrText {
            names: || names(&SpacingChoice::all()),
            pattern: "^(ddim[1-9][0-9]*|[1-9][0-9]*(,[1-9][0-9]*)*)$",
            such_as: "ddim25, 250, 10,15,20",
        })
        .help("How S of the model's T timesteps are chosen; optimal and fitted need a calibration; improved-diffusion's respacings \
               state S themselves")
        .or("the model's, or else linear"),
        |request, value| set(&mut request.spacing, value),
        |request| json!(request.spacing),
    ),
    Field::new(
        TIMES,
        Description::new("times", "A,B,C", Kind::Wholes { least: 0, lengths: [1, usize::MAX] }).help("Explicit timesteps: network indices, strictly decreasing, for example 999,700,17"),
        |request, value| set(&mut request.times, value),
        |request| json!(request.times),
    )
    .excluding(&["steps", "spacing"]),
    Field::new(
        SOLVER,
        Description::new("solver", "NAME", Kind::Name(|| names(&SolverChoice::all())))
            .help("Solver; all except ddim need eta 0; auto is the best one with a call per step that the run allows")
            .or("auto with a preset, else ddim"),
        |request, value| set(&mut request.solver, value),
        |request| json!(request.solver),
    ),
    Field::new(
        RESTART,
        Description::new("restart", "LOW,HIGH,K", Kind::Wholes { least: 0, lengths: [3, 3] })
            .help("Restart: at timestep LOW, return to HIGH with fresh noise, K times; needs a run without other noise"),
        |request, value| set(&mut request.restart, value),
        |request| json!(request.restart),
    ),
    Field::new(
        CLIP,
        Description::new("clip", "HOW", Kind::Name(|| names(&ClipMode::ALL))).help("Clip the predicted image: keep-eps keeps the predicted noise, as diffusers does; rederive-eps recomputes it")
        .or("the model's, or else off; off for encoding and decoding"),
        |request, value| set(&mut request.clip, value),
        |request| json!(request.clip),
    ),
    Field::new(
        THRESHOLD,
        Description::new("threshold", "RATIO,MAX", Kind::Numbers { most: f64::INFINITY, lengths: [2, 2] }).help("Dynamic thresholding: the quantile and the largest bound, for example 0.995,1.5; needs clipping"),
        |request, value| {
            set(&mut request.threshold, value).map_err(|_| "expected two numbers, for example 0.995,1.5".to_owned())
        },
        |request| json!(request.threshold),
    ),
    Field::new(
        CONDITION,
        Description::new("class", "K,…", Kind::WholeOrWholes(0))
            .help("Class of the images, for a class-conditional model; image i has class i of a list, which repeats")
            .such_as("3"),
        |request, value| {
            request.class = if value.is_array() { from(value)? } else { vec![from(value)?] };
            if request.class.is_empty() { Err("expected at least one class, found none".to_owned()) } else { Ok(()) }
        },
        |request| match request.class[..] {
            [] => Value::Null,
            [class] => json!(class),
            _ => json!(request.class),
        },
    ),
    Field::new(
        CONDITION,
        Description::new("guidance", "W", Kind::Number(f64::NEG_INFINITY)).help("Weight of classifier-free guidance, which needs a class and a model trained with class dropout; with guide, of autoguidance"),
        |request, value| set(&mut request.guidance, value),
        |request| json!(request.guidance),
    ),
    Field::new(
        CONDITION,
        Description::new("guidance_interval", "LOW,HIGH", Kind::Numbers { most: f64::INFINITY, lengths: [2, 2] })
            .help("Noise levels at which guidance acts: sigma_ve above LOW and up to HIGH, for example 0.3,5")
            .or("all"),
        |request, value| set(&mut request.guidance_interval, value),
        |request| json!(request.guidance_interval),
    ),
    Field::new(
        GUIDE,
        Description::new("guide", "MODEL", Kind::Text)
            .help("Autoguidance by this weaker model, with or without classes: guidance W extrapolates away from its \
                   prediction")
            .or("none"),
        |request, value| set(&mut request.guide, value),
        |request| json!(request.guide),
    ),
    Field::new(
        PRECISION,
        Description::new("precision", "NAME", Kind::Name(|| names(&Precision::ALL))).help("Precision of the network: f16 and bf16 are faster where the hardware computes in them; f16 has about three digits, bf16 (processors with AMX) two to three, and neither promises the same bytes on every machine")
        .or("f32"),
        |request, value| set(&mut request.precision, value),
        |request| said(&request.precision, &Precision::F32),
    ),
    Field::new(
        SEED,
        Description::new("seed", "N", Kind::Whole(0)).help("Seed of everything drawn at random: latents, noise, probes").or("0"),
        |request, value| set(&mut request.seed, value),
        |request| said(&request.seed, &0),
    ),
];

fn names<T: ToString>(all: &[T]) -> Vec<String> {
    all.iter().map(T::to_string).collect()
}

fn from<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn set<T: DeserializeOwned>(option: &mut T, value: Value) -> Result<(), String> {
    *option = from(value)?;
    Ok(())
}

/// A value that is not the default.
fn said<T: PartialEq + serde::Serialize>(value: &T, default: &T) -> Value {
    if value == default { Value::Null } else { json!(value) }
}
