//! `/v1/stream`: images as they come to be.

use axum::extract::State;
use axum::response::Response;

use super::answer::{Way, respond};
use super::error::{ApiError, ErrorBody};
use super::extract::Fields;
use crate::api::SampleRequest;
use crate::core::Cancel;
use crate::service::App;
use crate::work::SampleWork;

/// Sample images and watch
///
/// Server-sent events: `plan` once, `queued` while others come first, `step` after each step (a reader who is too slow
/// misses some), then `done` with the answer, or `error` with the body of an error. Closing the connection ends the
/// work. The other requests do the same where they accept `text/event-stream`.
#[utoipa::path(
    get,
    path = "/v1/stream",
    params(SampleRequest),
    responses(
        (status = 200, description = "Events; the data of each is JSON: PlanEvent, QueuedEvent, StepEvent, Sample, ErrorBody",
         body = String, content_type = "text/event-stream"),
        (status = 400, description = "The request means nothing", body = ErrorBody),
        (status = 429, description = "The queue is full; see Retry-After", body = ErrorBody),
        (status = 503, description = "The service is shutting down", body = ErrorBody),
    )
)]
pub async fn stream(
    State(app): State<App>,
    way: Way,
    Fields(request): Fields<SampleRequest>,
) -> Result<Response, ApiError> {
    let (served, cancel) = (app.model(request.model.as_deref())?, Cancel::new());
    let work = app.prepare(&served, &cancel, move |s, l, c| SampleWork::new(s, &request, l, c)).await?;
    respond(&app, way.events(), served, Box::new(work), cancel).await
}
