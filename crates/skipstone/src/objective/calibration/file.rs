use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{COMMAND, Calibration, LocalErrors};
use crate::error::{Error, Kind, Result};
use crate::io::checkpoint::not_json;
use crate::io::files;
use crate::io::hex::hex;

/// Version of the file's layout.
const FORMAT: u64 = 1;
/// Largest file accepted. Three numbers for each of 100,000 timesteps take far less.
const MAX_BYTES: u64 = 16 << 20;

impl Calibration {
    /// The text of the file. The same numbers give the same bytes.
    pub fn to_json(&self) -> String {
        let mut fields = vec![
            ("format", json!(FORMAT)),
            ("model", json!(self.model)),
            ("process", json!(self.process)),
            ("provenance", json!(self.provenance)),
            ("sigma_1", json!(self.sigma_1)),
            ("eps_squares", json!(self.eps_squares)),
            ("x0_errors", json!(self.x0_errors)),
            ("decoder_nats", json!(self.decoder_nats)),
        ];
        // Calibrations without it keep their text, and so their hash.
        if let Some(LocalErrors { times, latents, errors, gains }) = &self.local_errors {
            fields
                .push(("local_errors", json!({"errors": errors, "gains": gains, "latents": latents, "times": times})));
        }
        // One line per field, not one per number.
        let lines: Vec<String> = fields.iter().map(|(name, value)| format!("  \"{name}\": {value}")).collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// The text is not a calibration, has another format, lists of different lengths, or negative values. The message
    /// names the field.
    pub fn from_json(text: &str) -> Result<Self> {
        let wrong = |what: String| Error::data(format!("not a calibration: {what}"));
        let value: Value = serde_json::from_str(text).map_err(|e| wrong(not_json(text, &e)))?;
        match value["format"].as_u64() {
            Some(FORMAT) => {}
            Some(other) => {
                return Err(Error::unsupported(format!("format: expected calibration format {FORMAT}, found {other}")));
            }
            None => return Err(wrong("format: expected a number".to_owned())),
        }
        let text = |name: &str| {
            value[name].as_str().map(str::to_owned).ok_or_else(|| wrong(format!("{name}: expected a string")))
        };
        let list = |name: &str| -> Result<Vec<f64>> {
            let values = value[name].as_array().ok_or_else(|| wrong(format!("{name}: expected a list of numbers")))?;
            let number = |(i, value): (usize, &Value)| {
                let number = value.as_f64().filter(|number| number.is_finite());
                number.ok_or_else(|| wrong(format!("{name}[{i}]: expected a number, found {value}")))
            };
            values.iter().enumerate().map(number).collect()
        };
        let mut provenance = BTreeMap::new();
        for (key, text) in value["provenance"].as_object().into_iter().flatten() {
            let text = text.as_str().ok_or_else(|| wrong(format!("provenance.{key}: expected a string")))?;
            provenance.insert(key.clone(), text.to_owned());
        }
        let found = Self {
            model: text("model")?,
            process: text("process")?,
            provenance,
            sigma_1: value["sigma_1"].as_f64().ok_or_else(|| wrong("sigma_1: expected a number".to_owned()))?,
            eps_squares: list("eps_squares")?,
            x0_errors: list("x0_errors")?,
            decoder_nats: list("decoder_nats")?,
            local_errors: match &value["local_errors"] {
                Value::Null => None,
                local => Some(LocalErrors {
                    times: part(local, "times")?,
                    latents: part(local, "latents")?,
                    errors: part(local, "errors")?,
                    gains: part(local, "gains")?,
                }),
            },
        };
        let times = found.eps_squares.len();
        for (name, values) in [("x0_errors", &found.x0_errors), ("decoder_nats", &found.decoder_nats)] {
            if values.len() != times {
                return Err(wrong(format!(
                    "{name}: expected {times} values, as in eps_squares, found {}",
                    values.len()
                )));
            }
        }
        for (name, values) in [("eps_squares", &found.eps_squares), ("x0_errors", &found.x0_errors)] {
            if let Some(i) = values.iter().position(|&value| value < 0.0) {
                return Err(wrong(format!("{name}[{i}]: expected at least 0, found {}", values[i])));
            }
        }
        if let Some(local) = &found.local_errors {
            local.check(times).map_err(wrong)?;
        }
        Ok(found)
    }

    /// Reads the file at `path`. `None` if it does not exist.
    ///
    /// # Errors
    /// The file cannot be read, or is not a calibration.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let bytes = match files::read(path, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == Kind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        Self::from_bytes(&bytes).map(Some).map_err(|e| e.in_file(path))
    }

    /// The calibration of the model at `path`, where [`path_of`](Self::path_of) says. One that cannot be read is left out
    /// with a warning in the log, because most runs need none.
    pub fn beside(path: &Path) -> Option<Self> {
        Self::read(&Self::path_of(path)).unwrap_or_else(|error| {
            tracing::warn!("{error}; it is left out; remove the file, or make it again with: {COMMAND}");
            None
        })
    }

    /// Parses the bytes of a file.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json); or the bytes are not UTF-8.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|_| Error::data("not a calibration: not UTF-8 text"))?;
        Self::from_json(text)
    }

    /// Writes the file at `path` atomically.
    ///
    /// # Errors
    /// As [`files::write_bytes`].
    pub fn write(&self, path: &Path) -> Result<()> {
        files::write_bytes(path, self.to_json().as_bytes())
    }

    /// SHA-256 of the file's text in hexadecimal, as recorded in manifests.
    pub fn hash(&self) -> String {
        hex(&Sha256::digest(self.to_json().as_bytes()))
    }
}

/// A field of `local_errors`.
fn part<T: DeserializeOwned>(local: &Value, name: &str) -> Result<T> {
    serde_json::from_value(local[name].clone())
        .map_err(|e| Error::data(format!("not a calibration: local_errors.{name}: {e}")))
}
