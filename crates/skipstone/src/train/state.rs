//! The training state, in one file that is replaced atomically.
//!
//! Data order, flips, times, noise and dropout are functions of the recipe's seed and the step. The state is therefore
//! all that resuming needs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::loss_scale::LossScale;
use crate::error::{Error, Kind, Result};
use crate::io::checkpoint::{FloatType, read_metadata, read_tensors, write_tensors};
use crate::io::files;
use crate::unet::{Layout, Parameters};

/// What a learner holds after `step` steps.
#[derive(Clone, Debug)]
pub(super) struct State<'a> {
    pub step: u64,
    /// In the order of [`Group::ALL`](crate::engine::Group::ALL): weights, moving average, Adam's two moments.
    pub groups: [Cow<'a, Parameters>; 4],
    /// The loss scale of a training in half precision.
    pub loss_scale: Option<LossScale>,
    /// The teacher of the round, where it is a former student: a run needs nothing else to go on.
    pub teacher: Option<Cow<'a, Parameters>>,
}

/// What identifies a state's run. With another recipe or data set, resuming would not continue the same run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub recipe: String,
    pub data: String,
    pub init: String,
}

/// Names of the groups in the file.
const GROUPS: [&str; 4] = ["weights", "ema", "adam.m", "adam.v"];

/// Name of the teacher in the file.
const TEACHER: &str = "teacher";

impl State<'_> {
    /// Refuses a state with a non-finite number, from which no step can recover.
    pub fn check_finite(&self) -> Result<()> {
        match self.not_finite() {
            Some(name) => {
                let message = format!("step {}: {name} is not finite; lower optimizer.lr", self.step);
                Err(Error::new(Kind::NonFinite, message))
            }
            None => Ok(()),
        }
    }

    /// The first tensor with a number that is not finite.
    fn not_finite(&self) -> Option<String> {
        GROUPS.iter().zip(&self.groups).find_map(|(group, parameters)| {
            let found = parameters.iter().find(|(_, values)| values.iter().any(|v| !v.is_finite()));
            found.map(|(spec, _)| format!("{group}/{}", spec.name))
        })
    }

    pub fn write(&self, path: &Path, identity: &Identity) -> Result<()> {
        let groups = || self.groups.iter().chain(&self.teacher);
        let names: Vec<String> = groups()
            .zip(GROUPS.iter().chain([&TEACHER]))
            .flat_map(|(group, name)| group.layout().specs().iter().map(move |spec| format!("{name}/{}", spec.name)))
            .collect();
        let tensors: Vec<(&str, &[usize], &[f32])> = groups()
            .flat_map(|group| group.iter())
            .zip(&names)
            .map(|((spec, values), name)| (name.as_str(), &spec.shape[..], values))
            .collect();
        let mut metadata = BTreeMap::from([
            ("step".to_string(), self.step.to_string()),
            ("recipe".to_string(), identity.recipe.clone()),
            ("data".to_string(), identity.data.clone()),
            ("init".to_string(), identity.init.clone()),
        ]);
        metadata.extend(self.loss_scale.map(|scale| ("loss_scale".to_string(), scale.to_text())));
        files::write_atomically(path, |out| write_tensors(tensors.iter().copied(), &metadata, FloatType::F32, out))
    }

    /// Reads a state whose parameters have the given layout.
    pub fn read(path: &Path, layout: &Arc<Layout>) -> Result<State<'static>> {
        // Four groups of parameters, a teacher and a header.
        let limit = 20 * layout.len() as u64 + (64 << 20);
        let bytes = files::read(path, limit)?;
        State::parse(&bytes, layout).map_err(|e| e.in_file(path))
    }

    fn parse(bytes: &[u8], layout: &Arc<Layout>) -> Result<State<'static>> {
        let set = read_tensors(bytes)?;
        let step = text(&set.metadata, "step")?;
        let step = step.parse().map_err(|_| Error::data("\"step\" in the training state is not a number"))?;
        let loss_scale = set.metadata.get("loss_scale").map(|text| LossScale::parse(text)).transpose()?;
        let by_name: BTreeMap<&str, _> = set.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        let group = |name: &str| -> Result<Cow<'static, Parameters>> {
            let mut parameters = Parameters::zeros(layout.clone());
            for spec in layout.specs() {
                let key = format!("{name}/{}", spec.name);
                let tensor =
                    by_name.get(key.as_str()).ok_or_else(|| Error::data(format!("tensor {key} is missing")))?;
                if tensor.shape != spec.shape {
                    return Err(Error::data(format!("{key}: expected {:?}, found {:?}", spec.shape, tensor.shape)));
                }
                parameters.data_mut()[spec.range()].copy_from_slice(&tensor.values);
            }
            Ok(Cow::Owned(parameters))
        };
        let [weights, ema, m, v] = GROUPS.map(group);
        let taught = by_name.keys().any(|name| name.strip_prefix(TEACHER).is_some_and(|rest| rest.starts_with('/')));
        let teacher = taught.then(|| group(TEACHER)).transpose()?;
        let state = State { step, groups: [weights?, ema?, m?, v?], loss_scale, teacher };
        // No such state is ever written.
        match state.not_finite() {
            Some(name) => Err(Error::data(format!(
                "{name} is not finite, so the file is damaged; put a copy of it back, or start another run from the model with --init"
            ))),
            None => Ok(state),
        }
    }
}

impl Identity {
    /// Whose state a file holds.
    pub fn read(path: &Path) -> Result<Self> {
        let metadata = read_metadata(path)?;
        let text = |key| text(&metadata, key).map_err(|e| e.in_file(path));
        Ok(Self { recipe: text("recipe")?, data: text("data")?, init: text("init")? })
    }
}

fn text(metadata: &BTreeMap<String, String>, key: &str) -> Result<String> {
    metadata.get(key).cloned().ok_or_else(|| Error::data(format!("the training state has no \"{key}\"")))
}
