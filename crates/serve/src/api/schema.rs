//! Requests in the OpenAPI document. Schemas are written as JSON; utoipa reads them.

use std::borrow::Cow;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skipstone::sampling::options::{Description, Kind};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::asked::{ApiRequest, RequestKind, described};
use super::compare::CompareFields;
use super::encode::EncodeFields;
use super::interpolate::InterpolateFields;
use super::reconstruct::ReconstructFields;
use super::sample::SampleFields;

/// Where a field is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Json,
    Query,
    Form,
}

/// A part of the document from its JSON.
pub fn part<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).expect("a valid part of an OpenAPI document")
}

/// The schema of a field. In JSON it may be null; elsewhere it is text, where commas separate the items of a list.
fn schema(about: &Description, place: Place) -> Value {
    let is_text = place != Place::Json;
    let or_null = |kind: &str| if is_text { json!(kind) } else { json!([kind, "null"]) };
    let names = |names: Vec<String>| {
        let null = (!is_text).then_some(Value::Null);
        let all: Vec<Value> = names.into_iter().map(Value::from).chain(null).collect();
        json!({"type": or_null("string"), "enum": all})
    };
    let whole = |kind: Value, least: u64| {
        let mut whole = json!({"type": kind, "minimum": least});
        if ["seed", "seeds", "first"].contains(&about.name) {
            whole["format"] = json!("int64");
        }
        whole
    };
    let number = |kind: Value| json!({"type": kind, "format": "double"});
    let list = |item: Value, [least, most]: [usize; 2]| {
        let mut list = json!({"type": or_null("array"), "items": item, "minItems": least});
        if most < usize::MAX {
            list["maxItems"] = json!(most);
        }
        list
    };
    let pattern = |item: &str, lengths| json!({"type": "string", "pattern": separated_by_commas(item, lengths)});
    let mut schema = match about.kind {
        Kind::Whole(least) => whole(or_null("integer"), least),
        Kind::Number(least) => {
            let mut number = number(or_null("number"));
            if least.is_finite() {
                number["minimum"] = json!(least);
            }
            number
        }
        Kind::Name(all) => names(all()),
        Kind::NameOrText { names: all, pattern, .. } => {
            json!({"anyOf": [names(all()), {"type": "string", "pattern": pattern}]})
        }
        Kind::WholeOrWholes(_) if is_text => pattern("[0-9]+", [1, usize::MAX]),
        Kind::WholeOrWholes(least) => {
            let one = whole(or_null("integer"), least);
            json!({"anyOf": [one, list(whole(json!("integer"), least), [1, usize::MAX])]})
        }
        Kind::Wholes { least: 0, lengths } if is_text => pattern("[0-9]+", lengths),
        Kind::Wholes { lengths, .. } if is_text => pattern("[1-9][0-9]*", lengths),
        Kind::Numbers { most: 1.0, lengths } if is_text => pattern("(0([.][0-9]+)?|1)", lengths),
        Kind::Numbers { lengths, .. } if is_text => pattern("[0-9]+([.][0-9]+)?", lengths),
        Kind::Wholes { least, lengths } => list(whole(json!("integer"), least), lengths),
        Kind::Numbers { lengths, .. } => list(number(json!("number")), lengths),
        Kind::NameOrNumbers(all) if !is_text => {
            json!({"anyOf": [names(all()), list(number(json!("number")), [1, usize::MAX])]})
        }
        // An empty text is refused, except in a form, where it counts as absent.
        Kind::NameOrNumbers(_) | Kind::Text if place == Place::Form => json!({"type": "string"}),
        Kind::NameOrNumbers(_) | Kind::Text => json!({"type": or_null("string"), "minLength": 1}),
    };
    let is_list = matches!(about.kind, Kind::Wholes { .. } | Kind::Numbers { .. });
    match about.example {
        "" => {}
        list if is_text && is_list => schema["examples"] = json!([list.replace(['[', ']', ' '], "")]),
        one => schema["examples"] = json!([one.parse::<Value>().expect("an example in JSON")]),
    }
    schema
}

/// The pattern of a list of values separated by commas, given the pattern of a value.
fn separated_by_commas(item: &str, [least, most]: [usize; 2]) -> String {
    match (least - 1, most) {
        (0, usize::MAX) => format!("^{item}(,{item})*$"),
        (rest, usize::MAX) => format!("^{item}(,{item}){{{rest},}}$"),
        (rest, most) if rest == most - 1 => format!("^{item}(,{item}){{{rest}}}$"),
        (rest, most) => format!("^{item}(,{item}){{{rest},{}}}$", most - 1),
    }
}

/// An object of these fields and no others.
fn object<'a>(about: &str, fields: impl Iterator<Item = &'a Description>, place: Place) -> Value {
    let mut object = json!({"type": "object", "description": about, "properties": {}, "required": [], "additionalProperties": false});
    for about in fields {
        object["properties"][about.name] = schema(about, place);
        object["properties"][about.name]["description"] = json!(about.sentence());
    }
    object
}

/// A request in JSON.
fn body<K: RequestKind>() -> Value {
    let mut body = object(K::ABOUT, described::<K>(), Place::Json);
    if let Some(subject) = K::SUBJECT {
        // A required field cannot be null.
        body["properties"][subject]["type"] = body["properties"][subject]["type"][0].take();
        body["required"] = json!([subject]);
    }
    body
}

/// The parameters of a request in an address, as JSON.
pub fn parameters<K: RequestKind>() -> Value {
    let parameter = |about: &Description| {
        let schema = schema(about, Place::Query);
        json!({"name": about.name, "in": "query", "required": false, "description": about.sentence(), "schema": schema})
    };
    described::<K>().map(parameter).collect()
}

/// What the document calls the request or the form of a kind.
fn name<K: RequestKind>(what: &str) -> Cow<'static, str> {
    let (first, rest) = K::NAME.split_at(1);
    format!("{}{rest}{what}", first.to_uppercase()).into()
}

impl<K: RequestKind> PartialSchema for ApiRequest<K> {
    fn schema() -> RefOr<Schema> {
        part(body::<K>())
    }
}

impl<K: RequestKind> ToSchema for ApiRequest<K> {
    fn name() -> Cow<'static, str> {
        name::<K>("Request")
    }
}

impl<K: RequestKind> IntoParams for ApiRequest<K> {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        part(parameters::<K>())
    }
}

/// A request as a form that uploads images, for the document.
#[derive(Debug)]
pub struct FormOf<K>(PhantomData<K>);

impl<K: RequestKind> PartialSchema for FormOf<K> {
    fn schema() -> RefOr<Schema> {
        let about = format!("{} The uploaded images are what the request is about.", K::ABOUT);
        let mut form = object(&about, described::<K>().filter(|about| K::SUBJECT != Some(about.name)), Place::Form);
        let file = json!({"type": "string", "format": "binary"});
        form["properties"]["image"] = match K::IMAGES.0 {
            [least, .., most] => json!({"type": "array", "items": file, "minItems": least, "maxItems": most}),
            _ => file,
        };
        let about = format!("{}: PNG, JPEG or WebP, cropped and resized to the model's size", K::IMAGES.1);
        form["properties"]["image"]["description"] = json!(about);
        form["required"] = json!(["image"]);
        part(form)
    }
}

impl<K: RequestKind> ToSchema for FormOf<K> {
    fn name() -> Cow<'static, str> {
        name::<K>("Form")
    }
}

/// The body of a request for a job, for the document.
#[derive(Debug)]
pub struct JobRequest;

impl PartialSchema for JobRequest {
    fn schema() -> RefOr<Schema> {
        fn kind<K: RequestKind>() -> Value {
            let mut object = body::<K>();
            object["properties"]["kind"] = json!({"type": "string", "enum": [K::NAME]});
            object["required"].as_array_mut().expect("a list").push(json!("kind"));
            object
        }
        part(json!({
            "description": "What to do. `kind` is the kind of work; the other fields are those of its request.",
            "oneOf": [
                kind::<SampleFields>(),
                kind::<EncodeFields>(),
                kind::<ReconstructFields>(),
                kind::<InterpolateFields>(),
                kind::<CompareFields>(),
            ],
        }))
    }
}

impl ToSchema for JobRequest {}
