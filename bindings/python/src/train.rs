//! `train` and `distill`: runs in a folder.

use std::ops::ControlFlow;
use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use serde_json::Value;
use skipstone::io::checkpoint::WeightsChoice;
use skipstone::io::data::{DataOptions, Split};
use skipstone::train::{Event, Recipe, Run};

use crate::data::{Given, array_options, given};
use crate::errors::{compute, raise, value};
use crate::model::{Origin, choice, initial};
use crate::options::json;
use crate::process;
use crate::watch::Watch;

/// A training run in a folder, as `train` or `distill` left it.
///
/// Attributes:
///     out: the folder.
///     path: the trained model, a diffusers folder.
///     steps: steps done.
#[pyclass(module = "skipstone", frozen, get_all)]
pub struct Training {
    out: PathBuf,
    path: PathBuf,
    steps: u64,
}

#[pymethods]
impl Training {
    /// Loads the trained model, with the keyword arguments of `skipstone.load`.
    #[pyo3(signature = (**options))]
    fn load<'py>(&self, py: Python<'py>, options: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyAny>> {
        py.import("skipstone")?.getattr("load")?.call((&self.path,), options)
    }

    fn __repr__(&self) -> String {
        format!("Training({}, {} steps)", self.out.display(), self.steps)
    }
}

/// A value as TOML.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Mappings of sections, and `section.key` of `set`, as overrides.
fn overrides(
    sections: &[(&str, Option<&Bound<'_, PyDict>>)],
    set: Option<&Bound<'_, PyDict>>,
) -> PyResult<Vec<String>> {
    let mut all = Vec::new();
    let mut put = |key: String, given: &Bound<'_, PyAny>| -> PyResult<()> {
        all.push(format!("{key}={}", toml(&json(&key, given)?)));
        Ok(())
    };
    for (section, values) in sections {
        for (key, given) in values.iter().copied().flatten() {
            put(format!("{section}.{}", key.str()?), &given)?;
        }
    }
    for (key, given) in set.into_iter().flatten() {
        put(key.extract()?, &given)?;
    }
    Ok(all)
}

fn call(py: Python<'_>, callback: &Py<PyAny>, event: &Event<'_>) -> PyResult<()> {
    let seen = PyDict::new(py);
    match *event {
        Event::Round { index, rounds, round } => {
            seen.set_item("event", "round")?;
            seen.set_item("round", index + 1)?;
            seen.set_item("rounds", rounds)?;
            seen.set_item("teacher_steps", round.teacher)?;
            seen.set_item("student_steps", round.student)?;
        }
        Event::Step { report, images_per_s } => {
            seen.set_item("event", "step")?;
            seen.set_item("step", report.step)?;
            seen.set_item("loss", report.loss)?;
            seen.set_item("gradient_norm", report.gradient_norm)?;
            seen.set_item("learning_rate", report.learning_rate)?;
            seen.set_item("images_per_s", images_per_s)?;
        }
        Event::Logged { step, loss, images_per_s, .. } => {
            seen.set_item("event", "log")?;
            seen.set_item("step", step)?;
            seen.set_item("loss", loss)?;
            seen.set_item("images_per_s", images_per_s)?;
        }
        Event::Preview { step, path } => {
            seen.set_item("event", "preview")?;
            seen.set_item("step", step)?;
            seen.set_item("path", path)?;
        }
        Event::Checkpoint { step } => {
            seen.set_item("event", "checkpoint")?;
            seen.set_item("step", step)?;
        }
    }
    callback.call1(py, (seen,)).map(drop)
}

/// Trains a model, or goes on with a training run.
///
/// The same recipe, data and seed give the same bytes as the command `skipstone train`, whatever the threads and the
/// interruptions. Ctrl-C, and an exception of `callback`, leave a checkpoint behind, from which `resume=True` goes on.
///
/// Args:
///     data: a data set by name or path, as for `read_images`, or pictures: uint8 [n, c, h, w] or [n, h, w, c], or float on the
///         256 levels of −1..1.
///     recipe: a TOML file, or its text [defaults, for images of the data's size].
///     out: the folder of the run.
///     labels: class of every image of an array.
///     model, diffusion, train, optimizer, ema: mappings that override keys of these sections of the recipe.
///     set: overrides by full name, such as {"train.batch": 32}.
///     seed: the same as set={"train.seed": …}.
///     init: a model to start from; weights: "ema" or "raw" of it.
///     resume: whether to go on with the run in `out`; starts it if there is none.
///     layout, range: how an array on disk is meant.
///     device, threads: as for `load`. Results depend on the device in their last digits.
///     callback: called with a dict after every step ("event": "step", step, loss, gradient_norm, learning_rate,
///         images_per_s), and for "log", "preview" and "checkpoint".
///
/// Returns:
///     Training.
///
/// Raises:
///     ValueError: a key or a value of the recipe is wrong (the message names the nearest key), or the run in `out` is another.
#[pyfunction]
#[pyo3(signature = (data, recipe=None, *, out, labels=None, model=None, diffusion=None, train=None, optimizer=None,
    ema=None, set=None, seed=None, init=None, weights=None, resume=false, layout=None, range=None, device=None,
    threads=None, progress=None, callback=None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments")]
pub fn train(
    py: Python<'_>,
    data: &Bound<'_, PyAny>,
    recipe: Option<&Bound<'_, PyAny>>,
    out: PathBuf,
    labels: Option<&Bound<'_, PyAny>>,
    model: Option<&Bound<'_, PyDict>>,
    diffusion: Option<&Bound<'_, PyDict>>,
    train: Option<&Bound<'_, PyDict>>,
    optimizer: Option<&Bound<'_, PyDict>>,
    ema: Option<&Bound<'_, PyDict>>,
    set: Option<&Bound<'_, PyDict>>,
    seed: Option<u64>,
    init: Option<PathBuf>,
    weights: Option<&str>,
    resume: bool,
    layout: Option<&str>,
    range: Option<(f64, f64)>,
    device: Option<&str>,
    threads: Option<usize>,
    progress: Option<Py<PyAny>>,
    callback: Option<Py<PyAny>>,
) -> PyResult<Training> {
    let sections =
        [("model", model), ("diffusion", diffusion), ("train", train), ("optimizer", optimizer), ("ema", ema)];
    let mut overrides = overrides(&sections, set)?;
    overrides.extend(seed.map(|seed| format!("train.seed={seed}")));
    let given = given(data, labels)?;
    let (text, file) = match (recipe, &given) {
        (None, Given::Held(data)) => {
            let [c, h, w] = data.shape();
            (format!("[model]\nsample_size = [{h}, {w}]\nchannels = {c}\n"), None)
        }
        (recipe, _) => recipe_text(py, recipe)?,
    };
    let recipe = parsed(py, &text, file, &overrides, Recipe::parse)?;
    let options = DataOptions {
        size: Some(recipe.model.sample_size),
        channels: Some(recipe.model.channels),
        background: recipe.data.background,
        ..DataOptions::default()
    };
    let options = array_options(py, layout, range, options)?;
    let weights = choice(weights)?;
    let engine = process::engine(device, threads).map_err(|e| raise(py, &e))?;
    if init.is_none() && weights != WeightsChoice::Auto {
        return Err(value("weights: chooses among the weights of init; give init"));
    }
    let folder = out.clone();
    go(py, Watch::new(progress, callback), "training", out, move || {
        let data = given.load(Split::Train, &options)?;
        let init = init.map(|path| initial(&path, weights)).transpose()?;
        Run::open(&folder, recipe, data, init, engine, resume)
    })
}

/// Teaches a student to sample in few steps, or goes on with a distillation: progressive distillation (Salimans and Ho 2022).
///
/// In every round, the student learns to land in one step of DDIM where its teacher lands in two, and becomes the teacher of
/// the next round. The student is an ordinary model, which samples in its own number of steps unless told otherwise. The same
/// recipe, data, teacher and seed give the same bytes as the command `skipstone distill`, whatever the threads and the
/// interruptions. Ctrl-C, and an exception of `callback`, leave a checkpoint behind, from which `resume=True` goes on.
///
/// Args:
///     data: as for `train`; a data set like the one that the teacher was trained on.
///     teacher: a path as for `load`, or a loaded Model [the built-in model].
///     out: the folder of the run.
///     steps: of the last student; they divide the teacher's number of timesteps [the recipe's, else 4].
///     from_steps: of the first teacher: `steps` doubled at least once [the recipe's, else doubled until it is 32 or more,
///         or 8 with "heun"].
///     solver: of the first teacher, "ddim" or "heun", which needs a quarter of the steps [the recipe's, else "ddim"].
///     guidance: weight of the classifier-free guidance that the student learns [the recipe's, else none].
///     recipe: a TOML file, or its text, without the sections model and diffusion [defaults].
///     labels: class of every image of an array.
///     train, optimizer, ema: mappings that override keys of these sections of the recipe.
///     set: overrides by full name, such as {"train.steps": 1000}, the optimiser steps of a round.
///     seed: the same as set={"train.seed": …}.
///     weights: "ema" or "raw" of a teacher given by its path.
///     resume: whether to go on with the run in `out`; starts it if there is none.
///     layout, range: how an array on disk is meant.
///     device, threads: as for `load`. Results depend on the device in their last digits.
///     callback: as for `train`; also called at the beginning of a round ("event": "round", round, rounds, teacher_steps,
///         student_steps).
///
/// Returns:
///     Training.
///
/// Raises:
///     ValueError: a key or a value of the recipe is wrong, the steps do not follow from each other, or the run in `out` is
///         another.
#[pyfunction]
#[pyo3(signature = (data, teacher=None, *, out, steps=None, from_steps=None, solver=None, guidance=None, recipe=None,
    labels=None, train=None, optimizer=None, ema=None, set=None, seed=None, weights=None, resume=false, layout=None, range=None,
    device=None, threads=None, progress=None, callback=None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments")]
pub fn distill(
    py: Python<'_>,
    data: &Bound<'_, PyAny>,
    teacher: Option<&Bound<'_, PyAny>>,
    out: PathBuf,
    steps: Option<usize>,
    from_steps: Option<usize>,
    solver: Option<&str>,
    guidance: Option<f64>,
    recipe: Option<&Bound<'_, PyAny>>,
    labels: Option<&Bound<'_, PyAny>>,
    train: Option<&Bound<'_, PyDict>>,
    optimizer: Option<&Bound<'_, PyDict>>,
    ema: Option<&Bound<'_, PyDict>>,
    set: Option<&Bound<'_, PyDict>>,
    seed: Option<u64>,
    weights: Option<&str>,
    resume: bool,
    layout: Option<&str>,
    range: Option<(f64, f64)>,
    device: Option<&str>,
    threads: Option<usize>,
    progress: Option<Py<PyAny>>,
    callback: Option<Py<PyAny>>,
) -> PyResult<Training> {
    let mut overrides = overrides(&[("train", train), ("optimizer", optimizer), ("ema", ema)], set)?;
    overrides.extend(steps.map(|steps| format!("distill.steps={steps}")));
    overrides.extend(from_steps.map(|steps| format!("distill.from={steps}")));
    overrides.extend(solver.map(|solver| format!("distill.solver={solver}")));
    overrides.extend(guidance.map(|guidance| format!("distill.guidance={guidance:?}")));
    overrides.extend(seed.map(|seed| format!("train.seed={seed}")));
    let given = given(data, labels)?;
    let (text, file) = recipe_text(py, recipe)?;
    let recipe = parsed(py, &text, file, &overrides, Recipe::parse_distillation)?;
    let origin = Origin::of_teacher(teacher, choice(weights)?)?;
    let engine = process::engine(device, threads).map_err(|e| raise(py, &e))?;
    let teacher = compute(py, || origin.read())?;
    let options = teacher.data_options().map_err(|e| raise(py, &e))?;
    let options = DataOptions { background: recipe.data.background, ..options };
    let options = array_options(py, layout, range, options)?;
    let folder = out.clone();
    go(py, Watch::new(progress, callback), "distillation", out, move || {
        let data = given.load(Split::Train, &options)?;
        Run::distill(&folder, recipe, data, teacher, engine, resume)
    })
}

/// The text of a recipe, and the file that it is in.
fn recipe_text(py: Python<'_>, recipe: Option<&Bound<'_, PyAny>>) -> PyResult<(String, Option<PathBuf>)> {
    let Some(recipe) = recipe else { return Ok((String::new(), None)) };
    let said = recipe.is_instance_of::<PyString>().then(|| recipe.extract::<String>()).transpose()?;
    if let Some(text) = said.filter(|text| text.contains('\n') || text.contains('[')) {
        return Ok((text, None));
    }
    let path: PathBuf = recipe.extract()?;
    let text = std::fs::read_to_string(&path).map_err(|e| raise(py, &skipstone::Error::io(&path, e)))?;
    Ok((text, Some(path)))
}

fn parsed(
    py: Python<'_>,
    text: &str,
    file: Option<PathBuf>,
    overrides: &[String],
    parse: impl Fn(&str, &[String]) -> skipstone::Result<Recipe>,
) -> PyResult<Recipe> {
    parse(text, overrides).map_err(|error| match (file, parse(text, &[])) {
        // The file is named only if it is wrong without the overrides too.
        (Some(path), Err(_)) => raise(py, &error.in_file(&path)),
        _ => raise(py, &error),
    })
}

/// Opens a run and takes it to its end, with a bar and the callback.
fn go(
    py: Python<'_>,
    watch: Watch,
    doing: &'static str,
    out: PathBuf,
    open: impl FnOnce() -> skipstone::Result<Run> + Send,
) -> PyResult<Training> {
    let folder = out.clone();
    let (path, steps) = watch.run(py, move |watch| {
        let mut run = open().map_err(|error| {
            if error.message().contains("--resume") {
                return skipstone::Error::argument(format!(
                    "the folder already holds a {doing} run; continue it with resume=True or choose another out"
                ))
                .in_file(&folder);
            }
            error
        })?;
        let (first, of) = (run.trainer().step_count(), run.trainer().recipe().total_steps());
        watch.begin(doing, of as usize);
        watch.skip(first as usize);
        run.train(&mut |event| {
            let parts = usize::from(matches!(event, Event::Step { .. }));
            match watch.advance_by(parts, |py, callback| call(py, callback, &event)) {
                ControlFlow::Continue(()) => watch.poll(),
                stop => stop,
            }
        })?;
        Ok((run.model(), run.trainer().step_count()))
    })?;
    Ok(Training { out, path, steps })
}
