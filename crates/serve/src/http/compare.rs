//! `/v1/compare`: the same latents under several options.

use axum::extract::State;
use axum::response::Response;

use super::answer::{ResponseMode, answer};
use super::error::ApiError;
use super::extract::{JsonBody, QueryParams};
use crate::api::{Accepted, CompareEvent, CompareRequest, Comparison, ErrorBody};
use crate::service::App;

/// Compare numbers of steps and η
#[utoipa::path(
    post,
    path = "/v1/compare",
    request_body = CompareRequest,
    responses(
        (status = 200, description = "All cells; or events", content((Comparison = "application/json"), (CompareEvent = "text/event-stream"))),
        (status = 202, description = "A job: there is more to do than is done at once", body = Accepted),
        (status = 400, description = "The request means nothing", body = ErrorBody),
        (status = 422, description = "The network's numbers were not finite", body = ErrorBody),
    )
)]
pub async fn compare(
    State(app): State<App>,
    mode: ResponseMode,
    JsonBody(request): JsonBody<CompareRequest>,
) -> Result<Response, ApiError> {
    answer(&app, mode, request, Vec::new()).await
}

/// Compare and watch
///
/// Server-sent events: `plan`, `queued` while others come first, `cell` as soon as each is there, then `done` without
/// cells, or `error`. Closing the connection ends the work.
#[utoipa::path(
    get,
    path = "/v1/compare/stream",
    params(CompareRequest),
    responses(
        (status = 200, description = "Events", body = CompareEvent, content_type = "text/event-stream"),
        (status = 400, description = "The request means nothing", body = ErrorBody),
    )
)]
pub async fn compare_stream(
    State(app): State<App>,
    mode: ResponseMode,
    QueryParams(request): QueryParams<CompareRequest>,
) -> Result<Response, ApiError> {
    answer(&app, mode.events(), request, Vec::new()).await
}
