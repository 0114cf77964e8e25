//! `evaluate`: the paper's Table 1.

use std::ops::ControlFlow;
use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use serde_json::{Value, json};
use skipstone::io::checkpoint::Model;
use skipstone::io::data::Split;
use skipstone::sampling::generate::Inputs;
use skipstone::sampling::options::{CONDITION, Noise, RESTART, Request, SEED, THRESHOLD};
use skipstone::{Error, Result};
use skipstone_eval::table::{Evaluation, Judge, Lists, RealImages, Repeats, Row, Task, Watcher, Work};
use skipstone_eval::{FeatureSpec, check_takes};

use crate::data::{Given, given};
use crate::errors::{raise, value};
use crate::options::{Keywords, json};
use crate::sampler::{PySampler, warn};
use crate::watch::Watch;

/// A list of values, or one of them, by their names.
fn list<T: std::str::FromStr<Err = Error>>(
    py: Python<'_>,
    name: &str,
    given: Option<&Bound<'_, PyAny>>,
) -> PyResult<Vec<T>> {
    let values = match given.map(|given| json(name, given)).transpose()? {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(value) => vec![value],
    };
    let parse = |value: &Value| match value {
        Value::String(text) => text.parse(),
        other => other.to_string().parse(),
    };
    values.iter().map(parse).collect::<Result<_>>().map_err(|e| raise(py, &e))
}

/// The caller's bar.
struct Seen<'a>(&'a mut Watch);

impl Watcher for Seen<'_> {
    type Error = Error;

    fn begins(&mut self, _: &Task) {}

    fn drawn(&mut self, calls: usize) -> ControlFlow<()> {
        self.0.advance_by(calls, |_, _| Ok(()))
    }

    fn scored(&mut self, _: usize) -> ControlFlow<()> {
        self.0.poll()
    }

    fn row(&mut self, _: &Task, _: &Row) -> Result<()> {
        Ok(())
    }
}

#[pymethods]
impl PySampler {
    /// Scores samples against data for lists of steps, noise, spacings and solvers: the paper's Table 1.
    ///
    /// Every combination of the lists is a cell of n images. `out` keeps images and results, so that nothing is drawn twice: the
    /// same call goes on, and new cells are added. It gets report.html, results.csv and results.json, as from the command.
    ///
    /// Args:
    ///     data: a data set by name or path, or pictures, or a pair of them (train, test).
    ///     out: the folder.
    ///     steps, eta, spacing, solver, clip: one value each, or lists. eta also takes "hat" and "analytic". The default of steps is
    ///         the number that the model was distilled for, else 10, 20, 50 and 100.
    ///     n: images of each cell; first: index of the first.
    ///     features: "fashion-cnn" or "FILE.onnx:OUTPUT".
    ///     reference: at most this many images of each part of the data [all].
    ///     repeats: "LATENTSxDRAWS" for the variance of samples from one latent; None skips it.
    ///     batch, progress, restart, class_, guidance, guidance_interval, threshold, seed: as for `sample`.
    ///
    /// Returns:
    ///     A list of dicts, one per cell: frechet, frechet_floor, kid, precision, recall, … as in results.json.
    ///
    /// Raises:
    ///     ValueError: an option does not fit; or the denoiser has no name, so that kept images could not be told from others'.
    #[pyo3(signature = (data, *, out, steps=None, eta=None, spacing=None, solver=None, clip=None, n=10_000, first=0,
        features="fashion-cnn", reference=None, repeats=Some("32x5"), batch=None, progress=None, **options),
        text_signature = "($self, data, *, out, steps=None, eta=0, spacing=None, solver='ddim', clip=None, n=10000, first=0, features='fashion-cnn', reference=None, repeats='32x5', batch=None, restart=None, class_=None, guidance=None, guidance_interval=None, threshold=None, seed=0, progress=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn evaluate<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        out: PathBuf,
        steps: Option<&Bound<'py, PyAny>>,
        eta: Option<&Bound<'py, PyAny>>,
        spacing: Option<&Bound<'py, PyAny>>,
        solver: Option<&Bound<'py, PyAny>>,
        clip: Option<&Bound<'py, PyAny>>,
        n: u64,
        first: u64,
        features: &str,
        reference: Option<usize>,
        repeats: Option<&str>,
        batch: Option<usize>,
        progress: Option<Py<PyAny>>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if !self.core.is_identified() {
            return Err(value(
                "denoiser: evaluation keeps its images by the names of the network and of its guide; give Denoiser(name=…)",
            ));
        }
        let mut keywords = Keywords::new("evaluate", options)?;
        let common = keywords.request(py, RESTART | THRESHOLD | CONDITION | SEED)?;
        keywords.end()?;
        let own = self.core.model().scheduler.num_inference_steps;
        let steps: Vec<usize> = match steps.map(|steps| json("steps", steps)).transpose()? {
            None | Some(Value::Null) => Lists::usual_steps(own),
            Some(one @ Value::Number(_)) => vec![one.as_u64().unwrap_or(0) as usize],
            Some(Value::Array(all)) => all.iter().map(|s| s.as_u64().unwrap_or(0) as usize).collect(),
            Some(other) => return Err(value(format!("steps: expected a number or a list, found {other}"))),
        };
        let or = |mut all: Vec<Noise>| {
            if all.is_empty() {
                all.push(Noise::Eta(0.0));
            }
            all
        };
        let mut solvers = list(py, "solver", solver)?;
        if solvers.is_empty() {
            solvers.push(skipstone::sampling::solver::Solver::DDIM);
        }
        let lists = Lists {
            steps,
            noises: or(list(py, "eta", eta)?),
            spacings: list(py, "spacing", spacing)?,
            solvers,
            clips: list(py, "clip", clip)?,
        };
        let cells = lists.cells().map_err(|e| raise(py, &e))?;
        let repeats = repeats.map(str::parse::<Repeats>).transpose().map_err(|e| raise(py, &e))?;
        let features: FeatureSpec = features.parse().map_err(|e| raise(py, &e))?;
        let (train, test) = match data.cast::<PyTuple>() {
            Ok(pair) if pair.len() == 2 => (given(&pair.get_item(0)?, None)?, given(&pair.get_item(1)?, None)?),
            _ => (given(data, None)?, given(data, None)?),
        };
        for cell in &cells {
            if let Some(note) = self.note(py, &cell.request(&common))? {
                warn(py, format!("{cell}: {note}"))?;
            }
        }
        let core = &self.core;
        let (rows, damaged) = Watch::new(progress, None).run(py, move |watch| {
            let model = core.model();
            let network = features.open(skipstone_model::FASHION_CNN)?;
            let evaluation = Evaluation::new(&out, &model, (first, n), common.seed, repeats)?;
            check_takes(&*network, evaluation.shape())?;
            let requests: Vec<Request> = cells.iter().map(|cell| cell.request(&common)).collect();
            let runs: Vec<_> = requests.iter().map(|request| core.resolve(request)).collect::<Result<_>>()?;
            let generator = core.generator(&requests[0], Inputs::default(), first, n as usize)?;
            let images = evaluation.images();
            let mut work = Work::new(evaluation, &generator, cells, runs, images)?;
            let damaged: Vec<String> = work.damaged().iter().map(ToString::to_string).collect();
            let batch = core.batch(&generator, work.most(), batch)?;
            let _lock = work.claim()?;
            let real = real(train, test, &model, reference)?;
            watch.begin("reference", real.train().dim().0 + real.test().dim().0);
            let seen = &mut |parts| match watch.advance_by(parts, |_, _| Ok(())) {
                ControlFlow::Continue(()) => watch.poll(),
                stop => stop,
            };
            let judge = Judge::new(network, real, &out.join("reference"), n, seen)?;
            watch.begin("drawing", work.calls() as usize);
            work.run(generator, batch, Some(&judge), &mut Seen(watch))?;
            Ok((json!(work.rows()), damaged))
        })?;
        for error in damaged {
            warn(py, format!("{error}; its images were drawn again"))?;
        }
        py.import("json")?.call_method1("loads", (rows.to_string(),))
    }
}

/// Both parts of the data at the model's size and channels.
fn real(train: Given, test: Given, model: &Model, limit: Option<usize>) -> Result<RealImages> {
    let options = model.data_options()?;
    RealImages::new(&train.load(Split::Train, &options)?, &test.load(Split::Test, &options)?, limit)
}
