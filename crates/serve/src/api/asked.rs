//! Requests as tables of fields: read from JSON, addresses and forms alike, and described in the document.

use std::borrow::Cow;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use skipstone::sampling::options::{Description, Kind, Request, Set, of, unknown};
use skipstone::{Error, Result};
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{
    AdditionalProperties, AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type,
};
use utoipa::openapi::{KnownFormat, RefOr, Required, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

/// A request: fields of its own, and options of the library.
pub trait Asked: Sized + Send + 'static {
    /// What the document calls it.
    const NAME: &'static str;
    /// What it asks for.
    const ABOUT: &'static str;
    /// Fields beside the options; before an option of the same name.
    const OWN: &'static [Description];
    /// The options it takes.
    const OPTIONS: Set;
    /// The field that says what the request is about: needed in JSON; the pictures of a form stand for it.
    const SUBJECT: Option<&'static str> = None;

    /// Reads it.
    ///
    /// # Errors
    /// A value that means nothing.
    fn read(fields: &mut Fields) -> Result<Self>;
}

/// The fields of a request by name, as JSON.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// The value of a field, if it is there.
    ///
    /// # Errors
    /// One of another type.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        let value = self.0.remove(name).filter(|value| !value.is_null());
        value.map(serde_json::from_value).transpose().map_err(|e| Error::argument(format!("{name}: {e}")))
    }

    /// The options among the fields.
    ///
    /// # Errors
    /// What means nothing.
    pub fn options(&mut self, set: Set) -> Result<Request> {
        Request::take(&mut self.0, set)
    }
}

/// Every field of a request.
fn described<T: Asked>() -> impl Iterator<Item = &'static Description> {
    let is_own = |about: &&Description| T::OWN.iter().any(|own| own.name == about.name);
    T::OWN.iter().chain(of(T::OPTIONS).map(|field| &field.about).filter(move |about| !is_own(about)))
}

/// The field of this name, or an error that tells the nearest.
fn named<T: Asked>(name: &str, hidden: Option<&str>) -> Result<&'static Description> {
    let known = || described::<T>().filter(|about| Some(about.name) != hidden);
    known().find(|about| about.name == name).ok_or_else(|| unknown(name, known().map(|about| about.name)))
}

/// Reads the fields of an object.
///
/// # Errors
/// What means nothing; the message begins with the field's name.
pub fn of_json<T: Asked>(fields: Map<String, Value>) -> Result<T> {
    if let Some(subject) = T::SUBJECT.filter(|subject| fields.get(*subject).is_none_or(Value::is_null)) {
        // A name that is none is the likelier mistake.
        fields.keys().try_for_each(|name| named::<T>(name, None).map(drop))?;
        return Err(Error::argument(format!("{subject}: missing field")));
    }
    read(fields, None)
}

/// Reads fields that are text: those of an address, or of a form, whose pictures stand for what the request is about.
///
/// # Errors
/// What means nothing; the message begins with the field's name.
pub fn of_text<T: Asked>(texts: Vec<(String, String)>, is_form: bool) -> Result<T> {
    let hidden = T::SUBJECT.filter(|_| is_form);
    let mut fields = Map::new();
    for (name, text) in texts {
        let about = named::<T>(&name, hidden)?;
        if fields.contains_key(&name) {
            return Err(Error::argument(format!("{name}: given twice")));
        }
        // An empty field of a form is one that nobody filled in.
        let value = if is_form && text.is_empty() { Value::Null } else { about.kind.parse(&name, &text)? };
        fields.insert(name, value);
    }
    read(fields, hidden)
}

fn read<T: Asked>(fields: Map<String, Value>, hidden: Option<&str>) -> Result<T> {
    let checked = fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| {
        let value = named::<T>(&name, hidden)?.kind.check(&name, value)?;
        Ok((name, value))
    });
    T::read(&mut Fields(checked.collect::<Result<_>>()?))
}

/// The schema of a field; `text` where it comes as text: then lists are written between commas, and there is no null.
fn schema(about: &Description, text: bool) -> Schema {
    let or_null = |one: Type| if text { SchemaType::Type(one) } else { SchemaType::from_iter([one, Type::Null]) };
    let is_list = matches!(about.kind, Kind::Wholes(_) | Kind::Numbers(_));
    let example: Option<Value> = match about.example {
        "" => None,
        list if text && is_list => Some(list.replace(['[', ']', ' '], "").into()),
        one => serde_json::from_str(one).ok(),
    };
    let object = |one: Type| ObjectBuilder::new().schema_type(or_null(one)).examples(example.clone());
    let list = |one: ObjectBuilder, [least, most]: [usize; 2]| {
        let list = ArrayBuilder::new().schema_type(or_null(Type::Array)).items(one).min_items(Some(least));
        list.max_items(Some(most).filter(|most| *most < usize::MAX)).examples(example.clone())
    };
    let double = Some(SchemaFormat::KnownFormat(KnownFormat::Double));
    let int64 = Some(SchemaFormat::KnownFormat(KnownFormat::Int64));
    let int64 = int64.filter(|_| ["seed", "seeds", "first"].contains(&about.name));
    // No run has 0 steps; times and seeds begin at 0.
    let least = u64::from(about.name == "steps");
    let whole = || ObjectBuilder::new().schema_type(Type::Integer).format(int64.clone()).minimum(Some(least));
    let number = || ObjectBuilder::new().schema_type(Type::Number).format(double.clone());
    let names = |names: Vec<String>| {
        let names = names.into_iter().map(Value::from);
        object(Type::String).enum_values(Some(names.chain((!text).then_some(Value::Null))))
    };
    match about.kind {
        Kind::Whole(least) => object(Type::Integer).format(int64).minimum(Some(least)).into(),
        Kind::Number(least) => {
            object(Type::Number).format(double.clone()).minimum(Some(least).filter(|least| least.is_finite())).into()
        }
        Kind::Name(all) => names(all()).into(),
        Kind::Wholes(lengths) if text => {
            let whole = if least == 0 { "[0-9]+" } else { "[1-9][0-9]*" };
            object(Type::String).pattern(Some(commas(whole, lengths))).into()
        }
        Kind::Numbers(lengths) if text => {
            let number = if about.name == "at" { "(0([.][0-9]+)?|1)" } else { "[0-9]+([.][0-9]+)?" };
            object(Type::String).pattern(Some(commas(number, lengths))).into()
        }
        Kind::NameOrNumbers(_) if text => object(Type::String).into(),
        Kind::Wholes(lengths) => list(whole(), lengths).into(),
        Kind::Numbers(lengths) => list(number(), lengths).into(),
        Kind::NameOrNumbers(all) => AnyOfBuilder::new().item(names(all())).item(list(number(), [1, usize::MAX])).into(),
        Kind::Text => object(Type::String).into(),
    }
}

/// The pattern of a list between commas, for a pattern of what it lists.
fn commas(one: &str, [least, most]: [usize; 2]) -> String {
    match (least - 1, most) {
        (0, usize::MAX) => format!("^{one}(,{one})*$"),
        (rest, usize::MAX) => format!("^{one}(,{one}){{{rest},}}$"),
        (rest, most) if rest == most - 1 => format!("^{one}(,{one}){{{rest}}}$"),
        (rest, most) => format!("^{one}(,{one}){{{rest},{}}}$", most - 1),
    }
}

/// The same with what people are told of the field.
fn told(about: &Description, text: bool) -> Schema {
    let told = Some(about.sentence());
    match schema(about, text) {
        Schema::Object(mut schema) => {
            schema.description = told;
            Schema::Object(schema)
        }
        Schema::Array(mut schema) => {
            schema.description = told;
            Schema::Array(schema)
        }
        Schema::AnyOf(mut schema) => {
            schema.description = told;
            Schema::AnyOf(schema)
        }
        other => other,
    }
}

/// The schema of a request in JSON.
pub fn body_schema<T: Asked>() -> RefOr<Schema> {
    let object = ObjectBuilder::new().schema_type(Type::Object).description(Some(T::ABOUT));
    let object = described::<T>().fold(object, |object, about| {
        let is_subject = T::SUBJECT == Some(about.name);
        let mut schema = told(about, false);
        if is_subject {
            // What is needed cannot be null.
            match &mut schema {
                Schema::Object(schema) => schema.schema_type = Type::Integer.into(),
                Schema::Array(schema) => schema.schema_type = Type::Array.into(),
                _ => {}
            }
        }
        let object = object.property(about.name, schema);
        if is_subject { object.required(about.name) } else { object }
    });
    object.additional_properties(Some(AdditionalProperties::FreeForm(false))).into()
}

/// The parameters of a request in an address.
pub fn parameters<T: Asked>() -> Vec<Parameter> {
    let parameter = |about: &Description| {
        let parameter = ParameterBuilder::new().name(about.name).parameter_in(ParameterIn::Query);
        let parameter = parameter.required(Required::False).description(Some(about.sentence()));
        parameter.schema(Some(schema(about, true))).build()
    };
    described::<T>().map(parameter).collect()
}

/// The form of a request that brings pictures, for the document.
#[derive(Debug)]
pub struct FormOf<T>(PhantomData<T>);

impl<T: Asked> PartialSchema for FormOf<T> {
    fn schema() -> RefOr<Schema> {
        let about = format!("{} Pictures of one's own stand for what the request is about.", T::ABOUT);
        let form = ObjectBuilder::new().schema_type(Type::Object).description(Some(about));
        let file = ObjectBuilder::new().schema_type(Type::String);
        let file = file.format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)));
        let help = "A PNG, JPEG or WebP file; cropped and resized to the model's size";
        let form = match T::SUBJECT {
            Some("seeds") => {
                let files = ArrayBuilder::new().items(file).min_items(Some(2)).max_items(Some(4));
                form.property("image", files.description(Some("Two or four PNG, JPEG or WebP files")))
            }
            _ => form.property("image", file.description(Some(help))),
        };
        let form = form.required("image").additional_properties(Some(AdditionalProperties::FreeForm(false)));
        let fields = described::<T>().filter(|about| T::SUBJECT != Some(about.name));
        fields.fold(form, |form, about| form.property(about.name, told(about, true))).into()
    }
}

impl<T: Asked> ToSchema for FormOf<T> {
    fn name() -> Cow<'static, str> {
        T::NAME.replace("Request", "Form").into()
    }
}

/// Lets the document describe these requests.
macro_rules! documented {
    ($($request:ty),*) => {$(
        impl PartialSchema for $request {
            fn schema() -> RefOr<Schema> {
                body_schema::<Self>()
            }
        }

        impl ToSchema for $request {
            fn name() -> Cow<'static, str> {
                Self::NAME.into()
            }
        }

        impl utoipa::IntoParams for $request {
            fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
                parameters::<Self>()
            }
        }
    )*};
}

documented!(
    super::SampleRequest,
    super::CompareRequest,
    super::EncodeRequest,
    super::ReconstructRequest,
    super::InterpolateRequest
);

/// The model's name, which every request may say.
pub const MODEL: Description =
    Description::new("model", "ID", Kind::Text).help("The model's id, of those in `/v1/models`").or("the first");
/// The test image of requests about one.
pub const TEST_IMAGE: Description = Description::new("test_image", "K", Kind::Whole(0))
    .help("Which of the test images; see `/v1/test-images`")
    .such_as("0");
