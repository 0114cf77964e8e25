use serde_json::{Number, Value};

use crate::error::{Error, Result};

/// The type of a field's value.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// An integer of at least this value.
    Whole(u64),
    /// A number of at least this value; −∞ means no bound.
    Number(f64),
    /// A list of whole numbers; commas separate them in text.
    Wholes {
        /// The least of an item.
        least: u64,
        /// Fewest and most items.
        lengths: [usize; 2],
    },
    /// A list of numbers that are not negative; commas separate them in text.
    Numbers {
        /// The most of an item; ∞ where there is no bound.
        most: f64,
        /// Fewest and most items.
        lengths: [usize; 2],
    },
    /// One of these names.
    Name(fn() -> Vec<String>),
    /// One of these names, or a text of another form.
    NameOrText {
        /// The names.
        names: fn() -> Vec<String>,
        /// A regular expression of the other texts.
        pattern: &'static str,
        /// Examples of them.
        such_as: &'static str,
    },
    /// A whole number of at least this value, or a list of them.
    WholeOrWholes(u64),
    /// One of these names, or a list of numbers.
    NameOrNumbers(fn() -> Vec<String>),
    /// Any text.
    Text,
}

impl Kind {
    /// The names to choose from; empty for other types.
    pub fn choices(self) -> Vec<String> {
        match self {
            Self::Name(names) | Self::NameOrNumbers(names) | Self::NameOrText { names, .. } => names(),
            _ => Vec::new(),
        }
    }

    /// What a value of the type is, for messages; `None` where messages say it better themselves.
    pub(super) fn expected(self) -> Option<String> {
        let count =
            |[least, most]: [usize; 2]| if least == most { format!("{least} ") } else { "a list of ".to_owned() };
        Some(match self {
            Self::Whole(least) => format!("a whole number from {least} to 2^64 - 1"),
            Self::WholeOrWholes(least) => format!("a whole number of at least {least}, or a list of them"),
            Self::Number(least) if least.is_finite() => format!("a number of at least {least}"),
            Self::Number(_) => "a number".to_owned(),
            Self::Wholes { least, lengths } => format!("{}whole numbers of at least {least}", count(lengths)),
            Self::Numbers { lengths, .. } => format!("{}numbers", count(lengths)),
            Self::Name(_) | Self::NameOrText { .. } | Self::NameOrNumbers(_) | Self::Text => return None,
        })
    }

    /// Parses the text of a flag, query parameter or form field into JSON. Messages start with `name`.
    ///
    /// # Errors
    /// The text is not a number where one is required.
    pub fn parse(self, name: &str, text: &str) -> Result<Value> {
        match self {
            Self::Text | Self::Name(_) | Self::NameOrText { .. } => Ok(text.into()),
            Self::WholeOrWholes(_) => match numbers(text) {
                Ok(Value::Array(list)) if list.len() == 1 => Ok(list.into_iter().next().unwrap_or_default()),
                Ok(list) => Ok(list),
                Err(word) => Err(Error::argument(format!("{name}: expected a number, found \"{word}\""))),
            },
            Self::NameOrNumbers(_) => Ok(numbers(text).unwrap_or_else(|_| text.into())),
            Self::Whole(_) | Self::Number(_) => number(text)
                .ok_or_else(|| Error::argument(format!("{name}: expected a number, found \"{}\"", text.trim()))),
            Self::Wholes { .. } | Self::Numbers { .. } => numbers(text)
                .map_err(|word| Error::argument(format!("{name}: expected numbers between commas, found \"{word}\""))),
        }
    }

    /// Accepts JSON in which a list may also be given as text, and returns the list. Messages start with `name`.
    ///
    /// # Errors
    /// The value is not a list where one is required.
    pub fn check(self, name: &str, value: Value) -> Result<Value> {
        match (self, value) {
            (Self::Wholes { .. } | Self::Numbers { .. }, Value::String(text)) => self.parse(name, &text),
            (Self::WholeOrWholes(_), Value::String(text)) => self.parse(name, &text),
            (_, list @ Value::Array(_)) => Ok(list),
            (Self::Wholes { .. } | Self::Numbers { .. }, other) => {
                Err(Error::argument(format!("{name}: expected a list of numbers, found {other}")))
            }
            (_, value) => Ok(value),
        }
    }
}

fn number(text: &str) -> Option<Value> {
    let text = text.trim();
    if let Ok(whole) = text.parse::<u64>() {
        return Some(whole.into());
    }
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    text.parse().ok().and_then(Number::from_f64).map(Value::Number)
}

/// Parses comma-separated numbers. The error is the first word that is not a number.
fn numbers(text: &str) -> Result<Value, &str> {
    text.split(',').map(|word| number(word).ok_or(word.trim())).collect()
}

/// Formats a value as on the command line.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(name) => super::quoted(name),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(","),
        // Display omits the ".0" of a whole f64.
        Value::Number(number) if number.is_f64() => number.as_f64().unwrap_or_default().to_string(),
        other => other.to_string(),
    }
}
