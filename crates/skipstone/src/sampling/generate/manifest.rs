use serde_json::{Map, Value, json};

use super::Settings;
use crate::error::{Error, Result};

/// The manifest of a folder of images: the options of the run and the requested range of indices.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Options, as from [`Settings::to_json`].
    pub options: Map<String, Value>,
    /// Absolute index of the first image.
    pub first: u64,
    /// Number of images.
    pub n: u64,
}

/// Version of the file's layout.
const FORMAT: u64 = 1;

impl Manifest {
    /// The manifest of `n` images of a run, starting at index `first`.
    pub fn new(settings: &Settings, first: u64, n: u64) -> Self {
        Self { options: settings.to_json(), first, n }
    }

    /// The text of `manifest.json`. It holds no dates or paths, so the same run gives the same text.
    pub fn to_json(&self) -> String {
        let mut value = json!({"format": FORMAT, "first": self.first, "n": self.n});
        for (name, option) in &self.options {
            value[name] = option.clone();
        }
        format!("{value:#}\n")
    }

    /// Parses a `manifest.json`.
    ///
    /// # Errors
    /// The text is not a manifest, or has another version.
    pub fn from_json(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(|e| Error::data(format!("not a manifest: {e}")))?;
        let Value::Object(mut options) = value else {
            return Err(Error::data("not a manifest: expected a JSON object"));
        };
        let mut number = |name: &str| {
            let value = options.remove(name).and_then(|value| value.as_u64());
            value.ok_or_else(|| Error::data(format!("not a manifest: {name}: expected an integer of at least 0")))
        };
        let (format, first, n) = (number("format")?, number("first")?, number("n")?);
        if format != FORMAT {
            return Err(Error::unsupported(format!("format: expected manifest format {FORMAT}, found {format}")));
        }
        if first.checked_add(n).is_none() {
            return Err(Error::data(format!("not a manifest: first + n overflows 64 bits, found {first} and {n}")));
        }
        Ok(Self { options, first, n })
    }

    /// Extends the range of this manifest to cover `wanted` too.
    ///
    /// # Errors
    /// The options differ (the message names the first difference), or the ranges leave a gap.
    pub fn extended(&self, wanted: &Self) -> Result<Self> {
        let names = self.options.keys().chain(wanted.options.keys());
        for name in names {
            let (was, now) = (self.options.get(name), wanted.options.get(name));
            if was != now {
                let text = |value: Option<&Value>| value.map_or("unset".to_owned(), shortened);
                return Err(Error::argument(format!(
                    "its images were made with {name} = {}, now it is {}; use the same options to continue the run, or \
                     choose another name",
                    text(was),
                    text(now)
                )));
            }
        }
        let (first, end) = (self.first.min(wanted.first), (self.first + self.n).max(wanted.first + wanted.n));
        if end - first > self.n.saturating_add(wanted.n) {
            return Err(Error::argument(format!(
                "it holds images {} to {}, so images {} to {} would leave a gap; choose another name",
                self.first,
                (self.first + self.n).saturating_sub(1),
                wanted.first,
                (wanted.first + wanted.n).saturating_sub(1)
            )));
        }
        Ok(Self { options: self.options.clone(), first, n: end - first })
    }
}

/// A value, shortened to fit a message.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { text.chars().take(60).chain(['…']).collect() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn manifest(seed: u64, first: u64, n: u64) -> Manifest {
        Manifest { options: [("seed".to_owned(), json!(seed))].into_iter().collect(), first, n }
    }

    #[test]
    fn a_manifest_round_trips_through_its_text() {
        let m = manifest(3, 8, 16);
        assert_eq!(Manifest::from_json(&m.to_json()).unwrap(), m);
    }

    #[test]
    fn ranges_grow_on_either_side_but_never_leave_a_gap() {
        let m = manifest(0, 8, 8);
        let grown = |first, n| m.extended(&manifest(0, first, n)).map(|m| (m.first, m.n)).map_err(|e| e.kind());
        assert_eq!(grown(8, 64), Ok((8, 64)));
        assert_eq!(grown(10, 2), Ok((8, 8)));
        assert_eq!(grown(16, 4), Ok((8, 12)));
        assert_eq!(grown(0, 8), Ok((0, 16)));
        assert_eq!(grown(17, 4), Err(Kind::InvalidArgument));
        assert_eq!(grown(0, 7), Err(Kind::InvalidArgument));
    }

    #[test]
    fn the_option_that_differs_is_named() {
        let error = manifest(0, 0, 8).extended(&manifest(1, 0, 8)).unwrap_err();
        assert!(error.message().contains("seed = 0, now it is 1"), "{error}");
    }

    #[test]
    fn invalid_manifests_are_refused() {
        for text in ["", "[]", "{}", r#"{"format":1,"first":0}"#, r#"{"format":2,"first":0,"n":1}"#] {
            assert!(Manifest::from_json(text).is_err(), "{text}");
        }
    }
}
