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
use crate::api::{Accepted, Answer, ApiRequest};
use crate::core::{CancelOnDrop, EventSink, Phase, Work};
use crate::service::Service;
use crate::work::{WorkKind, prepare};

/// How the caller wants the answer.
#[derive(Clone, Debug)]
pub struct ResponseMode {
    events: bool,
    request_id: String,
}

impl ResponseMode {
    /// Answers with events, whatever the headers say.
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

/// Answers a request of any kind. A caller who wants events gets them; otherwise small work is answered at once and
/// large work becomes a job.
pub async fn answer<K: WorkKind>(
    service: &Service,
    mode: ResponseMode,
    request: ApiRequest<K>,
    uploads: Vec<Vec<u8>>,
) -> Result<Response, ApiError> {
    let mut work = prepare(service, request, uploads).await?;
    if let Some(plan) = work.plan.take_if(|_| mode.events) {
        let (sink, events) = EventSink::channel(work.frame_bytes);
        let task = CancelOnDrop(service.submit(work, Some(sink))?);
        return Ok(events::stream(task, plan, events, mode.request_id).into_response());
    }
    if work.rows as u64 > service.limits.sync {
        return job(service, work);
    }
    Ok(Json(&*wait(service, work).await?).into_response())
}

/// Does the work and waits for it. The work is cancelled if the caller hangs up.
pub async fn wait(service: &Service, work: Work) -> Result<Arc<Answer>, ApiError> {
    let task = CancelOnDrop(service.submit(work, None)?);
    match task.0.finished().await {
        Phase::Done(answer) => Ok(answer),
        Phase::Failed(failure) => Err(failure.into()),
        Phase::Queued | Phase::Running | Phase::Cancelled => Err(ApiError::shutting_down()),
    }
}

/// Accepts the work as a job.
pub fn job(service: &Service, work: Work) -> Result<Response, ApiError> {
    let task = service.submit(work, None)?;
    let job = task.id.clone();
    service.jobs.insert(task);
    Ok((StatusCode::ACCEPTED, Json(Accepted { job })).into_response())
}
