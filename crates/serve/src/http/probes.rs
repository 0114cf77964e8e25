//! The models, the probes and the metrics.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;
use crate::api::{ErrorBody, Models};
use crate::service::App;

/// The status of the service.
#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    /// ok
    pub status: &'static str,
}

/// List models, options and limits
#[utoipa::path(get, path = "/v1/models", responses((status = 200, description = "Models, options and limits", body = Models)))]
pub async fn models(State(app): State<App>) -> Json<Models> {
    Json(Models::of(app.models.iter().map(|model| model.info()).collect(), app.limits))
}

/// Check that the process is alive
#[utoipa::path(get, path = "/health", responses((status = 200, description = "It is alive", body = Status)))]
pub async fn health() -> Json<Status> {
    Json(Status { status: "ok" })
}

/// Check that the service accepts work
#[utoipa::path(
    get,
    path = "/ready",
    responses(
        (status = 200, description = "It accepts work", body = Status),
        (status = 503, description = "The service is shutting down", body = ErrorBody),
    )
)]
pub async fn ready(State(app): State<App>) -> Result<Json<Status>, ApiError> {
    if app.is_open() { Ok(Json(Status { status: "ok" })) } else { Err(ApiError::shutting_down()) }
}

/// Metrics for Prometheus
#[utoipa::path(
    get,
    path = "/metrics",
    responses((status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"))
)]
pub async fn metrics(State(app): State<App>) -> impl IntoResponse {
    app.jobs.evict();
    let loads: Vec<(&str, usize, usize)> = app
        .models
        .iter()
        .map(|model| {
            let (queued, running) = model.worker.load();
            (model.id.as_str(), queued, running)
        })
        .collect();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.metrics.text(&loads, app.jobs.count()))
}
