//! Reads the files of `golden/values`, which other programs created; `golden/README.md` describes them.

// Each test binary uses a part of this module.
#![allow(dead_code)]

pub mod unets;

use std::collections::HashMap;
use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The path of a file of `golden/values`.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../golden/values").join(name)
}

/// The bytes of a file of `golden/values`.
pub fn bytes(name: &str) -> Vec<u8> {
    let path = path(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Parses a JSON file.
pub fn json(name: &str) -> Value {
    serde_json::from_slice(&bytes(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The `cases` of a JSON file.
pub fn cases(name: &str) -> Vec<Value> {
    json(name)["cases"].as_array().unwrap_or_else(|| panic!("{name}: no cases")).clone()
}

/// A tensor: its shape and its values, converted to f64 (i64 included).
#[derive(Clone, Debug)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Tensor {
    /// The values as f32, exact if the file has f32.
    pub fn f32(&self) -> Vec<f32> {
        self.values.iter().map(|&v| v as f32).collect()
    }

    /// The sub-tensor `[row, ..]`.
    pub fn row(&self, row: usize) -> Tensor {
        let shape = self.shape[1..].to_vec();
        let size: usize = shape.iter().product();
        Tensor { shape, values: self.values[row * size..(row + 1) * size].to_vec() }
    }

    /// As an array of images.
    pub fn images(&self) -> ndarray::Array4<f32> {
        let shape: [usize; 4] = self.shape.clone().try_into().expect("four dimensions");
        ndarray::Array4::from_shape_vec(shape, self.f32()).expect("the shape holds the values")
    }
}

/// Reads a file of tensors by name.
pub fn tensors(name: &str) -> HashMap<String, Tensor> {
    let bytes = bytes(name);
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    file.tensors()
        .into_iter()
        .map(|(key, view)| {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
                Dtype::F64 => data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
                Dtype::I64 => data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
                other => panic!("{name}: {key}: unexpected type {other:?}"),
            };
            (key, Tensor { shape: view.shape().to_vec(), values })
        })
        .collect()
}

/// ‖found − expected‖₂ / ‖expected‖₂; infinite if the lengths differ or a value is not finite.
pub fn relative(found: impl IntoIterator<Item = f64>, expected: &[f64]) -> f64 {
    let found: Vec<f64> = found.into_iter().collect();
    if found.len() != expected.len() || found.iter().any(|v| !v.is_finite()) {
        return f64::INFINITY;
    }
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| (a - b) * (a - b)).sum();
    let norm: f64 = expected.iter().map(|b| b * b).sum();
    (difference / norm).sqrt()
}

/// The numbers of a JSON list.
pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
}
