//! Documents the errors that many operations have in common.

use utoipa::openapi::path::Operation;
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder};

use crate::guard::is_api;

/// Adds these errors to every operation that does not document them itself.
pub fn add_common_responses(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        for operation in [&mut item.get, &mut item.post, &mut item.delete].into_iter().flatten() {
            add(operation, "421", "The service does not answer to the name in the Host header");
            if is_api(path) {
                add(operation, "401", "The token is wrong or missing");
                add(operation, "403", "A page of another site sent the request");
            }
            if path.contains('{') {
                add(operation, "400", "The address is not valid text");
            }
            if let Some(RefOr::T(body)) = &operation.request_body {
                let takes_form = body.content.contains_key("multipart/form-data");
                let (too_long, neither) = if takes_form {
                    ("The upload is too large", "The body is neither a form nor JSON")
                } else {
                    ("The body is too large", "The body is not JSON")
                };
                add(operation, "408", "The body was cut short or arrived too slowly");
                add(operation, "413", too_long);
                add(operation, "415", neither);
            }
            if operation.request_body.is_some() || waits_for_work(operation) {
                add(operation, "429", "The queue is full; see Retry-After");
                add(operation, "503", "The service is shutting down");
            }
        }
    }
}

/// Whether the operation waits for work: it documents output that is not finite, or it sends events.
fn waits_for_work(operation: &Operation) -> bool {
    let responses = &operation.responses.responses;
    let sends_events = |response: &RefOr<Response>| matches!(response, RefOr::T(response) if response.content.contains_key("text/event-stream"));
    responses.contains_key("422") || responses.get("200").is_some_and(sends_events)
}

fn add(operation: &mut Operation, status: &str, description: &str) {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
    let response = ResponseBuilder::new().description(description).content("application/json", body).build();
    operation.responses.responses.entry(status.to_owned()).or_insert(RefOr::T(response));
}
