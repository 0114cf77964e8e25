//! The service over HTTP: routes, errors, who may ask.

mod answer;
mod anywhere;
mod assets;
mod compare;
mod error;
mod events;
mod extract;
mod guard;
mod jobs;
mod kinds;
mod latents;
mod observe;
mod probes;
mod sample;
mod stream;
mod test_images;
mod upload;

pub use error::{ApiError, ErrorBody, ErrorInfo};
pub use guard::Guard;

use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use axum::{Json, Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::{
    Cell, ComparePlan, InterpolatePlan, PlanEvent, QueuedEvent, ReconstructPlan, Reconstructed, StepEvent,
};
use crate::limits::Limits;
use crate::service::App;

/// Bytes of a body that is no upload.
const MOST_JSON: usize = 64 << 10;
/// How long a body may take to arrive without a byte.
const BODY_PATIENCE: Duration = Duration::from_secs(20);

/// The document without its routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "skipstone",
        description = "Denoising diffusion implicit models: sample, watch, encode, reconstruct, interpolate, compare. \
                       The same request means the same pixels, whatever else the service is doing. Whatever is posted, but \
                       for encoding, can be watched: with `Accept: text/event-stream` the answer comes as events."
    ),
    components(schemas(
        PlanEvent, InterpolatePlan, ReconstructPlan, ComparePlan, QueuedEvent, StepEvent, Reconstructed, Cell
    )),
    modifiers(&Bearer)
)]
struct Document;

/// The token, for a service that asks for one.
struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
        let none = SecurityRequirement::default();
        document.security = Some(vec![none, SecurityRequirement::new("token", Vec::<String>::new())]);
    }
}

/// Routes that take pictures, of at most so many bytes.
fn uploads(bytes: usize) -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(latents::encode))
        .routes(routes!(latents::reconstruct))
        .routes(routes!(latents::interpolate))
        .layer(DefaultBodyLimit::max(bytes))
}

fn routes(limits: &Limits) -> OpenApiRouter<App> {
    let others = OpenApiRouter::new()
        .routes(routes!(probes::models))
        .routes(routes!(sample::sample))
        .routes(routes!(sample::picture))
        .routes(routes!(stream::stream))
        .routes(routes!(compare::compare))
        .routes(routes!(compare::stream))
        .routes(routes!(test_images::count))
        .routes(routes!(test_images::picture))
        .routes(routes!(jobs::create))
        .routes(routes!(jobs::show, jobs::cancel))
        .routes(routes!(probes::health))
        .routes(routes!(probes::ready))
        .routes(routes!(probes::metrics))
        .layer(DefaultBodyLimit::max(MOST_JSON));
    let mut all = OpenApiRouter::with_openapi(Document::openapi()).merge(uploads(limits.upload_bytes)).merge(others);
    kinds::in_one_piece(all.get_openapi_mut());
    anywhere::documented(all.get_openapi_mut());
    all
}

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    routes(&Limits::default()).into_openapi()
}

/// Every route of the service. It needs no socket: tests send it requests as they are.
pub fn app(service: App) -> Router {
    let (routes, document) = routes(&service.limits).split_for_parts();
    routes
        .route("/v1/openapi.json", get(move || std::future::ready(Json(document.clone()))))
        .route("/", get(assets::index))
        .route("/assets/{*path}", get(assets::asset))
        .layer(RequestBodyTimeoutLayer::new(BODY_PATIENCE))
        .layer(middleware::from_fn_with_state(service.clone(), guard::guard))
        .layer(CatchPanicLayer::new())
        .layer(middleware::from_fn_with_state(service.clone(), observe::observe))
        .with_state(service)
}
