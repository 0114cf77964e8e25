//! The parts of the OpenAPI document that the routes do not describe themselves.

mod common_responses;
mod events;

pub use common_responses::add_common_responses;

use serde_json::Value;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::{Modify, OpenApi};

/// The document without its routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "skipstone",
        description = "Denoising diffusion implicit models: sample, watch, encode, reconstruct, interpolate, compare. \
                       The same request always gives the same pixels, whatever else the service is doing. Every posted request \
                       except encoding can be watched: with `Accept: text/event-stream` the answer comes as events."
    ),
    modifiers(&Bearer)
)]
struct Document;

/// The token, for services that require one.
struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
        let none = SecurityRequirement::default();
        document.security = Some(vec![none, SecurityRequirement::new("token", Vec::<String>::new())]);
    }
}

/// The document as it is served.
pub fn finished(document: &utoipa::openapi::OpenApi) -> Value {
    let mut document = serde_json::to_value(document).expect("a document is JSON");
    events::data_as_text(&mut document);
    document
}

/// The document without its routes.
pub fn frame() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
