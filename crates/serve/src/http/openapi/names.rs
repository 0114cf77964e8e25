//! Documents that a name is never empty.

use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{SchemaType, Type};
use utoipa::openapi::{OpenApi, RefOr, Schema};

/// Adds a least length to the text in queries and JSON requests, such as the names of models, that has neither a pattern
/// nor a list of choices. An empty one is refused there; in a form it counts as absent.
pub fn refuse_empty_names(document: &mut OpenApi) {
    let operations = document.paths.paths.values_mut().filter_map(|item| item.get.as_mut());
    let parameters = operations.flat_map(|operation| operation.parameters.iter_mut().flatten());
    let parameters = parameters.filter_map(|parameter| match parameter {
        RefOr::T(Parameter { parameter_in: ParameterIn::Query, schema, .. }) => schema.as_mut(),
        _ => None,
    });
    let components = document.components.iter_mut().flat_map(|components| components.schemas.iter_mut());
    let requests = components.filter_map(|(name, schema)| match schema {
        RefOr::T(Schema::Object(request)) if name.ends_with("Request") => Some(&mut request.properties),
        _ => None,
    });
    for schema in parameters.chain(requests.flat_map(|properties| properties.values_mut())) {
        let RefOr::T(Schema::Object(schema)) = schema else { continue };
        let is_text = match &schema.schema_type {
            SchemaType::Type(kind) => *kind == Type::String,
            SchemaType::Array(kinds) => kinds.contains(&Type::String),
            SchemaType::AnyValue => false,
        };
        if is_text && schema.pattern.is_none() && schema.enum_values.is_none() {
            schema.min_length = Some(1);
        }
    }
}
