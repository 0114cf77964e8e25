//! Documents that a name is never empty.

use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{Object, SchemaType, Type};
use utoipa::openapi::{OpenApi, RefOr, Schema};

/// Adds a least length to the names in queries and JSON requests: of models, spacings and solvers. An empty one is
/// refused there; in a form it counts as absent.
pub fn refuse_empty_names(document: &mut OpenApi) {
    let operations = document.paths.paths.values_mut().filter_map(|item| item.get.as_mut());
    for parameter in operations.flat_map(|operation| operation.parameters.iter_mut().flatten()) {
        let RefOr::T(Parameter { parameter_in: ParameterIn::Query, schema, .. }) = parameter else { continue };
        if let Some(RefOr::T(Schema::Object(schema))) = schema {
            refuse_empty(schema);
        }
    }
    let components = document.components.iter_mut().flat_map(|components| components.schemas.iter_mut());
    for (_, schema) in components.filter(|(name, _)| name.ends_with("Request")) {
        let RefOr::T(Schema::Object(request)) = schema else { continue };
        for field in request.properties.values_mut() {
            if let RefOr::T(Schema::Object(field)) = field {
                refuse_empty(field);
            }
        }
    }
}

/// Where the schema is that of a text without other rules.
fn refuse_empty(schema: &mut Object) {
    let is_text = match &schema.schema_type {
        SchemaType::Type(kind) => *kind == Type::String,
        SchemaType::Array(kinds) => kinds.contains(&Type::String),
        SchemaType::AnyValue => false,
    };
    if is_text && schema.pattern.is_none() {
        schema.min_length = Some(1);
    }
}
