//! Recipes as text: parsing, overrides and validation.

use serde::Serialize;

use super::{DataRecipe, DistillRecipe, EmaRecipe, OptimizerRecipe, Recipe, TrainRecipe};
use crate::error::{Error, Result};

/// Keys that are written only if their values are not the defaults.
const UNWRITTEN: [(&str, &str); 2] = [("train", "precision"), ("distill", "solver")];

/// The sections of a distillation's recipe.
#[derive(Serialize)]
struct Distillation<'a> {
    distill: &'a DistillRecipe,
    data: &'a DataRecipe,
    train: &'a TrainRecipe,
    optimizer: &'a OptimizerRecipe,
    ema: &'a EmaRecipe,
}

impl Recipe {
    /// Parses a recipe and overrides single values, given as `section.key=value`.
    ///
    /// # Errors
    /// The text is not TOML, a key is unknown (the message suggests the nearest one), or a value has the wrong type or
    /// is out of range.
    pub fn parse(text: &str, overrides: &[String]) -> Result<Self> {
        Self::read(text, overrides, &Self::default())
    }

    /// As [`parse`](Self::parse), with the keys and the defaults of `base`.
    pub(super) fn read(text: &str, overrides: &[String], base: &Self) -> Result<Self> {
        let mut whole = base.to_table();
        let mut known = whole.clone();
        for (section, key) in UNWRITTEN {
            if let Some(entries) = known.get_mut(section).and_then(toml::Value::as_table_mut) {
                entries.insert(key.into(), true.into());
            }
        }
        let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| Error::data(e.to_string()))?;
        for assignment in overrides {
            let (key, value) = assignment.split_once('=').ok_or_else(|| {
                Error::argument(format!("--set {assignment}: expected section.key=value, for example train.steps=1000"))
            })?;
            let (section, name) = key.trim().split_once('.').ok_or_else(|| unknown(key.trim(), &known))?;
            // A value that is not TOML is taken as a string.
            let value = format!("v = {}", value.trim())
                .parse::<toml::Table>()
                .ok()
                .and_then(|mut t| t.remove("v"))
                .unwrap_or_else(|| toml::Value::String(value.trim().into()));
            let entry = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            match entry {
                toml::Value::Table(entry) => entry.insert(name.to_string(), value),
                _ => return Err(unknown(section, &known)),
            };
        }
        check_keys(&table, &known)?;
        // A recipe that does not say how to sum may be that of an old run.
        if let Some(train) = whole.get_mut("train").and_then(toml::Value::as_table_mut) {
            train.remove("sum");
        }
        for (section, entries) in &table {
            let into = whole.get_mut(section).and_then(toml::Value::as_table_mut);
            if let (Some(into), Some(entries)) = (into, entries.as_table()) {
                into.extend(entries.clone());
            }
        }
        let recipe: Self = whole.try_into().map_err(|e: toml::de::Error| misread(&table, &e))?;
        recipe.validate()?;
        Ok(recipe)
    }

    /// The recipe as TOML with every key.
    pub fn to_toml(&self) -> String {
        // States hold this text, so the order of the keys is part of their bytes.
        let text = match &self.distill {
            None => toml::to_string(self),
            Some(distill) => toml::to_string(&Distillation {
                distill,
                data: &self.data,
                train: &self.train,
                optimizer: &self.optimizer,
                ema: &self.ema,
            }),
        };
        text.expect("a recipe is plain tables of plain values")
    }

    /// Every section and key.
    fn to_table(&self) -> toml::Table {
        self.to_toml().parse().expect("a recipe reads back")
    }

    fn validate(&self) -> Result<()> {
        let fail = |message: String| Err(Error::argument(message));
        let t = &self.train;
        for (name, value) in [
            ("train.steps", t.steps),
            ("train.batch", t.batch as u64),
            ("train.accumulate", t.accumulate as u64),
            ("train.shard", t.shard as u64),
            ("train.checkpoint_every", t.checkpoint_every),
            ("train.log_every", t.log_every),
            ("train.preview_images", t.preview_images as u64),
            ("train.preview_steps", t.preview_steps as u64),
        ] {
            if value == 0 || value > 1 << 40 {
                return fail(format!("{name}: expected 1 to 2^40, found {value}"));
            }
        }
        if t.batch.checked_mul(t.accumulate).is_none_or(|n| n > 1 << 24) {
            return fail(format!(
                "train.batch × train.accumulate: expected at most 2^24, found {} × {}",
                t.batch, t.accumulate
            ));
        }
        let o = &self.optimizer;
        for (name, value, low, high) in [
            ("optimizer.lr", o.lr, 0.0, 10.0),
            ("optimizer.final_lr", o.final_lr, 0.0, 1.0),
            ("optimizer.beta1", o.beta1, 0.0, 0.999_999_999),
            ("optimizer.beta2", o.beta2, 0.0, 0.999_999_999),
            ("optimizer.eps", o.eps, 1e-30, 1.0),
            ("optimizer.weight_decay", o.weight_decay, 0.0, 100.0),
            ("optimizer.clip", o.clip, 0.0, 1e12),
            ("ema.decay", self.ema.decay, 0.0, 1.0),
            ("data.class_dropout", self.data.class_dropout, 0.0, 1.0),
            ("diffusion.min_snr_gamma", self.diffusion.min_snr_gamma, 1e-6, 1e9),
        ] {
            if !(low..=high).contains(&value) {
                return fail(format!("{name}: expected {low} to {high}, found {value}"));
            }
        }
        if self.data.class_dropout > 0.0 && !self.data.classes && self.distill.is_none() {
            return fail("data.class_dropout needs data.classes = true".into());
        }
        if let Some(distill) = &self.distill {
            return distill.check();
        }
        let scheduler = self.scheduler();
        let process = scheduler.schedule().and_then(|schedule| schedule.check_prediction(scheduler.prediction_type));
        process.and_then(|()| self.config(self.data.classes.then_some(1)).map(drop)).map_err(|e| in_recipe(&e))
    }
}

/// The same error under the recipe's names, where it has those of a model folder.
fn in_recipe(error: &Error) -> Error {
    const NAMES: [(&str, &str); 4] = [
        ("in_channels", "model.channels"),
        ("num_train_timesteps", "diffusion.timesteps"),
        ("prediction_type", "diffusion.prediction"),
        ("betas", "diffusion.beta_start, diffusion.beta_end: betas"),
    ];
    let message = error.message();
    if let Some((from, to)) = NAMES.iter().find(|(from, _)| message.starts_with(from)) {
        return Error::argument(format!("{to}{}", &message[from.len()..]));
    }
    let known = Recipe::default().to_table();
    let is_key = |word: &str| known["model"].get(word).is_some();
    let owner = message.split_once(':').filter(|(word, _)| is_key(word)).map_or("", |_| "model.");
    Error::argument(format!("{owner}{message}"))
}

/// Names the key of the invalid value: the one that fails when parsed alone.
fn misread(table: &toml::Table, whole: &toml::de::Error) -> Error {
    for (section, entries) in table {
        for (key, value) in entries.as_table().into_iter().flatten() {
            let entry = toml::Table::from_iter([(key.clone(), value.clone())]);
            let alone = toml::Table::from_iter([(section.clone(), toml::Value::Table(entry))]);
            if let Err(e) = alone.try_into::<Recipe>() {
                return Error::argument(format!("{section}.{key}: {}", e.message()));
            }
        }
    }
    Error::data(whole.message())
}

/// Every `section.key` of a recipe.
fn keys(table: &toml::Table) -> Vec<String> {
    let keys = |(section, entries): (&String, &toml::Value)| {
        let entries = entries.as_table().map(|t| t.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        entries.into_iter().map(|key| format!("{section}.{key}")).collect::<Vec<_>>()
    };
    table.iter().flat_map(keys).collect()
}

fn unknown(key: &str, known: &toml::Table) -> Error {
    let near = |k: &str| {
        let name = k.rsplit_once('.').map_or(k, |(_, name)| name);
        strsim::jaro_winkler(key, k).max(strsim::jaro_winkler(key, name))
    };
    let nearest = keys(known).into_iter().max_by(|a, b| near(a).total_cmp(&near(b)));
    Error::argument(match nearest {
        Some(nearest) if near(&nearest) >= 0.75 => format!("unknown key {key}; did you mean {nearest}?"),
        _ => format!("unknown key \"{key}\": expected section.key, for example train.steps"),
    })
}

fn check_keys(table: &toml::Table, known: &toml::Table) -> Result<()> {
    for (section, entries) in table {
        if known.contains_key("distill") && matches!(section.as_str(), "model" | "diffusion") {
            return Err(Error::argument(format!(
                "{section}: a student has the network and the noise schedule of its teacher; remove [{section}]"
            )));
        }
        let Some(entries) = entries.as_table() else { return Err(unknown(section, known)) };
        let there = known.get(section).and_then(toml::Value::as_table);
        if let Some(key) = entries.keys().find(|key| there.is_none_or(|there| !there.contains_key(*key))) {
            return Err(unknown(&format!("{section}.{key}"), known));
        }
        if there.is_none() {
            return Err(unknown(section, known));
        }
    }
    Ok(())
}
