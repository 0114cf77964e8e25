//! Requests as tables of fields, read alike from JSON, addresses and forms.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use skipstone::engine::Precision;
use skipstone::sampling::options::{Description, Kind, Request, Set, of, unknown};
use skipstone::{Error, Result};

/// A kind of request, and the fields that only this kind has.
pub trait RequestKind: Sized + Send + 'static {
    /// Its name in routes, jobs and metrics.
    const NAME: &'static str;
    /// What it asks for.
    const ABOUT: &'static str;
    /// Its own fields. One with the name of an option replaces that option.
    const OWN: &'static [Description];
    /// The library's options that it takes.
    const OPTIONS: Set;
    /// The field that says what the request is about. JSON must have it; a form uploads images instead.
    const SUBJECT: Option<&'static str> = None;
    /// How many images a form may upload, in numbers and in words. Empty for kinds that take no form.
    const IMAGES: (&'static [usize], &'static str) = (&[], "");

    /// Reads its own fields.
    ///
    /// # Errors
    /// A value of another type.
    fn read(fields: &mut Fields) -> Result<Self>;
}

/// A request: what every kind has, and the fields of its own kind.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiRequest<K> {
    /// The model's id; `None` is the first model.
    pub model: Option<String>,
    /// The index of the test image that the request is about.
    pub test_image: Option<usize>,
    /// The precision that the request states.
    pub precision: Option<Precision>,
    /// The library's options.
    pub options: Request,
    /// The fields of its kind.
    pub own: K,
}

/// The fields of a request by name, as JSON.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// The value of a field, if present.
    ///
    /// # Errors
    /// The value has another type.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        let value = self.0.remove(name).filter(|value| !value.is_null());
        value.map(serde_json::from_value).transpose().map_err(|e| Error::argument(format!("{name}: {e}")))
    }
}

/// Every field of a request of kind `K`.
pub(super) fn described<K: RequestKind>() -> impl Iterator<Item = &'static Description> {
    let options = of(K::OPTIONS).map(|field| &field.about).filter(|about| !is_own::<K>(about));
    [&MODEL].into_iter().chain(K::OWN).chain(options)
}

/// Whether a field is not an option of the library.
fn is_own<K: RequestKind>(about: &Description) -> bool {
    [&MODEL].into_iter().chain(K::OWN).any(|own| own.name == about.name)
}

/// Refuses a value of another type than the field's, in words: those of serde name types of Rust.
fn check_type(about: &Description, value: &Value) -> Result<()> {
    let all = |is: fn(&Value) -> bool| value.as_array().is_some_and(|items| items.iter().all(is));
    let (fits, expected) = match about.kind {
        Kind::Whole(least) => (value.is_u64(), format!("a whole number of at least {least}")),
        Kind::Wholes { least, .. } => (all(Value::is_u64), format!("whole numbers of at least {least}")),
        Kind::Numbers { .. } => (all(Value::is_number), "numbers".to_owned()),
        _ => (value.is_string(), "text".to_owned()),
    };
    if fits { Ok(()) } else { Err(Error::argument(format!("{}: expected {expected}, found {value}", about.name))) }
}

/// The field of this name, or an error that suggests the nearest name.
fn named<K: RequestKind>(name: &str, hidden: Option<&str>) -> Result<&'static Description> {
    let known = || described::<K>().filter(|about| Some(about.name) != hidden);
    known().find(|about| about.name == name).ok_or_else(|| unknown(name, known().map(|about| about.name)))
}

impl<K: RequestKind> ApiRequest<K> {
    /// Reads the fields of a JSON object.
    ///
    /// # Errors
    /// A field is unknown or invalid, or the subject is missing. The message begins with the field's name.
    pub fn of_json(fields: Map<String, Value>) -> Result<Self> {
        if let Some(subject) = K::SUBJECT.filter(|subject| fields.get(*subject).is_none_or(Value::is_null)) {
            // A misspelt name is the likelier mistake.
            fields.keys().try_for_each(|name| named::<K>(name, None).map(drop))?;
            return Err(Error::argument(format!("{subject}: missing field")));
        }
        Self::read(fields, None)
    }

    /// Reads fields that are text: those of an address, or of a form, which uploads images in place of the subject.
    ///
    /// # Errors
    /// A field is unknown, invalid or given twice. The message begins with the field's name.
    pub fn of_text(texts: Vec<(String, String)>, is_form: bool) -> Result<Self> {
        let hidden = K::SUBJECT.filter(|_| is_form);
        let mut fields = Map::new();
        for (name, text) in texts {
            let about = named::<K>(&name, hidden)?;
            if fields.contains_key(&name) {
                return Err(Error::argument(format!("{name}: given twice")));
            }
            // An empty field of a form was not filled in.
            let value = if is_form && text.is_empty() { Value::Null } else { about.kind.parse(&name, &text)? };
            fields.insert(name, value);
        }
        Self::read(fields, hidden)
    }

    fn read(fields: Map<String, Value>, hidden: Option<&str>) -> Result<Self> {
        let checked = fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| {
            let about = named::<K>(&name, hidden)?;
            let value = about.kind.check(&name, value)?;
            // The library checks its options itself.
            if is_own::<K>(about) {
                check_type(about, &value)?;
            }
            Ok((name, value))
        });
        let mut fields = Fields(checked.collect::<Result<_>>()?);
        let states_precision = fields.0.contains_key("precision");
        let (model, test_image) = (fields.take(MODEL.name)?, fields.take(TEST_IMAGE.name)?);
        let own = K::read(&mut fields)?;
        let options = Request::take(&mut fields.0, K::OPTIONS)?;
        Ok(Self { model, test_image, precision: states_precision.then_some(options.precision), options, own })
    }
}

/// The model's id, a field of every request.
pub(super) const MODEL: Description =
    Description::new("model", "ID", Kind::Text).help("The model's id, one of those in `/v1/models`").or("the first");
/// The test image, for requests about one image.
pub(super) const TEST_IMAGE: Description = Description::new("test_image", "K", Kind::Whole(0))
    .help("Index of the test image; see `/v1/test-images`")
    .such_as("0");
