//! Typed access to the fields of a JSON object, with errors that name the field.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A JSON object whose fields are read by name, with defaults.
pub(crate) struct Fields(Map<String, Value>);

/// The name that `known` pairs with a value; empty if there is none.
pub(super) fn name_of<T: PartialEq>(value: &T, known: &[(&'static str, T)]) -> &'static str {
    known.iter().find(|(_, v)| v == value).map_or("", |(name, _)| name)
}

/// What is wrong with the text of a file that is no JSON.
pub(crate) fn not_json(text: &str, error: &serde_json::Error) -> String {
    if text.trim().is_empty() {
        return "the file is empty; expected JSON".to_owned();
    }
    let cut = if error.is_eof() { ", truncated" } else { "" };
    format!("not JSON{cut}: {error}")
}

fn wrong(name: &str, value: &Value, expected: &str) -> Error {
    let mut text = value.to_string();
    if text.len() > 60 {
        text = format!("{}…", text.chars().take(60).collect::<String>());
    }
    Error::data(format!("{name}: expected {expected}, found {text}"))
}

fn unsigned(name: &str, value: &Value) -> Result<usize> {
    // Python may write the same setting as 128 or as 128.0.
    let whole = value.as_f64().filter(|v| v.fract() == 0.0 && (0.0..=9e15).contains(v));
    let number = value.as_u64().or(whole.map(|v| v as u64)).and_then(|v| usize::try_from(v).ok());
    number.ok_or_else(|| wrong(name, value, "a whole number ≥ 0"))
}

impl Fields {
    /// Parses a JSON object.
    pub fn parse(json: &str) -> Result<Self> {
        match serde_json::from_str(json) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(other) => Err(wrong("the file", &other, "a JSON object")),
            Err(e) => Err(Error::data(not_json(json, &e))),
        }
    }

    /// The value of a field, unless it is absent.
    pub fn raw(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The value of a field, unless it is absent or null.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|v| !v.is_null())
    }

    /// A whole number, or `default` if absent; null is an error.
    pub fn usize(&self, name: &str, default: usize) -> Result<usize> {
        self.raw(name).map_or(Ok(default), |v| unsigned(name, v))
    }

    /// A whole number or null, or `default` if absent.
    pub fn optional_usize(&self, name: &str, default: Option<usize>) -> Result<Option<usize>> {
        match self.raw(name) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(v) => unsigned(name, v).map(Some),
        }
    }

    pub fn f64(&self, name: &str, default: f64) -> Result<f64> {
        self.raw(name).map_or(Ok(default), |v| v.as_f64().ok_or_else(|| wrong(name, v, "a number")))
    }

    pub fn bool(&self, name: &str, default: bool) -> Result<bool> {
        self.raw(name).map_or(Ok(default), |v| v.as_bool().ok_or_else(|| wrong(name, v, "true or false")))
    }

    /// A string; `None` if null or absent.
    pub fn str(&self, name: &str) -> Result<Option<&str>> {
        self.get(name).map(|v| v.as_str().ok_or_else(|| wrong(name, v, "a string"))).transpose()
    }

    /// A list of strings, or the default if absent.
    pub fn strs<'s>(&'s self, name: &str, default: &[&'s str]) -> Result<Vec<&'s str>> {
        let Some(value) = self.raw(name) else { return Ok(default.to_vec()) };
        let list = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        list.ok_or_else(|| wrong(name, value, "a list of strings"))
    }

    /// A list of whole numbers, or the default if absent.
    pub fn usizes(&self, name: &str, default: &[usize]) -> Result<Vec<usize>> {
        let Some(value) = self.raw(name) else { return Ok(default.to_vec()) };
        let list = value.as_array().ok_or_else(|| wrong(name, value, "a list of numbers"))?;
        list.iter().map(|v| unsigned(name, v)).collect()
    }

    /// A list of numbers; `None` if null or absent.
    pub fn f64s(&self, name: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        list.map(Some).ok_or_else(|| wrong(name, value, "a list of numbers"))
    }

    /// The value that `choices` pairs with the field's string, or `default` if absent.
    pub fn choice<T: Clone>(&self, name: &str, choices: &[(&str, T)], default: T) -> Result<T> {
        let Some(text) = self.str(name)? else { return Ok(default) };
        choices.iter().find(|(known, _)| *known == text).map(|(_, value)| value.clone()).ok_or_else(|| {
            let known: Vec<&str> = choices.iter().map(|(known, _)| *known).collect();
            Error::unsupported(format!("{name}: {text:?} is not supported; expected one of {}", known.join(", ")))
        })
    }
}
