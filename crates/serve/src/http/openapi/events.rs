//! How the document describes the events of streams.

use serde_json::{Value, json};

/// Describes the `data` of every event as text that contains JSON, with the schema of that JSON beside it. This is the form
/// in which tools that read OpenAPI check streams; the schemas of the events describe `data` as the object itself.
pub fn data_as_text(document: &mut Value) {
    let schemas = document["components"]["schemas"].as_object_mut().into_iter().flat_map(|all| all.values_mut());
    let variants = schemas.filter_map(|schema| schema.get_mut("oneOf")?.as_array_mut()).flatten();
    for properties in variants.filter_map(|variant| variant.get_mut("properties")?.as_object_mut()) {
        if !properties.contains_key("event") {
            continue;
        }
        if let Some(data) = properties.get_mut("data") {
            let schema = data.take();
            *data = json!({"type": "string", "contentMediaType": "application/json", "contentSchema": schema});
        }
    }
}
