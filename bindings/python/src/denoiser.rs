//! Networks as the package runs them: the library's own, and functions of the caller's.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ndarray::{Array4, Axis, Slice};
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use skipstone::engine::{Cost, Network};
use skipstone::math::schedule::{Index, Time};
use skipstone::sampling::denoiser::{Condition, Denoiser, DifferentiableDenoiser, Prediction, Pullback};
use skipstone::unet::Config;
use skipstone::{Error, Result};

use crate::arrays::{floats, out};
use crate::errors::{raise, signals, value};
use crate::pickle::{Reduced, reduced};

/// A network index as Python's int, or float between two of them.
pub fn index(py: Python<'_>, index: Option<Index>) -> PyResult<Py<PyAny>> {
    Ok(match index.map(|index| (index.whole(), index.value())) {
        None => py.None(),
        Some((Some(whole), _)) => whole.into_pyobject(py)?.into_any().unbind(),
        Some((None, value)) => value.into_pyobject(py)?.into_any().unbind(),
    })
}

/// A network before whose every call the pending signals are handled.
#[derive(Debug)]
pub struct Watched(pub Arc<dyn Network>);

impl Denoiser for Watched {
    fn shape(&self) -> [usize; 3] {
        self.0.shape()
    }

    fn prediction(&self) -> Prediction {
        self.0.prediction()
    }

    fn output_channels(&self) -> usize {
        self.0.output_channels()
    }

    fn predict(&self, x_t: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Array4<f32>> {
        signals()?;
        self.0.predict(x_t, times, conditions)
    }

    fn takes_fractional_times(&self) -> bool {
        self.0.takes_fractional_times()
    }

    fn prepare(&self, times: &[Time], conditions: &[Condition]) {
        self.0.prepare(times, conditions);
    }
}

/// The same for a network with its vector-Jacobian product.
pub struct WatchedGradient<'a>(pub &'a (dyn DifferentiableDenoiser + Send + Sync));

impl Denoiser for WatchedGradient<'_> {
    fn shape(&self) -> [usize; 3] {
        self.0.shape()
    }

    fn prediction(&self) -> Prediction {
        self.0.prediction()
    }

    fn output_channels(&self) -> usize {
        self.0.output_channels()
    }

    fn predict(&self, x_t: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Array4<f32>> {
        signals()?;
        self.0.predict(x_t, times, conditions)
    }

    fn takes_fractional_times(&self) -> bool {
        self.0.takes_fractional_times()
    }
}

impl DifferentiableDenoiser for WatchedGradient<'_> {
    fn pullback(
        &self,
        x_t: &Array4<f32>,
        times: &[Time],
        conditions: &[Condition],
        cotangent: &Array4<f32>,
    ) -> Result<Pullback> {
        signals()?;
        self.0.pullback(x_t, times, conditions, cotangent)
    }
}

/// A function on NumPy arrays as a network.
pub struct Callable {
    pub function: Py<PyAny>,
    pub vjp: Option<Py<PyAny>>,
    pub prediction: Prediction,
    pub fractional: bool,
    pub config: Config,
}

impl fmt::Debug for Callable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callable").field("shape", &self.shape()).finish_non_exhaustive()
    }
}

impl Callable {
    /// Calls `ask` on the rows of each time, which in a run is one for all, and puts the results together.
    fn by_time(
        &self,
        times: &[Time],
        channels: usize,
        mut ask: impl FnMut(Time, &[usize], Python<'_>) -> PyResult<Vec<Array4<f32>>>,
    ) -> Result<Vec<Array4<f32>>> {
        let [_, h, w] = self.shape();
        let mut all: Vec<Array4<f32>> = Vec::new();
        let mut left: Vec<usize> = (0..times.len()).collect();
        while let Some(&first) = left.first() {
            let (rows, others): (Vec<usize>, Vec<usize>) = left.iter().partition(|&&row| times[row] == times[first]);
            let made = Python::attach(|py| ask(times[first], &rows, py)).map_err(Error::caller)?;
            if rows.len() == times.len() {
                return Ok(made);
            }
            for (k, part) in made.into_iter().enumerate() {
                if all.len() == k {
                    let c = if k == 0 { channels } else { self.shape()[0] };
                    all.push(Array4::zeros((times.len(), c, h, w)));
                }
                for (&row, part) in rows.iter().zip(part.outer_iter()) {
                    all[k].index_axis_mut(Axis(0), row).assign(&part);
                }
            }
            left = others;
        }
        Ok(all)
    }

    /// The classes of `rows`, for the function's third argument.
    fn classes<'py>(
        &self,
        py: Python<'py>,
        rows: &[usize],
        conditions: &[Condition],
    ) -> PyResult<Option<Bound<'py, PyArray1<i64>>>> {
        let class = |&row: &usize| conditions.get(row).and_then(|condition| condition.class());
        match self.config.num_class_embeds {
            None => Ok(None),
            Some(known) => {
                let classes: Option<Vec<i64>> = rows.iter().map(|row| class(row).map(|class| class as i64)).collect();
                let wrong = || value(format!("class: the denoiser needs one of its {known} classes for every image"));
                Ok(Some(classes.ok_or_else(wrong)?.into_pyarray(py)))
            }
        }
    }

    fn checked(&self, made: &Bound<'_, PyAny>, what: &str, n: usize, channels: usize) -> PyResult<Array4<f32>> {
        let [_, h, w] = self.shape();
        let expected = format!("[{n}, {channels}, {h}, {w}]");
        let made: Array4<f32> = floats(made, what, &expected)?;
        if made.shape() != [n, channels, h, w] {
            return Err(value(format!("{what}: expected an array {expected}, found the shape {:?}", made.shape())));
        }
        Ok(made)
    }
}

impl Denoiser for Callable {
    fn shape(&self) -> [usize; 3] {
        let [height, width] = self.config.sample_size;
        [self.config.in_channels, height, width]
    }

    fn prediction(&self) -> Prediction {
        self.prediction
    }

    fn output_channels(&self) -> usize {
        self.config.out_channels
    }

    fn predict(&self, x_t: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Array4<f32>> {
        let channels = self.output_channels();
        let mut made = self.by_time(times, channels, |t, rows, py| {
            let x = out(py, x_t.select(Axis(0), rows));
            let t = index(py, t.index())?;
            let made = match self.classes(py, rows, conditions)? {
                None => self.function.call1(py, (x, t))?,
                Some(classes) => self.function.call1(py, (x, t, classes))?,
            };
            Ok(vec![self.checked(made.bind(py), "what the denoiser's function returned", rows.len(), channels)?])
        })?;
        Ok(made.swap_remove(0))
    }

    fn takes_fractional_times(&self) -> bool {
        self.fractional
    }
}

impl DifferentiableDenoiser for Callable {
    fn pullback(
        &self,
        x_t: &Array4<f32>,
        times: &[Time],
        conditions: &[Condition],
        cotangent: &Array4<f32>,
    ) -> Result<Pullback> {
        let Some(vjp) = &self.vjp else {
            return Err(Error::argument("the denoiser has no vector-Jacobian product; give it vjp="));
        };
        let (channels, images) = (self.output_channels(), self.shape()[0]);
        let mut made = self.by_time(times, channels, |t, rows, py| {
            let (x, cotangent) = (out(py, x_t.select(Axis(0), rows)), out(py, cotangent.select(Axis(0), rows)));
            let t = index(py, t.index())?;
            let made = match self.classes(py, rows, conditions)? {
                None => vjp.call1(py, (x, t, cotangent))?,
                Some(classes) => vjp.call1(py, (x, t, cotangent, classes))?,
            };
            let (made, gradient): (Bound<'_, PyAny>, Bound<'_, PyAny>) = made.extract(py)?;
            Ok(vec![
                self.checked(&made, "the output that vjp returned", rows.len(), channels)?,
                self.checked(&gradient, "the gradient that vjp returned", rows.len(), images)?,
            ])
        })?;
        let gradient = made.swap_remove(1);
        let out = made.swap_remove(0);
        let out = out.slice_axis(Axis(1), Slice::from(..images)).to_owned();
        Ok(Pullback { out, gradient })
    }
}

impl Network for Callable {
    fn config(&self) -> &Config {
        &self.config
    }

    fn cost(&self) -> Cost {
        Cost { flops: 0, activation_bytes: 0, weight_bytes: 0, batch: None }
    }

    fn profile(
        &self,
        x_t: &Array4<f32>,
        times: &[Time],
        conditions: &[Condition],
        part: &mut dyn FnMut(String, Duration, u64),
    ) -> Result<()> {
        let begun = Instant::now();
        self.predict(x_t, times, conditions)?;
        part("the function".to_owned(), begun.elapsed(), 0);
        Ok(())
    }
}

/// A function on NumPy arrays as a network, for a Sampler.
///
/// `function(x, t)` gets the noisy images x, float32 [n, c, h, w], and the network index t, an int in 0..T-1 (T steps of the
/// schedule; a float where `fractional`), and returns its prediction of the same shape. It must treat every image alike,
/// whatever the others are, if images are to depend on nothing but their seed and index.
///
/// Args:
///     function: (x, t) -> array, or (x, t, classes) -> array if `classes` is given; classes are int64 [n].
///     shape: (c, h, w) of an image.
///     prediction: what it predicts: "epsilon", "sample" (x0) or "v_prediction".
///     classes: the number of classes, for a conditional network.
///     null_class: the class that means "no class", for guidance.
///     fractional: whether t may lie between two indices, which some spacings and solvers use.
///     learned_variance: whether it returns 2c channels, the second half the variance of sigma="learned".
///     vjp: (x, t, cotangent[, classes]) -> (prediction, gradient), the vector-Jacobian product with respect to x, for
///         likelihood(method="ode").
///     name: names the network in manifests; evaluate() needs one.
///
/// Raises:
///     ValueError: a value is out of range.
#[pyclass(name = "Denoiser", module = "skipstone", frozen, subclass)]
pub struct PyDenoiser {
    pub function: Py<PyAny>,
    pub vjp: Option<Py<PyAny>>,
    pub shape: [usize; 3],
    pub prediction: Prediction,
    pub classes: Option<usize>,
    pub null_class: Option<usize>,
    pub fractional: bool,
    pub learned_variance: bool,
    pub name: Option<String>,
}

#[pymethods]
impl PyDenoiser {
    #[new]
    #[pyo3(signature = (function, shape, prediction="epsilon", *, classes=None, null_class=None, fractional=false,
        learned_variance=false, vjp=None, name=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn new(
        py: Python<'_>,
        function: Py<PyAny>,
        shape: [usize; 3],
        prediction: &str,
        classes: Option<usize>,
        null_class: Option<usize>,
        fractional: bool,
        learned_variance: bool,
        vjp: Option<Py<PyAny>>,
        name: Option<String>,
    ) -> PyResult<Self> {
        if shape.contains(&0) || shape.iter().product::<usize>() > 1 << 28 {
            return Err(value(format!("shape: expected (channels, height, width), each at least 1, found {shape:?}")));
        }
        if !function.bind(py).is_callable() || vjp.as_ref().is_some_and(|vjp| !vjp.bind(py).is_callable()) {
            return Err(pyo3::exceptions::PyTypeError::new_err("function and vjp: expected something to call"));
        }
        if null_class.is_some_and(|null| null >= classes.unwrap_or(0)) {
            return Err(value(format!("null_class: expected one of {} classes", classes.unwrap_or(0))));
        }
        let prediction = prediction.parse().map_err(|e| raise(py, &e))?;
        Ok(Self { function, vjp, shape, prediction, classes, null_class, fractional, learned_variance, name })
    }

    /// (c, h, w) of an image.
    #[getter]
    fn shape(&self) -> (usize, usize, usize) {
        let [c, h, w] = self.shape;
        (c, h, w)
    }

    /// What the function predicts.
    #[getter]
    fn prediction(&self) -> String {
        self.prediction.to_string()
    }

    /// The number of classes; None for an unconditional network.
    #[getter]
    fn classes(&self) -> Option<usize> {
        self.classes
    }

    /// The class that means "no class", if there is one.
    #[getter]
    fn null_class(&self) -> Option<usize> {
        self.null_class
    }

    /// The function.
    #[getter]
    fn function(&self, py: Python<'_>) -> Py<PyAny> {
        self.function.clone_ref(py)
    }

    fn __repr__(&self) -> String {
        format!("Denoiser(shape={:?}, prediction=\"{}\")", self.shape(), self.prediction)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let (py, this) = (slf.py(), slf.get());
        let keywords = PyDict::new(py);
        keywords.set_item("function", &this.function)?;
        keywords.set_item("shape", this.shape())?;
        keywords.set_item("prediction", this.prediction())?;
        keywords.set_item("classes", this.classes)?;
        keywords.set_item("null_class", this.null_class)?;
        keywords.set_item("fractional", this.fractional)?;
        keywords.set_item("learned_variance", this.learned_variance)?;
        keywords.set_item("vjp", &this.vjp)?;
        keywords.set_item("name", &this.name)?;
        reduced(slf.get_type().into_any(), keywords)
    }
}

impl PyDenoiser {
    /// The network of this function for a schedule of `steps` timesteps.
    pub fn network(&self, py: Python<'_>, steps: usize) -> Callable {
        let timesteps = (!self.fractional).then_some(steps);
        let mut config = Config::outline(self.shape, self.classes, timesteps);
        if self.learned_variance {
            config.out_channels *= 2;
        }
        Callable {
            function: self.function.clone_ref(py),
            vjp: self.vjp.as_ref().map(|vjp| vjp.clone_ref(py)),
            prediction: self.prediction,
            fractional: self.fractional,
            config,
        }
    }
}
