//! From a request to its answer: at once, as events, or as a job.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::events;
use super::observe::RequestId;
use crate::api::{Accepted, Answer};
use crate::core::{CancelOnDrop, EventSink, Phase, Work};
use crate::service::Service;
use crate::work::{Prepared, WorkRequest, prepare};

/// How a caller wants the answer.
#[derive(Clone, Debug)]
pub struct ResponseMode {
    events: bool,
    request_id: String,
}

impl ResponseMode {
    /// As events, whatever the headers say.
    #[must_use]
    pub fn events(self) -> Self {
        Self { events: true, ..self }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ResponseMode {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let accepted = parts.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let events = accepted.flat_map(|line| line.split(',')).any(|kind| kind.trim().starts_with("text/event-stream"));
        let request_id = parts.extensions.get::<RequestId>().map_or(String::new(), |RequestId(id)| id.clone());
        Ok(Self { events, request_id })
    }
}

/// The handler of every kind of request: checks it and does its work. Where the caller wants events they are sent;
/// otherwise small work is answered at once and large work becomes a job.
pub async fn answer<R: WorkRequest>(
    service: &Service,
    mode: ResponseMode,
    request: R,
    uploads: Vec<Vec<u8>>,
) -> Result<Response, ApiError> {
    let prepared = prepare(service, request, uploads).await?.boxed();
    if let (true, Some(plan)) = (mode.events, prepared.work.plan()) {
        let (sink, events) = EventSink::channel(prepared.work.frame_bytes());
        let task = submit(service, prepared, Some(sink))?;
        return Ok(events::stream(task, plan, events, mode.request_id).into_response());
    }
    if prepared.work.rows() > service.limits.sync {
        return job(service, prepared);
    }
    Ok(Json(&*wait(service, prepared).await?).into_response())
}

/// Does the work and waits for it; a caller who hangs up has cancelled it.
pub async fn wait(service: &Service, prepared: Prepared<Box<dyn Work>>) -> Result<Arc<Answer>, ApiError> {
    let task = submit(service, prepared, None)?;
    match task.task().finished().await {
        Phase::Done(answer) => Ok(answer),
        Phase::Failed(failure) => Err(failure.into()),
        Phase::Queued | Phase::Running | Phase::Cancelled => Err(ApiError::shutting_down()),
    }
}

/// Accepts the work as a job.
pub fn job(service: &Service, prepared: Prepared<Box<dyn Work>>) -> Result<Response, ApiError> {
    let Prepared { model, work, cancel } = prepared;
    let task = service.submit(&model, work, cancel, None)?;
    let job = task.id.clone();
    service.jobs.insert(task, model.worker.clone());
    Ok((StatusCode::ACCEPTED, Json(Accepted { job })).into_response())
}

/// Queues work that ends with its caller.
fn submit(
    service: &Service,
    prepared: Prepared<Box<dyn Work>>,
    events: Option<EventSink>,
) -> Result<CancelOnDrop, ApiError> {
    let Prepared { model, work, cancel } = prepared;
    Ok(CancelOnDrop::new(service.submit(&model, work, cancel, events)?, model.worker.clone()))
}
