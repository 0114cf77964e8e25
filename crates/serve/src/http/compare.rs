//! `/v1/compare`: the same latents under several options.

use axum::extract::State;
use axum::response::Response;

use super::answer::{Accepted, Way, respond};
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Fields};
use crate::api::{CompareRequest, Comparison};
use crate::core::Cancel;
use crate::service::App;
use crate::work::CompareWork;

/// Compare numbers of steps and η
#[utoipa::path(
    post,
    path = "/v1/compare",
    request_body = CompareRequest,
    responses(
        (status = 200, description = "All cells; or events", content((Comparison = "application/json"), (String = "text/event-stream"))),
        (status = 202, description = "A job: there is more to do than is done at once", body = Accepted),
        (status = 400, description = "The request means nothing", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is no JSON", body = ErrorBody),
        (status = 422, description = "The network's numbers were not finite", body = ErrorBody),
        (status = 429, description = "The queue is full; see Retry-After", body = ErrorBody),
        (status = 503, description = "The service is shutting down", body = ErrorBody),
    )
)]
pub async fn compare(
    State(app): State<App>,
    way: Way,
    Body(request): Body<CompareRequest>,
) -> Result<Response, ApiError> {
    let (served, cancel) = (app.model(request.model.as_deref())?, Cancel::new());
    let work = app.prepare(&served, &cancel, move |s, l, c| CompareWork::new(s, &request, l, c)).await?;
    respond(&app, way, served, Box::new(work), cancel).await
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
        (status = 200, description = "Events; the data of each is JSON: ComparePlan, QueuedEvent, Cell, Comparison, ErrorBody",
         body = String, content_type = "text/event-stream"),
        (status = 400, description = "The request means nothing", body = ErrorBody),
        (status = 429, description = "The queue is full; see Retry-After", body = ErrorBody),
        (status = 503, description = "The service is shutting down", body = ErrorBody),
    )
)]
pub async fn stream(
    State(app): State<App>,
    way: Way,
    Fields(request): Fields<CompareRequest>,
) -> Result<Response, ApiError> {
    let (served, cancel) = (app.model(request.model.as_deref())?, Cancel::new());
    let work = app.prepare(&served, &cancel, move |s, l, c| CompareWork::new(s, &request, l, c)).await?;
    respond(&app, way.events(), served, Box::new(work), cancel).await
}
