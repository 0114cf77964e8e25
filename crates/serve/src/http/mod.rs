//! The service over HTTP: routes, errors, event streams.

mod answer;
mod assets;
mod error;
mod events;
mod extract;
mod form;
mod guard;
mod jobs;
mod observe;
mod openapi;
mod probes;
mod sample_png;
mod test_images;
mod work;

pub use error::ApiError;

use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use axum::{Json, Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Limits;
use crate::service::App;

/// Most bytes of a body without images.
const MOST_JSON: usize = 64 << 10;
/// Longest pause in the arrival of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);

fn routes(limits: &Limits) -> OpenApiRouter<App> {
    let others = OpenApiRouter::new()
        .routes(routes!(probes::models))
        .routes(routes!(sample_png::sample_png))
        .routes(routes!(test_images::count))
        .routes(routes!(test_images::test_image))
        .routes(routes!(jobs::create))
        .routes(routes!(jobs::show, jobs::cancel))
        .routes(routes!(probes::health))
        .routes(routes!(probes::ready))
        .routes(routes!(probes::metrics))
        .merge(work::without_images())
        .layer(DefaultBodyLimit::max(MOST_JSON));
    let uploads = work::with_images().layer(DefaultBodyLimit::max(limits.upload_bytes));
    let mut all = OpenApiRouter::with_openapi(openapi::frame()).merge(uploads).merge(others);
    openapi::add_common_responses(all.get_openapi_mut());
    all
}

/// The OpenAPI document.
pub fn document() -> serde_json::Value {
    openapi::finished(routes(&Limits::default()).get_openapi())
}

/// Every route of the service. It needs no socket, so tests send requests to it directly.
pub fn app(service: App) -> Router {
    let (routes, document) = routes(&service.limits).split_for_parts();
    let document = openapi::finished(&document);
    routes
        .route("/v1/openapi.json", get(move || std::future::ready(Json(document.clone()))))
        .route("/", get(assets::index))
        .route("/assets/{*path}", get(assets::asset))
        .layer(RequestBodyTimeoutLayer::new(BODY_TIMEOUT))
        .layer(middleware::from_fn_with_state(service.clone(), guard::guard))
        .layer(CatchPanicLayer::new())
        .layer(middleware::from_fn_with_state(service.clone(), observe::observe))
        .with_state(service)
}
