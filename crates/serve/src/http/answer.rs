//! From work to a response: at once, or as a job.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;
use super::events;
use super::observe::RequestId;
use crate::core::{Cancel, Phase, Served, Task};
use crate::service::Service;
use crate::work::{Answer, Show, Work};

/// A job was taken.
#[derive(Debug, Serialize, ToSchema)]
pub struct Accepted {
    /// Its name, for `/v1/jobs/{id}`.
    pub job: String,
}

/// Ends a task whose caller has gone.
pub struct Leave {
    task: Arc<Task>,
    served: Arc<Served>,
}

impl Leave {
    /// Watches over `task`.
    pub fn of(task: Arc<Task>, served: Arc<Served>) -> Self {
        Self { task, served }
    }

    /// The task.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// How many wait before the task, while it waits.
    pub fn position(&self) -> Option<usize> {
        self.served.worker.position(&self.task)
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if !self.task.phase().is_over() {
            self.served.worker.cancel(&self.task);
        }
    }
}

/// Queues work, or says when there may be a place.
pub fn submit(service: &Service, served: &Served, work: Box<dyn Work>, cancel: Cancel) -> Result<Arc<Task>, ApiError> {
    service.submit(served, work, cancel).map_err(|refusal| {
        // By then a place in the queue is free: the time of all that is before it, shared among its places.
        let places = (service.limits.queue.max(1)) as f64;
        ApiError::refused(refusal, served.seconds_left() / places)
    })
}

/// Does the work and waits for it; who goes away meanwhile has cancelled it.
pub async fn wait(
    service: &Service,
    served: Arc<Served>,
    work: Box<dyn Work>,
    cancel: Cancel,
) -> Result<Arc<Answer>, ApiError> {
    let task = submit(service, &served, work, cancel)?;
    let leave = Leave::of(task.clone(), served);
    let phase = task.over().await;
    drop(leave);
    match phase {
        Phase::Done(answer) => Ok(answer),
        Phase::Failed(failure) => Err(failure.into()),
        Phase::Queued | Phase::Running | Phase::Cancelled => Err(ApiError::shutting_down()),
    }
}

/// Takes the work as a job.
pub fn job(service: &Service, served: &Served, work: Box<dyn Work>, cancel: Cancel) -> Result<Response, ApiError> {
    let task = submit(service, served, work, cancel)?;
    let job = task.id.clone();
    service.jobs.insert(task, served.worker.clone());
    Ok((StatusCode::ACCEPTED, Json(Accepted { job })).into_response())
}

/// How an answer is wanted.
#[derive(Clone, Debug)]
pub struct Way {
    events: bool,
    request_id: String,
}

impl Way {
    /// As events, whatever the headers say.
    #[must_use]
    pub fn events(self) -> Self {
        Self { events: true, ..self }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Way {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let accepted = parts.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let events = accepted.flat_map(|line| line.split(',')).any(|kind| kind.trim().starts_with("text/event-stream"));
        let request_id = parts.extensions.get::<RequestId>().map_or(String::new(), |RequestId(id)| id.clone());
        Ok(Self { events, request_id })
    }
}

/// Events where they are wanted; else small work at once, large work as a job.
pub async fn respond(
    service: &Service,
    way: Way,
    served: Arc<Served>,
    mut work: Box<dyn Work>,
    cancel: Cancel,
) -> Result<Response, ApiError> {
    if let (true, Some(plan)) = (way.events, work.plan()) {
        let (show, news) = Show::channel(work.frame_bytes());
        work.watch(show);
        let task = submit(service, &served, work, cancel)?;
        return Ok(events::stream(Leave::of(task, served), plan, news, way.request_id).into_response());
    }
    if work.rows() > service.limits.sync {
        return job(service, &served, work, cancel);
    }
    Ok(Json(&*wait(service, served, work, cancel).await?).into_response())
}
