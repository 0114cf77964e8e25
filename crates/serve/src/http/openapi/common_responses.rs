//! Documents the refusals that any request may meet.

use utoipa::openapi::path::Operation;
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};

use crate::guard::is_api;

/// Adds them to every operation that does not document them itself.
pub fn add_common_responses(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let guarded = is_api(path);
        let named = path.contains('{');
        let operations = [(&mut item.get, false), (&mut item.post, true), (&mut item.delete, false)];
        for (operation, has_body) in operations {
            let Some(operation) = operation else { continue };
            let mut may = |status, description| add(operation, status, description);
            may("421", "The service does not go by the name in the Host header");
            if guarded {
                may("401", "There is a token, and the request brings another or none");
                may("403", "A page of another site asks");
            }
            if has_body {
                may("408", "The body stopped before its end, or came too slowly");
            }
            if named {
                may("400", "The address is no text");
            }
        }
    }
}

fn add(operation: &mut Operation, status: &str, description: &str) {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
    let response = ResponseBuilder::new().description(description).content("application/json", body).build();
    operation.responses.responses.entry(status.to_owned()).or_insert(RefOr::T(response));
}
