//! `/v1/compare`: the same latents under several options.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::response::sse::{KeepAlive, KeepAliveStream, Sse};
use tokio::sync::mpsc;

use super::answer::{Accepted, Leave, either, submit};
use super::error::{ApiError, ErrorBody};
use super::events::{Events, Gone, Teller};
use super::extract::{Body, Fields};
use super::observe::RequestId;
use crate::api::{Cell, CompareRequest, Comparison};
use crate::core::{Cancel, Phase};
use crate::service::App;
use crate::work::CompareWork;

/// Compare numbers of steps and η
#[utoipa::path(
    post,
    path = "/v1/compare",
    request_body = CompareRequest,
    responses(
        (status = 200, description = "All cells", body = Comparison),
        (status = 202, description = "A job: there is more to do than is done at once", body = Accepted),
        (status = 400, description = "The request means nothing", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is no JSON", body = ErrorBody),
        (status = 422, description = "The network's numbers were not finite", body = ErrorBody),
        (status = 429, description = "The queue is full; see Retry-After", body = ErrorBody),
        (status = 503, description = "The service is shutting down", body = ErrorBody),
    )
)]
pub async fn compare(State(app): State<App>, Body(request): Body<CompareRequest>) -> Result<Response, ApiError> {
    let (served, cancel) = (app.model(request.model.as_deref())?, Cancel::new());
    let work = CompareWork::new(served.clone(), &request, &app.limits, &cancel)?;
    either(&app, served, Box::new(work), cancel).await
}

/// Compare and watch
///
/// Server-sent events: `cell` as soon as each is there, `queued` while others come first, then `done` with no cells
/// that were not sent before, or `error`. Closing the connection ends the work.
#[utoipa::path(
    get,
    path = "/v1/compare/stream",
    params(CompareRequest),
    responses(
        (status = 200, description = "Events; the data of each is JSON: Cell, QueuedEvent, CompareDone, ErrorBody",
         body = String, content_type = "text/event-stream"),
        (status = 400, description = "The request means nothing", body = ErrorBody),
        (status = 429, description = "The queue is full; see Retry-After", body = ErrorBody),
        (status = 503, description = "The service is shutting down", body = ErrorBody),
    )
)]
pub async fn stream(
    State(app): State<App>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Fields(request): Fields<CompareRequest>,
) -> Result<Sse<KeepAliveStream<Events>>, ApiError> {
    let (served, cancel) = (app.model(request.model.as_deref())?, Cancel::new());
    let (show, cells) = mpsc::unbounded_channel();
    let work = CompareWork::new(served.clone(), &request, &app.limits, &cancel)?.with_show(show);
    let task = submit(&app, &served, Box::new(work), cancel)?;
    let leave = Leave::of(task, served);
    let (teller, events) = Teller::new(leave, request_id);
    tokio::spawn(tell(teller, cells));
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

async fn tell(teller: Teller, mut cells: mpsc::UnboundedReceiver<Cell>) {
    // Whoever has gone need not be told; dropping the teller ends the work.
    let _ = all(&teller, &mut cells).await;
}

async fn all(teller: &Teller, cells: &mut mpsc::UnboundedReceiver<Cell>) -> Result<(), Gone> {
    while let Some(cell) = teller.next(cells.recv()).await? {
        teller.event("cell", &cell).await?;
    }
    match teller.over().await {
        Phase::Done(answer) => {
            let done = serde_json::json!({ "seconds": answer.seconds() });
            teller.event("done", &done).await
        }
        phase => teller.failed(phase).await,
    }
}
