//! `evaluate`: the paper's Table 1.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use serde_json::{Value, json};
use skipstone::io::checkpoint::Model;
use skipstone::io::data::Split;
use skipstone::io::files;
use skipstone::sampling::generate::Inputs;
use skipstone::sampling::options::{CONDITION, Noise, Request, SEED, THRESHOLD};
use skipstone::{Error, Result};
use skipstone_eval::table::{Cell, Evaluation, Judge, Lists, RealImages, Reference, Repeats, Results, report};
use skipstone_eval::{FeatureSpec, check_takes};

use crate::data::{Given, given};
use crate::errors::{raise, signals, value};
use crate::options::{Keywords, json};
use crate::sampler::PySampler;
use crate::watch::Watch;

/// Most images of one cell, as the command's.
const MOST_IMAGES: u64 = 100_000_000;

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
    ///     steps, eta, spacing, solver, clip: one value each, or lists. eta also takes "hat" and "analytic".
    ///     n: images of each cell; first: index of the first.
    ///     features: "fashion-cnn" or "FILE.onnx:OUTPUT".
    ///     reference: at most this many images of each part of the data [all].
    ///     repeats: "LATENTSxDRAWS" for the variance of samples from one latent; None skips it.
    ///     batch, progress, class_, guidance, guidance_interval, threshold, seed: as for `sample`.
    ///
    /// Returns:
    ///     A list of dicts, one per cell: frechet, frechet_floor, kid, precision, recall, … as in results.json.
    ///
    /// Raises:
    ///     ValueError: an option does not fit; or the denoiser has no name, so that kept images could not be told from others'.
    #[pyo3(signature = (data, *, out, steps=None, eta=None, spacing=None, solver=None, clip=None, n=10_000, first=0,
        features="fashion-cnn", reference=None, repeats=Some("32x5"), batch=None, progress=None, **options),
        text_signature = "($self, data, *, out, steps=(10, 20, 50, 100), eta=0, spacing=None, solver='ddim', clip=None, n=10000, first=0, features='fashion-cnn', reference=None, repeats='32x5', batch=None, class_=None, guidance=None, guidance_interval=None, threshold=None, seed=0, progress=None)")]
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
        let common = keywords.request(py, THRESHOLD | CONDITION | SEED)?;
        keywords.end()?;
        let steps: Vec<usize> = match steps.map(|steps| json("steps", steps)).transpose()? {
            None | Some(Value::Null) => vec![10, 20, 50, 100],
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
        if n > MOST_IMAGES {
            return Err(value(format!("n: expected at most {MOST_IMAGES} images, found {n}")));
        }
        let core = &self.core;
        let rows = Watch::new(progress, None).run(py, move |watch| {
            let model = core.model();
            let network = features.open(skipstone_model::FASHION_CNN)?;
            let end = first.checked_add(n).ok_or_else(|| Error::argument("first: first + n overflows 64 bits"))?;
            let images = first..end;
            let evaluation = Evaluation::new(&out, &model, images.clone(), common.seed, repeats)?;
            check_takes(&*network, evaluation.shape())?;
            let requests: Vec<Request> = cells.iter().map(|cell| cell.request(&common)).collect();
            let runs: Vec<_> = requests.iter().map(|request| core.resolve(request)).collect::<Result<_>>()?;
            let mut generator = core.generator(&requests[0], Inputs::default(), first, n as usize)?;
            let batch = core.batch(&generator, n as usize, batch)?;
            files::create_dir(&out)?;
            let _lock = files::lock(&out)?;
            files::remove_stale_temporaries(&out)?;
            let real = real(train, test, &model, reference)?;
            watch.begin("reference", real.train().dim().0 + real.test().dim().0);
            let reference = Reference::open(real, &*network, &out.join("reference"), &mut |parts| match watch
                .advance_by(parts, |_, _| Ok(()))
            {
                std::ops::ControlFlow::Continue(()) => watch.poll(),
                stop => stop,
            })?;
            let floor = reference.floor(&*network, n as usize)?;
            let judge = Judge { network, reference, floor };
            let mut results = Results::read(&out)?;
            let calls: Vec<usize> =
                runs.iter().map(|run| generator.calls_of(&run.1) * generator.calls_per_step()).collect();
            let mut total = 0;
            for (run, calls) in runs.iter().zip(&calls) {
                total += evaluation.missing(run, &images)?.0 as usize * calls;
            }
            watch.begin("drawing", total);
            let mut made = Vec::new();
            for ((cell, run), &calls) in cells.iter().zip(&runs).zip(&calls) {
                signals()?;
                let per_step = generator.calls_per_step();
                generator = evaluation.draw(generator, run, &images, batch, &mut |drawn| {
                    watch.advance_by(drawn.batch * drawn.calls * per_step, |_, _| Ok(()))
                })?;
                let seen = &mut |_| watch.poll();
                let row = evaluation.score(cell, run, calls, &judge, &results, seen)?;
                made.push(json!(row));
                results.put(row);
                results.write(&out)?;
            }
            for (cell, run) in cells.iter().zip(&runs) {
                let row = cells
                    .iter()
                    .zip(&runs)
                    .filter(|(other, _)| Cell { steps: cell.steps, ..(*other).clone() } == *cell);
                let most = row.max_by_key(|(other, _)| other.steps).filter(|(most, _)| most.steps > cell.steps);
                if let Some((most, other)) = most {
                    let found = evaluation.distance(run, other)?;
                    results.set_distance(&run.0, &images, found, most.steps);
                }
            }
            results.write(&out)?;
            files::write_bytes(&out.join("report.html"), report(&results, &out)?.as_bytes())?;
            Ok(Value::Array(made))
        })?;
        py.import("json")?.call_method1("loads", (rows.to_string(),))
    }
}

/// Both parts of the data at the model's size and channels.
fn real(train: Given, test: Given, model: &Model, limit: Option<usize>) -> Result<RealImages> {
    let options = model.data_options()?;
    RealImages::new(&train.load(Split::Train, &options)?, &test.load(Split::Test, &options)?, limit)
}
