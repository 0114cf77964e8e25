use serde_json::{Map, Value, json};

use super::Settings;
use crate::error::{Error, Result};

/// What a folder of images says about itself: the options, and the range of indices that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// As of [`Settings::to_json`].
    pub options: Map<String, Value>,
    /// Absolute index of the first image.
    pub first: u64,
    /// Number of images.
    pub n: u64,
}

/// The layout of the file.
const FORMAT: u64 = 1;

impl Manifest {
    /// The manifest of images `first`.. of a run.
    pub fn new(settings: &Settings, first: u64, n: u64) -> Self {
        Self { options: settings.to_json(), first, n }
    }

    /// The text of `manifest.json`: the same for the same run, without times or paths.
    pub fn to_json(&self) -> String {
        let mut value = json!({"format": FORMAT, "first": self.first, "n": self.n});
        for (name, option) in &self.options {
            value[name] = option.clone();
        }
        format!("{value:#}\n")
    }

    /// Reads a `manifest.json`.
    ///
    /// # Errors
    /// Text that is none, or of another version.
    pub fn from_json(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(|e| Error::data(format!("no manifest: {e}")))?;
        let Value::Object(mut options) = value else {
            return Err(Error::data("no manifest: expected an object"));
        };
        let mut number = |name: &str| {
            let value = options.remove(name).and_then(|value| value.as_u64());
            value.ok_or_else(|| Error::data(format!("no manifest: {name}: expected a number")))
        };
        let (format, first, n) = (number("format")?, number("first")?, number("n")?);
        if format != FORMAT {
            return Err(Error::unsupported(format!("manifest of format {format}; {FORMAT} is read")));
        }
        if first.checked_add(n).is_none() {
            return Err(Error::data(format!("no manifest: n: {n} images from {first} on")));
        }
        Ok(Self { options, first, n })
    }

    /// The manifest of a folder that holds `self` and is asked for `wanted` too.
    ///
    /// # Errors
    /// Other options (the first that differs is named), or ranges with a gap between them.
    pub fn extended(&self, wanted: &Self) -> Result<Self> {
        let names = self.options.keys().chain(wanted.options.keys());
        for name in names {
            let (was, now) = (self.options.get(name), wanted.options.get(name));
            if was != now {
                let text = |value: Option<&Value>| value.map_or("unset".to_owned(), shortened);
                return Err(Error::argument(format!(
                    "the folder holds images made with {name} = {}, now it is {}; give the same options to continue it, \
                     or choose another folder",
                    text(was),
                    text(now)
                )));
            }
        }
        let (first, end) = (self.first.min(wanted.first), (self.first + self.n).max(wanted.first + wanted.n));
        if end - first > self.n + wanted.n {
            return Err(Error::argument(format!(
                "the folder holds images {} to {}; {} to {} would leave a gap; choose another folder",
                self.first,
                (self.first + self.n).saturating_sub(1),
                wanted.first,
                (wanted.first + wanted.n).saturating_sub(1)
            )));
        }
        Ok(Self { options: self.options.clone(), first, n: end - first })
    }
}

/// A value as it fits a message.
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
    fn a_manifest_comes_back_from_its_text() {
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
    fn what_is_no_manifest_is_refused() {
        for text in ["", "[]", "{}", r#"{"format":1,"first":0}"#, r#"{"format":2,"first":0,"n":1}"#] {
            assert!(Manifest::from_json(text).is_err(), "{text}");
        }
    }
}
