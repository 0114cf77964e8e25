//! Keyword arguments as the options of a run.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString};
use serde_json::{Map, Number, Value};
use skipstone::sampling::inversion::{Bdia, Edict, FixedPoint, Method};
use skipstone::sampling::options::{GUIDE, PRECISION, Request, SAMPLE, Set, of};

use crate::errors::{raise, value};

/// What sampling takes. The precision is chosen when a model is loaded, and a guide is set by `Sampler.guide_by`.
pub const SAMPLING: Set = SAMPLE & !(PRECISION | GUIDE);

/// A value as JSON: numbers, texts, and lists of them.
pub fn json(name: &str, given: &Bound<'_, PyAny>) -> PyResult<Value> {
    let wrong = || PyTypeError::new_err(format!("{name}: expected a number, a text or a list of them"));
    if given.is_none() {
        return Ok(Value::Null);
    }
    if given.is_instance_of::<PyBool>() {
        return Ok(Value::Bool(given.extract()?));
    }
    if given.is_instance_of::<PyString>() {
        return Ok(Value::String(given.extract()?));
    }
    if given.is_instance_of::<PyFloat>() {
        let number: f64 = given.extract()?;
        let finite = || value(format!("{name}: expected a finite number, found {number}"));
        return Number::from_f64(number).map(Value::Number).ok_or_else(finite);
    }
    if given.is_instance_of::<PyInt>() || (given.hasattr("__index__")? && !given.hasattr("__len__")?) {
        if let Ok(whole) = given.extract::<u64>() {
            return Ok(whole.into());
        }
        let whole = given.extract::<i64>();
        return whole.map(Value::from).map_err(|_| value(format!("{name}: the number does not fit into 64 bits")));
    }
    if let Ok(items) = given.call_method0("tolist").unwrap_or_else(|_| given.clone()).try_iter()
        && given.hasattr("__len__")?
    {
        return items.map(|item| json(name, &item?)).collect();
    }
    match given.call_method0("__float__").and_then(|number| number.extract::<f64>()) {
        Ok(number) => Number::from_f64(number).map(Value::Number).ok_or_else(wrong),
        Err(_) => Err(wrong()),
    }
}

/// Keyword arguments that a method takes beside those in its signature.
pub struct Keywords {
    method: &'static str,
    given: Map<String, Value>,
}

impl Keywords {
    /// Those of a call of `method`.
    pub fn new(method: &'static str, given: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let mut map = Map::new();
        for (name, given) in given.into_iter().flatten() {
            let name: String = name.extract()?;
            let json = json(&name, &given)?;
            map.insert(if name == "class_" { "class".to_owned() } else { name }, json);
        }
        Ok(Self { method, given: map })
    }

    /// Whether one of these was given.
    pub fn has(&self, names: &[&str]) -> bool {
        names.iter().any(|&name| self.given.get(name).is_some_and(|value| !value.is_null()))
    }

    /// The options of `set`.
    pub fn request(&mut self, py: Python<'_>, set: Set) -> PyResult<Request> {
        Request::take(&mut self.given, set & !GUIDE).map_err(|error| raise(py, &error))
    }

    /// The inversion method `name` with its parameters.
    pub fn method(&mut self, name: &str) -> PyResult<Method> {
        let mut number = |option: &str, of: &str| match self.given.remove(option) {
            None | Some(Value::Null) => Ok(None),
            Some(_) if of != name => Err(value(format!("{option}: cannot be used with method {name:?}"))),
            Some(given) => match given.as_f64() {
                Some(number) => Ok(Some(number)),
                None => Err(value(format!("{option}: expected a number, found {given}"))),
            },
        };
        let (gamma, mix) = (number("gamma", "bdia")?, number("mix", "edict")?);
        let (tolerance, iterations) = (number("tolerance", "fixed-point")?, number("iterations", "fixed-point")?);
        let (fixed, bdia, edict) = (FixedPoint::default(), Bdia::default(), Edict::default());
        match name {
            "ddim" => Ok(Method::Ddim),
            "fixed-point" => Ok(Method::FixedPoint(FixedPoint {
                tolerance: tolerance.unwrap_or(fixed.tolerance),
                iterations: iterations.map_or(fixed.iterations, |n| n as usize),
            })),
            "bdia" => Ok(Method::Bdia(Bdia { gamma: gamma.unwrap_or(bdia.gamma) })),
            "edict" => Ok(Method::Edict(Edict { mix: mix.unwrap_or(edict.mix) })),
            _ => Err(value(format!("method: expected ddim, fixed-point, bdia or edict, found {name:?}"))),
        }
    }

    /// Refuses what is left, which no option is called.
    pub fn end(self) -> PyResult<()> {
        let Some(name) = self.given.keys().next() else { return Ok(()) };
        let method = self.method;
        if name == "precision" {
            return Err(PyTypeError::new_err(format!("{method}(): choose the precision in load()")));
        }
        if name == "guide" {
            return Err(PyTypeError::new_err(format!("{method}(): call guide_by(model) of the sampler")));
        }
        let known = of(SAMPLING).map(|field| field.about.name);
        let nearest = skipstone::sampling::options::unknown(name, known).message().to_owned();
        let nearest = nearest.split_once("; ").map_or(String::new(), |(_, text)| format!("; {text}"));
        Err(PyTypeError::new_err(format!("{method}() got an unexpected keyword argument {name:?}{nearest}")))
    }
}
